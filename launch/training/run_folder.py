"""The run folder of a training: made with its run.json, or checked to belong to the same experiment."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax

from crn_jax.data.examples import Source
from crn_jax.errors import UserError
from crn_jax.experiment import AnyExperiment, differences, flat
from crn_jax.files import replace_text, sha256_of
from crn_jax.run import read_description
from crn_jax.train import TrainState
from launch.common.processes import agree, is_first, wait_for_all


def refuse_going_back(folder: Path, trained: int, asked: int) -> None:
    """Raises UserError if the run is trained further than is asked for, since checkpoints of earlier steps are gone."""
    if trained > asked:
        raise UserError(
            f"{folder} is trained to step {trained:,} already, but only {asked:,} steps are asked for. Ask for more, or "
            f"start another run with --run.folder."
        )


def describe_data(source: Source, epoch: int) -> dict[str, Any]:
    """Returns what identifies the training examples: their number, the steps in an epoch, and a hash of their names.

    The order of the data and the step at which λ is rescaled depend on them.
    """
    names = hashlib.sha256("\n".join(source.names).encode("utf-8", "surrogateescape")).hexdigest()
    return {"examples": len(source), "steps_per_epoch": epoch, "names_sha256": names}


def prepare_folder(experiment: AnyExperiment, description: dict) -> Path:
    """Makes the run folder with its `run.json`, or checks that it belongs to this experiment. Returns the folder.

    Raises:
      UserError: if the folder is on a bucket, holds a run of other settings, cannot be written, or differs between processes.
    """
    if "://" in experiment.folder:
        raise UserError(
            f"--run.folder {experiment.folder}: give a folder; a bucket can be mounted as one by Cloud Storage FUSE."
        )
    folder = Path(experiment.folder)
    file, vgg19 = folder / "run.json", description["vgg19"]
    own = {f"experiment.{field}" for field in ("data.root", "data.threads", "data.cache", "vgg.weights")}  # may differ
    common = flat({part: description[part] for part in ("experiment", "data", "versions")})
    common = {key: value for key, value in common.items() if key not in own}
    weights = {f"vgg19.{key}": vgg19.get(key) for key in ("weights", "sha256")}
    agree({**weights, "label_space": description["label_space"], **common})
    if is_first():
        write_description(folder, experiment, description)
    wait_for_all("run folder")
    agree({"run folder": sha256_of(file) if file.exists() else "has no run.json"})
    return folder


def write_description(folder: Path, experiment: AnyExperiment, description: dict) -> None:
    """Makes the run folder with its `run.json`.

    Raises:
      UserError: if the folder holds a run of other settings, or cannot be written.
    """
    if (folder / "run.json").exists():
        stored, _, before = read_description(folder)
        changes = differences(stored, experiment)
        for part, keys in {"vgg19": ("weights", "sha256"), "data": description["data"]}.items():
            for key in keys:
                was, now = (d[part].get(key) for d in (before, description))
                if was != now:
                    changes.append(f"{part}.{key}: {was}, now {now}")
        labels = json.loads(json.dumps(description["label_space"]))  # JSON's keys are strings
        for key in ("classes", "ids", "colors", "read_as"):
            if before["label_space"].get(key) != labels[key]:  # runs of before have no read_as
                changes.append(f"label_space.{key}: the layouts are read differently now")
        if changes:
            raise UserError(
                f"{folder} holds a run of other settings; it cannot be resumed with these:\n  " + "\n  ".join(changes) + "\n"
                "Give the settings of that run, or start another run with --run.folder."
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "run.json", json.dumps(description, indent=1))
    except OSError as error:
        raise UserError(f"The run folder {folder} cannot be written ({error}). Choose another with --run.folder.") from error


def check_room(folder: Path, state: TrainState) -> None:
    """Raises UserError if the disk has no room for two checkpoints of the state."""
    needed = 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {free / 1e9:.2f} GB free; two checkpoints of this cascade need {needed / 1e9:.2f} GB. Make room, or "
            f"choose another disk with --run.folder."
        )
