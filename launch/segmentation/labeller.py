"""What labels photographs: a run of launch.train segmenter_*, or a plug-in."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from crn_jax.buckets import is_bucket
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.labels.published import find_label_space
from crn_jax.errors import UserError
from crn_jax.experiment import SegmenterExperiment, require_kind
from crn_jax.files import expanded
from crn_jax.run import load_run
from crn_jax.scores.segmenter import class_probabilities
from launch.evaluation.open_segmenter import checked, plug_in
from launch.segmentation.windows import segment_any_size
from launch.training.origins import digest_of


class Labeller(NamedTuple):
    """A function from an RGB photograph of any size to class ids `[H, W]`, and what has to be known about it."""

    label: Callable[[Image.Image], np.ndarray]
    label_space: LabelSpace
    name: str
    """How messages and pages call it."""
    identity: str
    """A text that differs if its parameters or its classes do. Whether a plug-in's code has changed is not known."""


def open_labeller(asked: str, labels: str | None, checkpoint: str) -> Labeller:
    """Opens a segmenter.

    Args:
      asked: a segmenter's run folder; or `package.module:factory`, where factory() returns a function from images uint8
        `[B, H, W, 3]` to class ids `[B, H, W]`.
      labels: the classes of a plug-in's answers, a name or a label file. A run knows its own.
      checkpoint: the checkpoint of a run.

    Raises:
      UserError: if there is no such segmenter, or its classes are not known.
    """
    folder = expanded(asked)
    if Path(folder).is_dir() or is_bucket(folder):
        return _of_run(folder, labels, checkpoint)
    if ":" not in asked:
        raise UserError(f"{asked}: this is neither a segmenter's run folder nor package.module:factory.")
    if checkpoint != "best":
        raise UserError(f"--checkpoint {checkpoint}: the plug-in {asked} has no checkpoints. Leave this option out.")
    if labels is None:
        raise UserError(f"{asked}: give the classes of this plug-in's answers, --labels NAME, or a JSON file of your own.")
    label_space = find_label_space(labels)
    answers = checked(plug_in(asked), asked, label_space)

    def label(photograph: Image.Image) -> np.ndarray:
        return answers("", [""], np.asarray(photograph)[None])[0]

    identity = json.dumps([asked, label_space.classes, sorted(label_space.ids.items()), label_space.colors])
    return Labeller(label, label_space, f"plug-in {asked}", identity)


def _of_run(folder: str, labels: str | None, checkpoint: str) -> Labeller:
    run = load_run(folder, checkpoint, kind=SegmenterExperiment)
    config = require_kind(run.experiment, SegmenterExperiment, f"The run {folder}").segmenter
    if labels is not None:
        raise UserError(f"--labels {labels}: the run {folder} knows its classes. Leave this option out.")

    def probabilities(picture: np.ndarray) -> np.ndarray:
        at_its_size = dataclasses.replace(config, size=(picture.shape[0], picture.shape[1]))  # no parameter depends on it
        return np.asarray(class_probabilities(at_its_size, run.params, picture[None]))[0]

    def label(photograph: Image.Image) -> np.ndarray:
        return segment_any_size(photograph, config.size, probabilities, 2 ** (len(config.widths) - 1))

    return Labeller(label, run.label_space, f"{run.experiment.name}, step {run.step:,}", digest_of(run.params))
