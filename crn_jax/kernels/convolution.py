"""The 3x3 convolution, stride 1, zero padding: where nearly all of the time goes.

It is linear in the input x, in the kernel k, and, paired with a cotangent y, in that: one trilinear form
T(x, k, y) = <conv3x3(x, k), y>. The three maps here are its derivatives by y, x and k; each has the other two for
gradients, so everything can be differentiated as often as one likes (in reverse mode).

Accelerators get XLA's convolution; NVIDIA's GPUs, in bfloat16, with padded channels and, where few come out, for several pixels
of a row at once. XLA's for CPUs runs at a fifth of the matrix-product rate by k, and on small images by x; one CPU gets matrix
products instead (cpu_convolution.py).

Where an image's rows are split over devices, `conv3x3_inside` takes those of one device with their halo (halo.py), and
`trained_conv3x3` keeps them with it for the derivative by k.

Arrays: x `[B, H, W, C]`, k `[3, 3, C, D]`, y `[B, H, W, D]`.
"""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from crn_jax.kernels.cpu_convolution import col2im, im2col, im2col_by_kernel, winograd, winograd_by_input, winograd_by_kernel
from crn_jax.kernels.halo import Haloed, haloed
from crn_jax.kernels.remat import added
from crn_jax.sharding import MIN_ROWS, by_device, constrain, is_split, reduce_scattered, rows_are_split

DIMENSIONS = ("NHWC", "HWIO", "NHWC")  # of images, kernels and results
_SMALL = 16 * 32  # pixels; below, transforming the kernel would cost more than Winograd saves
# C D / (C + D), the products for each element that is moved; below, Winograd's transforms cost more than it saves.
_NARROW = 60
_NARROW_KERNEL = 8  # for the derivative by k, which XLA computes slowest


@jax.custom_vjp
def conv3x3(x: jax.Array, k: jax.Array) -> jax.Array:
    """`[B, H, W, C] * [3, 3, C, D] -> [B, H, W, D]`, a cross-correlation, as `flax.linen.Conv` computes it."""
    cpu = _choice(x, k.shape[2:], _NARROW, _xla, im2col, winograd)
    return jax.lax.platform_dependent(x, k, cpu=cpu, cuda=_cuda, default=_xla)


def conv3x3_inside(x: jax.Array, k: jax.Array) -> jax.Array:
    """`conv3x3` of a device's rows with their halo, of which it takes a row on either side: `-> [B, h - 2, W, D]`.

    On all platforms the same: in the derivative that JAX makes of a choice, XLA for CPUs would not see the convolution.
    """
    return _xla(_align(x, 3), _align(k, 2), margin=0)


def trained_conv3x3(parts: tuple[jax.Array | Haloed, ...], k: jax.Array) -> jax.Array:
    """`conv3x3` of arrays beside each other, `[B, H, W, C_i]` with C_0 + C_1 + ... = C, for a kernel that is trained.

    The gradient by k comes first, so that it frees x. That by each part is a convolution of its own: so the compiler drops the
    one by the layout, which nobody asks for. Parts whose rows are split over devices may have their halos already.
    """
    if any(isinstance(part, Haloed) or rows_are_split(part, MIN_ROWS) for part in parts):
        return _haloed_conv3x3(tuple(haloed(part) for part in parts), k)
    return _whole_conv3x3(parts, k)


@jax.custom_vjp
def _whole_conv3x3(parts: tuple[jax.Array, ...], k: jax.Array) -> jax.Array:
    return _whole_forward(parts, k)[0]


@jax.custom_vjp
def _haloed_conv3x3(parts: tuple[Haloed, ...], k: jax.Array) -> jax.Array:
    return _haloed_forward(parts, k)[0]


@jax.custom_vjp
def input_gradient(y: jax.Array, k: jax.Array) -> jax.Array:
    """`[B, H, W, D], [3, 3, C, D] -> [B, H, W, C]`: the derivative of T by x."""
    cpu = _choice(y, k.shape[2:], _NARROW, _xla_by_input, col2im, winograd_by_input)
    return jax.lax.platform_dependent(y, k, cpu=cpu, cuda=_cuda_by_input, default=_xla_by_input)


@jax.custom_vjp
def kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    """`[B, H, W, C], [B, H, W, D] -> [3, 3, C, D]`: the derivative of T by k."""
    channels = x.shape[-1], y.shape[-1]
    cpu = _choice(x, channels, _NARROW_KERNEL, _xla_by_kernel, im2col_by_kernel, winograd_by_kernel)
    return jax.lax.platform_dependent(x, y, cpu=cpu, cuda=_cuda_by_kernel, default=_xla_by_kernel)


