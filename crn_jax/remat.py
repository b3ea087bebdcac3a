"""What the backward pass keeps from the forward pass, and what it computes again."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

Remat = Literal["none", "images", "conv", "full"]
"""none: all is kept; images: of the loss of k images, one image's part at a time, computed again from the image; conv: also of
each refinement module and each stage of VGG-19 only its input and what its convolutions yield; full: its input alone, so that
convolutions are computed twice. `conv` and `full` compute VGG-19 on several images once more, as `images` does."""

_CONVOLUTION = "convolution"
_POLICIES = {
    "conv": jax.checkpoint_policies.save_only_these_names(_CONVOLUTION),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def convolved(x: jax.Array) -> jax.Array:
    """x, marked as what a convolution yields."""
    return checkpoint_name(x, _CONVOLUTION)


def rematerialized(function: Callable, remat: Remat) -> Callable:
    """A function of arrays, or a class of Flax modules, the inside of which is kept as `remat` says."""
    if remat in ("none", "images"):
        return function
    transform = nn.remat if isinstance(function, type) else jax.checkpoint
    return transform(function, policy=_POLICIES[remat])
