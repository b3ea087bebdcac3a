"""The 3x3 convolution, stride 1, zero padding: where nearly all of the time goes.

It is linear in the input x, in the kernel k, and, paired with a cotangent y, in that: one trilinear form
T(x, k, y) = <conv3x3(x, k), y>. The three maps here are its derivatives by y, x and k; each has the other two for
gradients, so everything can be differentiated as often as one likes (in reverse mode).

Accelerators get XLA's convolution, GPUs with channels padded as their tensor cores want them. XLA's for CPUs runs at a fifth
of the matrix-product rate by k, and on small images by x; there, the form is written as matrix products
(`docs/performance.md` has the measurements):

- images of less than 16x32 pixels: one product, of the nine shifted inputs side by side ("im2col");
- larger ones: Winograd's F(2x2, 3x3), Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2016): each 2x2
  pixels of the output take 16 multiplications instead of 36. It goes through an image in bands of rows that stay in the
  processor's cache.

Arrays: x `[B, H, W, C]`, k `[3, 3, C, D]`, y `[B, H, W, D]`.
"""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from crn_jax.remat import added
from crn_jax.sharding import MIN_ROWS, constrain, is_split

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_SMALL = 16 * 32  # pixels; below, transforming the kernel would cost more than Winograd saves
# C D / (C + D), the products for each element that is moved; below, Winograd's transforms cost more than it saves.
_NARROW = 60
_NARROW_KERNEL = 8  # for the derivative by k, which XLA computes slowest
_BAND = 1 << 20  # elements of the input or output of a band


@jax.custom_vjp
def conv3x3(x: jax.Array, k: jax.Array) -> jax.Array:
    """`[B, H, W, C] * [3, 3, C, D] -> [B, H, W, D]`, a cross-correlation, as `flax.linen.Conv` computes it."""
    cpu = _choice(x, k.shape[2:], _NARROW, _xla, _im2col, _winograd)
    return jax.lax.platform_dependent(x, k, cpu=cpu, cuda=_aligned, default=_xla)


@jax.custom_vjp
def trained_conv3x3(parts: tuple[jax.Array, ...], k: jax.Array) -> jax.Array:
    """`conv3x3` of arrays beside each other, `[B, H, W, C_i]` with C_0 + C_1 + ... = C, for a kernel that is trained.

    The gradient by k comes first, so that it frees x. That by each part is a convolution of its own: so the compiler drops the
    one by the layout, which nobody asks for.
    """
    return conv3x3(_beside(parts), k)


@jax.custom_vjp
def input_gradient(y: jax.Array, k: jax.Array) -> jax.Array:
    """`[B, H, W, D], [3, 3, C, D] -> [B, H, W, C]`: the derivative of T by x."""
    cpu = _choice(y, k.shape[2:], _NARROW, _xla_by_input, _col2im, _winograd_by_input)
    return jax.lax.platform_dependent(y, k, cpu=cpu, cuda=_aligned_by_input, default=_xla_by_input)


@jax.custom_vjp
def kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    """`[B, H, W, C], [B, H, W, D] -> [3, 3, C, D]`: the derivative of T by k."""
    channels = x.shape[-1], y.shape[-1]
    cpu = _choice(x, channels, _NARROW_KERNEL, _xla_by_kernel, _im2col_by_kernel, _winograd_by_kernel)
    return jax.lax.platform_dependent(x, y, cpu=cpu, cuda=_aligned_by_kernel, default=_xla_by_kernel)


def _choice(
    image: jax.Array, channels: tuple[int, int], narrow: float, xla: Callable, product: Callable, winograd: Callable
) -> Callable:
    """The fastest of three equal functions on one CPU."""
    if is_split() or image.dtype not in (jnp.float32, jnp.float64):  # XLA widens bfloat16 itself
        return xla
    if image.shape[1] * image.shape[2] < _SMALL:
        return product
    c, d = channels
    return winograd if c * d / (c + d) >= narrow else xla


def _beside(parts: tuple[jax.Array, ...]) -> jax.Array:
    return constrain(jnp.concatenate(parts, -1), MIN_ROWS) if len(parts) > 1 else parts[0]


def _trained_forward(parts: tuple[jax.Array, ...], k: jax.Array) -> tuple[jax.Array, tuple]:
    x = _beside(parts)
    return conv3x3(x, k), (x, k, parts)  # of the parts, only the shapes are used


