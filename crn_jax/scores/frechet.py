"""Distances between two sets of images by their features, `[n, d]` and `[m, d]`, one row an image. Host NumPy, in float64."""

import numpy as np
import scipy.linalg


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The Fréchet distance of two Gaussians with the sets' means and covariances (n - 1), Eq. 6 of Heusel et al. 2017:

    |mu_x - mu_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)).

    With S = R^T R, S_x S_y has the nonzero eigenvalues of M M^T, M = R_x R_y^T; so the root's trace is the sum of M's singular
    values. No covariance is formed or rooted: no squared condition number, no imaginary part to drop, no epsilon to add.

    Returns:
      the distance in the features' squared unit. Its rounding is about 1e-15 of the traces; negative rounding is 0.

    Raises:
      ValueError: a set has fewer than two images, the sets differ in d, or a feature is not finite.
    """
    x, y = _features(x, y)
    r_x, r_y = _root(x), _root(y)
    root_trace = scipy.linalg.svdvals(r_x @ r_y.T).sum()
    distance = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(r_x**2) + np.sum(r_y**2) - 2 * root_trace
    return max(0.0, float(distance))


def kernel_distance(
    x: np.ndarray, y: np.ndarray, subsets: int = 100, size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """The kernel inception distance of Bińkowski et al. 2018, the squared MMD with the kernel (x.y / d + 1)^3, of paired sets.

    Row i of both sets belongs to one layout, so x_i and y_i depend on each other. This is therefore the u-statistic of Gretton
    et al. 2012, Eq. 4, over all pairs i != j, which leaves out k(x_i, y_i): with it, the more usual estimator ("unbiased")
    is biased for paired sets. Identical sets give 0, but for rounding; close ones may give less than 0, as unbiased values do.

    Args:
      x: features `[n, d]`.
      y: those of its partners, `[n, d]`.
      subsets: how many subsets the standard deviation is taken over.
      size: pairs in a subset; None: n // 2, since the deviation over random halves is that of the value at n pairs (the
        delete-d jackknife, Shao & Wu 1989), too large by up to sqrt(3) if the distributions are equal.
      seed: of the subsets.

    Returns:
      the value, over all n pairs, which no permutation of the pairs changes but by rounding; and the standard deviation over
      random subsets, which a permutation changes as another seed does. Memory: about 24 n^2 bytes.

    Raises:
      ValueError: n < 2, the sets differ in shape, a feature is not finite, or a size not from 2 to n.
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
    h -= 2 * _kernel(x, y)  # Gretton's h but for its symmetry, which sums over i, j do not show
    np.fill_diagonal(h, 0)
    chosen = np.random.default_rng(seed).permuted(np.tile(np.arange(n) < size, (subsets, 1)), axis=1).astype(np.float64)
    of_subsets = np.sum(chosen @ h * chosen, axis=1) / (size * (size - 1))
    return float(h.sum() / (n * (n - 1))), float(of_subsets.std())


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _root(x: np.ndarray) -> np.ndarray:
    """R with R^T R the covariance, `[min(n, d), d]`."""
    centred = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    return np.linalg.qr(centred, mode="r") if len(x) > x.shape[1] else centred


def _features(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"Two sets of features [n, d] are compared, got {list(x.shape)} and {list(y.shape)}.")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"A set needs at least two images, got {len(x)} and {len(y)}.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("A feature is not finite.")
    return x, y
