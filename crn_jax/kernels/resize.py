"""The two resamplings of the cascade, as local stencils.

Arrays are float `[B, H, W, C]`. Both functions change height and width by exactly two, touch only neighbouring
rows and columns (so an image split by rows over devices exchanges single rows), and keep the input's dtype.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from crn_jax.kernels.halo import Haloed, with_halo
from crn_jax.sharding import MIN_ROWS, by_device, constrain, place_in_height, rows_are_split

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
    pixels, `jax.image.resize` and what other libraries do by default. Of x whose rows are split over devices, GPUs would gather
    all: use `upsampled`.
    """
    return _doubled(x, *(_weights(n, upsampling, _exact(x)) for n in x.shape[1:3]))


def upsampled(x: jax.Array, upsampling: Upsampling) -> jax.Array | Haloed:
    """`double_bilinear` for a convolution: where x's rows are split over devices, with the halo that this needs.

    The row of x beyond a device's own yields the upsampled row there, so one exchange serves for both.
    """
    if not rows_are_split(x, MIN_ROWS):
        return constrain(_of_whole(x, upsampling), MIN_ROWS)

    def of_its_own(x: jax.Array) -> jax.Array:
        # Rows outside the image are zero, and have no weight in those inside; so those outside yield zero.
        place, devices = place_in_height()
        h = x.shape[1]
        rows, columns = (_weights(n, upsampling, _exact(x)) for n in (devices * h, x.shape[2]))
        rows = tuple(jax.lax.dynamic_slice_in_dim(jnp.pad(weights, 1), place * h, h + 2) for weights in rows)
        return _doubled(with_halo(x, 1), rows, columns)[:, 1:-1]

    return Haloed(by_device(of_its_own, x))


def _of_whole(x: jax.Array, upsampling: Upsampling) -> jax.Array:
    """`double_bilinear` where all of x is on every device, whether or not the rows of the result are split.

    If they are, by slices on all platforms: by indices, GPUs would sum every tap of the derivative over all devices.
    """
    b, h, w, c = x.shape
    doubled = jax.ShapeDtypeStruct((b, 2 * h, 2 * w, c), x.dtype)
    if not rows_are_split(doubled, MIN_ROWS):
        return double_bilinear(x, upsampling)
    return _interleaved(x, *(_weights(n, upsampling, _exact(x)) for n in (h, w)))


