"""The runs from which a training takes parameters over, known by what they hold, wherever they lie."""

import dataclasses
import hashlib
import os
from typing import Any

import jax
import numpy as np

from crn_jax.errors import UserError
from crn_jax.experiment import AnyExperiment, Experiment, SegmenterExperiment, Training
from crn_jax.run import holds_run, load_run, read_description


def with_start_of_folder(experiment: AnyExperiment) -> AnyExperiment:
    """Returns the experiment, with the start of its run folder if it names none itself.

    A training that goes on from its own checkpoints does not need --init_from any more.
    """
    if not isinstance(experiment, Experiment) or experiment.init_from or not _is_there(experiment):
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
            origins["init_from"] = _known_start(experiment) or _origin(experiment.start.folder, "latest", Experiment)
        except UserError as error:
            way_out = f" The run in {experiment.folder} goes on without --init_from, too." * _is_there(experiment)
            raise UserError(f"--init_from: {error}{way_out}") from error
    if experiment.segmenter_run:
        origins["segmenter"] = _origin(experiment.segmenter_run, "best", SegmenterExperiment)
    return origins


def _is_there(experiment: Training) -> bool:
    return holds_run(experiment.folder)


def _known_start(experiment: AnyExperiment) -> dict[str, Any] | None:
    """Returns the start as the run folder describes it, if it describes one in the same place."""
    if not experiment.start or not _is_there(experiment):
        return None
    stored, _, description = read_description(experiment.folder)
    if not stored.start or os.path.realpath(stored.start.folder) != os.path.realpath(experiment.start.folder):
        return None
    return description.get("origins", {}).get("init_from", {}) | {"folder": experiment.start.folder}


def _origin(folder: str, checkpoint: str, kind: type[Training]) -> dict[str, Any]:
    run = load_run(folder, checkpoint, kind=kind)
    return {"folder": folder, "step": run.step, "sha256": digest_of(run.params)}


def digest_of(params: dict) -> str:
    """Returns the SHA-256 of parameters: of their names, dtypes, shapes and numbers."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
