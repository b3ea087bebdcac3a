"""Images whose rows lie on several devices: what a device computes of its own rows and of those beside them, its halo.

The code elsewhere is written for one device, and the compiler splits it. That does badly at 3x3 convolutions: before each one
it exchanges a row with either neighbour and copies the image to put that row beside it, again in the backward pass. So here a
halo is exchanged once for two convolutions that follow each other (VGG-19), or for upsampling and a convolution (the cascade),
and an image with its halo is what the backward pass keeps.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from crn_jax.sharding import by_device, from_neighbours, place_in_height


class Haloed(NamedTuple):
    """An activation `[B, H, W, C]` with, for each of n devices, a row of either neighbour beside its h = H / n own."""

    rows: jax.Array  # [B, n (h + 2), W, C]; zero outside the image


def haloed(x: jax.Array | Haloed) -> Haloed:
    """x, whose rows are split, with a row of either neighbour."""
    return x if isinstance(x, Haloed) else Haloed(by_device(functools.partial(with_halo, rows=1), x))


# On each device, within `by_device`


def with_halo(x: jax.Array, rows: int) -> jax.Array:
    """A device's rows between some of either neighbour: `[B, h, W, C] -> [B, h + 2 rows, W, C]`, zero outside the image."""
    above, below = from_neighbours(x[:, -rows:], x[:, :rows])
    return jnp.concatenate([above, x, below], 1)


def without_outside(x: jax.Array) -> jax.Array:
    """Rows with a halo of one, which is set to zero where it lies outside the image; the others are not even copied."""
    place, devices = place_in_height()
    for outermost, row in ((0, 0), (devices - 1, x.shape[1] - 1)):
        edge = jax.lax.slice_in_dim(x, row, row + 1, axis=1)
        x = jax.lax.dynamic_update_slice_in_dim(x, jnp.where(place == outermost, 0, edge), row, axis=1)
    return x
