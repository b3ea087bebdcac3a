"""The three derivatives of convolution.py's trilinear form as matrix products, for CPUs (docs/performance_log.md).

- For small images one product, of the nine shifted inputs side by side ("im2col").
- For larger ones Winograd's F(2x2, 3x3), Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2016): each 2x2
  pixels of the output take 16 multiplications instead of 36. It goes through an image in bands of rows that stay in the
  processor's cache.

Arrays: x `[B, H, W, C]`, k `[3, 3, C, D]`, y `[B, H, W, D]`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

BAND = 1 << 20  # elements of the input or output of a band


# One matrix product


def _columns(x: jax.Array) -> jax.Array:
    """x as each of the nine entries of the kernel sees it: `[B, H, W, C] -> [B H W, 9 C]`."""
    _, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], -1).reshape(-1, 9 * c)


def im2col(x: jax.Array, k: jax.Array) -> jax.Array:
    return (_columns(x) @ k.reshape(-1, k.shape[-1])).reshape(*x.shape[:3], -1)


def im2col_by_kernel(x: jax.Array, y: jax.Array) -> jax.Array:
    return (_columns(x).T @ y.reshape(-1, y.shape[-1])).reshape(3, 3, x.shape[-1], -1)


def col2im(y: jax.Array, k: jax.Array) -> jax.Array:
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


def winograd(x: jax.Array, k: jax.Array) -> jax.Array:
    kernel = _both(_g, [[k[i, j] for j in range(3)] for i in range(3)])
    return _winograd_products(x, max(k.shape[2:]), lambda v, i, j: v @ kernel[i][j])


def winograd_by_input(y: jax.Array, k: jax.Array) -> jax.Array:
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


def winograd_by_kernel(x: jax.Array, y: jax.Array) -> jax.Array:
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
    count = -(-h * w * channels // BAND)
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
