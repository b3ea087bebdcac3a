"""Files that a painter opens: layouts, read as everywhere else, and photographs, which a segmenter labels."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crn_jax.data.geometry import alike, view
from crn_jax.data.labels.indexed import Reading
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.photographs import upright
from crn_jax.errors import UserError
from crn_jax.run import Run
from launch.segmentation.labeller import Labeller

MAX_BYTES = 1 << 25
"""The largest file that is taken."""


def opened_layout(run: Run, content: bytes, name: str, reading: Reading | None) -> tuple[np.ndarray, list[str]]:
    """Reads a layout file for the canvas of a run.

    Args:
      run: the run whose classes and size count.
      content: the file.
      name: what messages call it.
      reading: what a palette PNG holds. None: as the run's label space says.

    Returns:
      class ids `[H, W]`, and sentences about what was done.

    Raises:
      UserError: if it is not a layout of these classes. It is an `AmbiguousPalette` if `reading` would help.
    """
    label_space = dataclasses.replace(run.label_space, read_as=reading) if reading else run.label_space
    return _from_file(content, name, lambda path: on_canvas(run, label_space.read(path), "The layout"))


def labelled_photograph(run: Run, labeller: Labeller, content: bytes, name: str) -> tuple[np.ndarray, list[str]]:
    """Labels a photograph for the canvas of a run, whose classes are the labeller's. It answers as `opened_layout` does.

    Raises:
      UserError: if it cannot be read as a photograph.
    """
    return _from_file(content, name, lambda path: on_canvas(run, labeller.label(upright(path)), "The photograph"))


def check_labeller(labeller: Labeller, label_space: LabelSpace) -> None:
    """Raises UserError if a segmenter's classes are not those of the canvas."""
    if labeller.label_space.classes != label_space.classes:
        raise UserError(
            f"--segmenter: {labeller.name} knows the classes of {labeller.label_space.name}, and the run has those of "
            f"{label_space.name}. Give a segmenter for the run's classes."
        )


def on_canvas(run: Run, layout: np.ndarray, what: str) -> tuple[np.ndarray, list[str]]:
    """Brings a layout to the run's size, as the run's examples were. If stretching does not suffice, it is cropped."""
    fit, notes = run.experiment.data.fit, []
    (h, w), (height, width) = layout.shape, run.generator.size
    if fit == "resize" and not alike(layout.shape, run.generator.size):
        fit = "crop"
        notes.append(f"{what} is {h}x{w}, which is another shape than the canvas of {height}x{width}. Its middle is shown.")
    return view(layout.shape, run.generator.size, fit).layout(layout, run.label_space.num_classes - 1), notes


def _from_file(content: bytes, name: str, read: Callable[[Path], tuple[np.ndarray, list[str]]]) -> tuple[np.ndarray, list[str]]:
    """Calls `read` with a file of this content. Messages name the file as its owner does."""
    with tempfile.TemporaryDirectory(prefix="crn_jax_") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(content)
        try:
            return read(path)
        except UserError as error:
            raise type(error)(str(error).replace(str(path), name)) from error
