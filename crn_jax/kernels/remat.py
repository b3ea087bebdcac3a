"""Rematerialization: which values the backward pass keeps from the forward pass, and which it computes a second time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from crn_jax.settings import Remat
from crn_jax.sharding import is_split

_CONVOLUTION = "convolution"


def convolved(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Marks x as the result of a convolution."""
    return checkpoint_name(x, _CONVOLUTION)


def keeps_all(remat: Remat) -> bool:
    """Returns whether everything inside modules and stages is kept."""
    return remat in ("none", "images")


def rematerialized(function: Callable, remat: Remat) -> Callable:
    """Returns `function`, of arrays or trees of arrays, such that the backward pass keeps its inner values as `remat` says."""
    if keeps_all(remat):
        return function
    if remat == "conv":
        return jax.checkpoint(function, policy=jax.checkpoint_policies.save_only_these_names(_CONVOLUTION))
    return _recomputed(function)


def _recomputed(function: Callable) -> Callable:
    """Keeps only the arguments, as `jax.checkpoint` does, but on CPUs, too (see `added`)."""
    wrapped = jax.custom_vjp(function)

    def backward(arguments: tuple, y: Any) -> tuple:
        first, *_ = jax.tree.leaves(y)
        return jax.vjp(function, *jax.tree.map(lambda x: behind(x, first), arguments))[1](y)

    wrapped.defvjp(lambda *arguments: (function(*arguments), arguments), backward)
    return wrapped


def behind(x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns x, but only once y is computed, so that the compiler does not reuse what it has computed from x before."""
    if is_split():
        return _barrier(x, y)
    return jax.lax.platform_dependent(x, y, cpu=added, default=_barrier)


def _barrier(x: jax.Array, y: jax.Array) -> jax.Array:
    return jax.lax.optimization_barrier((x, y))[0]


def added(x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns x + 0, where 0 is computed from the first entry of y. (If that is NaN, all of the result is.)

    XLA for CPUs drops optimization barriers before it merges equal computations and orders the others. It cannot ignore an
    addition.
    """
    return x + jnp.minimum(jnp.abs(jax.lax.stop_gradient(y).reshape(-1)[0]), 0).astype(x.dtype)
