"""The two resamplings of the cascade, as local stencils.

Both change the height and the width by a factor of two and keep the dtype. They read neighbouring rows and columns only, so
that images whose rows are split over devices exchange single rows.
"""

import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from crn_jax.kernels.halo import Haloed, with_halo
from crn_jax.settings import Upsampling
from crn_jax.sharding import MIN_ROWS, by_device, constrain, is_split, place_in_height, rows_are_split


def halve_area(x: Float[Array, "B H W C"]) -> Float[Array, "B H//2 W//2 C"]:
    """Averages blocks of 2x2 pixels, as TensorFlow's `resize_area` does at a factor of two.

    Raises:
      ValueError: if the height or the width is odd.
    """
    b, h, w, c = x.shape
    if h % 2 or w % 2:
        raise ValueError(f"halve_area needs an even height and width, got {h}x{w}.")
    if is_split():
        return mean_of_blocks(x)
    return jax.lax.platform_dependent(x, tpu=mean_in_windows, default=mean_of_blocks)


def mean_of_blocks(x: jax.Array) -> jax.Array:
    """Has a derivative that stays within the rows of a device."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def mean_in_windows(x: jax.Array) -> jax.Array:
    """Needs no temporaries on a TPU, where an axis of 2 takes the room of one of 8: 1.3 GB at 1024x2048."""
    window = (1, 2, 2, 1)
    total = jax.lax.reduce_window(x.astype(_exact(x)), 0.0, jax.lax.add, window, window, "VALID")
    return (total / 4).astype(x.dtype)


def double_bilinear(x: Float[Array, "B H W C"], upsampling: Upsampling = "align_corners") -> Float[Array, "B 2*H 2*W C"]:
    """Upsamples bilinearly by a factor of two.

    With `align_corners`, this is TensorFlow's `resize_bilinear(align_corners=True)`, which the authors' program uses. With
    `half_pixel`, it is `jax.image.resize` and the default of other libraries. If the rows of x are split over devices, use
    `upsampled`: GPUs would gather all of x here.
    """
    return _doubled(x, *(bilinear_weights(n, upsampling, _exact(x)) for n in x.shape[1:3]))


def upsampled(x: Float[Array, "B H W C"], upsampling: Upsampling) -> Float[Array, "B 2*H 2*W C"] | Haloed:
    """Upsamples x for a convolution: `double_bilinear`, with the halo of the convolution if x's rows are split over devices.

    One exchange serves both: the row of x beyond those of a device also yields the upsampled row there.
    """
    if not rows_are_split(x, MIN_ROWS):
        return constrain(_of_whole(x, upsampling), MIN_ROWS)

    def of_its_own(x: jax.Array) -> jax.Array:
        # Rows outside the image are zero and have no weight in rows inside, so that upsampled rows outside are zero, too.
        place, devices = place_in_height()
        h = x.shape[1]

        def own(weights: jax.Array | np.ndarray) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(jnp.pad(weights, 1), place * h, h + 2)

        (even, odd), columns = (bilinear_weights(n, upsampling, _exact(x)) for n in (devices * h, x.shape[2]))
        return _doubled(with_halo(x, 1), (own(even), own(odd)), columns)[:, 1:-1]

    return Haloed(by_device(of_its_own, x))


def _of_whole(x: jax.Array, upsampling: Upsampling) -> jax.Array:
    """Upsamples x, of which every device has all, whether or not the rows of the result are split over devices.

    If they are split, all platforms use slices: with indices, GPUs would sum every tap of the derivative over all devices.
    """
    b, h, w, c = x.shape
    doubled = jax.ShapeDtypeStruct((b, 2 * h, 2 * w, c), x.dtype)
    if not rows_are_split(doubled, MIN_ROWS):
        return double_bilinear(x, upsampling)
    return interleaved(x, *(bilinear_weights(n, upsampling, _exact(x)) for n in (h, w)))


def _exact(x: jax.Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


Weights = tuple[jax.Array | np.ndarray, jax.Array | np.ndarray]
"""The weights [n] of neighbour k - 1 in output 2k, and of neighbour k + 1 in output 2k + 1; input k has what remains to 1."""


def bilinear_weights(n: int, upsampling: Upsampling, dtype: jnp.dtype) -> Weights:
    """Returns the weights as constants, so that compilers need no kernels to compute what follows from them.

    With aligned corners, output r samples the input at r (n-1)/(2n-1), which lies k/(2n-1) before k for r = 2k, and
    (n-1-k)/(2n-1) behind k for r = 2k+1. With half pixels, it samples at r/2 - 1/4, but not beyond the edges.
    """
    k = np.arange(n).astype(dtype)
    if upsampling == "align_corners":
        return k / (2 * n - 1), (n - 1 - k) / (2 * n - 1)
    return 0.25 * (k > 0).astype(dtype), 0.25 * (k < n - 1).astype(dtype)


def transposed(weights: Weights) -> tuple[jax.Array | np.ndarray, ...]:
    """Returns the weights [n] of outputs 2k - 1, 2k, 2k + 1 and 2k + 2 in the derivative by input k."""
    even, odd = weights
    return jnp.pad(odd[:-1], (1, 0)), 1 - even, 1 - odd, jnp.pad(even[1:], (0, 1))


@jax.custom_vjp
def _doubled(x: jax.Array, rows: Weights, columns: Weights) -> jax.Array:
    """Upsamples with given weights.

    Each pixel is the weighted mean of its four neighbours in x. A single CPU takes a pass for each axis. Elsewhere there is
    none: on a GPU, this becomes a part of the kernel that puts the layout beside the result, and its derivative is one kernel.
    """
    return jax.lax.platform_dependent(x, rows, columns, cpu=_for_cpus(), cuda=with_indices, default=interleaved)


@jax.custom_vjp
def _by_input(y: jax.Array, rows: Weights, columns: Weights) -> jax.Array:
    """Computes the derivative of `_doubled`, which is its transpose: [B, 2H, 2W, C] -> [B, H, W, C]."""

    def transpose(function: Callable) -> Callable:
        return lambda y, *weights: jax.linear_transpose(lambda x: function(x, *weights), y[:, ::2, ::2])(y)[0]

    by_slices = {"cpu": transpose(_for_cpus()), "default": transpose(interleaved)}
    if not is_split():
        by_slices["tpu"] = by_input_one_axis_at_a_time
    return jax.lax.platform_dependent(y, rows, columns, cuda=by_input_with_indices, **by_slices)


_doubled.defvjp(
    lambda x, *weights: (_doubled(x, *weights), weights),
    lambda weights, y: (_by_input(y, *weights), None, None),
)
_by_input.defvjp(
    lambda y, *weights: (_by_input(y, *weights), weights),
    lambda weights, x: (_doubled(x, *weights), None, None),
)


# By slices and pads, which CPUs vectorize and the compiler for TPUs splits over devices


def _for_cpus() -> Callable:
    """Returns the fastest way. On several devices XLA would sum the derivative of `one_axis_at_a_time` over them."""
    return interleaved if is_split() else one_axis_at_a_time


def one_axis_at_a_time(x: jax.Array, weights_of_rows: Weights, weights_of_columns: Weights) -> jax.Array:
    """Computes `interleaved`, the rows first and then the columns: an axis at a time is what CPUs compute fastest."""
    y = x.astype(_exact(x))
    for axis, weights in ((1, weights_of_rows), (2, weights_of_columns)):
        shape = [2 * n if a == axis else n for a, n in enumerate(y.shape)]
        of_axis = [weight.reshape([-1 if a == axis else 1 for a in range(y.ndim)]) for weight in weights]
        halves = [y + t * (_neighbour(y, axis, step) - y) for step, t in zip((-1, 1), of_axis)]
        y = jnp.stack(halves, axis + 1).reshape(shape)
    return y.astype(x.dtype)


def by_input_one_axis_at_a_time(y: jax.Array, weights_of_rows: Weights, weights_of_columns: Weights) -> jax.Array:
    """Computes `_by_input` from every second row and column. On a TPU, it needs 1.6 GB of temporaries at 1024x2048, not 3.8."""
    x = y  # the weights make it float32; converted before, it would take 1 GB more
    for axis, weights in ((1, weights_of_rows), (2, weights_of_columns)):
        even, odd = (jax.lax.slice_in_dim(x, first, None, 2, axis) for first in (0, 1))
        outputs = _neighbour(odd, axis, -1), even, odd, _neighbour(even, axis, 1)
        of_axis = [jnp.reshape(weight, [-1 if a == axis else 1 for a in range(y.ndim)]) for weight in transposed(weights)]
        x = functools.reduce(operator.add, map(operator.mul, of_axis, outputs))
    return x.astype(y.dtype)


def interleaved(x: jax.Array, weights_of_rows: Weights, weights_of_columns: Weights) -> jax.Array:
    """Upsamples: computes even and odd rows and columns separately, and joins them at the end."""
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


def _neighbour(x: jax.Array, axis: int, step: int) -> jax.Array:
    """Returns each pixel's neighbour before (-1) or behind (1) it along an axis; zero outside, where weights are zero."""
    # If the axis is split over devices, this order (slice, then pad) exchanges one row with each neighbour. Pad, then slice
    # would exchange more rows the more devices there are. A negative pad does not work: XLA miscompiles it if the operand is
    # replicated and the result sharded (seen in jax 0.10.2 to 0.12.0).
    n = x.shape[axis]
    inside = jax.lax.slice_in_dim(x, max(step, 0), n + min(step, 0), axis=axis)
    outside = (1, 0) if step < 0 else (0, 1)
    return jnp.pad(inside, [outside if a == axis else (0, 0) for a in range(x.ndim)])


