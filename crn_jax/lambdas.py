"""λ, the balance of the loss's terms, as explicit training state (section 3.3 of the paper).

The state holds the weights w_l = λ_l · (number of elements of layer l), see `losses.py`. All functions are pure and keep
shapes, so rescaling recompiles nothing.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from crn_jax.vgg import TAPS


@dataclasses.dataclass(frozen=True)
class LambdaConfig:
    """How λ starts, and when and how it is rescaled."""

    initial: tuple[float, ...] = (1.0,) * len(TAPS)
    """The initial weights of the six terms: input, conv1_2, ... conv5_2. A weight of 1 is the paper's λ = 1/elements. A layer
    of weight 0 stays out of the loss for good."""
    rescale_epoch: int | None = 100
    """The epoch (counted from 1) at whose end λ is rescaled, once, by the means of the terms over this epoch. With None, it is
    never rescaled."""
    keep: Literal["total", "image"] = "total"
    """What rescaling leaves unchanged, before conv5_2_factor: total keeps the expected loss, image the image's term (the
    authors' "relative to l0")."""
    conv5_2_factor: float = 1.0
    """The factor of conv5_2's weight after rescaling. The released programs use 10."""

    def __post_init__(self):
        if len(self.initial) != len(TAPS):
            raise ValueError(f"initial needs {len(TAPS)} weights ({', '.join(TAPS)}), got {self.initial}.")
        if min(self.initial) < 0 or max(self.initial) == 0:
            raise ValueError(f"initial weights must not be negative, nor all 0, got {self.initial}.")
        if self.keep == "image" and self.initial[0] == 0:
            raise ValueError("keep image needs an image term, but the first of the initial weights is 0.")
        if self.rescale_epoch is not None and self.rescale_epoch < 1:
            raise ValueError(f"rescale_epoch counts from 1, got {self.rescale_epoch}.")

    @property
    def depth(self) -> int:
        """The number of layers up to the last one whose weight is not 0. Deeper ones need not be computed."""
        return max(i for i, weight in enumerate(self.initial) if weight > 0) + 1


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
    due = step + 1 == config.rescale_epoch * steps_per_epoch
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
