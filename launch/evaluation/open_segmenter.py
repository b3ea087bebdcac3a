"""Opens the segmenter by which launch.evaluate judges images: a trained run, the published judge of a data set, a plug-in, or
label files of another tool.

A segmenter is a function (method, names of the examples, images uint8 `[B, H, W, 3]`) -> class ids `[B, H, W]`, where void
is the last class.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.errors import UserError
from crn_jax.experiment import SegmenterExperiment, require_kind
from crn_jax.files import expanded
from crn_jax.run import holds_run, load_run
from crn_jax.scores.deeplab import deeplab_segment, load_deeplab
from crn_jax.scores.drn import drn_segment, load_drn
from crn_jax.scores.segmenter import segment
from crn_jax.scores.upernet import load_upernet, most_probable, probabilities
from crn_jax.sharding import over_local_devices
from launch.common.names import command_line
from launch.evaluation.methods import files_of
from launch.evaluation.protocols import PROTOCOLS, data_of, judge_on

Segmenter = Callable[[str, Sequence[str], np.ndarray], np.ndarray]


class Opened(NamedTuple):
    """A segmenter, a description of it in words, and whether it takes images of any size."""

    segmenter: Segmenter
    described: str
    any_size: bool
    network: str = ""
    """The name of a published network, as `Protocol.judge` has it; empty for any other segmenter."""


def open_segmenter(
    asked: str, label_space: LabelSpace, size: tuple[int, int], methods: Sequence[str], examples: Sequence[str]
) -> Opened:
    """Returns the segmenter that `asked` names.

    Args:
      asked: A segmenter's run folder; the weights of the published judge of the classes (see `published`);
        `package.module:factory`, where factory() returns a function from images uint8 `[B, H, W, 3]` to class ids `[B, H, W]`;
        or a folder of label PNGs (see `predictions`).
      label_space: The label space of the layouts.
      size: The height and width of the images.
      methods: The names of the methods whose images will be segmented.
      examples: The names of the examples.

    Raises:
      UserError: if there is no such segmenter, or if it is for other classes or another size.
    """
    asked = expanded(asked)
    if holds_run(asked):
        run = load_run(asked, "best", kind=SegmenterExperiment)
        config = require_kind(run.experiment, SegmenterExperiment, f"The run {asked}").segmenter
        if run.label_space.classes != label_space.classes:
            raise UserError(f"{asked}: the segmenter has other classes: {', '.join(run.label_space.classes)}.")
        if config.size != size:
            raise UserError(
                f"{asked}: the segmenter is for {config.size[0]}x{config.size[1]}, the images are {size[0]}x{size[1]}. Train "
                f"one for them: {command_line('train', run.experiment.name, '--segmenter.size', *map(str, size))}"
            )
        segmented = over_local_devices(functools.partial(segment, config))

        def answers(method: str, names: Sequence[str], images: np.ndarray) -> np.ndarray:
            return np.asarray(segmented(run.params, images))

        return Opened(answers, f"{asked}, step {run.step:,}", False)
    if is_weights(asked):
        return published(Path(asked), label_space)
    if ":" in asked and not Path(asked).exists():
        return Opened(checked(plug_in(asked), asked, label_space), f"plug-in {asked}", True)
    return Opened(predictions(Path(asked), label_space, size, methods, examples), f"labels in {asked}", False)


def is_weights(path: str | Path) -> bool:
    """Tells whether this is a file of weights, or a folder with files of UPerNet, of which one may be missing."""
    return Path(path).is_file() or any(_parts(Path(path), part) for part in ("encoder", "decoder"))


def published(path: Path, label_space: LabelSpace) -> Opened:
    """Reads the weights of the network that judges published figures on the data set that has these classes.

    Raises:
      UserError: if no published network knows the classes, or if the weights are damaged or those of another network.
    """
    data = data_of(label_space)
    if data is None:
        known = ", ".join(f"{judge_on(data)} those of {data}" for data in PROTOCOLS)
        raise UserError(
            f"{path}: published weights know the classes of one data set each ({known}), but the layouts have others."
        )
    network, opened = judge_on(data), {"cityscapes": _drn, "ade20k": _upernet, "cocostuff": _deeplab}[data]
    if path.is_dir() and opened is not _upernet:
        raise UserError(f"{path} has the files of UPerNet101, but the judge of {data} is {network}.")
    described, segmenter = opened(path)
    return Opened(segmenter, f"{network}, {described}", True, network)


def _drn(path: Path) -> tuple[str, Segmenter]:
    params, segmented = jax.device_put(load_drn(path)), over_local_devices(drn_segment)
    return str(path), lambda method, names, images: np.asarray(segmented(params, images))


def _deeplab(path: Path) -> tuple[str, Segmenter]:
    params, segmented = jax.device_put(load_deeplab(path)), over_local_devices(deeplab_segment)
    return str(path), lambda method, names, images: np.asarray(segmented(params, images))


def _upernet(path: Path) -> tuple[str, Segmenter]:
    """Reads UPerNet's encoder and decoder. `path` is their folder, or one of the two."""
    network = load_upernet(*(_part(path, part) for part in ("encoder", "decoder")))
    params, computed = jax.device_put(network.params), over_local_devices(probabilities)

    def answers(method: str, names: Sequence[str], images: np.ndarray) -> np.ndarray:
        return most_probable(network.preparation, images, functools.partial(computed, params))

    return f"{path}, prepared as for {network.preparation.generation}", answers


