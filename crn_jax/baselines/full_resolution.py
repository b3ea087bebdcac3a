"""The full-resolution network, a baseline of the paper (section 5): dilated convolutions without any resampling."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from crn_jax.baselines.shapes import dilations
from crn_jax.images import FromLayout
from crn_jax.kernels.convolution import DIMENSIONS
from crn_jax.layers import LayerNorm, Projection
from crn_jax.settings import FullResolutionConfig
from crn_jax.sharding import MIN_ROWS, constrain


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def dilated_conv3x3(x: Float[Array, "B H W C"], k: Float[Array, "3 3 C D"], dilation: int) -> Float[Array, "B H W D"]:
    """Convolves 3x3 pixels that lie `dilation` pixels apart, with zero padding."""
    return _dilated(x, k, dilation)


def _dilated(x: jax.Array, k: jax.Array, dilation: int) -> jax.Array:
    margins, dilations = ((dilation, dilation),) * 2, (dilation, dilation)
    return jax.lax.conv_general_dilated(x, k, (1, 1), margins, rhs_dilation=dilations, dimension_numbers=DIMENSIONS)


def _dilated_backward(dilation: int, saved: tuple[jax.Array, jax.Array], y: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, k = saved

    def xla(x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda k: _dilated(x, k, dilation), k)(y)[0]

    # XLA for GPUs turns its own derivative by k into a convolution with a kernel as large as the image.
    products = functools.partial(dilated_by_kernel, dilation=dilation)
    by_k = jax.lax.platform_dependent(x, y, cuda=products, default=xla)
    return jax.linear_transpose(lambda x: _dilated(x, k, dilation), x)(y)[0], by_k


def dilated_by_kernel(x: Float[Array, "B H W C"], y: Float[Array, "B H W D"], dilation: int) -> Float[Array, "3 3 C D"]:
    """Computes the gradient of `dilated_conv3x3` by the kernel as nine matrix products, for the cotangent y."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation), (0, 0)))

    def by_tap(row: int, column: int) -> jax.Array:
        seen = padded[:, row * dilation :, column * dilation :][:, :height, :width]
        return jnp.einsum("bhwc,bhwd->cd", seen, y)

    return jnp.stack([jnp.stack([by_tap(row, column) for column in range(3)]) for row in range(3)])


dilated_conv3x3.defvjp(lambda x, k, dilation: (dilated_conv3x3(x, k, dilation), (x, k)), _dilated_backward)


class DilatedConv3x3(nn.Module):
    """A layer that computes `dilated_conv3x3`, without a bias."""

    width: int
    dilation: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W {self.width}"]:
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (3, 3, x.shape[-1], self.width))
        if self.is_initializing():
            return jnp.zeros((*x.shape[:3], self.width), self.dtype)
        return dilated_conv3x3(x.astype(self.dtype), kernel.astype(self.dtype), self.dilation)


class FullResolution(nn.Module):
    """The full-resolution network, which has no resampling.

    The paper describes an inverted context aggregation network with 10 layers of 256 maps at 256x512. The context aggregation
    networks of Yu & Koltun (2016) and of Chen, Xu & Koltun (2017) double the dilation of their 3x3 convolutions from layer to
    layer, end with a dilation of 1, and project by a 1x1 convolution. This network halves the dilation instead, so that the
    first layer already sees distant pixels. The paper does not say more, so the rest is our reconstruction: the first dilation
    lets every pixel see the whole image (at 256x512, this takes ten layers), the projection is not one of the ten layers, and
    norm and nonlinearity are the cascade's.
    """

    channels: int
    width: int = 256
    layers: int = 10
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W c"]) -> Float[Array, "B H W {self.channels}"]:
        x = x.astype(self.dtype)
        height, width = x.shape[1:3]
        for i, dilation in enumerate(dilations(height, width, self.layers)):
            x = DilatedConv3x3(self.width, dilation, self.dtype, name=f"conv_{i}")(constrain(x, MIN_ROWS))
            x = nn.leaky_relu(LayerNorm(name=f"norm_{i}")(x), 0.2)
        return Projection(self.channels, name="to_output")(x)


def full_resolution(config: FullResolutionConfig) -> FromLayout:
    """Returns the full-resolution network, from layouts to images."""
    return FromLayout(FullResolution(3 * config.num_images, config.maps, config.layers, jnp.dtype(config.dtype)))
