"""What the backward pass keeps from the forward pass, and what it computes again."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from crn_jax.sharding import is_split

Remat = Literal["none", "images", "conv", "full"]
"""none: all is kept; images: of the loss of k images, one image's part at a time, computed again from the image; conv: also of
each refinement module and each stage of VGG-19 only its input and what its convolutions yield; full: its input alone, so that
convolutions are computed twice. `conv` and `full` compute VGG-19 on several images once more, as `images` does. (On CPUs `conv`
saves nothing: the compiler merges what is computed again with what was.)"""

_CONVOLUTION = "convolution"


def convolved(x: jax.Array) -> jax.Array:
    """x, marked as what a convolution yields."""
    return checkpoint_name(x, _CONVOLUTION)


def keeps_all(remat: Remat) -> bool:
    """Whether modules and stages are kept as they are."""
    return remat in ("none", "images")


def rematerialized(function: Callable, remat: Remat) -> Callable:
    """A function of arrays (or trees of them), the inside of which is kept as `remat` says."""
    if keeps_all(remat):
        return function
    if remat == "conv":
        return jax.checkpoint(function, policy=jax.checkpoint_policies.save_only_these_names(_CONVOLUTION))
    return _recomputed(function)


def _recomputed(function: Callable) -> Callable:
    """Of which only the arguments are kept: `jax.checkpoint`, but on CPUs too, see `added`."""
    wrapped = jax.custom_vjp(function)

    def backward(arguments: tuple, y: Any) -> tuple:
        first, *_ = jax.tree.leaves(y)
        return jax.vjp(function, *jax.tree.map(lambda x: behind(x, first), arguments))[1](y)

    wrapped.defvjp(lambda *arguments: (function(*arguments), arguments), backward)
    return wrapped


def behind(x: jax.Array, y: jax.Array) -> jax.Array:
    """x, but not before y is there: what is computed from it is not what was computed from x before."""
    if is_split():
        return _barrier(x, y)
    return jax.lax.platform_dependent(x, y, cpu=added, default=_barrier)


def _barrier(x: jax.Array, y: jax.Array) -> jax.Array:
    return jax.lax.optimization_barrier((x, y))[0]


def added(x: jax.Array, y: jax.Array) -> jax.Array:
    """x + 0, where the 0 comes from y's first entry (which, if it is NaN, makes all of x so).

    XLA for CPUs drops optimization barriers before it merges equal computations and orders what is left. It cannot ignore an
    addition.
    """
    return x + jnp.minimum(jnp.abs(jax.lax.stop_gradient(y).reshape(-1)[0]), 0).astype(x.dtype)
