"""The runs from which a training takes parameters over, known by what they hold, wherever they lie."""

import dataclasses
import hashlib
import os
from typing import Any

import jax
import numpy as np

from crn_jax.errors import UserError
from crn_jax.experiment import AnyExperiment, Experiment, SegmenterExperiment, Training
from crn_jax.run import Run, holds_run, load_run, read_description
from launch.training.run_folder import is_begun


def with_start_of_folder(experiment: AnyExperiment) -> AnyExperiment:
    """Returns the experiment, with the start of its run folder if it names none itself.

    A training that goes on does not need --init_from any more. Before its first step, every setting may still change.
    """
    if not isinstance(experiment, Experiment) or experiment.init_from or not _goes_on(experiment):
        return experiment
    stored, _, _ = read_description(experiment.folder)
    if not isinstance(stored, Experiment):
        return experiment
    return dataclasses.replace(experiment, init_from=stored.init_from, init_moments=stored.init_moments)


def origins_of(experiment: AnyExperiment) -> dict[str, dict[str, Any]]:
    """Returns for --init_from and --segmenter, where they are given, the run's folder, step and digest, for run.json.

    A run that a training has started from is not looked at again, as long as its folder has the same name.

    Raises:
      UserError: if a run that has to be looked at cannot be read.
    """
    origins = {}
    if experiment.start:
        try:
            origins["init_from"] = _known_start(experiment) or _origin(experiment.start.folder, "init_from")
        except UserError as error:
            way_out = f" The run in {experiment.folder} goes on without --init_from, too." * _goes_on(experiment)
            raise UserError(f"--init_from: {error}{way_out}") from error
    if experiment.segmenter_run:
        origins["segmenter"] = _known_segmenter(experiment) or _origin(experiment.segmenter_run, "segmenter")
    return origins


def _goes_on(experiment: Training) -> bool:
    return holds_run(experiment.folder) and is_begun(experiment.folder)


def _known_start(experiment: AnyExperiment) -> dict[str, Any] | None:
    """Returns the start as the run folder describes it, if it describes one in the same place."""
    if not experiment.start or not _goes_on(experiment):
        return None
    stored, _, description = read_description(experiment.folder)
    if not stored.start or os.path.realpath(stored.start.folder) != os.path.realpath(experiment.start.folder):
        return None
    return description.get("origins", {}).get("init_from", {}) | {"folder": experiment.start.folder}


def _known_segmenter(experiment: Training) -> dict[str, Any] | None:
    """Returns the segmenter as the run folder describes it, if it describes one in the same place.

    A segmenter that is trained further has another best checkpoint. The training goes on with the one that it began with.
    """
    folder = experiment.segmenter_run
    if folder is None or not _goes_on(experiment):
        return None
    stored, _, description = read_description(experiment.folder)
    if stored.segmenter_run is None or os.path.realpath(stored.segmenter_run) != os.path.realpath(folder):
        return None
    known = description.get("origins", {}).get("segmenter")
    return known and known | {"folder": folder}


def _origin(folder: str, option: str) -> dict[str, Any]:
    run = load_origin({"folder": folder}, option)
    return {"folder": folder, "step": run.step, "sha256": digest_of(run.params)}


_TAKEN: dict[str, tuple[str, type[Training]]] = {
    "init_from": ("latest", Experiment),
    "segmenter": ("best", SegmenterExperiment),
}
"""The checkpoint that an option takes of a run, and the kind of experiment that the run must have."""


def load_origin(origin: dict[str, Any], option: str, moments: bool = False) -> Run:
    """Loads the run that a training takes parameters from.

    The run may be trained further meanwhile, and every process of the training opens it for itself. If `origin` says which
    checkpoint was looked at before, this one is loaded, and no newer one.

    Args:
      origin: an entry of `origins_of`, or the folder alone.
      option: `init_from` or `segmenter`.
      moments: loads Adam's moments, too, and the parameters that belong to them.

    Raises:
      UserError: if the run cannot be read, or no longer has that checkpoint.
    """
    folder, step = origin["folder"], origin.get("step")
    checkpoint, kind = _TAKEN[option]
    try:
        run = load_run(folder, checkpoint if step is None else step, kind=kind, moments=moments)
    except UserError as error:
        if step is None:
            raise
        raise UserError(
            f"--{option}: this training began with step {step} of {folder}, which cannot be loaded any more: {error} To begin "
            f"with another checkpoint, choose another --run.folder."
        ) from error
    if origin.get("sha256") and not moments and digest_of(run.params) != origin["sha256"]:
        raise UserError(
            f"--{option}: step {step} of {folder} holds other parameters than when this training began. To begin with these, "
            f"choose another --run.folder."
        )
    return run


def digest_of(params: dict) -> str:
    """Returns the SHA-256 of parameters: of their names, dtypes, shapes and numbers."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
