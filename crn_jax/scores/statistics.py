"""How sure a score is, and how sure the difference of two: bootstrap over images, and Student's t over seeds.

The draws depend on the seed and on the numbers of images and seeds alone.
"""

import math
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


class Spread(NamedTuple):
    """How far seeds move the mean scores of several methods, beyond what a seed does to all of them."""

    pooled: float
    """The variance that all methods show together."""
    each: list[float]
    """The variance of each method: the pooled one, or its own if its seeds are farther apart."""
    degrees: int
    """The degrees of freedom of the pooled variance."""

    def of_difference(self, first: int, second: int, seeds: int) -> float:
        """Returns the variance of the difference of two methods' means over the same seeds."""
        return (self.each[first] + self.each[second]) / seeds


def spread_of_seeds(means: Float[np.ndarray, "m s"]) -> Spread | None:
    """Returns how far seeds move a score; None if there are no two methods with two seeds.

    A seed is a block, as in a randomized block design: it means the same order of the data and the same first numbers for all
    methods, and what it does to all of them is no difference between them. Two or three seeds of one method tell little about
    the variance that is left. The median over all methods tells more, and a method whose seeds are far apart does not raise
    it. Each variance is divided by the median of its distribution, which is that of chi-squared over its degrees of
    freedom for normal scores, because that of few seeds is mostly too small.

    Args:
      means: the mean score of each method (row) with each seed (column). NaN stands for trainings that are missing.
    """
    from scipy.special import chdtri

    known = np.isfinite(means)
    several = known.sum(1) > 1
    blocks = known[several].sum(0) > 1  # a seed of one method alone shows nothing
    rows = np.flatnonzero(several & (known[:, blocks].sum(1) > 1))
    if len(rows) < 2:
        return None
    left = means[np.ix_(rows, blocks)]
    left = left - np.nanmean(left, 1, keepdims=True)
    left = left - np.nanmedian(left, 0)
    degrees = np.isfinite(left).sum(1) - 1
    lost = len(rows) / (len(rows) - 1)  # the blocks' effects are estimated, too
    own = lost * np.nanvar(left, 1) * (degrees + 1) / degrees
    # With two methods, the blocks leave one variance, and the comparison is a paired t-test.
    pooled = own[0] if len(rows) == 2 else np.median(own * degrees / chdtri(degrees, 0.5))
    each = np.full(len(means), pooled)
    each[rows] = np.maximum(own, pooled)
    return Spread(float(pooled), each.tolist(), int(degrees.sum() / lost))


class Difference(NamedTuple):
    """The difference of the means of two methods, first less second, with its interval."""

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
    variance: float = 0.0,
    degrees: int = 1,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Compares two methods on the same n images, where each was trained with one or several seeds.

    Images are drawn by a bootstrap that is paired: both methods lose and repeat the same ones. To each resample comes what
    seeds add, by Student's t distribution. To draw the seeds with replacement, too, would not do: with two or three of
    them, such intervals leave out 0 for 30% and 15% of equal methods.

    Args:
      first: the score of each image, with each seed of the first method.
      second: those of the second method.
      variance: the variance of the difference that comes from seeds, see `Spread.of_difference`. By default, the interval is
        over images alone.
      degrees: the degrees of freedom of that variance.
      resamples: how many times images are drawn, with replacement.
      seed: the seed of the draws.
      level: the fraction of resamples within the interval.

    Returns:
      The difference. If a score is NaN, or if infinite scores meet, then what depends on them is NaN, and nothing is decided.

    Raises:
      ValueError: if there are no images or seeds, or if the methods have other numbers of images.
    """
    from scipy.special import stdtrit

    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not first.size or not second.size:
        raise ValueError(f"Scores [seeds, images] of the same images are compared, got {first.shape} and {second.shape}.")
    rng, n = np.random.default_rng(seed), first.shape[1]
    images = _drawn(rng, n, resamples)
    with np.errstate(invalid="ignore"):
        value = first.mean() - second.mean()
        values = _means(images, first.T).mean(1) - _means(images, second.T).mean(1)
    # The quantiles of the distribution in random order, and not random draws, whose ends would differ from seed to seed.
    quantiles = stdtrit(degrees, (np.arange(resamples) + 0.5) / resamples)
    values = values + math.sqrt(variance) * rng.permutation(quantiles)
    low, high = (np.nan, np.nan) if np.isnan(values).any() else _interval(values, level)
    if np.isfinite(value):
        low, high = (float(value + few_images(n, level) * (end - value)) for end in (low, high))
    pairs = first[:, None], second[None]
    smaller = (np.less(*pairs) + 0.5 * np.equal(*pairs)).mean()
    unknown = np.isnan(first).any() or np.isnan(second).any()
    return Difference(float(value), low, high, np.nan if unknown else float(smaller))


def few_images(n: int, level: float = 0.95) -> float:
    """Returns by how much a percentile interval over n images is too narrow: 1.08 for 25 images, 1.44 for 6.

    The variance of resamples lacks the factor n / (n - 1), and few images call for Student's t in place of the normal
    distribution (Hesterberg 2015, "What Teachers Should Know About the Bootstrap").
    """
    from scipy.special import stdtrit

    end = (1 + level) / 2
    return 1.0 if n == 1 else math.sqrt(n / (n - 1)) * float(stdtrit(n - 1, end) / stdtrit(np.inf, end))


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
