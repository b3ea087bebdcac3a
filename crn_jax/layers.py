"""The layers of the cascade, which the baselines share: convolution, layer norm, projection to colour."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from crn_jax.convolution import trained_conv3x3
from crn_jax.remat import convolved


class Conv3x3(nn.Module):
    """A 3x3 convolution without a bias, of arrays `[B, H, W, C_i]` beside each other: `-> [B, H, W, width]`."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, *parts: jax.Array) -> jax.Array:
        channels = sum(part.shape[-1] for part in parts)
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (3, 3, channels, self.width))
        return convolved(trained_conv3x3(tuple(part.astype(self.dtype) for part in parts), kernel.astype(self.dtype)))


class LayerNorm(nn.Module):
    """Layer norm over height, width and channels of each sample, with a scale and a bias per channel.

    Statistics in float32 whatever the input's dtype; epsilon as in the released program.
    """

    epsilon: float = 1e-12

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C]
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return layer_norm(x, scale, bias, self.epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """s n + b with n = (x - mean) / sqrt(variance + epsilon): `[B, H, W, C], [C], [C] -> [B, H, W, C]`."""
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, tuple]:
    exact = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
    mean = exact.mean((1, 2, 3), keepdims=True)
    variance = jnp.square(exact - mean).mean((1, 2, 3), keepdims=True)
    factor = jax.lax.rsqrt(variance + epsilon)
    y = (exact - mean) * factor * scale[None, None, None] + bias[None, None, None]
    return y.astype(x.dtype), (x, scale, mean, factor)


def _backward(epsilon: float, saved: tuple, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """With n the normalized x and y the cotangent: x' = (s y - mean(s y) - n mean(s y n)) / sqrt(variance + epsilon).

    Both means follow from the sums over the pixels of y and of y n, which are the gradients by bias and scale besides. So all
    is done in two passes over x and y, where the derivative that JAX would derive takes four.
    """
    x, scale, mean, factor = saved
    normalized, y = (x - mean) * factor, y.astype(factor.dtype)
    total, along = y.sum((1, 2), keepdims=True), (y * normalized).sum((1, 2), keepdims=True)  # [B, 1, 1, C]
    scale, size = scale[None, None, None], x[0].size
    constant, slope = ((scale * sums).sum(3, keepdims=True) / size for sums in (total, along))
    by_x = (scale * y - constant - normalized * slope) * factor
    return by_x.astype(x.dtype), along.sum((0, 1, 2)), total.sum((0, 1, 2))


layer_norm.defvjp(_forward, _backward)


class Bias(nn.Module):
    """A bias per channel, in place of a norm."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C]
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return x + bias.astype(x.dtype)[None, None, None]


class Projection(nn.Module):
    """The linear projection of each pixel's features, float32: `[B, H, W, C] -> [B, H, W, width]`.

    As a matrix product, which compilers read bfloat16 features into directly; a convolution takes a copy of them in float32.
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (1, 1, x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0]) + bias[None, None, None]
