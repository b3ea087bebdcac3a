"""Segments a photograph of any size by windows of the size that a segmenter was trained on.

The network normalizes its features over the whole picture. It knows objects at the scale of its training, and what is above
and below them. A larger picture would have other statistics and larger objects.

- A photograph that is wider than the segmenter's window gets the window's height. Along the width, windows overlap by a quarter
  or more, and the probabilities fade from one window to the next.
- A photograph that is narrower, such as one that was taken upright, is seen as a whole, with as many pixels as a window has.
  Windows as wide as the photograph would enlarge its objects, and show the sky or the road alone.

Probabilities are then enlarged to the size of the photograph, and each pixel gets the most probable class, so that borders are
smooth.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from crn_jax.data.geometry import alike

Probabilities = Callable[[np.ndarray], np.ndarray]
"""A function from a picture, uint8 `[h, w, 3]`, to the probabilities of its pixels' classes, float32 `[h, w, c]`."""

_OVERLAP = 4  # at least one part in so many of a window is also seen by the next one


def segment_any_size(
    photograph: Image.Image, window: tuple[int, int], probabilities: Probabilities, multiple: int = 1
) -> np.ndarray:
    """Returns the most probable class of each pixel of an RGB photograph, `[H, W]`.

    Args:
      photograph: the photograph, of any size.
      window: height and width of the pictures that the segmenter was trained on.
      probabilities: what the segmenter says about the pixels of a picture. It is given windows, and narrow photographs whole.
      multiple: the number of pixels by which height and width of a whole photograph have to be divisible.
    """
    shape = photograph.height, photograph.width
    if is_narrow(shape, window):
        size = equal_area(shape, window, multiple)
        return most_probable(probabilities(np.asarray(photograph.resize(size[::-1], Image.Resampling.BICUBIC))), shape)
    size = covering(shape, window)
    pixels = np.asarray(photograph.resize(size[::-1], Image.Resampling.BICUBIC))
    regions = [np.s_[top : top + window[0], left : left + window[1]] for top, left in places(size, window)]
    found = [probabilities(pixels[region]) for region in regions]
    weight, weights = fading(window)[..., None], np.zeros((*size, 1), np.float32)
    mean = np.zeros((*size, found[0].shape[-1]), np.float32)
    for region, each in zip(regions, found):
        mean[region] += weight * each
        weights[region] += weight
    return most_probable(mean / weights, shape)


def is_narrow(shape: tuple[int, int], window: tuple[int, int]) -> bool:
    """Tells whether a picture is narrower than a window, for its height."""
    return not alike(shape, window) and shape[1] * window[0] < shape[0] * window[1]


def equal_area(shape: tuple[int, int], window: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Returns the size of a picture's shape that has about as many pixels as a window, in multiples of `multiple`."""
    scale = math.sqrt(math.prod(window) / math.prod(shape)) / multiple
    return max(round(scale * shape[0]), 1) * multiple, max(round(scale * shape[1]), 1) * multiple


def covering(shape: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """Returns the smallest size of a picture's shape that a window fits into. A shape near the window's becomes it."""
    if alike(shape, window):
        return window
    scale = max(side / whole for side, whole in zip(window, shape))
    return max(window[0], round(scale * shape[0])), max(window[1], round(scale * shape[1]))


def places(size: tuple[int, int], window: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns the top left corners of windows that cover a size evenly."""
    starts = []
    for whole, side in zip(size, window):
        step = side - side // _OVERLAP
        count = 1 + math.ceil((whole - side) / step)
        starts.append(np.linspace(0, whole - side, count).round().astype(int).tolist())
    return [(top, left) for top in starts[0] for left in starts[1]]


def fading(window: tuple[int, int]) -> np.ndarray:
    """Returns the weights of a window's pixels, `[h, w]`: 1 in the middle, and less towards the edges, but never 0."""
    rows, columns = (np.minimum(np.arange(side) + 1, side - np.arange(side)) / ((side + 1) / 2) for side in window)
    return np.minimum.outer(rows, columns).astype(np.float32)


def most_probable(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Enlarges probabilities `[h, w, c]` to `shape`, and returns the class of the largest for each pixel.

    One class after the other is enlarged, because all of them at the size of a photograph may not fit into memory.
    """
    classes = probabilities.shape[-1]
    best = np.full(shape, -1, np.float32)
    layout = np.zeros(shape, np.uint8 if classes <= 256 else np.uint16)
    for index in range(classes):
        plane = Image.fromarray(np.ascontiguousarray(probabilities[..., index]))
        if probabilities.shape[:2] != shape:
            plane = plane.resize(shape[::-1], Image.Resampling.BILINEAR)
        larger = np.asarray(plane) > best
        best[larger], layout[larger] = np.asarray(plane)[larger], index
    return layout
