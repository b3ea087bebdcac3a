"""Geometry: how files of any size reach the size that is trained on. Sizes are `(height, width)` in pixels.

A photograph and its layout are sampled from the same region, given in fractions of a pixel, so they stay aligned. Photographs
are antialiased. Layouts take the nearest pixel, because a mixture of two class ids would be a third class.
"""

import math
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from crn_jax.errors import UserError

Fit = Literal["resize", "crop", "random_crop", "pad", "stretch"]
"""The way in which files reach a size. `DataConfig.fit` explains each."""

Place = tuple[float, float]
"""The place of a crop, down and to the right, each from 0 (topmost, leftmost) to 1 (lowest, rightmost)."""

MIDDLE: Place = (0.5, 0.5)
_ASPECT_TOLERANCE = 0.02
_LARGEST_BASE = 12


class View(NamedTuple):
    """A region of a picture, and how it is shown at a size. A photograph and its layout share one view."""

    size: tuple[int, int]
    """Height and width of the result, in pixels."""
    box: tuple[float, float, float, float]
    """The region's left, top, right and bottom edge, in the picture's pixels."""
    shown: tuple[int, int]
    """Height and width of the region in the result. With pad, it is smaller than `size`, and a margin surrounds it."""

    def photograph(self, photograph: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
        """Shows an RGB photograph; margins are black."""
        # Pillow's bicubic filter widens when it shrinks, so it is antialiased.
        return self._sample(photograph, Image.Resampling.BICUBIC, (0, 0, 0))

    def layout(self, layout: Integer[np.ndarray, "h w"], void: int) -> Integer[np.ndarray, "H W"]:
        """Shows a layout; margins are of class `void`. Ids of instances are shown in the same way."""
        return self._sample(Image.fromarray(layout), Image.Resampling.NEAREST, void)

    def _sample(self, image: Image.Image, resampling: Image.Resampling, margin) -> np.ndarray:
        (height, width), (h, w) = self.size, self.shown
        shown = image.resize((w, h), resampling, box=self.box)
        if self.shown == self.size:
            return np.asarray(shown)
        canvas = Image.new(image.mode, (width, height), margin)
        canvas.paste(shown, ((width - w) // 2, (height - h) // 2))
        return np.asarray(canvas)


def view(shape: tuple[int, int], size: tuple[int, int], fit: Fit, place: Place = MIDDLE, path: str | Path = "") -> View:
    """Returns the view by which a picture of `shape`, in the file `path`, reaches `size`.

    Raises:
      UserError: if the aspect ratios differ by more than 2% and `fit` is resize. The message lists the nearest sizes that fit.
    """
    (h, w), (height, width) = shape, size
    if fit == "resize" and not alike(shape, size):
        raise UserError(_another_aspect_ratio(shape, size, path))
    if fit in ("resize", "stretch"):
        return View(size, (0, 0, w, h), size)
    if fit == "pad":
        scale = min(height / h, width / w)
        return View(size, (0, 0, w, h), (max(round(h * scale), 1), max(round(w * scale), 1)))
    scale = min(h / height, w / width)
    kept_height, kept_width = min(height * scale, h), min(width * scale, w)
    top, left = (h - kept_height) * place[0], (w - kept_width) * place[1]
    return View(size, (left, top, min(left + kept_width, w), min(top + kept_height, h)), size)


def sizes_that_fit(shape: tuple[int, int], near: tuple[int, int]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Finds up to three bases of cascades with the aspect ratio of `shape`, the smallest first, each with two sizes by `near`.

    The sizes of a cascade are `base * 2**i`. The aspect ratios differ by at most the 2% that a picture may be stretched.
    """
    numbers, fitting = range(1, _LARGEST_BASE + 1), {}
    ratios = [(a, b) for a in numbers for b in numbers if math.gcd(a, b) == 1 and alike((a, b), shape)]
    for a, b in sorted(ratios, key=math.prod)[:3]:
        base = next((a << i, b << i) for i in range(3) if min(a, b) << i >= 3)  # 4 8 rather than 1 2
        doublings = max(math.floor(math.log2(math.prod(near) / math.prod(base)) / 2), 0)
        fitting[base] = [(base[0] << i, base[1] << i) for i in (doublings, doublings + 1)]
    return fitting


def alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Tells whether two aspect ratios differ by at most 2%, so that a picture of one size may be stretched to the other."""
    (h, w), (height, width) = one, other
    return abs(h * width - w * height) <= _ASPECT_TOLERANCE * w * height


def _another_aspect_ratio(shape: tuple[int, int], size: tuple[int, int], path: str | Path) -> str:
    (h, w), (height, width) = shape, size
    bases = [
        f"--cascade.base {a} {b} ({' or '.join(f'{y}x{x}' for y, x in sizes)})"
        for (a, b), sizes in sizes_that_fit(shape, size).items()
    ]
    cascades = f", or a cascade that it fits: {'; '.join(bases)}" if bases else ""
    return (
        f"{path}: {h}x{w} has another aspect ratio than the cascade's {height}x{width}. Crop it, or train with --data.fit "
        f"crop, random_crop, pad or stretch{cascades}."
    )
