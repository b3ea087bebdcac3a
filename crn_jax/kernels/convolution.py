"""The 3x3 convolution of stride 1 with zero padding, which takes nearly all of the time.

It is linear in the input x and in the kernel k. Its product with a cotangent y is the trilinear form
T(x, k, y) = <conv3x3(x, k), y>. The three maps in this file are the derivatives of T by y, x and k. The gradients of each map
are the other two, so all can be differentiated any number of times (in reverse mode).

Accelerators use XLA's convolution. In bfloat16, NVIDIA's GPUs also get padded channels and, for few output channels, several
pixels of a row at once. A single TPU convolves large images in bands (tpu_convolution.py), which need less memory. A single CPU
gets matrix products instead (cpu_convolution.py), because XLA's convolution for CPUs computes the derivative by k, and by x for
small images, at a fifth of the rate of matrix products.

If the rows of an image are split over devices, `conv3x3_inside` takes the rows of one device with their halo (halo.py), and
`trained_conv3x3` keeps the rows with the halo for the derivative by k.
"""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from crn_jax.kernels.cpu_convolution import col2im, im2col, im2col_by_kernel, winograd, winograd_by_input, winograd_by_kernel
from crn_jax.kernels.halo import Haloed, haloed
from crn_jax.kernels.remat import added
from crn_jax.kernels.tpu_convolution import banded_conv3x3, banded_input_gradient, banded_kernel_gradient, bands
from crn_jax.sharding import MIN_ROWS, by_device, constrain, is_split, reduce_scattered, rows_are_split

DIMENSIONS = ("NHWC", "HWIO", "NHWC")  # of images, kernels and results
SMALL = 16 * 32  # pixels; in smaller images, transforming the kernel costs more than Winograd saves
# The least C D / (C + D), the number of products for each element that is moved. For less, Winograd's transforms of images cost
# more than it saves.
NARROW = 60
NARROW_KERNEL = 8  # for the derivative by k, which XLA computes slowest


@jax.custom_vjp
def conv3x3(x: Float[Array, "B H W C"], k: Float[Array, "3 3 C D"]) -> Float[Array, "B H W D"]:
    """Convolves images: computes a cross-correlation, as `flax.linen.Conv` does."""
    cpu = _choice(x, k.shape[2:], NARROW, xla_conv3x3, im2col, winograd)
    tpu = _for_tpus(x, k.shape[2:], banded_conv3x3)
    return jax.lax.platform_dependent(x, k, cpu=cpu, cuda=cuda_conv3x3, default=xla_conv3x3, **tpu)


def conv3x3_inside(x: Float[Array, "B h W C"], k: Float[Array, "3 3 C D"]) -> Float[Array, "B h-2 W D"]:
    """Convolves a device's rows, which have a halo; the result loses one row of it on either side.

    The computation is the same on all platforms. If it depended on the platform, XLA for CPUs would not recognize the
    convolution in JAX's derivative.
    """
    return xla_conv3x3(_align(x, 3), _align(k, 2), margin=0)


