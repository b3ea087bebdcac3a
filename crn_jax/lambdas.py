"""λ, the balance of the loss's terms, as explicit training state (section 3.3 of the paper).

The state holds the weights w_l = λ_l · (number of elements of layer l), see `losses.py`. All functions are pure and keep
shapes, so rescaling recompiles nothing.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from crn_jax.settings import LambdaConfig
from crn_jax.vgg_layers import TAPS


class LambdaState(NamedTuple):
    """The current weights, and the sums of the terms so far in this epoch. Layers are in the order of `TAPS`."""

    weights: Float[Array, "6"]
    sums: Float[Array, "6"]


def init_lambdas(config: LambdaConfig) -> LambdaState:
    """Returns the state before the first step."""
    return LambdaState(jnp.asarray(config.initial, jnp.float32), jnp.zeros(len(TAPS), jnp.float32))


def update_lambdas(
    config: LambdaConfig, state: LambdaState, terms: Float[Array, "6"], step: Int[Array, ""], steps_per_epoch: int
) -> LambdaState:
    """Adds the terms of a step (counted from 0), and rescales if the step ends the epoch `rescale_epoch`.

    The time of rescaling depends on the step alone, so a restart can neither skip nor repeat it.
    """
    sums = jnp.where(step % steps_per_epoch == 0, 0.0, state.sums) + terms
    if config.rescale_epoch is None:
        return LambdaState(state.weights, sums)
    due = step + 1 == min(config.rescale_epoch * steps_per_epoch, np.iinfo(np.int32).max)  # no training has so many steps
    rescaled = rescale(config, state.weights, sums / steps_per_epoch)
    return LambdaState(jnp.where(due, rescaled, state.weights), sums)


def rescale(config: LambdaConfig, weights: Float[Array, "6"], means: Float[Array, "6"]) -> Float[Array, "6"]:
    """Returns weights under which terms with these means contribute equally: w_l = contribution / mean_l.

    A term whose mean is 0, such as between identical images, keeps its weight. A weight of 0 stays 0.
    """
    contributions = weights * means
    contribution = contributions[0] if config.keep == "image" else contributions.sum() / jnp.sum(weights > 0)
    taking_part = (means > 0) & (weights > 0)
    balanced = jnp.where(taking_part, contribution / jnp.where(taking_part, means, 1), weights)
    return balanced.at[TAPS.index("conv5_2")].multiply(config.conv5_2_factor)
