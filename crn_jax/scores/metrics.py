"""Scores of single images and of segmentations, and how certain they are.

Host NumPy throughout. Images are uint8 `[H, W, 3]`; layouts and predictions are class ids, void last. A confusion is `[c, c]`,
rows the layout's class and columns the predicted one; all that is computed from it keeps leading axes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

_RADIUS, _SIGMA = 5, 1.5  # of the window of SSIM: 11x11
_CHUNK = 1 << 22  # elements of the means that `bootstrap` holds at a time: 32 MB


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels and channels; inf for identical images."""
    a, b = _pair(a, b)
    error = np.mean((a - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else np.inf


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004), the mean over the channels and over all windows that lie within the image.

    Gaussian windows of 11x11 pixels, sigma 1.5; K1 = 0.01, K2 = 0.03; each channel by itself, at the image's own size.

    Raises:
      ValueError: the image is smaller than a window.
    """
    a, b = _pair(a, b)
    if min(a.shape[:2]) <= 2 * _RADIUS:
        raise ValueError(f"SSIM needs images of at least 11x11 pixels, got {a.shape[0]}x{a.shape[1]}.")

    def mean(x: np.ndarray) -> np.ndarray:
        blurred = ndimage.gaussian_filter(x, _SIGMA, radius=_RADIUS, axes=(0, 1))
        return blurred[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]

    mean_a, mean_b = mean(a), mean(b)
    squares = mean_a**2 + mean_b**2
    variances = mean(a * a) + mean(b * b) - squares
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))  # Eq. 13
    return float(similarity.mean())


def confusion(layout: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the pixels of each pair of classes: int64 `[c, c]`, rows the layout's class, columns the predicted one."""
    if layout.shape != predicted.shape:
        raise ValueError(f"The layout is {list(layout.shape)}, the prediction {list(predicted.shape)}.")
    for name, ids in (("layout", layout), ("prediction", predicted)):
        if ids.min() < 0 or ids.max() >= num_classes:
            raise ValueError(f"The {name} has ids {ids.min()} to {ids.max()}, but there are {num_classes} classes, from 0.")
    pairs = layout.astype(np.int64) * num_classes + predicted
    return np.bincount(pairs.reshape(-1), minlength=num_classes**2).reshape(num_classes, num_classes)


class SegmentationScores(NamedTuple):
    """Shares of 1, `[...]`; NaN where no pixel counts."""

    miou: np.ndarray
    accuracy: np.ndarray


def class_iou(confusion: np.ndarray, count_void: bool = False) -> np.ndarray:
    """Intersection over union of each real class, `[..., c, c]` -> `[..., c-1]`; NaN for one that occurs nowhere.

    Where void is predicted, the layout's class is missed. Pixels whose *layout* is void are left out, as the program of the
    Cityscapes benchmark does, unless `count_void`: then what is predicted there is wrong.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)[..., :-1]
    in_layouts = confusion[..., :-1, :].sum(-1)
    in_predictions = _counted(confusion, count_void)[..., :-1].sum(-2)
    return _ratio(right, in_layouts + in_predictions - right)


def segmentation_scores(confusion: np.ndarray, count_void: bool = False) -> SegmentationScores:
    """The mean of `class_iou` over the classes that occur, and the share of pixels that are right.

    With `count_void` the pixels whose layout is void are in the accuracy too, right where void is predicted. The accuracies
    published for SPADE and CC-FPSE on Cityscapes count them, their mean IoU does not; TSIT's images have 82.7% with and
    94.4% without (https://github.com/EndlessSora/TSIT/issues/1).
    """
    iou = class_iou(confusion, count_void)
    occurs = ~np.isnan(iou)
    counted = _counted(confusion, count_void)
    right = np.trace(counted, axis1=-2, axis2=-1)
    return SegmentationScores(_ratio(np.where(occurs, iou, 0).sum(-1), occurs.sum(-1)), _ratio(right, counted.sum((-2, -1))))


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    samples: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """The percentile interval (Efron & Tibshirani 1993) of a statistic of the mean over images, drawn with replacement.

    Args:
      statistic: maps means `[r, ...]`, one a resample, to its values `[r]`; `lambda means: means` for the mean of numbers,
        `lambda means: segmentation_scores(means).miou` for confusions, whose scores do not depend on their scale.
      samples: one for each image, `[n, ...]`.
      resamples: how many times n images are drawn.
      seed: of the draws, which depend on nothing else but n.
      level: the interval's share of the resamples.

    Returns:
      the low and the high end, each the statistic of some resample: nothing is interpolated. A single image gives an interval
      of no width. An infinite sample (the PSNR of identical images) makes the means that it is drawn into infinite, so an end
      may be inf. NaN among the samples gives NaN for both ends, as for the mean; resamples whose statistic alone is NaN (such
      as layouts all void) are left out.
    """
    samples = np.asarray(samples, np.float64)
    n = len(samples)
    if not n:
        raise ValueError("There are no samples.")
    if np.isnan(samples).any():
        return np.nan, np.nan
    flat = samples.reshape(n, -1)
    chunk = max(1, _CHUNK // max(flat.shape))
    rng = np.random.default_rng(seed)
    values = []
    for start in range(0, resamples, chunk):
        counts = rng.multinomial(n, np.full(n, 1 / n), min(chunk, resamples - start)).astype(np.float64)
        values.append(statistic(_means(counts, flat).reshape(-1, *samples.shape[1:])))
    values = np.concatenate(values)
    values = np.sort(values[~np.isnan(values)])
    if not len(values):
        return np.nan, np.nan
    outside = round((1 - level) / 2 * (len(values) - 1))
    return float(values[outside]), float(values[-1 - outside])


def _means(counts: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """`[r, n]`, `[n, m]` -> `[r, m]`. What is not drawn has no part in a mean, even if it is infinite."""
    infinite = np.isinf(samples)
    if not infinite.any():
        return counts @ samples / len(samples)
    means = counts @ np.where(infinite, 0, samples) / len(samples)
    for value in (np.inf, -np.inf):
        means[counts @ (samples == value) > 0] += value
    return means


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape or a.ndim != 3 or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"Two uint8 images [H, W, 3] are compared, got {a.dtype} {list(a.shape)}, {b.dtype} {list(b.shape)}.")
    return a.astype(np.float64), b.astype(np.float64)


def _counted(confusion: np.ndarray, count_void: bool) -> np.ndarray:
    return confusion if count_void else confusion[..., :-1, :]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)[()]
