"""Layouts for synthesis: which files, the size at which each is synthesized from, and the image at the layout's size again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from crn_jax.data.geometry import Fit, View, alike, view
from crn_jax.data.labels.label_space import LabelSpace, open_image
from crn_jax.errors import UserError
from crn_jax.generator import Generator

Sizing = Literal["run", "own", "pad", "resize"]
"""How a layout gets a size that the generator makes; the option --fit of launch.synthesize says what each is."""


class Fitted(NamedTuple):
    """How a layout of the size `shape` is synthesized from at `size`, both height and width in pixels."""

    shape: tuple[int, int]
    size: tuple[int, int]
    how: Sizing
    run_view: View | None = None  # for run

    def layout(self, layout: np.ndarray, label_space: LabelSpace) -> np.ndarray:
        """Of class ids `[h, w]`, at `size`."""
        if self.run_view:
            return self.run_view.layout(layout, label_space.num_classes - 1)
        if self.how == "resize":
            return np.asarray(Image.fromarray(layout).resize(self.size[::-1], Image.Resampling.NEAREST))
        margins = [(0, whole - part) for whole, part in zip(self.size, self.shape)]
        return np.pad(layout, margins, mode="edge")  # more of what is there; void, in training, is something else

    def image(self, image: np.ndarray) -> np.ndarray:
        """Of an image uint8 `[H, W, 3]` at `size`, what belongs to the layout: its size, but as it is for run."""
        if self.how == "resize":
            return np.asarray(Image.fromarray(image).resize(self.shape[::-1], Image.Resampling.BICUBIC))
        return image if self.run_view else image[: self.shape[0], : self.shape[1]]


def fitted(path: Path, generator: Generator, fit: Fit, how: Sizing | None) -> Fitted:
    """How a layout file, of which only the header is read, reaches a size that the generator makes.

    Args:
      path: the file.
      generator: what synthesizes from it.
      fit: how the run's own examples reached its size.
      how: None for `run` where the layout has the run's aspect ratio, else for `own`.

    Raises:
      UserError: if it cannot, naming what can be done.
    """
    shape = _shape(path)
    same_ratio = alike(shape, generator.size)
    if how == "run" and fit == "resize" and not same_ratio:
        ratio = f"{_size(shape)} has another aspect ratio than the run's {_size(generator.size)}"
        raise UserError(f"{path}: {ratio}. {_OTHERS}")
    if how == "run" or (how is None and same_ratio):
        return Fitted(shape, generator.size, "run", view(shape, generator.size, fit))
    as_run = "" if fit == "resize" else f" --fit run brings it to the run's size as its examples were, by {fit}."
    if generator.fixed_size:
        raise UserError(f"{path}: {_size(shape)}, and this network makes images of {_size(generator.size)} only.{as_run}")
    (height, width), (rows, columns) = shape, generator.min_size
    size = -(-height // rows) * rows, -(-width // columns) * columns
    if how == "resize":
        return Fitted(shape, (max(round(height / rows), 1) * rows, max(round(width / columns), 1) * columns), how)
    if how != "pad" and size != shape:
        other = "" if how else f"has another aspect ratio than the run's {_size(generator.size)}, and "
        multiple = f"is no multiple of {_size(generator.min_size)}, as sizes that its network makes are"
        raise UserError(f"{path}: {_size(shape)} {other}{multiple}. {_OTHERS}{as_run}")
    return Fitted(shape, size, how or "own")


_OTHERS = "--fit pad synthesizes from it filled up at its borders, and cuts the image back; --fit resize stretches both."


def find_layouts(paths: tuple[Path, ...]) -> Iterator[Path]:
    """The PNG files that the paths name, those of a folder in order but for hidden ones, which macOS puts beside each file.

    Raises:
      UserError: if a path does not exist or a folder has no PNG.
    """
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith("."))
            if not inside:
                raise UserError(f"{path}: there is no PNG in this folder.")
            yield from inside
        elif path.is_file():
            yield path
        else:
            raise UserError(f"{path}: there is no such file or folder.")


def _shape(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:  # of many types; the decoder's message is the better one
        image = open_image(path)
        return image.height, image.width


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
