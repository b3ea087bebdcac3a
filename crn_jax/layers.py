"""The layers of the cascade and its baselines: 3x3 convolution, layer norm, bias, projection to colour.

`exact_convolution` is the layer of the networks that judge images (scores/inception.py and scores/lpips.py).

Flax runs a network to make its parameters. Only the shapes of its features matter then, so layers that take long to trace
return zeros, or their input, while they are initialized.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from crn_jax.kernels.convolution import DIMENSIONS, trained_conv3x3
from crn_jax.kernels.halo import Haloed
from crn_jax.kernels.remat import convolved
from crn_jax.kernels.resize import upsampled
from crn_jax.settings import Upsampling


class Conv3x3(nn.Module):
    """A 3x3 convolution without a bias. Its input is the concatenation of the given arrays along their channels."""

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, *parts: Float[Array, "B H W _"] | Haloed) -> Float[Array, "B H W {self.width}"]:
        parts = jax.tree.map(lambda part: part.astype(self.dtype), parts)
        channels = sum(part.shape[-1] for part in jax.tree.leaves(parts))
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (3, 3, channels, self.width))
        if self.is_initializing():
            return jnp.zeros((*jax.tree.leaves(parts)[0].shape[:3], self.width), self.dtype)
        return convolved(trained_conv3x3(parts, kernel.astype(self.dtype)))


class Upsampled(nn.Module):
    """Doubles height and width. While it is initialized, it needs no halos, and returns zeros."""

    upsampling: Upsampling

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"] | Haloed:
        if self.is_initializing():
            return jnp.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), x.dtype)
        return upsampled(x, self.upsampling)


class LayerNorm(nn.Module):
    """The layer norm over height, width and channels of each sample, with a scale and a bias per channel.

    Mean and variance are computed in float32 or better. The default epsilon is the released program's.
    """

    epsilon: float = 1e-12

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return x if self.is_initializing() else _layer_norm(x, scale, bias, self.epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    return _norm_forward(x, scale, bias, epsilon)[0]


def _norm_forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, tuple]:
    exact = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = exact.mean((1, 2, 3), keepdims=True)
    rate = jax.lax.rsqrt(jnp.square(exact - mean).mean((1, 2, 3), keepdims=True) + epsilon)
    y = (exact - mean) * rate * scale[None, None, None] + bias[None, None, None]
    return y.astype(x.dtype), (x, mean, rate, scale)


def _norm_backward(epsilon: float, saved: tuple, by_y: Array) -> tuple[Array, Array, Array]:
    """Computes by_x = rate (g - mean(g) - n mean(g n)), where n = (x - mean) rate and g = scale by_y.

    Both means follow from sums per channel, which are the gradients of bias and scale. One pass over x and by_y yields all
    sums, and a second pass the result. Automatic differentiation of the forward pass takes four passes.
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
    """A bias per channel, which takes the place of the layer norm in an ablation."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return x + bias.astype(x.dtype)[None, None, None]


class Projection(nn.Module):
    """The linear projection of each pixel's features (a 1x1 convolution with bias), in float32.

    It is written as a matrix product, into which compilers read bfloat16 features directly; a convolution would copy them to
    float32 first. It asks for full precision, because accelerators would round the kernel to 10 or 7 bits and gain no time.
    """

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W {self.width}"]:
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (1, 1, x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0], precision="highest") + bias[None, None, None]


def exact_convolution(
    layer: dict, x: Float[Array, "N H W C"], stride: int, padding: str | Sequence[tuple[int, int]]
) -> Float[Array, "N H2 W2 D"]:
    """Computes a convolution with bias and ReLU, in float32 even where an accelerator's default is less precise.

    Args:
      layer: the convolution's `kernel` `[h, w, C, D]` and `bias` `[D]`.
      x: the features.
      stride: the step in height and width, in pixels.
      padding: "SAME", "VALID", or the rows and columns to add on either side.
    """
    y = jax.lax.conv_general_dilated(
        x, layer["kernel"], (stride, stride), padding, dimension_numbers=DIMENSIONS, precision="highest"
    )
    return jax.nn.relu(y + layer["bias"][None, None, None])
