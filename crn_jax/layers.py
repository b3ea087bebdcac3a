"""The layers of the cascade, which the baselines share: convolution, layer norm, projection to colour."""

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
        y = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
        mean = y.mean((1, 2, 3), keepdims=True)
        variance = jnp.square(y - mean).mean((1, 2, 3), keepdims=True)
        y = (y - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale[None, None, None] + bias[None, None, None]
        return y.astype(x.dtype)


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