def trained_conv3x3(parts: tuple[Float[Array, "B H W _"] | Haloed, ...], k: Float[Array, "3 3 C D"]) -> Float[Array, "B H W D"]:
    """Convolves the concatenation of `parts`, whose channels add up to C, with a kernel that is trained.

    The gradient by k is computed first, so that x can be freed. The gradient by each part is a convolution of its own, so that
    the compiler drops the gradient by the layout, which nothing uses. Parts whose rows are split over devices may already have
    their halos.
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
def input_gradient(y: Float[Array, "B H W D"], k: Float[Array, "3 3 C D"]) -> Float[Array, "B H W C"]:
    """Returns the derivative of T by x."""
    cpu = _choice(y, k.shape[2:], NARROW, xla_input_gradient, col2im, winograd_by_input)
    tpu = _for_tpus(y, k.shape[2:], banded_input_gradient)
    return jax.lax.platform_dependent(y, k, cpu=cpu, cuda=cuda_input_gradient, default=xla_input_gradient, **tpu)


@jax.custom_vjp
def kernel_gradient(x: Float[Array, "B H W C"], y: Float[Array, "B H W D"]) -> Float[Array, "3 3 C D"]:
    """Returns the derivative of T by k."""
    channels = x.shape[-1], y.shape[-1]
    cpu = _choice(x, channels, NARROW_KERNEL, xla_kernel_gradient, im2col_by_kernel, winograd_by_kernel)
    tpu = _for_tpus(x, channels, banded_kernel_gradient)
    return jax.lax.platform_dependent(x, y, cpu=cpu, cuda=cuda_kernel_gradient, default=xla_kernel_gradient, **tpu)


def _choice(
    image: jax.Array, channels: tuple[int, ...], narrow: float, xla: Callable, small: Callable, large: Callable
) -> Callable:
    """Chooses the fastest of three equal functions for one CPU."""
    if is_split() or image.dtype not in (jnp.float32, jnp.float64):  # XLA widens bfloat16 itself
        return xla
    if image.shape[1] * image.shape[2] < SMALL:
        return small
    c, d = channels
    return large if c * d / (c + d) >= narrow else xla


def _for_tpus(image: jax.Array, channels: tuple[int, ...], banded: Callable) -> dict[str, Callable]:
    """Returns what a single TPU computes instead of XLA's convolution, if the image is too large for that."""
    n = 1 if is_split() else bands(image, channels)
    return {"tpu": functools.partial(banded, n=n)} if n > 1 else {}


def _beside(parts: Sequence[jax.Array]) -> jax.Array:
    """Concatenates parts and, in bfloat16, pads with zeros to a multiple of 32 channels, with which cuDNN is faster.

    The zeros cost nothing in a kernel that writes all parts (docs/performance_log.md). A single part would have to be copied,
    and is padded to a multiple of 8 only. The last part gets the zeros: as a part of their own they would keep GPUs from
    writing several channels at once. All platforms pad, because the result is what the backward pass keeps.
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
    if not is_split():  # XLA for CPUs would compute by_kernel at the end of the step, and keep every x: 3 GB at 1024x2048
        y = jax.lax.platform_dependent(y, by_kernel, cpu=added, default=lambda y, by_kernel: y)
    return tuple(input_gradient(y, of_part) for of_part in _of_parts(k, parts)), by_kernel


def _of_parts(k: jax.Array, parts: Sequence[jax.Array]) -> list[jax.Array]:
    """Splits a kernel into the channels for each of the parts."""
    ends = list(itertools.accumulate(part.shape[-1] for part in parts))
    return jnp.split(k, ends[:-1], axis=2)


def _haloed_forward(parts: tuple[Haloed, ...], k: jax.Array) -> tuple[jax.Array, tuple]:
    def convolve(*arguments: jax.Array) -> tuple[jax.Array, jax.Array]:
        *parts, k = arguments
        x = _beside(parts)
        return _inside(cuda_conv3x3, xla_conv3x3)(x, _padded(k, 2, x.shape[3] - k.shape[2])), x

    y, x = by_device(convolve, *(part.rows for part in parts), whole=(k,))
    return y, (x, k, parts)  # of the parts, only the shapes are used


def _haloed_backward(saved: tuple, y: jax.Array) -> tuple[tuple[Haloed, ...], jax.Array]:
    x, k, parts = saved
    by_kernel = by_device(_inside(cuda_kernel_gradient, xla_kernel_gradient), x, y, summed=True)
    by_input = functools.partial(by_device, _inside(cuda_input_gradient, xla_input_gradient), y)
    by_parts = [Haloed(by_input(whole=(of_part,))) for of_part in _of_parts(k, [part.rows for part in parts])]
    return tuple(by_parts), _without_padding(by_kernel, k.shape[2])


def _inside(cuda: Callable, xla: Callable) -> Callable:
    """Returns one of the three maps for a device's rows with their halo."""
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


# The three maps by XLA's convolution


def xla_conv3x3(x: jax.Array, k: jax.Array, margin: int = 1) -> jax.Array:
    """Convolves; with margin 0, images have halos and lose a row on either side."""
    return jax.lax.conv_general_dilated(x, k, (1, 1), ((margin, margin), (1, 1)), dimension_numbers=DIMENSIONS)


def xla_input_gradient(y: jax.Array, k: jax.Array, margin: int = 1) -> jax.Array:
    """Returns the derivative by x; with margin 0, the result has one more row on either side."""
    rows = 2 - margin, 2 - margin
    return jax.lax.conv_general_dilated(y, k[::-1, ::-1], (1, 1), (rows, (1, 1)), dimension_numbers=("NHWC", "HWOI", "NHWC"))


