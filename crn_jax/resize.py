"""The two resamplings of the cascade, as local stencils.

Arrays are float `[B, H, W, C]`. Both functions change height and width by exactly two, touch only neighbouring
rows and columns (so an image split by rows over devices exchanges single rows), and keep the input's dtype.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Upsampling = Literal["align_corners", "half_pixel"]


def halve_area(x: jax.Array) -> jax.Array:
    """Averages 2x2 blocks: `[B, H, W, C] -> [B, H/2, W/2, C]`, TensorFlow's `resize_area` at a factor of two.

    Raises:
      ValueError: if the height or the width is odd.
    """
    b, h, w, c = x.shape
    if h % 2 or w % 2:
        raise ValueError(f"halve_area needs an even height and width, got {h}x{w}.")
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def double_bilinear(x: jax.Array, upsampling: Upsampling = "align_corners") -> jax.Array:
    """Bilinear upsampling: `[B, H, W, C] -> [B, 2H, 2W, C]`.

    With aligned corners, it is TensorFlow's `resize_bilinear(align_corners=True)`, which the released program uses; with half
    pixels, `jax.image.resize` and what other libraries do by default.
    """
    return _double(_double(x, 1, upsampling), 2, upsampling)


def _double(x: jax.Array, axis: int, upsampling: Upsampling) -> jax.Array:
    # With aligned corners, output row r samples the input at r (n-1)/(2n-1). For r = 2k that lies k/(2n-1) before row k, for
    # r = 2k+1 it lies (n-1-k)/(2n-1) behind it. With half pixels, at r/2 - 1/4: always a quarter, but not past the edges.
    n = x.shape[axis]
    k = jnp.expand_dims(jnp.arange(n), [a for a in range(x.ndim) if a != axis])
    if upsampling == "align_corners":
        before, behind = k / (2 * n - 1), (n - 1 - k) / (2 * n - 1)
    else:
        before, behind = jnp.where(k > 0, 0.25, 0), jnp.where(k < n - 1, 0.25, 0)
    before, behind = before.astype(x.dtype), behind.astype(x.dtype)
    # The rows shifted in from outside are multiplied by zero. Where the axis is split over devices, this order (slice, then
    # pad) exchanges one row with each neighbour; pad, then slice exchanges more rows the more devices there are. And no
    # negative pad: XLA miscompiles that when a replicated operand meets a sharded result (seen in jax 0.10.2 to 0.12.0).
    above, below = ([edge if a == axis else (0, 0) for a in range(x.ndim)] for edge in ((1, 0), (0, 1)))
    previous = jnp.pad(jax.lax.slice_in_dim(x, 0, n - 1, axis=axis), above)
    following = jnp.pad(jax.lax.slice_in_dim(x, 1, n, axis=axis), below)
    even = x + (previous - x) * before
    odd = x + (following - x) * behind
    shape = x.shape[:axis] + (2 * n,) + x.shape[axis + 1 :]
    return jnp.stack([even, odd], axis + 1).reshape(shape)
