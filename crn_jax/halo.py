"""Images whose rows lie on several devices: what a device computes of its own rows and of those beside them, its halo.

The code elsewhere is written for one device, and the compiler splits it. That does badly at 3x3 convolutions: before each one
it exchanges a row with either neighbour and copies the image to put that row beside it, again in the backward pass. So here a
halo is exchanged once for two convolutions that follow each other (VGG-19), or for upsampling and a convolution (the cascade),
and an image with its halo is what the backward pass keeps.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from crn_jax.sharding import DATA, SPATIAL, activation_spec


class Haloed(NamedTuple):
    """An activation `[B, H, W, C]` with, for each of n devices, a row of either neighbour beside its h = H / n own."""

    rows: jax.Array  # [B, n (h + 2), W, C]; zero outside the image


def rows_are_split(x: jax.Array, min_rows: int) -> bool:
    """Whether several devices share the rows of an activation `[B, H, ...]`, as `sharding.constrain` splits it."""
    mesh = jax.sharding.get_abstract_mesh()
    split = DATA in mesh.axis_names and mesh.shape[SPATIAL] > 1
    return split and activation_spec(mesh, x.shape, min_rows)[1] is not None


def by_device(function: Callable, *split: jax.Array, whole: tuple = (), summed: bool = False) -> Any:
    """`function(*split, *whole)`, of which each device computes the part that is its own.

    Args:
      function: of a device's rows of the activations `split`, and of all that is in `whole`.
      split: activations `[B, H, ...]` whose rows are split; of all, B and the number of devices along H are the same.
      whole: arrays, or trees of them, of which every device has a copy.
      summed: whether the sum of what all devices return is wanted, which all get, instead of their rows beside each other.
    """
    rows, everywhere = activation_spec(jax.sharding.get_abstract_mesh(), split[0].shape), PartitionSpec()

    def of_its_own(*arguments) -> Any:
        result = function(*arguments)
        return jax.lax.psum(result, tuple(axis for axis in rows if axis)) if summed else result

    in_specs = (rows,) * len(split) + (everywhere,) * len(whole)
    return jax.shard_map(of_its_own, in_specs=in_specs, out_specs=everywhere if summed else rows)(*split, *whole)


def haloed(x: jax.Array | Haloed) -> Haloed:
    """x, whose rows are split, with a row of either neighbour."""
    return x if isinstance(x, Haloed) else Haloed(by_device(functools.partial(with_halo, rows=1), x))


# On each device, within `by_device`


def with_halo(x: jax.Array, rows: int) -> jax.Array:
    """A device's rows between some of either neighbour: `[B, h, W, C] -> [B, h + 2 rows, W, C]`, zero outside the image."""
    last = jax.lax.axis_size(SPATIAL) - 1
    above = jax.lax.ppermute(x[:, -rows:], SPATIAL, [(i, i + 1) for i in range(last)])
    below = jax.lax.ppermute(x[:, :rows], SPATIAL, [(i + 1, i) for i in range(last)])
    return jnp.concatenate([above, x, below], 1)


def without_outside(x: jax.Array) -> jax.Array:
    """Rows with a halo of one, which is set to zero where it lies outside the image; the others are not even copied."""
    first, last = 0, jax.lax.axis_size(SPATIAL) - 1
    for device, row in ((first, 0), (last, x.shape[1] - 1)):
        edge = jax.lax.slice_in_dim(x, row, row + 1, axis=1)
        edge = jnp.where(jax.lax.axis_index(SPATIAL) == device, 0, edge)
        x = jax.lax.dynamic_update_slice_in_dim(x, edge, row, axis=1)
    return x


def first_row(x: jax.Array) -> jax.Array:
    """Where a device's rows `[B, h, W, C]` begin in the image."""
    return jax.lax.axis_index(SPATIAL) * x.shape[1]


def rows_in_all(x: jax.Array) -> int:
    """The height of the image of which a device has the rows `[B, h, W, C]`."""
    return jax.lax.axis_size(SPATIAL) * x.shape[1]