def _exact(x: jax.Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


Weights = tuple[jax.Array | np.ndarray, jax.Array | np.ndarray]
"""The weight of neighbour k - 1 in output 2k, and that of neighbour k + 1 in output 2k + 1; the rest is k's. Each `[n]`."""


def _weights(n: int, upsampling: Upsampling, dtype: jnp.dtype) -> Weights:
    """With aligned corners, output r samples the input at r (n-1)/(2n-1). For r = 2k that lies k/(2n-1) before k, for r = 2k+1
    it lies (n-1-k)/(2n-1) behind it. With half pixels, at r/2 - 1/4: always a quarter, but not past the edges.

    As constants: compilers need no kernels then for what follows from them.
    """
    k = np.arange(n).astype(dtype)
    if upsampling == "align_corners":
        return k / (2 * n - 1), (n - 1 - k) / (2 * n - 1)
    return 0.25 * (k > 0).astype(dtype), 0.25 * (k < n - 1).astype(dtype)


@jax.custom_vjp
def _doubled(x: jax.Array, rows: Weights, columns: Weights) -> jax.Array:
    """`double_bilinear`, with the weights given.

    Each pixel as the weighted mean of its four neighbours in x, not one axis behind the other: so on a GPU this is part of
    the kernel that puts the layout beside it, and its derivative is one kernel.
    """
    return jax.lax.platform_dependent(x, rows, columns, cuda=_with_indices, default=_interleaved)


@jax.custom_vjp
def _by_input(y: jax.Array, rows: Weights, columns: Weights) -> jax.Array:
    """The derivative of `_doubled`: its transpose, `[B, 2H, 2W, C] -> [B, H, W, C]`."""

    def of_interleaved(y: jax.Array, rows: Weights, columns: Weights) -> jax.Array:
        like = y[:, ::2, ::2]
        return jax.linear_transpose(lambda x: _interleaved(x, rows, columns), like)(y)[0]

    return jax.lax.platform_dependent(y, rows, columns, cuda=_by_input_with_indices, default=of_interleaved)


_doubled.defvjp(
    lambda x, *weights: (_doubled(x, *weights), weights),
    lambda weights, y: (_by_input(y, *weights), None, None),
)
_by_input.defvjp(
    lambda y, *weights: (_by_input(y, *weights), weights),
    lambda weights, x: (_doubled(x, *weights), None, None),
)


# With slices and pads, which CPUs vectorize and the compiler for TPUs splits over devices


def _interleaved(x: jax.Array, weights_of_rows: Weights, weights_of_columns: Weights) -> jax.Array:
    """Even and odd rows, even and odd columns apart, joined at the end."""
    b, h, w, c = x.shape
    rows = []
    for step_h, s in zip((-1, 1), weights_of_rows):
        vertical, s = _neighbour(x, 1, step_h), s[None, :, None, None]
        columns = []
        for step_w, t in zip((-1, 1), weights_of_columns):
            horizontal, diagonal, t = _neighbour(x, 2, step_w), _neighbour(vertical, 2, step_w), t[None, None, :, None]
            columns.append((1 - s) * ((1 - t) * x + t * horizontal) + s * ((1 - t) * vertical + t * diagonal))
        rows.append(jnp.stack(columns, 3))
    return jnp.stack(rows, 2).reshape(b, 2 * h, 2 * w, c).astype(x.dtype)


def _neighbour(x: jax.Array, axis: int, step: Literal[-1, 1]) -> jax.Array:
    """x's neighbours before (-1) or behind (1) along an axis; those outside, whose weight is zero, are zero."""
    # Where the axis is split over devices, this order (slice, then pad) exchanges one row with each neighbour; pad, then
    # slice exchanges more rows the more devices there are. And no negative pad: XLA miscompiles that when a replicated operand
    # meets a sharded result (seen in jax 0.10.2 to 0.12.0).
    n = x.shape[axis]
    inside = jax.lax.slice_in_dim(x, max(step, 0), n + min(step, 0), axis=axis)
    outside = (1, 0) if step < 0 else (0, 1)
    return jnp.pad(inside, [outside if a == axis else (0, 0) for a in range(x.ndim)])


# With indices. On a GPU slices and pads become branches, in which a thread reads channels one by one; like this it reads four.

Tap = tuple[np.ndarray, jax.Array]
"""For each output along an axis, which input it takes, and with which weight."""


def _with_indices(x: jax.Array, rows: Weights, columns: Weights) -> jax.Array:
    """`_interleaved`, but for the outermost outputs where neighbours outside x have weights.

    That is so at the edges of a device's rows, and `upsampled` cuts those outputs off.
    """

    def taps(weights: Weights) -> list[Tap]:
        r = np.arange(2 * weights[0].size)
        neighbour, weight = r // 2 + np.where(r % 2, 1, -1), jnp.stack(weights, 1).reshape(-1)
        return [(r // 2, 1 - weight), (neighbour.clip(0, r.size // 2 - 1), weight)]

    return _weighted(x, taps(rows), taps(columns))


def _by_input_with_indices(y: jax.Array, rows: Weights, columns: Weights) -> jax.Array:
    """`_by_input`: each pixel of x counts in four rows and four columns."""

    def taps(weights: Weights) -> list[Tap]:
        even, odd = weights
        k = np.arange(even.size)
        transposed = jnp.pad(odd[:-1], (1, 0)), 1 - even, 1 - odd, jnp.pad(even[1:], (0, 1))
        return [((2 * k + step).clip(0, 2 * k.size - 1), weight) for step, weight in zip((-1, 0, 1, 2), transposed)]

    return _weighted(y, taps(rows), taps(columns))


def _weighted(x: jax.Array, rows: list[Tap], columns: list[Tap]) -> jax.Array:
    """The sum over the taps of either axis."""

    def at(i: np.ndarray, j: np.ndarray) -> jax.Array:
        return x.at[:, i[:, None], j[None]].get(mode="promise_in_bounds").astype(_exact(x))

    sums = [sum(t[None, None, :, None] * at(i, j) for j, t in columns) for i, _ in rows]
    return sum(s[None, :, None, None] * row for (_, s), row in zip(rows, sums)).astype(x.dtype)
