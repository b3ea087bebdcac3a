"""A training that starts from another run: `--init_from RUN`."""

import jax
import numpy as np

from crn_jax.data.sources import label_space_of
from crn_jax.errors import UserError
from crn_jax.experiment import Experiment
from crn_jax.growth import grow_state
from crn_jax.run import load_run
from crn_jax.train import TrainState
from launch.common.terminal import console


def started_from(experiment: Experiment, state: TrainState) -> TrainState:
    """The initial state with the modules of the run that the experiment names; step and λ start anew.

    Raises:
      UserError: if that run's classes, or the shapes of its modules, are others.
    """
    folder = experiment.init_from
    run = load_run(folder, kind=Experiment, moments=experiment.init_moments == "kept")
    label_space = label_space_of(experiment.data)
    if run.label_space.classes != label_space.classes:
        raise UserError(f"--init_from {folder}: that run's classes are others: {', '.join(run.label_space.classes)}.")
    try:
        grown, fresh, kept = grow_state(state, state._replace(params=run.params, opt_state=run.opt_state))
    except ValueError as error:
        raise UserError(f"--init_from {folder}: its cascade does not fit into this one ({error}).") from error
    taken_over = [part for part in state.params if part not in fresh]
    moments = f" Adam's moments are kept of {', '.join(kept) or 'nothing'}." * (experiment.init_moments == "kept")
    console.print(
        f"Started from {folder}, step {run.step}: {', '.join(taken_over)}. Fresh: {', '.join(fresh) or 'nothing'}.{moments}",
        markup=False,
    )

    def placed(like: jax.Array, value: jax.Array) -> jax.Array:
        if value is like:
            return like
        host = np.asarray(value)
        return jax.make_array_from_callback(like.shape, like.sharding, lambda index: host[index])

    return jax.tree.map(placed, state, grown)