def _trained_backward(saved: tuple, y: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    x, k, parts = saved
    by_kernel = kernel_gradient(x, y)
    if not is_split():  # CPUs would leave the kernels' to the end of the step, and hold each x until then: 3 GB at 1024x2048
        y = jax.lax.platform_dependent(y, by_kernel, cpu=added, default=lambda y, by_kernel: y)
    ends = list(itertools.accumulate(part.shape[-1] for part in parts))
    return tuple(input_gradient(y, of_part) for of_part in jnp.split(k, ends[:-1], axis=2)), by_kernel


conv3x3.defvjp(
    lambda x, k: (conv3x3(x, k), (x, k)),
    lambda saved, y: (input_gradient(y, saved[1]), kernel_gradient(saved[0], y)),
)
trained_conv3x3.defvjp(_trained_forward, _trained_backward)
input_gradient.defvjp(
    lambda y, k: (input_gradient(y, k), (y, k)),
    lambda saved, x: (conv3x3(x, saved[1]), kernel_gradient(x, saved[0])),
)
kernel_gradient.defvjp(
    lambda x, y: (kernel_gradient(x, y), (x, y)),
    lambda saved, k: (input_gradient(saved[1], k), conv3x3(saved[0], k)),
)


# XLA's own


def _xla(x: jax.Array, k: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=_DIMENSIONS)


def _xla_by_input(y: jax.Array, k: jax.Array) -> jax.Array:
    x = jax.ShapeDtypeStruct((*y.shape[:3], k.shape[2]), y.dtype)
    return jax.linear_transpose(lambda x: _xla(x, k), x)(y)[0]


def _xla_by_kernel(x: jax.Array, y: jax.Array) -> jax.Array:
    k = jax.ShapeDtypeStruct((3, 3, x.shape[-1], y.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda k: _xla(x, k), k)(y)[0]


# Likewise, the channels of x padded with zeros. NVIDIA's tensor cores want multiples of 8 ("Convolutional Layers User's
# Guide"), but beside the features lie, say, 20 classes. For float16 XLA pads so itself, for bfloat16 not (jax 0.10.2).


def _align(x: jax.Array, axis: int) -> jax.Array:
    missing = -x.shape[axis] % 8 if x.dtype == jnp.bfloat16 else 0
    return jnp.pad(x, [(0, missing if a == axis else 0) for a in range(x.ndim)])


def _aligned(x: jax.Array, k: jax.Array) -> jax.Array:
    return _xla(_align(x, 3), _align(k, 2))


def _aligned_by_input(y: jax.Array, k: jax.Array) -> jax.Array:
    return _xla_by_input(y, _align(k, 2))[..., : k.shape[2]]


def _aligned_by_kernel(x: jax.Array, y: jax.Array) -> jax.Array:
    return _xla_by_kernel(_align(x, 3), y)[:, :, : x.shape[3]]


# One matrix product


def _columns(x: jax.Array) -> jax.Array:
    """x as each of the nine entries of the kernel sees it: `[B, H, W, C] -> [B H W, 9 C]`."""
    _, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], -1).reshape(-1, 9 * c)


def _im2col(x: jax.Array, k: jax.Array) -> jax.Array:
    return (_columns(x) @ k.reshape(-1, k.shape[-1])).reshape(*x.shape[:3], -1)


def _im2col_by_kernel(x: jax.Array, y: jax.Array) -> jax.Array:
    return (_columns(x).T @ y.reshape(-1, y.shape[-1])).reshape(3, 3, x.shape[-1], -1)


def _col2im(y: jax.Array, k: jax.Array) -> jax.Array:
    b, h, w, d = y.shape
    c = k.shape[2]
    columns = (y.reshape(-1, d) @ k.reshape(-1, d).T).reshape(b, h, w, 9, c)
    padded = jnp.pad(columns, ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0)))
    return sum(padded[:, 2 - i : 2 - i + h, 2 - j : 2 - j + w, 3 * i + j] for i in range(3) for j in range(3))


# Winograd's F(2x2, 3x3). With the matrices of Lavin & Gray, section 4.1: V = B'xB, U = GkG', and the output is A'(U V)A.
# The 16 products are 16 arrays, not one: so each transform is a plain loop over channels, which the compiler vectorizes. For
# the same reason, a band is cut out one step before it is used: else the compiler, which fuses the cutting with the
# transforms, would compute at every element where its band begins.


def _b(x: list) -> list:
    return [x[0] - x[2], x[1] + x[2], x[2] - x[1], x[1] - x[3]]


def _g(k: list) -> list:
    return [k[0], (k[0] + k[1] + k[2]) / 2, (k[0] - k[1] + k[2]) / 2, k[2]]


def _g_transposed(u: list) -> list:
    return [u[0] + (u[1] + u[2]) / 2, (u[1] - u[2]) / 2, (u[1] + u[2]) / 2 + u[3]]


