"""The frozen networks that a loss needs beside the network that is trained: VGG-19, or a segmenter."""

from typing import Any

from crn_jax.data.sources import label_space_of
from crn_jax.errors import UserError
from crn_jax.experiment import AnyExperiment, SegmenterExperiment, require_kind
from crn_jax.settings import SegmenterConfig
from crn_jax.train import Trainable
from launch.training.origins import load_origin


def objective_and_frozen(
    experiment: AnyExperiment, steps_per_epoch: int, vgg_params: dict, origin: dict[str, Any] | None = None
) -> tuple[Trainable, dict]:
    """Returns the static part of the training step, and the frozen parameters that the step is given.

    Args:
      experiment: the experiment that is trained.
      steps_per_epoch: the number of steps in one pass over the training data.
      vgg_params: the parameters of the VGG-19 that the experiment's `vgg` asks for.
      origin: what run.json says of the segmenter's run, by `origins_of`.

    Raises:
      UserError: if the experiment's segmenter is for other classes or another size.
    """
    if experiment.segmenter_run is None:
        return experiment.objective(steps_per_epoch), experiment.frozen(vgg_params)
    segmenter, params = load_segmenter({"folder": experiment.segmenter_run} | (origin or {}), experiment)
    return experiment.objective(steps_per_epoch, segmenter), experiment.frozen(vgg_params, params)


def load_segmenter(origin: dict[str, Any], experiment: AnyExperiment) -> tuple[SegmenterConfig, dict]:
    """Loads config and parameters of a segmenter.

    Raises:
      UserError: if it is for other classes, or for another size, than the experiment.
    """
    folder, run = origin["folder"], load_origin(origin, "segmenter")
    segmenter = require_kind(run.experiment, SegmenterExperiment, folder).segmenter
    wanted, found = (experiment.size, experiment.num_classes), (run.experiment.size, run.label_space.num_classes)
    if wanted != found:
        raise UserError(
            f"--segmenter {folder} is for {found[0][0]}x{found[0][1]} and {found[1]} classes. The experiment's images are "
            f"{wanted[0][0]}x{wanted[0][1]} and have {wanted[1]} classes."
        )
    classes = label_space_of(experiment.data).classes
    if run.label_space.classes != classes:
        theirs, ours = (", ".join(names) for names in (run.label_space.classes, classes))
        raise UserError(
            f"--segmenter {folder} is for the classes {theirs}. The classes of this training are {ours}. Train a segmenter on "
            f"these data."
        )
    return segmenter, run.params