def _choice(
    image: jax.Array, channels: tuple[int, int], narrow: float, xla: Callable, small: Callable, large: Callable
) -> Callable:
    """The fastest of three equal functions on one CPU."""
    if is_split() or image.dtype not in (jnp.float32, jnp.float64):  # XLA widens bfloat16 itself
        return xla
    if image.shape[1] * image.shape[2] < _SMALL:
        return small
    c, d = channels
    return large if c * d / (c + d) >= narrow else xla


def _beside(parts: tuple[jax.Array, ...]) -> jax.Array:
    """In bfloat16 with zeros, up to a multiple of 32 channels: cuDNN prefers 160 to 152 (docs/performance_log.md).
    They cost nothing in a kernel that writes all parts. For one array they would be a copy, so there it is a multiple of 8.

    The zeros belong to the last part: behind all parts they would keep GPUs from writing several channels at once. They are
    there on every platform, as this is what is kept.
    """
    *others, last = parts
    missing = _missing(sum(part.shape[3] for part in parts), 32 if others else 8, last.dtype)
    return jnp.concatenate([*others, _padded(last, 3, missing)], -1)


def _whole_forward(parts: tuple[jax.Array, ...], k: jax.Array) -> tuple[jax.Array, tuple]:
    x = constrain(_beside(parts), MIN_ROWS) if len(parts) > 1 else _beside(parts)
    return conv3x3(x, _padded(k, 2, x.shape[3] - k.shape[2])), (x, k, parts)  # of the parts, only the shapes are used