def _a(y: list) -> list:
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _a_transposed(m: list) -> list:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _both(transform: Callable, grid: list[list]) -> list[list]:
    """A transform along the rows and along the columns of a grid of arrays."""
    columns = [transform([row[j] for row in grid]) for j in range(len(grid[0]))]
    return [transform([column[i] for column in columns]) for i in range(len(columns[0]))]


def _tiles(padded: jax.Array) -> list[list]:
    """`[h + 2, w + 2, C]`, h and w even -> V, a grid of 4x4 arrays `[h w / 4, C]`."""
    h, w, c = padded.shape[0] - 2, padded.shape[1] - 2, padded.shape[2]
    rows = _b([padded[i : i + h - 1 : 2] for i in range(4)])
    return [[v.reshape(-1, c) for v in _b([row[:, j : j + w - 1 : 2] for j in range(4)])] for row in rows]


def _interleaved(grid: list[list], h: int, w: int) -> jax.Array:
    """A grid of 2x2 arrays `[h w / 4, D] -> [h, w, D]`."""
    rows = [jnp.concatenate([a.reshape(h // 2, w // 2, -1) for a in row], -1) for row in grid]
    return jnp.concatenate([row.reshape(h // 2, 1, w, -1) for row in rows], 1).reshape(h, w, -1)


def _winograd(x: jax.Array, k: jax.Array) -> jax.Array:
    kernel = _both(_g, [[k[i, j] for j in range(3)] for i in range(3)])
    return _winograd_products(x, max(k.shape[2:]), lambda v, i, j: v @ kernel[i][j])


def _winograd_by_input(y: jax.Array, k: jax.Array) -> jax.Array:
    # y convolved with the kernel turned by 180 degrees and transposed, which the product does without a copy.
    kernel = _both(_g, [[k[2 - i, 2 - j] for j in range(3)] for i in range(3)])
    return _winograd_products(y, max(k.shape[2:]), lambda v, i, j: v @ kernel[i][j].T)


def _winograd_products(x: jax.Array, channels: int, product: Callable) -> jax.Array:
    b, h, w, _ = x.shape
    count, rows = _bands(h, w, channels)
    cut = functools.partial(_band, x, count=count, rows=rows, margin=1)

    def convolve(band: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        products = [[product(v, i, j) for j, v in enumerate(row)] for i, row in enumerate(_tiles(band))]
        return cut(index + 1), _interleaved(_both(_a_transposed, products), rows, w + w % 2)

    _, out = jax.lax.scan(convolve, cut(0), jnp.arange(b * count))
    return out.reshape(b, count * rows, w + w % 2, -1)[:, :h, :w]


def _winograd_by_kernel(x: jax.Array, y: jax.Array) -> jax.Array:
    b, h, w, c = x.shape
    d = y.shape[-1]
    count, rows = _bands(h, w, max(c, d))

    def cut(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _band(x, index, count, rows, margin=1), _band(y, index, count, rows, margin=0)

    def add(carried: tuple, index: jax.Array) -> tuple[tuple, None]:
        (band, cotangent), total = carried
        cotangent = _both(_a, [[cotangent[i::2, j::2].reshape(-1, d) for j in range(2)] for i in range(2)])
        total = [[t + v.T @ g for t, v, g in zip(*row)] for row in zip(total, _tiles(band), cotangent)]
        return (cut(index + 1), total), None

    zero = [[jnp.zeros((c, d), x.dtype) for _ in range(4)] for _ in range(4)]
    (_, total), _ = jax.lax.scan(add, (cut(0), zero), jnp.arange(b * count))
    return jnp.stack([jnp.stack(row) for row in _both(_g_transposed, total)])


def _bands(h: int, w: int, channels: int) -> tuple[int, int]:
    """The number of bands of an image, and their height, which is even."""
    count = -(-h * w * channels // _BAND)
    rows = 2 * -(-h // (2 * count))
    return -(-h // rows), rows


def _band(x: jax.Array, index: jax.Array, count: int, rows: int, margin: int) -> jax.Array:
    """Band `index`, counted through all images, with a margin around it; zero outside the image, its width made even."""
    _, h, w, c = x.shape
    size = min(rows + 2 * margin, h)
    begin = index % count * rows - margin
    inside = jnp.clip(begin, 0, h - size)
    band = jax.lax.dynamic_slice(x, (index // count, inside, 0, 0), (1, size, w, c))[0]
    below = max(margin, count * rows + margin - h)  # what the last band reads
    band = jnp.pad(band, ((margin, below), (margin, margin + w % 2), (0, 0)))
    return jax.lax.dynamic_slice_in_dim(band, margin + begin - inside, rows + 2 * margin)