def _parts(folder: Path, part: str) -> list[Path]:
    return sorted(path for ending in ("pth", "safetensors") for path in folder.glob(f"{part}*.{ending}"))


def _part(path: Path, part: str) -> Path:
    """Returns the file of UPerNet's encoder or decoder, by their folder or one of the two files."""
    if path.is_file():
        named = next((other for other in ("encoder", "decoder") if path.name.startswith(other)), None)
        if named is None:
            raise UserError(
                f"{path}: the judge for ADE20K, UPerNet101, has two files, encoder_epoch_50.pth and "
                f"decoder_epoch_50.pth. Give one of them, or their folder."
            )
        return path.with_name(part + path.name.removeprefix(named))
    found = _parts(path, part)
    if len(found) > 1:
        raise UserError(f"{path} has several files: {', '.join(file.name for file in found)}. Give one of them.")
    return found[0] if found else path / f"{part}_epoch_50.pth"


def plug_in(asked: str) -> Segmenter:
    """Imports a user's factory, and returns the segmenter that it makes."""
    module, _, name = asked.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # TypeError: a relative import
        raise UserError(f"{asked}: this segmenter is neither a folder nor a module:factory to import ({error}).") from error
    function = factory() if callable(factory) else factory
    if not callable(function):
        raise UserError(f"{asked}: the factory must return a function of images, not a {type(function).__name__}.")
    return lambda method, names, images: np.asarray(function(images))


def checked(segmenter: Segmenter, name: str, label_space: LabelSpace) -> Segmenter:
    """Returns the same segmenter, which then raises UserError for an answer that is no layout of the label space."""

    def answers(method: str, names: Sequence[str], images: np.ndarray) -> np.ndarray:
        ids, wanted = segmenter(method, names, images), images.shape[:3]
        if ids.shape != wanted or not np.issubdtype(ids.dtype, np.integer):
            raise UserError(f"{name} returned {ids.dtype} {ids.shape}, but must return integers {wanted}.")
        if ids.size and not 0 <= ids.min() <= ids.max() < label_space.num_classes:
            last = label_space.num_classes - 1
            raise UserError(f"{name} returned ids {ids.min()} to {ids.max()}, but {label_space.name} has 0 to {last} (void).")
        return ids.astype(label_space.dtype)

    return answers


def predictions(
    folder: Path, label_space: LabelSpace, size: tuple[int, int], methods: Sequence[str], examples: Sequence[str]
) -> Segmenter:
    """Returns a segmenter that reads label PNGs of another tool from FOLDER/METHOD/EXAMPLE.png.

    The files hold ids or colours, as the data set's own layouts do.

    Raises:
      UserError: if files are missing. The segmenter raises it for unknown ids or colours, and for labels of another size.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: this segmenter is neither a folder nor module:factory.")
    files = {}
    for method in methods:
        if not (folder / method).is_dir():
            raise UserError(
                f"{folder}: there is no folder '{method}' in it. Labels are read from METHOD/EXAMPLE.png for the methods "
                f"{', '.join(map(repr, methods))}. --save_images writes the images to segment in the same way."
            )
        files[method] = files_of(folder / method, examples, (".png",))

    def answers(method: str, names: Sequence[str], images: np.ndarray) -> np.ndarray:
        read = []
        for name in names:
            path = files[method][name]
            read.append(label_space.read(path))
            if read[-1].shape != size:
                found = "x".join(map(str, read[-1].shape))
                raise UserError(f"{path} is {found}, but the images are {size[0]}x{size[1]}. Give labels of that size.")
        return np.stack(read)

    return answers
