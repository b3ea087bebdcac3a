"""A U-Net of the cascade's blocks. The paper compares the cascade with this encoder-decoder, and the segmenter uses it, too."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from crn_jax.images import FromLayout
from crn_jax.kernels.halo import Haloed
from crn_jax.kernels.resize import halve_area, upsampled
from crn_jax.layers import Conv3x3, LayerNorm, Projection
from crn_jax.settings import EncoderDecoderConfig
from crn_jax.sharding import MIN_ROWS, constrain


class EncoderDecoder(nn.Module):
    """A U-Net (Ronneberger et al., 2015), whose output is float32.

    Level i has `widths[i]` feature maps at 1/2^i of the resolution. A block is the cascade's: two 3x3 convolutions, each
    followed by layer norm and LReLU. The cascade's resamplings join the levels, not strides.

    Raises:
      ValueError: if height or width is no multiple of 2^(levels - 1).
    """

    widths: tuple[int, ...]
    channels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W {self.channels}"]:
        last = len(self.widths) - 1
        if x.shape[1] % 2**last or x.shape[2] % 2**last:
            raise ValueError(f"{len(self.widths)} levels need multiples of 2^{last} pixels, got {x.shape[1]}x{x.shape[2]}.")
        skips, x = [], x.astype(self.dtype)
        for i, width in enumerate(self.widths):
            x = self._block(constrain(halve_area(x), MIN_ROWS) if i else x, width=width, name=f"encoder_{i}")
            skips.append(x)
        for i in reversed(range(last)):
            x = self._block(upsampled(x, "align_corners"), skips[i], width=self.widths[i], name=f"decoder_{i}")
        return Projection(self.channels, name="to_output")(x)

    def _block(self, *parts: Array | Haloed, width: int, name: str) -> Array:
        for n in (1, 2):
            x = Conv3x3(width, self.dtype, name=f"{name}_conv{n}")(*parts)
            x = nn.leaky_relu(LayerNorm(name=f"{name}_norm{n}")(x), 0.2)
            parts = (x,)
        return x


def encoder_decoder(config: EncoderDecoderConfig) -> FromLayout:
    """Returns the encoder-decoder of the baselines, from layouts to images."""
    return FromLayout(EncoderDecoder(config.widths, 3 * config.num_images, jnp.dtype(config.dtype)))
