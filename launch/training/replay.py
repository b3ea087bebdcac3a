"""The replay of a step (`--run.replay_every`): it is computed a second time from the same state, and compared bit by bit.

A processor or a memory that computes wrongly now and then, without an error, is found in this way. Both times the same compiled
program runs on the same inputs, so every bit of the next state and of the metrics has to be the same.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crn_jax.manifest import named_leaves
from crn_jax.train import TrainState


def replayed(
    train_step: Callable, state: TrainState, frozen: dict, batch: dict
) -> tuple[tuple[TrainState, dict[str, Any]], list[str]]:
    """Computes a step twice from the same state, which it uses up.

    The step donates its state, so the state is copied first. The devices hold one state more than usual for this step.

    Returns:
      the next state and the metrics, and the names of the arrays of which any bit differed.
    """
    twin = _copied(state)
    first = train_step(twin, frozen, batch)
    second = train_step(state, frozen, batch)
    everywhere = second[0].step.sharding
    same = jax.jit(same_bits, out_shardings=everywhere)(first, second)
    named = named_leaves({"state": same[0], "metrics": same[1]})
    return second, [name for name, flag in named if not np.asarray(flag)]


def _copied(state: TrainState) -> TrainState:
    formats = jax.tree.map(lambda leaf: leaf.format, state)
    return jax.jit(lambda leaves: jax.tree.map(jnp.copy, leaves), out_shardings=formats)(state)


def same_bits(first: Any, second: Any) -> Any:
    """Tells for each array whether all of its bits are the same; as numbers, NaN would differ from itself and 0 not from -0."""

    def bits(leaf: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))

    return jax.tree.map(lambda a, b: (bits(a) == bits(b)).all(), first, second)
