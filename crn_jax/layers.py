"""The layers of the cascade, which the baselines share: convolution, layer norm, projection to colour.

And the exact convolution of networks that judge images, inception.py and lpips.py.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from crn_jax.kernels.convolution import DIMENSIONS, trained_conv3x3
from crn_jax.kernels.halo import Haloed
from crn_jax.kernels.remat import convolved


class Conv3x3(nn.Module):
    """A 3x3 convolution without a bias, of arrays `[B, H, W, C_i]` beside each other: `-> [B, H, W, width]`."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, *parts: jax.Array | Haloed) -> jax.Array:
        parts = jax.tree.map(lambda part: part.astype(self.dtype), parts)
        channels = sum(part.shape[-1] for part in jax.tree.leaves(parts))
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (3, 3, channels, self.width))
        return convolved(trained_conv3x3(parts, kernel.astype(self.dtype)))


class LayerNorm(nn.Module):
    """Layer norm over height, width and channels of each sample, with a scale and a bias per channel.

    Statistics in float32 whatever the input's dtype; epsilon as in the released program.
    """

    epsilon: float = 1e-12

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C]
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return _layer_norm(x, scale, bias, self.epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    return _norm_forward(x, scale, bias, epsilon)[0]


def _norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, tuple]:
    exact = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = exact.mean((1, 2, 3), keepdims=True)
    rate = jax.lax.rsqrt(jnp.square(exact - mean).mean((1, 2, 3), keepdims=True) + epsilon)
    y = (exact - mean) * rate * scale[None, None, None] + bias[None, None, None]
    return y.astype(x.dtype), (x, mean, rate, scale)


def _norm_backward(epsilon: float, saved: tuple, by_y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """With n = (x - mean) rate and g = scale by_y: by_x = rate (g - mean(g) - n mean(g n)).

    Both means follow from sums per channel, which are the gradients of bias and scale. So one pass over x and by_y yields all
    sums, and another one the result; differentiating the forward pass as it stands takes four.
    """
    x, mean, rate, scale = saved
    exact = by_y.astype(mean.dtype)
    n = (x.astype(mean.dtype) - mean) * rate
    by_bias, by_scale = exact.sum((1, 2), keepdims=True), (exact * n).sum((1, 2), keepdims=True)  # [B, 1, 1, C]
    scale, size = scale[None, None, None], x[0].size
    mean_g, mean_gn = ((sums * scale).sum(-1, keepdims=True) / size for sums in (by_bias, by_scale))
    by_x = rate * (exact * scale - mean_g - n * mean_gn)
    return by_x.astype(x.dtype), by_scale.sum((0, 1, 2)), by_bias.sum((0, 1, 2))


_layer_norm.defvjp(_norm_forward, _norm_backward)


class Bias(nn.Module):
    """A bias per channel, in place of a norm."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C]
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return x + bias.astype(x.dtype)[None, None, None]


class Projection(nn.Module):
    """The linear projection of each pixel's features, float32: `[B, H, W, C] -> [B, H, W, width]`.

    As a matrix product, which compilers read bfloat16 features into directly; a convolution takes a copy of them in float32.
    At full precision: by default accelerators round the kernel to 10 or 7 bits, which gains no time here.
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (1, 1, x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0], precision="highest") + bias[None, None, None]


def exact_convolution(layer: dict, x: jax.Array, stride: int, padding: str | Sequence[tuple[int, int]]) -> jax.Array:
    """A convolution by a layer's `kernel` `[h, w, C, D]`, its `bias` `[D]` and a ReLU: `[N, H, W, C] -> [N, H', W', D]`.

    In float32 also where an accelerator's default is less.
    """
    y = jax.lax.conv_general_dilated(
        x, layer["kernel"], (stride, stride), padding, dimension_numbers=DIMENSIONS, precision="highest"
    )
    return jax.nn.relu(y + layer["bias"][None, None, None])
