"""The three maps of convolution.py in bands of rows, one band after the other, for a single TPU.

XLA for TPUs brings large images into orders in memory in which 160 channels take the room of 256, and 32 that of 128. It also
cuts images of batch 1 into pieces, with copies. One convolution at 1024x2048 needs 3 GB of temporaries. Those of a band fit
into the chip's vector memory.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LARGEST = 1 << 24
"""The number of elements of an image's band, in the input or the output. A band of it takes 32 MiB in bfloat16."""


def bands(image: jax.Array, channels: tuple[int, ...]) -> int:
    """Returns in how many bands to convolve images `[B, H, W, _]`, given the channels of input and output.

    The batch does not count: in an exported function, it may be any number.
    """
    _, height, width, _ = image.shape
    n = 1
    while height * width * max(channels) > n * LARGEST and height % (2 * n) == 0:
        n *= 2
    return n


def banded_conv3x3(x: Float[Array, "B H W C"], k: Float[Array, "3 3 C D"], n: int) -> Float[Array, "B H W D"]:
    """Convolves in n bands."""
    return _by_bands(lambda band: _convolve(band, k, ("NHWC", "HWIO", "NHWC")), x, n)


def banded_input_gradient(y: Float[Array, "B H W D"], k: Float[Array, "3 3 C D"], n: int) -> Float[Array, "B H W C"]:
    """Returns the derivative by x, in n bands."""
    return _by_bands(lambda band: _convolve(band, k[::-1, ::-1], ("NHWC", "HWOI", "NHWC")), y, n)


def banded_kernel_gradient(x: Float[Array, "B H W C"], y: Float[Array, "B H W D"], n: int) -> Float[Array, "3 3 C D"]:
    """Returns the derivative by k: the sum of those of n bands, in float32 or better."""
    rows, exact = x.shape[1] // n, jnp.promote_types(x.dtype, jnp.float32)

    def add(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        of_band = jax.lax.dynamic_slice_in_dim(y, i * rows, rows, 1)
        by_kernel = _convolve(_with_halo(x, i, rows), of_band, ("CHWN", "IHWO", "HWNC"), preferred_element_type=exact)
        return total + by_kernel, None

    return jax.lax.scan(add, jnp.zeros((3, 3, x.shape[3], y.shape[3]), exact), jnp.arange(n))[0].astype(x.dtype)


def _by_bands(function: Callable, x: jax.Array, n: int) -> jax.Array:
    """Returns function(band) of all bands, each of which is given with a halo that the function consumes."""
    rows = x.shape[1] // n
    results = jax.lax.map(lambda i: function(_with_halo(x, i, rows)), jnp.arange(n))  # [n, B, H / n, W, D]
    return jnp.moveaxis(results, 0, 1).reshape(*x.shape[:3], -1)


def _with_halo(x: jax.Array, i: jax.Array, rows: int) -> jax.Array:
    """Returns band i with the row above and the row below it, which are zero outside the image."""
    first, end = i * rows, (i + 1) * rows
    above = jax.lax.dynamic_slice_in_dim(x, jnp.maximum(first - 1, 0), 1, 1)
    below = jax.lax.dynamic_slice_in_dim(x, jnp.minimum(end, x.shape[1] - 1), 1, 1)
    edges = jnp.where(first > 0, above, 0), jnp.where(end < x.shape[1], below, 0)
    return jnp.concatenate([edges[0], jax.lax.dynamic_slice_in_dim(x, first, rows, 1), edges[1]], 1)


def _convolve(x: jax.Array, k: jax.Array, dimensions: tuple[str, str, str], **settings) -> jax.Array:
    return jax.lax.conv_general_dilated(x, k, (1, 1), ((0, 0), (1, 1)), dimension_numbers=dimensions, **settings)