def xla_kernel_gradient(x: jax.Array, y: jax.Array, margin: int = 1) -> jax.Array:
    """Returns the derivative by k; with margin 0, x has one more row than y on either side."""
    rows = margin, margin
    return jax.lax.conv_general_dilated(x, y, (1, 1), (rows, (1, 1)), dimension_numbers=("CHWN", "IHWO", "HWNC"))


# The three maps by XLA's convolution, as NVIDIA's tensor cores compute it fastest in bfloat16 (docs/performance_log.md)


def _align(x: jax.Array, axis: int) -> jax.Array:
    """Pads channels with zeros to a multiple of 8 ("Convolutional Layers User's Guide"), as XLA does for float16 only."""
    return _padded(x, axis, _missing(x.shape[axis], 8, x.dtype))


def _missing(channels: int, multiple: int, dtype: jnp.dtype) -> int:
    return -channels % multiple if dtype == jnp.bfloat16 else 0


def _padded(x: jax.Array, axis: int, missing: int) -> jax.Array:
    return jnp.pad(x, [(0, missing if a == axis else 0) for a in range(x.ndim)])


def pixels_at_once(channels: int, image: jax.Array) -> int:
    """Returns how many pixels of a row to compute as one pixel with that many times the channels, but at most 64 channels."""
    if image.dtype != jnp.bfloat16:
        return 1
    return max(n for n in (1, 2, 4, 8) if n == 1 or (n * channels <= 64 and image.shape[2] % n == 0))


def cuda_conv3x3(x: jax.Array, k: jax.Array, margin: int = 1) -> jax.Array:
    """Convolves n pixels at once, by a kernel of 3x(n+2) that moves by n pixels and contains k at n places."""
    n = pixels_at_once(k.shape[3], x)
    k = jnp.concatenate([jnp.pad(k, [(0, 0), (i, n - 1 - i), (0, 0), (0, 0)]) for i in range(n)], 3)
    rows, columns = (margin, margin), (1, 1)
    y = jax.lax.conv_general_dilated(_align(x, 3), _align(k, 2), (1, n), (rows, columns), dimension_numbers=DIMENSIONS)
    return y.reshape(*y.shape[:2], x.shape[2], -1)


def cuda_input_gradient(y: jax.Array, k: jax.Array, margin: int = 1) -> jax.Array:
    """Convolves y by k, rotated by 180 degrees and transposed; with margin 0, the result has one more row on either side."""
    if pixels_at_once(k.shape[2], y) > 1:
        return cuda_conv3x3(y, k[::-1, ::-1].swapaxes(2, 3), 2 - margin)
    return xla_input_gradient(y, _align(k, 2), margin)[..., : k.shape[2]]


def cuda_kernel_gradient(x: jax.Array, y: jax.Array, margin: int = 1) -> jax.Array:
    """Takes n pixels of y as one pixel of n d channels; column i of the 3x(n+2) kernel is the first of place i."""
    b, h, w, d = y.shape
    n = pixels_at_once(d, y)
    y = y.reshape(b, h, w // n, n * d)
    padding, labels = ((margin, margin), (1, 1)), ("CHWN", "IHWO", "HWNC")
    several = jax.lax.conv_general_dilated(_align(x, 3), y, (1, 1), padding, rhs_dilation=(1, n), dimension_numbers=labels)
    places = [several[:, i : i + 3, :, i * d : (i + 1) * d].astype(jnp.float32) for i in range(n)]  # added before rounding
    return _without_padding(functools.reduce(operator.add, places).astype(y.dtype) if n > 1 else several, x.shape[3])


def _without_padding(by_kernel: jax.Array, channels: int) -> jax.Array:
    """Cuts the padded channels off a kernel's gradient, after reduce-scatter: every device would otherwise sum all of it."""
    if by_kernel.shape[2] == channels:
        return by_kernel
    # XLA for TPUs fails at both cuts in one: "the shape doesn't match" (libtpu 0.0.42).
    return jax.lax.optimization_barrier(reduce_scattered(by_kernel))[:, :, :channels]
