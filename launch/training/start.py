"""The state that a training begins with: that of its last checkpoint, of another run (`--init_from RUN`), or a fresh one."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crn_jax.buckets import BucketFolder, is_bucket
from crn_jax.checkpoint import Checkpoints
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.sources import label_space_of
from crn_jax.errors import UserError
from crn_jax.experiment import AnyExperiment, Start
from crn_jax.generator import num_channels
from crn_jax.growth import grow_state
from crn_jax.sharding import formats_of
from crn_jax.train import Trainable, TrainState, init_state
from launch.common.processes import is_first, wait_for_all
from launch.common.terminal import console
from launch.training.origins import load_origin
from launch.training.run_folder import check_room


def first_state(
    experiment: AnyExperiment, objective: Trainable, abstract: TrainState, checkpoints: Checkpoints, description: dict
) -> tuple[int, TrainState, dict[str, Any] | None]:
    """Returns the number of steps done, the state after them, placed as `abstract` says, and what the log should say about it.

    The state is that of the newest checkpoint that is whole. Newer ones are moved out of the way. Without any checkpoint, the
    state is a fresh one.

    Raises:
      UserError: if no checkpoint is whole, the run that the experiment starts from does not fit, or there is no room for
        checkpoints.
    """
    step, event = 0, None
    if checkpoints.latest_step():
        step, state, damaged = checkpoints.load_newest(abstract, description)
        if damaged:
            event = fall_back(checkpoints, step, damaged)
        if checkpoints.manifest(step) is None:
            console.print(f"The checkpoint of step {step} has no checksums, because an older version saved it. New ones have.")
    else:
        refuse_to_begin_anew(experiment.folder)
        check_room(experiment.folder, abstract, copies=2)
        state = init_state(objective, experiment.seed, abstract)
        if experiment.start:
            origin = description["origins"]["init_from"]
            state = started_from(experiment.start, label_space_of(experiment.data), state, origin)
    # Orbax and growth do not know the orders in memory.
    return step, jax.device_put(state, formats_of(abstract)), event


def refuse_to_begin_anew(folder: str) -> None:
    """Raises UserError if launch.check has moved all checkpoints of a run away, because they were damaged."""
    if is_bucket(folder):
        damaged = {name.split("/")[1] for name in BucketFolder(folder).objects("damaged")}
    else:
        damaged = {path.name for path in Path(folder, "damaged").glob("*")}
    if steps := sorted(int(name) for name in damaged if name.isdigit()):
        raise UserError(
            f"{folder} has no checkpoint any more, because those of {'steps' if len(steps) > 1 else 'step'} "
            f"{', '.join(map(str, steps))} were damaged and lie in {folder}/damaged. Fetch them again, or train anew with "
            f"another --run.folder."
        )


def fall_back(checkpoints: Checkpoints, step: int, damaged: dict[int, str]) -> dict[str, Any]:
    """Moves damaged checkpoints out of the way, says so, and returns what the log should say about it.

    Raises:
      UserError: if they cannot be moved.
    """
    moved = {}
    for later, error in damaged.items():
        try:
            if is_first():
                moved[later] = checkpoints.set_aside(later)
            else:
                checkpoints.forget(later)
        except OSError as problem:
            raise UserError(f"{error}\nIt cannot be moved out of the way ({problem}). Move or delete it.") from problem
        console.print(f"{error}\nIt was moved to {moved.get(later)}.")
    wait_for_all("damaged checkpoints")
    console.print(f"The run goes on from step {step}, its newest checkpoint that is whole.")
    return {"fell_back": {"to": step, "damaged": damaged}}


def started_from(start: Start, label_space: LabelSpace, state: TrainState, origin: dict[str, Any] | None = None) -> TrainState:
    """Returns the fresh state with the modules of another run in place of its own. Step and λ start anew.

    Args:
      start: the run to start from.
      label_space: the label space of the training.
      state: a fresh state, placed on the devices.
      origin: what run.json says of the start. The checkpoint has to be that one. None: the newest one.

    Raises:
      UserError: if that run has other classes, boundaries or none unlike this one, modules of other shapes, or no longer the
        checkpoint of `origin`.
    """
    folder = start.folder
    run = load_origin({"folder": folder} | (origin or {}), "init_from", moments=start.keeps_moments)
    if run.label_space.classes != label_space.classes:
        theirs, ours = (", ".join(space.classes) for space in (run.label_space, label_space))
        raise UserError(
            f"--init_from {folder}: that run's classes are {theirs}. The classes of this training are {ours}. Start from a run "
            f"with the same --data.labels."
        )
    if num_channels(run.generator) != state.params["module_0"]["conv1"]["kernel"].shape[2]:
        have, flag = ("have", "Add") if run.generator.boundaries else ("have no", "Leave out")
        raise UserError(f"--init_from {folder}: that run's layouts {have} instance boundaries. {flag} --cascade.boundaries.")
    try:
        grown, fresh, kept = grow_state(state, state._replace(params=run.params, opt_state=run.opt_state or {}))
    except ValueError as error:
        raise UserError(f"--init_from {folder}: its cascade does not fit into this one ({error}).") from error
    taken_over = [part for part in state.params if part not in fresh]  # perhaps but for a layer, which `fresh` names
    moments = f" Adam's moments kept: {', '.join(kept) or 'none'}." * start.keeps_moments
    console.print(
        f"Started from {folder}, step {run.step}: {', '.join(taken_over)}. Fresh: {', '.join(fresh) or 'nothing'}.{moments}"
    )

    def placed(like: jax.Array, value: jax.Array) -> jax.Array:
        if value is like:
            return like
        if isinstance(value, jax.Array) and value.sharding == like.sharding:  # fresh, and perhaps spread over processes
            return jnp.copy(value)  # the step uses up the parameters and their moving average, so both need one
        host = np.asarray(value)
        return jax.make_array_from_callback(like.shape, like.sharding, lambda index: host[index])

    return jax.tree.map(placed, state, grown)
