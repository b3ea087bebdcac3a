"""Layouts for synthesis: finds their files, and brings layouts to a size that the generator makes, and images back."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from crn_jax.buckets import copied, copied_file, is_bucket
from crn_jax.data.geometry import Fit, View, alike, view
from crn_jax.data.instances import MARGIN
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.pictures import size_of
from crn_jax.errors import UserError
from crn_jax.generator import Generator

Sizing = Literal["run", "own", "pad", "resize"]
"""The way in which a layout gets a size that the generator makes. The option --fit of launch.synthesize explains each."""


class Fitted(NamedTuple):
    """The way in which a layout and its images change their size."""

    shape: tuple[int, int]
    """Height and width of the layout's file, in pixels."""
    size: tuple[int, int]
    """Height and width of the layout that the generator gets, in pixels."""
    how: Sizing
    run_view: View | None = None
    """The view of the layout at `size`, if `how` is run."""

    def layout(self, layout: np.ndarray, label_space: LabelSpace) -> np.ndarray:
        """Brings class ids `[h, w]` to `size`."""
        return self._ids(layout, label_space.num_classes - 1)

    def instances(self, instances: np.ndarray) -> np.ndarray:
        """Brings ids of instances `[h, w]` to `size`."""
        return self._ids(instances, MARGIN)

    def _ids(self, ids: np.ndarray, margin: int) -> np.ndarray:
        if self.run_view:
            return self.run_view.layout(ids, margin)
        if self.how == "resize":
            return np.asarray(Image.fromarray(ids).resize(self.size[::-1], Image.Resampling.NEAREST))
        margins = [(0, whole - part) for whole, part in zip(self.size, self.shape)]
        return np.pad(ids, margins, mode="edge")  # repeats the border: in training, void means something else

    def image(self, image: np.ndarray) -> np.ndarray:
        """Brings an image uint8 `[H, W, 3]` from `size` to the layout's size. With run, the image stays as it is."""
        if self.how == "resize":
            return np.asarray(Image.fromarray(image).resize(self.shape[::-1], Image.Resampling.BICUBIC))
        return image if self.run_view else image[: self.shape[0], : self.shape[1]]


def fitted(path: Path, generator: Generator, fit: Fit, how: Sizing | None) -> Fitted:
    """Decides how a layout file reaches a size that the generator makes. It decodes no pixel. `fitted_shape` has the rest."""
    return fitted_shape(size_of(path), generator, fit, how, path)


def fitted_shape(shape: tuple[int, int], generator: Generator, fit: Fit, how: Sizing | None, where: str | Path) -> Fitted:
    """Decides how a layout of a shape reaches a size that the generator makes.

    Args:
      shape: height and width of the layout, in pixels.
      generator: the generator that will synthesize from the layout.
      fit: how the run's own examples reached the run's size.
      how: None means `run` for a layout with the run's aspect ratio, and `own` for others.
      where: the file of the layout, or what messages call it.

    Raises:
      UserError: if the layout cannot reach such a size. The message says what can be done.
    """
    same_ratio = alike(shape, generator.size)
    if how == "run" and fit == "resize" and not same_ratio:
        ratio = f"{_size(shape)} has another aspect ratio than the run's {_size(generator.size)}"
        raise UserError(f"{where}: {ratio}. {_OTHERS}")
    if how == "run" or (how is None and same_ratio):
        return Fitted(shape, generator.size, "run", view(shape, generator.size, fit))
    as_run = "" if fit == "resize" else f" --fit run brings it to the run's size, as the run's examples, by {fit}."
    if generator.fixed_size:
        raise UserError(
            f"{where}: it is {_size(shape)}, but this network makes images of {_size(generator.size)} only.{as_run}"
        )
    (height, width), (rows, columns) = shape, generator.min_size
    size = -(-height // rows) * rows, -(-width // columns) * columns
    if how == "resize":
        size = max(round(height / rows), 1) * rows, max(round(width / columns), 1) * columns
    if generator.largest_side is not None and max(size) > generator.largest_side:
        raise UserError(
            f"{where}: {_size(size)} is too large. This network makes up to {generator.largest_side} pixels.{as_run}"
        )
    if how == "resize":
        return Fitted(shape, size, how)
    if how != "pad" and size != shape:
        other = "" if how else f"has another aspect ratio than the run's {_size(generator.size)}, and "
        multiple = f"is no multiple of {_size(generator.min_size)}, which this network needs"
        raise UserError(f"{where}: {_size(shape)} {other}{multiple}. {_OTHERS}{as_run}")
    return Fitted(shape, size, how or "own")


_SUFFIXES = (".png", ".webp")  # JPEGs are no layouts, and photographs often lie beside layouts
_OTHERS = "--fit pad enlarges the layout at its borders and cuts the image back; --fit resize stretches both."


def find_layouts(paths: tuple[Path, ...]) -> Iterator[Path]:
    """Finds the layouts that the paths name, and in a folder the PNG and WebP files, in order.

    Hidden files, which macOS adds, are left out.

    If a folder is in a bucket, the files of its copy on this machine's disk are found.

    Raises:
      UserError: if a path does not exist or a folder has no PNG or WebP file.
    """
    for given in paths:
        path = on_disk(given)
        if path.is_dir():
            inside = sorted(filter(_is_layout, path.iterdir()))
            if not inside:
                deeper = next(folders_with_layouts(path), None)
                hint = f" Its subfolders have some: give them instead, such as {given / deeper.name}." if deeper else ""
                raise UserError(f"{given}: there is no PNG or WebP file in this folder.{hint}")
            yield from inside
        elif path.is_file():
            yield path
        else:
            raise UserError(f"{given}: there is no such file or folder.")


def folders_with_layouts(folder: Path) -> Iterator[Path]:
    """Yields the folders in a folder that have layouts, in order."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and os.access(path, os.R_OK | os.X_OK) and any(map(_is_layout, path.iterdir())):
            yield path


def _is_layout(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def on_disk(given: Path) -> Path:
    """Returns a path on this machine's disk. A PNG or WebP file in a bucket, or a folder of such files, is copied there."""
    if not is_bucket(given):
        return given
    if given.suffix.lower() in _SUFFIXES:
        return copied_file(given)
    return copied(given, lambda name: "/" not in name and name.lower().endswith(_SUFFIXES))


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
