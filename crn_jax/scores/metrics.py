"""Scores of single images and of segmentations.

All is computed by NumPy. Layouts and predictions are class ids, void last. A confusion matrix counts pixels: its rows are
the classes of the layout, its columns the predicted classes. Functions of a confusion matrix keep its leading axes.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Integer, Num, UInt8

_RADIUS, _SIGMA = 5, 1.5  # the window of SSIM: 11x11


def psnr(a: UInt8[np.ndarray, "H W 3"], b: UInt8[np.ndarray, "H W 3"]) -> float:
    """Measures the peak signal-to-noise ratio in dB, over all pixels and channels. It is infinite for identical images.

    Raises:
      ValueError: if the images are not two uint8 images of one size.
    """
    a, b = _pair(a, b)
    error = np.mean((a - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else np.inf


def ssim(a: UInt8[np.ndarray, "H W 3"], b: UInt8[np.ndarray, "H W 3"]) -> float:
    """Measures the structural similarity (Wang et al. 2004), the mean over channels and all windows within the image.

    Windows are Gaussian, of 11x11 pixels and sigma 1.5. K1 is 0.01 and K2 is 0.03. Each channel is compared by itself, at the
    image's own size.

    Raises:
      ValueError: if the images are not two uint8 images of one size, or if they are smaller than a window.
    """
    import scipy.ndimage  # only this score needs it

    a, b = _pair(a, b)
    if min(a.shape[:2]) <= 2 * _RADIUS:
        raise ValueError(f"SSIM needs images of at least 11x11 pixels, got {a.shape[0]}x{a.shape[1]}.")

    def mean(x: np.ndarray) -> np.ndarray:
        blurred = scipy.ndimage.gaussian_filter(x, _SIGMA, radius=_RADIUS, axes=(0, 1))
        return blurred[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]

    mean_a, mean_b = mean(a), mean(b)
    squares = mean_a**2 + mean_b**2
    variances = mean(a * a) + mean(b * b) - squares
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))  # Eq. 13
    return float(similarity.mean())


def confusion(
    layout: Integer[np.ndarray, "*shape"], predicted: Integer[np.ndarray, "*shape"], num_classes: int
) -> Int64[np.ndarray, "c c"]:
    """Counts the pixels of each pair of classes; a row is the layout's class, a column the predicted class.

    Raises:
      ValueError: if the shapes differ, or if a class id is not from 0 to `num_classes` - 1.
    """
    if layout.shape != predicted.shape:
        raise ValueError(f"The layout is {list(layout.shape)}, the prediction {list(predicted.shape)}.")
    for name, ids in (("layout", layout), ("prediction", predicted)):
        if ids.min() < 0 or ids.max() >= num_classes:
            raise ValueError(f"The {name} has ids {ids.min()} to {ids.max()}, but there are {num_classes} classes, from 0.")
    pairs = layout.astype(np.int64) * num_classes + predicted
    return np.bincount(pairs.reshape(-1), minlength=num_classes**2).reshape(num_classes, num_classes)


def pixels_by_class(confusion: Num[np.ndarray, "*batch c c"]) -> Num[np.ndarray, "*batch 4 c"]:
    """Returns what the scores need of confusion matrices: pixels of each class that are right, that the layouts have, that are
    predicted, and that are predicted where the layout is void."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([right, confusion.sum(-1), confusion.sum(-2), confusion[..., -1, :]], -2)


class SegmentationScores(NamedTuple):
    """Scores from 0 to 1, with the leading axes of the confusion matrices. They are NaN where no pixel counts.

    Scores of a single confusion matrix are NumPy's numbers.
    """

    miou: np.ndarray
    """The mean intersection over union of the classes."""
    accuracy: np.ndarray
    """The fraction of pixels that are right."""


MeanOver = Literal["occurring", "in layouts", "all"]
"""The classes over which programs average: those in layouts or predictions, those in layouts, or all, where a class that occurs
nowhere counts as 0."""


def class_iou(confusion: Num[np.ndarray, "*batch c c"], count_void: bool = False) -> Float64[np.ndarray, "*batch c-1"]:
    """Returns the intersection over union of each class but void; NaN for a class that occurs nowhere.

    Where void is predicted, the layout's class is missed. Pixels whose *layout* is void are left out, as the program of the
    Cityscapes benchmark does. With `count_void`, a class that is predicted there is wrong.
    """
    return _iou(pixels_by_class(confusion), count_void)


def segmentation_scores(confusion: Num[np.ndarray, "*batch c c"], count_void: bool = False) -> SegmentationScores:
    """Returns the mean of `class_iou` over the classes that occur, and the fraction of pixels that are right.

    With `count_void`, pixels whose layout is void count in the accuracy, too, and are right where void is predicted. The
    accuracies published for SPADE and CC-FPSE on Cityscapes count these pixels, but the published mean IoU does not. The
    accuracy of TSIT's images is 82.7% with these pixels and 94.4% without (https://github.com/EndlessSora/TSIT/issues/1).
    """
    return scores_of_pixels(pixels_by_class(confusion), count_void)


def scores_of_pixels(
    pixels: Num[np.ndarray, "*batch 4 c"], count_void: bool = False, mean_over: MeanOver = "occurring"
) -> SegmentationScores:
    """Returns the scores that `segmentation_scores` returns, of what `pixels_by_class` has kept.

    Args:
      pixels: The pixels by class. Their scale does not matter, so they may be means over images.
      count_void: Whether pixels count whose layout is void.
      mean_over: The classes over which the mean IoU is taken.
    """
    iou, layouts = _iou(pixels, count_void), pixels[..., 1, :-1]
    counts = {"occurring": ~np.isnan(iou), "in layouts": layouts > 0, "all": np.ones_like(iou, bool)}[mean_over]
    miou = _ratio(np.where(counts, np.nan_to_num(iou), 0).sum(-1), counts.sum(-1))
    right, wanted = pixels[..., 0, :], pixels[..., 1, :]
    counted = slice(None) if count_void else slice(-1)
    return SegmentationScores(miou[()], _ratio(right[..., counted].sum(-1), wanted[..., counted].sum(-1))[()])


def _iou(pixels: np.ndarray, count_void: bool) -> np.ndarray:
    right, wanted, predicted, predicted_in_void = (pixels[..., i, :-1] for i in range(4))
    predicted = predicted if count_void else predicted - predicted_in_void
    return _ratio(right, wanted + predicted - right)


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape or a.ndim != 3 or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"Two uint8 images [H, W, 3] are compared, got {a.dtype} {list(a.shape)}, {b.dtype} {list(b.shape)}.")
    return a.astype(np.float64), b.astype(np.float64)


def _ratio(part: np.ndarray | np.number, whole: np.ndarray | np.number) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
