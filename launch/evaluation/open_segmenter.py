"""Three ways to a segmenter, which launch.evaluate judges images by: our own, a plug-in, or label files of any other tool.

Each is a function (method, names of the examples, images uint8 `[B, H, W, 3]`) -> class ids `[B, H, W]`, void last.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.errors import UserError
from crn_jax.experiment import SegmenterExperiment
from crn_jax.run import load_run
from crn_jax.scores.segmenter import segment
from launch.evaluation.methods import files_of

Segmenter = Callable[[str, Sequence[str], np.ndarray], np.ndarray]


def open_segmenter(
    asked: str, label_space: LabelSpace, size: tuple[int, int], methods: Sequence[str], examples: Sequence[str]
) -> tuple[Segmenter, str]:
    """The segmenter that `asked` names, and what it is, in words.

    Args:
      asked: a run folder of a segmenter; `package.module:factory`, where factory() gives a function from images uint8
        `[B, H, W, 3]` to class ids `[B, H, W]`; or a folder of label PNGs, see `predictions`.
      label_space: of the layouts.
      size: height and width of the images.
      methods: whose images will be segmented.
      examples: names of the examples.

    Raises:
      UserError: if there is none, or if it is for other classes or another size.
    """
    if (Path(asked) / "run.json").is_file():
        run = load_run(asked, "best", kind=SegmenterExperiment)
        config = run.experiment.segmenter
        if run.label_space.classes != label_space.classes:
            raise UserError(f"{asked}: the segmenter knows other classes: {', '.join(run.label_space.classes)}.")
        if config.size != size:
            raise UserError(
                f"{asked}: the segmenter is for {config.size[0]}x{config.size[1]}, the images are {size[0]}x{size[1]}. Train "
                f"one for them: python -m launch.train {run.experiment.name} --segmenter.size {size[0]} {size[1]}."
            )
        return lambda method, names, images: np.asarray(segment(config, run.params, images)), f"{asked}, step {run.step:,}"
    if ":" in asked and not Path(asked).exists():
        return checked(plug_in(asked), asked, label_space), f"plug-in {asked}"
    return predictions(Path(asked), label_space, size, methods, examples), f"labels in {asked}"


def plug_in(asked: str) -> Segmenter:
    """What a user's factory makes."""
    module, _, name = asked.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--segmenter {asked}: this is neither a folder nor a module:factory to import ({error}).") from error
    function = factory() if callable(factory) else factory
    if not callable(function):
        raise UserError(f"--segmenter {asked}: the factory has to give a function of images, not a {type(function).__name__}.")
    return lambda method, names, images: np.asarray(function(images))


def checked(segmenter: Segmenter, name: str, label_space: LabelSpace) -> Segmenter:
    """The same, but answers that are no layouts of the label space are errors."""

    def answers(method: str, names: Sequence[str], images: np.ndarray) -> np.ndarray:
        ids, wanted = segmenter(method, names, images), images.shape[:3]
        if ids.shape != wanted or not np.issubdtype(ids.dtype, np.integer):
            raise UserError(f"{name} answers with {ids.dtype} {ids.shape}; wanted are integers {wanted}.")
        if ids.size and not 0 <= ids.min() <= ids.max() < label_space.num_classes:
            last = label_space.num_classes - 1
            raise UserError(f"{name} answers with ids {ids.min()} to {ids.max()}; {label_space.name} has 0 to {last} (void).")
        return ids.astype(label_space.dtype)

    return answers


def predictions(
    folder: Path, label_space: LabelSpace, size: tuple[int, int], methods: Sequence[str], examples: Sequence[str]
) -> Segmenter:
    """Label PNGs that another tool has made: FOLDER/METHOD/EXAMPLE.png, ids or colours as in the data set's own layouts.

    Raises:
      UserError: naming what is missing; or, when it is read, what is out of range or of another size.
    """
    if not folder.is_dir():
        raise UserError(f"--segmenter {folder}: this is neither a folder nor module:factory.")
    files = {}
    for method in methods:
        if not (folder / method).is_dir():
            raise UserError(
                f"{folder}: there is no folder '{method}' in it. Labels are read from METHOD/EXAMPLE.png, those of "
                f"{'; '.join(map(repr, methods))}. --save_images writes the images to segment in the same way."
            )
        files[method] = files_of(folder / method, examples, (".png",))

    def answers(method: str, names: Sequence[str], images: np.ndarray) -> np.ndarray:
        read = []
        for name in names:
            path = files[method][name]
            read.append(label_space.read(path))
            if read[-1].shape != size:
                found = "x".join(map(str, read[-1].shape))
                raise UserError(f"{path} is {found}, but the images are {size[0]}x{size[1]}: give labels of that size.")
        return np.stack(read)

    return answers
