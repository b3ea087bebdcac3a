"""The three maps of convolution.py as matrix products, for CPUs (docs/performance_log.md).

- Small images take a single product of the nine shifted inputs side by side ("im2col").
- Larger images take Winograd's F(2x2, 3x3) from Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). Each
  2x2 pixels of the output need 16 multiplications instead of 36. The computation goes through an image in bands of rows that
  fit into the processor's cache.
"""

import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

BAND = 1 << 20  # elements of the input or output of a band


# One matrix product


def _columns(x: jax.Array) -> jax.Array:
    """Puts the nine pixels that the kernel sees side by side: [B, H, W, C] -> [B H W, 9 C]."""
    _, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], -1).reshape(-1, 9 * c)


def im2col(x: Float[Array, "B H W C"], k: Float[Array, "3 3 C D"]) -> Float[Array, "B H W D"]:
    """Computes `convolution.conv3x3` as one matrix product."""
    return (_columns(x) @ k.reshape(-1, k.shape[-1])).reshape(*x.shape[:3], -1)


def im2col_by_kernel(x: Float[Array, "B H W C"], y: Float[Array, "B H W D"]) -> Float[Array, "3 3 C D"]:
    """Computes `convolution.kernel_gradient` as one matrix product."""
    return (_columns(x).T @ y.reshape(-1, y.shape[-1])).reshape(3, 3, x.shape[-1], -1)


def col2im(y: Float[Array, "B H W D"], k: Float[Array, "3 3 C D"]) -> Float[Array, "B H W C"]:
    """Computes `convolution.input_gradient` as one matrix product."""
    b, h, w, d = y.shape
    c = k.shape[2]
    columns = (y.reshape(-1, d) @ k.reshape(-1, d).T).reshape(b, h, w, 9, c)
    padded = jnp.pad(columns, ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0)))
    shifted = [padded[:, 2 - i : 2 - i + h, 2 - j : 2 - j + w, 3 * i + j] for i in range(3) for j in range(3)]
    return functools.reduce(operator.add, shifted)


# Winograd's F(2x2, 3x3) with the matrices of Lavin & Gray, section 4.1: V = B'xB, U = GkG', and the output is A'(U V)A.
# The 16 products are 16 arrays instead of one, so that each transform is a plain loop over channels, which the compiler
# vectorizes. A band is cut out one step before it is used for the same reason: the compiler would otherwise fuse the cut with
# the transforms, and compute the beginning of the band again for every element.


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
    """Applies a transform along the rows and along the columns of a grid of arrays."""
    columns = [transform([row[j] for row in grid]) for j in range(len(grid[0]))]
    return [transform([column[i] for column in columns]) for i in range(len(columns[0]))]


def _tiles(padded: jax.Array) -> list[list]:
    """Computes V of [h + 2, w + 2, C], h and w even, as a grid of 4x4 arrays [h w / 4, C]."""
    h, w, c = padded.shape[0] - 2, padded.shape[1] - 2, padded.shape[2]
    rows = _b([padded[i : i + h - 1 : 2] for i in range(4)])
    return [[v.reshape(-1, c) for v in _b([row[:, j : j + w - 1 : 2] for j in range(4)])] for row in rows]


def _interleaved(grid: list[list], h: int, w: int) -> jax.Array:
    """Joins the pixels of a grid of 2x2 arrays [h w / 4, D] to [h, w, D]."""
    rows = [jnp.concatenate([a.reshape(h // 2, w // 2, -1) for a in row], -1) for row in grid]
    return jnp.concatenate([row.reshape(h // 2, 1, w, -1) for row in rows], 1).reshape(h, w, -1)


def winograd(x: Float[Array, "B H W C"], k: Float[Array, "3 3 C D"]) -> Float[Array, "B H W D"]:
    """Computes `convolution.conv3x3` by Winograd's algorithm."""
    kernel = _both(_g, [[k[i, j] for j in range(3)] for i in range(3)])
    return _winograd_products(x, max(k.shape[2:]), lambda v, i, j: v @ kernel[i][j])


def winograd_by_input(y: Float[Array, "B H W D"], k: Float[Array, "3 3 C D"]) -> Float[Array, "B H W C"]:
    """Computes `convolution.input_gradient` by Winograd's algorithm."""
    # y is convolved with the kernel, rotated by 180 degrees and transposed; the product transposes without a copy.
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


def winograd_by_kernel(x: Float[Array, "B H W C"], y: Float[Array, "B H W D"]) -> Float[Array, "3 3 C D"]:
    """Computes `convolution.kernel_gradient` by Winograd's algorithm."""
    b, h, w, c = x.shape
    d = y.shape[-1]
    count, rows = _bands(h, w, max(c, d))

    def cut(index: jax.Array | int) -> tuple[jax.Array, jax.Array]:
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
    """Returns the number of bands of an image, and their height, which is even."""
    count = -(-h * w * channels // BAND)
    rows = 2 * -(-h // (2 * count))
    return -(-h // rows), rows


def _band(x: jax.Array, index: jax.Array | int, count: int, rows: int, margin: int) -> jax.Array:
    """Cuts out band `index`, counted through all images, with a margin; zero outside the image, and of even width."""
    _, h, w, c = x.shape
    size = min(rows + 2 * margin, h)
    begin = index % count * rows - margin
    inside = jnp.clip(begin, 0, h - size)
    band = jax.lax.dynamic_slice(x, (index // count, inside, 0, 0), (1, size, w, c))[0]
    below = max(margin, count * rows + margin - h)  # what the last band reads
    band = jnp.pad(band, ((margin, below), (margin, margin + w % 2), (0, 0)))
    return jax.lax.dynamic_slice_in_dim(band, margin + begin - inside, rows + 2 * margin)
