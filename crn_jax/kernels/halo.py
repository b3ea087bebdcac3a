"""The halo exchange, for images whose rows are split over several devices: each device gets the rows beside its own.

The other files are written for one device, and the compiler splits their computations. For 3x3 convolutions it does this
badly: before each one, and again in the backward pass, it exchanges a row with either neighbour and copies the image to put
that row beside it. Here one exchange serves two successive convolutions (VGG-19), or upsampling and a convolution (the
cascade), and the backward pass keeps the image with its halo.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from crn_jax.sharding import by_device, from_neighbours, place_in_height


class Haloed(NamedTuple):
    """An activation [B, H, W, C] in which each of n devices has its H / n rows, between one row of either neighbour."""

    rows: Float[Array, "B H+2*n W C"]  # zero outside the image


def haloed(x: Float[Array, "B H W C"] | Haloed) -> Haloed:
    """Returns x, whose rows are split over devices, with one row of either neighbour."""
    return x if isinstance(x, Haloed) else Haloed(by_device(functools.partial(with_halo, rows=1), x))


# On each device, within `by_device`


def with_halo(x: Float[Array, "B h W C"], rows: int) -> Float[Array, "B h+2*{rows} W C"]:
    """Returns a device's rows between `rows` rows of either neighbour, which are zero outside the image."""
    above, below = from_neighbours(x[:, -rows:], x[:, :rows])
    return jnp.concatenate([above, x, below], 1)


def without_outside(x: Float[Array, "B h W C"]) -> Float[Array, "B h W C"]:
    """Sets a halo of one row to zero where it lies outside the image; other rows are not even copied."""
    place, devices = place_in_height()
    for outermost, row in ((0, 0), (devices - 1, x.shape[1] - 1)):
        edge = jax.lax.slice_in_dim(x, row, row + 1, axis=1)
        x = jax.lax.dynamic_update_slice_in_dim(x, jnp.where(place == outermost, 0, edge), row, axis=1)
    return x
