"""What a painter takes away: the layout as a PNG, and the command that makes the same image."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.packaged import packaged
from launch.common.names import as_argument, command_line
from launch.painting.painted_run import PaintedRun
from launch.segmentation.layout_files import layout_image


def layout_png(layout: np.ndarray, label_space: LabelSpace) -> bytes:
    """Returns a layout as a PNG of ids with the classes' colours, which `label_space.read` turns into the same class ids."""
    file = io.BytesIO()
    layout_image(layout, label_space).save(file, "png")
    return file.getvalue()


def synthesize_command(painted: PaintedRun, index: int, picks: Mapping[int, int], file: str) -> str:
    """Returns the command line that makes the image on the page, bit for bit, from the layout in `file`.

    Args:
      painted: the run.
      index: the image for all classes that are not picked.
      picks: the image for each class that was picked, by class ids.
      file: the name of the layout's file. The command is given in the folder of that file.
    """
    classes = painted.run.label_space.classes
    chosen = [f"{classes[class_id]}={image}" for class_id, image in sorted(picks.items()) if image != index]
    options = ["--index", str(index)] if painted.run.generator.num_images > 1 else []
    options += ["--pick", ",".join(chosen)] if chosen else []
    named = painted.source.startswith("hf:") or packaged(painted.source) != painted.source  # neither is a place on this disk
    source = painted.source if named else as_argument(painted.source)
    where = source.absolute() if isinstance(source, Path) else source
    return command_line("synthesize", where, Path(file), "--checkpoint", str(painted.run.step), *options)
