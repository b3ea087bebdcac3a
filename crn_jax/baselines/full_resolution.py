"""What the paper compares the cascade with (section 5), and what is built of the same parts.

Arrays are float `[B, H, W, C]`. The networks that are trained against a discriminator are in `adversarial.py`.
"""

import dataclasses
import functools
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from crn_jax.images import FromLayout
from crn_jax.kernels.convolution import DIMENSIONS
from crn_jax.kernels.remat import Remat
from crn_jax.layers import LayerNorm, Projection
from crn_jax.sharding import MIN_ROWS, constrain


def dilations(height: int, width: int, layers: int) -> tuple[int, ...]:
    """Dilations of 3x3 convolutions through which every pixel sees the whole image: large first, halved from one to the next.

    256, 128, ..., 2, 1, 1 for ten layers at 256x512; layers that are left have dilation 1.

    Raises:
      ValueError: if so few layers do not see so far.
    """
    side, largest = max(height, width), 1
    while 2 * largest < side:  # halved down to 1, they see 2 largest - 1 pixels far
        largest *= 2
    if largest >> layers:
        raise ValueError(f"{layers} layers of halved dilations see the whole of {2**layers} pixels, not of {height}x{width}.")
    return tuple(max(1, largest >> i) for i in range(layers))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def dilated_conv3x3(x: jax.Array, k: jax.Array, dilation: int) -> jax.Array:
    """A 3x3 convolution of pixels `dilation` apart, zero padding: `[B, H, W, C] * [3, 3, C, D] -> [B, H, W, D]`."""
    return _dilated(x, k, dilation)


def _dilated(x: jax.Array, k: jax.Array, dilation: int) -> jax.Array:
    margins, dilations = ((dilation, dilation),) * 2, (dilation, dilation)
    return jax.lax.conv_general_dilated(x, k, (1, 1), margins, rhs_dilation=dilations, dimension_numbers=DIMENSIONS)


def _dilated_backward(dilation: int, saved: tuple[jax.Array, jax.Array], y: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, k = saved

    def xla(x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda k: _dilated(x, k, dilation), k)(y)[0]

    # For GPUs, XLA makes of its own derivative by k a convolution with a kernel as large as the image.
    products = functools.partial(dilated_by_kernel, dilation=dilation)
    by_k = jax.lax.platform_dependent(x, y, cuda=products, default=xla)
    return jax.linear_transpose(lambda x: _dilated(x, k, dilation), x)(y)[0], by_k


def dilated_by_kernel(x: jax.Array, y: jax.Array, dilation: int) -> jax.Array:
    """The gradient by the kernel of `dilated_conv3x3` as nine matrix products: `[B, H, W, C], [B, H, W, D] -> [3, 3, C, D]`."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation), (0, 0)))

    def by_tap(row: int, column: int) -> jax.Array:
        seen = padded[:, row * dilation :, column * dilation :][:, :height, :width]
        return jnp.einsum("bhwc,bhwd->cd", seen, y)

    return jnp.stack([jnp.stack([by_tap(row, column) for column in range(3)]) for row in range(3)])


dilated_conv3x3.defvjp(lambda x, k, dilation: (dilated_conv3x3(x, k, dilation), (x, k)), _dilated_backward)


class DilatedConv3x3(nn.Module):
    """`dilated_conv3x3`, without a bias."""

    width: int
    dilation: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (3, 3, x.shape[-1], self.width))
        return dilated_conv3x3(x.astype(self.dtype), kernel.astype(self.dtype), self.dilation)


class FullResolution(nn.Module):
    """A network without any resampling: `[B, H, W, C] -> [B, H, W, channels]`, float32.

    The paper's has 10 layers of 256 maps at 256x512 and is an inverted context aggregation network. Those of Yu & Koltun
    (2016) and of Chen, Xu & Koltun (2017) double the dilation of their 3x3 convolutions from layer to layer, end with one of
    dilation 1 and project by a 1x1 convolution; this one halves it, so that what is far away is gathered first. Our
    reconstruction: that the first dilation is such that every pixel sees the whole image (at 256x512 ten layers just do), that
    the projection is not one of the ten, and norm and nonlinearity, which are the cascade's.
    """

    channels: int
    width: int = 256
    layers: int = 10
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(self.dtype)
        for i, dilation in enumerate(dilations(*x.shape[1:3], self.layers)):
            x = DilatedConv3x3(self.width, dilation, self.dtype, name=f"conv_{i}")(constrain(x, MIN_ROWS))
            x = nn.leaky_relu(LayerNorm(name=f"norm_{i}")(x), 0.2)
        return Projection(self.channels, name="to_output")(x)


@dataclasses.dataclass(frozen=True)
class FullResolutionConfig:
    """The full-resolution baseline; the paper's has 10 layers of 256 maps, the GPU's limit."""

    num_classes: int
    """Channels of the layout, void included."""
    size: tuple[int, int]
    """Height and width of the images, in pixels."""
    maps: int
    """Feature maps of each layer."""
    layers: int = 10
    """Dilated convolutions."""
    num_images: int = 1
    """Images k synthesized from one layout."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the convolutions."""

    min_size: ClassVar[tuple[int, int]] = (2, 2)  # of the layouts that its parameters can be made with; any size fits
    fixed_size: ClassVar[bool] = False

    def network(self, remat: Remat = "none") -> nn.Module:
        """From layouts to images; `remat` is not heeded."""
        return FromLayout(FullResolution(3 * self.num_images, self.maps, self.layers, jnp.dtype(self.dtype)))