def _whole_backward(saved: tuple, y: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    x, k, parts = saved
    by_kernel = _without_padding(kernel_gradient(x, y), k.shape[2])
    if not is_split():  # CPUs would leave the kernels' to the end of the step, and hold each x until then: 3 GB at 1024x2048
        y = jax.lax.platform_dependent(y, by_kernel, cpu=added, default=lambda y, by_kernel: y)
    return tuple(input_gradient(y, of_part) for of_part in _of_parts(k, parts)), by_kernel


def _of_parts(k: jax.Array, parts: tuple[jax.Array, ...]) -> list[jax.Array]:
    """The channels of the kernel for each of the parts."""
    ends = list(itertools.accumulate(part.shape[-1] for part in parts))
    return jnp.split(k, ends[:-1], axis=2)


def _haloed_forward(parts: tuple[Haloed, ...], k: jax.Array) -> tuple[jax.Array, tuple]:
    def convolve(*arguments: jax.Array) -> tuple[jax.Array, jax.Array]:
        *parts, k = arguments
        x = _beside(parts)
        return _inside(_cuda, _xla)(x, _padded(k, 2, x.shape[3] - k.shape[2])), x

    y, x = by_device(convolve, *(part.rows for part in parts), whole=(k,))
    return y, (x, k, parts)  # of the parts, only the shapes are used


def _haloed_backward(saved: tuple, y: jax.Array) -> tuple[tuple[Haloed, ...], jax.Array]:
    x, k, parts = saved
    by_kernel = by_device(_inside(_cuda_by_kernel, _xla_by_kernel), x, y, summed=True)
    by_input = functools.partial(by_device, _inside(_cuda_by_input, _xla_by_input), y)
    by_parts = [Haloed(by_input(whole=(of_part,))) for of_part in _of_parts(k, [part.rows for part in parts])]
    return tuple(by_parts), _without_padding(by_kernel, k.shape[2])


def _inside(cuda: Callable, xla: Callable) -> Callable:
    """One of the three maps, of a device's rows with their halo."""
    return lambda *of: jax.lax.platform_dependent(
        *of, cuda=functools.partial(cuda, margin=0), default=functools.partial(xla, margin=0)
    )


conv3x3.defvjp(
    lambda x, k: (conv3x3(x, k), (x, k)),
    lambda saved, y: (input_gradient(y, saved[1]), kernel_gradient(saved[0], y)),
)
_whole_conv3x3.defvjp(_whole_forward, _whole_backward)
_haloed_conv3x3.defvjp(_haloed_forward, _haloed_backward)
input_gradient.defvjp(
    lambda y, k: (input_gradient(y, k), (y, k)),
    lambda saved, x: (conv3x3(x, saved[1]), kernel_gradient(x, saved[0])),
)
kernel_gradient.defvjp(
    lambda x, y: (kernel_gradient(x, y), (x, y)),
    lambda saved, k: (input_gradient(saved[1], k), conv3x3(saved[0], k)),
)


# XLA's own


def _xla(x: jax.Array, k: jax.Array, margin: int = 1) -> jax.Array:
    """With margin 0, of images with their halos: they lose a row on either side."""
    return jax.lax.conv_general_dilated(x, k, (1, 1), ((margin, margin), (1, 1)), dimension_numbers=DIMENSIONS)


def _xla_by_input(y: jax.Array, k: jax.Array, margin: int = 1) -> jax.Array:
    rows = 2 - margin, 2 - margin
    return jax.lax.conv_general_dilated(y, k[::-1, ::-1], (1, 1), (rows, (1, 1)), dimension_numbers=("NHWC", "HWOI", "NHWC"))


def _xla_by_kernel(x: jax.Array, y: jax.Array, margin: int = 1) -> jax.Array:
    rows = margin, margin
    return jax.lax.conv_general_dilated(x, y, (1, 1), (rows, (1, 1)), dimension_numbers=("CHWN", "IHWO", "HWNC"))


# Likewise, as NVIDIA's tensor cores want it in bfloat16 (docs/performance_log.md, "On a GPU").


def _align(x: jax.Array, axis: int) -> jax.Array:
    """Channels padded with zeros to a multiple of 8 ("Convolutional Layers User's Guide"), which XLA does for float16 only."""
    return _padded(x, axis, _missing(x.shape[axis], 8, x.dtype))


def _missing(channels: int, multiple: int, dtype: jnp.dtype) -> int:
    return -channels % multiple if dtype == jnp.bfloat16 else 0


def _padded(x: jax.Array, axis: int, missing: int) -> jax.Array:
    return jnp.pad(x, [(0, missing if a == axis else 0) for a in range(x.ndim)])


def _pixels_at_once(channels: int, image: jax.Array) -> int:
    """How many pixels of a row are computed as one pixel with as many times the channels, so that these become up to 64."""
    if image.dtype != jnp.bfloat16:
        return 1
    return max(n for n in (1, 2, 4, 8) if n == 1 or (n * channels <= 64 and image.shape[2] % n == 0))


def _cuda(x: jax.Array, k: jax.Array, margin: int = 1) -> jax.Array:
    """For n pixels at once, the kernel becomes 3x(n+2) and moves by n: it contains k n times, once for each place."""
    n = _pixels_at_once(k.shape[3], x)
    k = jnp.concatenate([jnp.pad(k, [(0, 0), (i, n - 1 - i), (0, 0), (0, 0)]) for i in range(n)], 3)
    rows, columns = (margin, margin), (1, 1)
    y = jax.lax.conv_general_dilated(_align(x, 3), _align(k, 2), (1, n), (rows, columns), dimension_numbers=DIMENSIONS)
    return y.reshape(*y.shape[:2], x.shape[2], -1)


def _cuda_by_input(y: jax.Array, k: jax.Array, margin: int = 1) -> jax.Array:
    """As the convolution by the kernel turned around; with margin 0, its result has a row more on either side."""
    if _pixels_at_once(k.shape[2], y) > 1:
        return _cuda(y, k[::-1, ::-1].swapaxes(2, 3), 2 - margin)
    return _xla_by_input(y, _align(k, 2), margin)[..., : k.shape[2]]


def _cuda_by_kernel(x: jax.Array, y: jax.Array, margin: int = 1) -> jax.Array:
    """With y's n pixels as one of n d channels, for a kernel of 3x(n+2): that of place i begins at its column i."""
    b, h, w, d = y.shape
    n = _pixels_at_once(d, y)
    y = y.reshape(b, h, w // n, n * d)
    padding, labels = ((margin, margin), (1, 1)), ("CHWN", "IHWO", "HWNC")
    several = jax.lax.conv_general_dilated(_align(x, 3), y, (1, 1), padding, rhs_dilation=(1, n), dimension_numbers=labels)
    places = [several[:, i : i + 3, :, i * d : (i + 1) * d].astype(jnp.float32) for i in range(n)]  # added before rounding
    return _without_padding(sum(places).astype(y.dtype) if n > 1 else several, x.shape[3])


def _without_padding(by_kernel: jax.Array, channels: int) -> jax.Array:
    """The kernel's gradient without the padded channels; scattered before it is cut, else every device would sum all of it."""
    if by_kernel.shape[2] == channels:
        return by_kernel
    # As one, both cuts are more than XLA for TPUs can take: "the shape doesn't match" (libtpu 0.0.42).
    return jax.lax.optimization_barrier(reduce_scattered(by_kernel))[:, :, :channels]
