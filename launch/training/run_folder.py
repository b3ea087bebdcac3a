"""The run folder of a training: made with its run.json, or checked to belong to the same experiment."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax

from crn_jax.buckets import BucketFolder, copied_file, is_bucket
from crn_jax.checksums import sealed
from crn_jax.errors import UserError
from crn_jax.experiment import AnyExperiment
from crn_jax.files import replace_text
from crn_jax.resuming import description_changes, flat
from crn_jax.run import holds_run, read_description
from crn_jax.storage import storage_of
from crn_jax.train import TrainState
from launch.common.processes import agree, is_first, wait_for_all
from launch.training.lock import Ownership, owned
from launch.training.metrics_log import last_step

BESIDE_THE_STATE = 1 << 20
"""Bytes of a checkpoint besides its arrays: the names, shapes and places of these, and the settings of the run."""


def refuse_going_back(folder: str, trained: int, asked: int) -> None:
    """Raises UserError if the run is trained further than is asked for, since checkpoints of earlier steps are gone."""
    if trained > asked:
        raise UserError(
            f"{folder} is trained to step {trained:,} already, but only {asked:,} steps are asked for. Ask for more, or "
            f"start another run with --run.folder."
        )


@contextlib.contextmanager
def prepared_folder(experiment: AnyExperiment, description: dict) -> Iterator[Ownership | None]:
    """Makes the run folder with its `run.json`, or checks that it belongs to this experiment.

    The first process owns the folder until the block ends. The block is given its hold; in other processes, None.

    Raises:
      UserError: if the folder holds a run of other settings, cannot be written, differs between processes, or if another
        training owns it.
    """
    folder, vgg19 = experiment.folder, description["vgg19"]
    bucket = BucketFolder(folder) if is_bucket(folder) else None
    file = Path(folder) / "run.json"
    may_differ = ("data.root", "data.instances", "data.labels", "data.threads", "data.cache", "vgg.weights")
    own = {f"experiment.{field}" for field in may_differ}
    common = flat({part: description[part] for part in ("experiment", "data", "versions")})
    common = {key: value for key, value in common.items() if key not in own}
    weights = {f"vgg19.{key}": vgg19.get(key) for key in ("weights", "sha256")}
    origins = flat({"origins": description.get("origins", {})})
    origins = {key: value for key, value in origins.items() if not key.endswith(".folder")}
    agree({**weights, "label_space": description["label_space"], **common, **origins})
    with contextlib.ExitStack() as stack:
        ownership = None
        if is_first():
            refuse_other_settings(folder, experiment, description)
            with writable(folder):
                if bucket is None:
                    file.parent.mkdir(parents=True, exist_ok=True)
                ownership = stack.enter_context(owned(folder))
            refuse_other_settings(folder, experiment, description)  # another training may have come and gone
            with writable(folder):
                text = json.dumps(sealed(description), indent=1)
                bucket.write("run.json", text.encode()) if bucket else replace_text(file, text)
        wait_for_all("run folder")
        content = bucket.read("run.json") if bucket else file.read_bytes() if file.exists() else None
        agree({"run folder": "has no run.json" if content is None else hashlib.sha256(content).hexdigest()})
        yield ownership


@contextlib.contextmanager
def writable(folder: str) -> Iterator[None]:
    """Raises UserError if the block raises an OSError, because the folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"The run folder {folder} cannot be written ({error}). Choose another with --run.folder.") from error


def refuse_other_settings(folder: str, experiment: AnyExperiment, description: dict) -> None:
    """Raises UserError if the folder holds a run of other settings."""
    if holds_run(folder):
        _, _, before = read_description(folder)
        if file := before["data"].get("converted_from"):
            raise UserError(
                f"{folder} was converted from {file}, without all that a training needs to go on, such as λ. Start another run "
                f"from it: --init_from {folder} --run.folder NEW_FOLDER."
            )
        changes = description_changes(before, description)
        if changes and is_begun(folder):
            raise UserError(
                f"{folder} holds a run of other settings; it cannot be resumed with these:\n  " + "\n  ".join(changes) + "\n"
                "Give the settings of that run, or start another run with --run.folder."
            )


def is_begun(folder: str) -> bool:
    """Returns whether a step of the run in a folder was ever computed. Until then, nothing is lost if its settings change."""
    if storage_of(f"{folder}/checkpoints").steps():
        return True
    metrics = copied_file(f"{folder}/metrics.jsonl") if is_bucket(folder) else Path(folder, "metrics.jsonl")
    return last_step(metrics) > 0


def check_room(folder: str, state: TrainState, copies: int) -> None:
    """Raises UserError if the disk has no room for this number of checkpoints of the state. A bucket always has.

    The folder of the checkpoints may be a link to another disk.
    """
    if is_bucket(folder):
        return
    needed = copies * (sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) + BESIDE_THE_STATE)
    place = f"{folder}/checkpoints"
    free = shutil.disk_usage(place if os.path.exists(place) else folder).free
    if free < needed:
        plural = "s" if copies > 1 else ""
        raise UserError(
            f"{folder} has {free / 1e9:.3f} GB free; {needed / 1e9:.3f} GB are needed for {copies} checkpoint{plural} of this "
            f"training. Make room, then give the same command again; or choose another disk with --run.folder."
        )