# By indices. Slices and pads become branches on a GPU, in which a thread reads one channel at a time; by indices it reads four.

Tap = tuple[np.ndarray, jax.Array | np.ndarray]
"""The input that each output along an axis takes, and its weight."""


def with_indices(x: jax.Array, rows: Weights, columns: Weights) -> jax.Array:
    """Computes `interleaved`, except for the outermost outputs if neighbours outside x have weights.

    Such neighbours exist at the edges of a device's rows, and `upsampled` cuts those outputs off.
    """

    def taps(weights: Weights) -> list[Tap]:
        r = np.arange(2 * weights[0].size)
        neighbour, weight = r // 2 + np.where(r % 2, 1, -1), jnp.stack(weights, 1).reshape(-1)
        return [(r // 2, 1 - weight), (neighbour.clip(0, r.size // 2 - 1), weight)]

    return _weighted(x, taps(rows), taps(columns))


def by_input_with_indices(y: jax.Array, rows: Weights, columns: Weights) -> jax.Array:
    """Computes `_by_input`: each pixel of x contributes to four rows and four columns."""

    def taps(weights: Weights) -> list[Tap]:
        k = np.arange(weights[0].size)
        return [((2 * k + step).clip(0, 2 * k.size - 1), weight) for step, weight in zip((-1, 0, 1, 2), transposed(weights))]

    return _weighted(y, taps(rows), taps(columns))


def _weighted(x: jax.Array, rows: list[Tap], columns: list[Tap]) -> jax.Array:
    """Sums over the taps of both axes."""

    def at(i: np.ndarray, j: np.ndarray) -> jax.Array:
        return x.at[:, i[:, None], j[None]].get(mode="promise_in_bounds").astype(_exact(x))

    def total(terms: list[jax.Array]) -> jax.Array:
        return functools.reduce(operator.add, terms)

    sums = [total([at(i, j) * t[None, None, :, None] for j, t in columns]) for i, _ in rows]
    return total([row * s[None, :, None, None] for (_, s), row in zip(rows, sums)]).astype(x.dtype)
