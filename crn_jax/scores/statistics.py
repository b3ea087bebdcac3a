"""How sure a score is, and how sure the difference of two: bootstrap over images, and over seeds where there are several.

All is computed by NumPy. The draws depend on the seed and on the numbers of images and seeds alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

CHUNK = 1 << 22  # elements of the means that `bootstrap` holds at a time: 32 MB
RESAMPLES = 1000


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    samples: Num[np.ndarray, " n *shape"],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Returns the percentile interval (Efron & Tibshirani 1993) of a statistic of the mean over images.

    Args:
      statistic: maps the means `[r, ...]` of r resamples to r values. For the mean of numbers it is `lambda means: means`. For
        confusion matrices it is `lambda means: segmentation_scores(means).miou`, which does not depend on their scale.
      samples: one sample for each image.
      resamples: how many times n images are drawn, with replacement.
      seed: the seed of the draws, which depend on nothing else but n.
      level: the fraction of resamples within the interval.

    Returns:
      The low and the high end. Each is the statistic of some resample, because nothing is interpolated. A single image gives an
      interval without width. An end may be infinite, because an infinite sample (the PSNR of identical images) makes each mean
      infinite that it is drawn into. If a sample is NaN, both ends are NaN, as the mean is. Resamples whose statistic alone is
      NaN (such as layouts all void) are left out.

    Raises:
      ValueError: if there are no samples.
    """
    samples = np.asarray(samples, np.float64)
    n = len(samples)
    if not n:
        raise ValueError("There are no samples.")
    if np.isnan(samples).any():
        return np.nan, np.nan
    flat = samples.reshape(n, -1)
    chunk = max(1, CHUNK // max(flat.shape))
    rng = np.random.default_rng(seed)
    drawn = []
    for start in range(0, resamples, chunk):
        counts = _drawn(rng, n, min(chunk, resamples - start))
        drawn.append(statistic(_means(counts, flat).reshape(-1, *samples.shape[1:])))
    values = np.concatenate(drawn)
    values = values[~np.isnan(values)]
    return _interval(values, level) if len(values) else (np.nan, np.nan)


class Difference(NamedTuple):
    """The difference of the means of two methods, first less second, with its percentile interval."""

    value: float
    low: float
    high: float
    smaller: float
    """The probability that the first is smaller than the second, on an image and with seeds that are drawn at random. An equal
    pair counts half. This is the probability of improvement (Agarwal et al. 2021, section 4.3) where smaller is better."""

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def difference(
    first: Float[np.ndarray, "s n"],
    second: Float[np.ndarray, "t n"],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Compares two methods on the same n images, where each was trained with one or several seeds.

    The bootstrap is paired over images: both methods lose and repeat the same ones. It is stratified over seeds: those of each
    method are drawn among themselves (Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice"). With a single
    seed, nothing is known about other seeds, and the interval is over images alone.

    Args:
      first: the score of each image, with each seed of the first method.
      second: those of the second method.
      resamples: how many times images and seeds are drawn, with replacement.
      seed: the seed of the draws.
      level: the fraction of resamples within the interval.

    Returns:
      The difference. If a score is NaN, or if infinite scores meet, then what depends on them is NaN, and nothing is decided.

    Raises:
      ValueError: if there are no images or seeds, or if the methods have other numbers of images.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not first.size or not second.size:
        raise ValueError(f"Scores [seeds, images] of the same images are compared, got {first.shape} and {second.shape}.")
    rng, n = np.random.default_rng(seed), first.shape[1]
    images = _drawn(rng, n, resamples)
    means = [_seeds(rng, len(scores), resamples, _means(images, scores.T)) for scores in (first, second)]
    with np.errstate(invalid="ignore"):
        value, values = first.mean() - second.mean(), means[0] - means[1]
    low, high = (np.nan, np.nan) if np.isnan(values).any() else _interval(values, level)
    pairs = first[:, None], second[None]
    smaller = (np.less(*pairs) + 0.5 * np.equal(*pairs)).mean()
    unknown = np.isnan(first).any() or np.isnan(second).any()
    return Difference(float(value), low, high, np.nan if unknown else float(smaller))


def _seeds(rng: np.random.Generator, count: int, resamples: int, means: np.ndarray) -> np.ndarray:
    """Averages `[r, s]` over seeds that are drawn anew for each resample."""
    if count == 1:
        return means[:, 0]
    chosen = rng.integers(count, size=(resamples, count))
    return np.take_along_axis(means, chosen, axis=1).mean(1)


def _drawn(rng: np.random.Generator, n: int, resamples: int) -> np.ndarray:
    """Returns how often each of n samples is drawn in each resample, `[r, n]`."""
    return rng.multinomial(n, np.full(n, 1 / n), resamples).astype(np.float64)


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    values = np.sort(values)
    outside = round((1 - level) / 2 * (len(values) - 1))
    return float(values[outside]), float(values[-1 - outside])


def _means(counts: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Averages `[r, n]`, `[n, m]` -> `[r, m]`. A sample that is not drawn has no part in a mean, even if it is infinite."""
    infinite = np.isinf(samples)
    if not infinite.any():
        return counts @ samples / len(samples)
    means = counts @ np.where(infinite, 0, samples) / len(samples)
    for value in (np.inf, -np.inf):
        means[counts @ (samples == value) > 0] += value
    return means
