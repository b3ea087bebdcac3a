"""Distances between two sets of images, measured by their features. Each row of the features belongs to one image.

All is computed by NumPy and SciPy in float64.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

NEIGHBOURS = 3
"""The neighbours that precision and recall look at, as in the paper."""


def frechet_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Measures the Fréchet distance of two Gaussians with the sets' means and covariances, Eq. 6 of Heusel et al. 2017:

    |mu_x - mu_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)). Covariances are those with n - 1.

    Let S = R^T R and M = R_x R_y^T. Then S_x S_y and M M^T have the same nonzero eigenvalues, so the trace of the root is the
    sum of M's singular values. No covariance is formed and no matrix root is taken. Therefore no condition number is squared,
    no imaginary part is dropped and no epsilon is added.

    Returns:
      The distance in the squared unit of the features. Rounding errors are about 1e-15 of the traces; a negative result is 0.

    Raises:
      ValueError: if a set has fewer than two images, if the sets differ in d, or if a feature is not finite.
    """
    import scipy.linalg

    x, y = _features(x, y)
    r_x, r_y = _root(x), _root(y)
    root_trace = scipy.linalg.svdvals(r_x @ r_y.T).sum()
    distance = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(r_x**2) + np.sum(r_y**2) - 2 * root_trace
    return max(0.0, float(distance))


def kernel_distance(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "n d"],
    subsets: int = 100,
    size: int | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """Measures the kernel inception distance of Bińkowski et al. 2018 between paired sets.

    It is the squared MMD with the kernel k(x, y) = (x.y / d + 1)^3. Row i of both sets belongs to one layout, so x_i and y_i
    depend on each other. This is therefore the u-statistic of Gretton et al. 2012, Eq. 4, over all pairs i != j, which leaves
    out k(x_i, y_i). The more usual "unbiased" estimator has these terms, and they bias it for paired sets. Identical sets give
    0 except for rounding. Similar sets may give less than 0, as an unbiased value must.

    Args:
      x: features of one set.
      y: features of the partners of x.
      subsets: the number of random subsets for the standard deviation.
      size: the number of pairs in a subset. None means n // 2, because the deviation over random halves estimates that of the
        value at n pairs (the delete-d jackknife, Shao & Wu 1989). It is up to sqrt(3) too large if the distributions are equal.
      seed: the seed of the subsets.

    Returns:
      The value over all n pairs, and the standard deviation over random subsets. Permuting the pairs changes the value only by
      rounding, and the deviation as another seed does. The memory needed is about 24 n^2 bytes.

    Raises:
      ValueError: if n < 2, if the sets differ in shape, if a feature is not finite, or if `size` is not from 2 to n.
    """
    x, y = _features(x, y)
    n = len(x)
    size = max(2, n // 2) if size is None else size
    if len(y) != n:
        raise ValueError(f"Paired sets are compared, got {n} images and {len(y)}.")
    if not 2 <= size <= n:
        raise ValueError(f"A subset must have from 2 to {n} pairs, got {size}.")
    h = _kernel(x, x)
    h += _kernel(y, y)
    h -= 2 * _kernel(x, y)  # Gretton's h, except for its symmetry, which does not change sums over i and j
    np.fill_diagonal(h, 0)
    chosen = np.random.default_rng(seed).permuted(np.tile(np.arange(n) < size, (subsets, 1)), axis=1).astype(np.float64)
    of_subsets = np.sum(chosen @ h * chosen, axis=1) / (size * (size - 1))
    return float(h.sum() / (n * (n - 1))), float(of_subsets.std())


def published_kernel_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Measures the kernel inception distance with the estimator that programs in use have: Eq. 4 of Bińkowski et al. 2018.

    It keeps the kernel between an image and its own photograph, which `kernel_distance` leaves out. Up to 1000 images, it is
    what clean-fid 0.1.35 gives except for rounding; beyond, clean-fid averages random subsets of 1000 images.

    Raises:
      ValueError: if a set has fewer than two images, if the sets differ in d, or if a feature is not finite.
    """
    x, y = _features(x, y)

    def within(a: np.ndarray) -> float:
        kernel = _kernel(a, a)
        return float((kernel.sum() - np.trace(kernel)) / (len(a) * (len(a) - 1)))

    return within(x) + within(y) - 2 * float(_kernel(x, y).mean())


class Manifold(NamedTuple):
    """How far two sets overlap, from 0 to 1, as Kynkäänniemi et al. 2019 measure it."""

    precision: float
    """The fraction of images that lie among the photographs."""
    recall: float
    """The fraction of photographs that lie among the images."""


def precision_recall(
    images: Float[np.ndarray, "n d"], photographs: Float[np.ndarray, "m d"], neighbours: int = NEIGHBOURS
) -> Manifold:
    """Measures precision and recall, Eq. 1 and 2 of Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric".

    A feature lies among a set if it is no farther from some member than this member's `neighbours`-th nearest other member. The
    paper takes the features of VGG-16 and three neighbours. Memory is about 16 (n + m)^2 bytes.

    Raises:
      ValueError: if a set has no more than `neighbours` images, if the sets differ in d, or if a feature is not finite.
    """
    import scipy.spatial

    x, y = _features(images, photographs)
    if min(len(x), len(y)) <= neighbours:
        raise ValueError(f"A set needs more than {neighbours} images, got {len(x)} and {len(y)}.")
    between = scipy.spatial.distance.cdist(x, y)

    def radii(a: np.ndarray) -> np.ndarray:
        return np.partition(scipy.spatial.distance.cdist(a, a), neighbours, axis=1)[:, neighbours]  # 0 is the member itself

    among = between <= radii(y)[None], between <= radii(x)[:, None]
    return Manifold(float(among[0].any(1).mean()), float(among[1].any(0).mean()))


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _root(x: np.ndarray) -> np.ndarray:
    """Returns an R `[min(n, d), d]` such that R^T R is the covariance."""
    centred = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(x) > x.shape[1] else centred


def _features(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"Two sets of features [n, d] are compared, got {list(x.shape)} and {list(y.shape)}.")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"A set needs at least two images, got {len(x)} and {len(y)}.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("A feature is not finite.")
    return x, y
