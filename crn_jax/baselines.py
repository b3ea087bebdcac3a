"""What the paper compares the cascade with (section 5), and what is built of the same parts.

Arrays are float `[B, H, W, C]`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crn_jax.cascade import Conv3x3, LayerNorm
from crn_jax.resize import double_bilinear, halve_area
from crn_jax.sharding import MIN_ROWS, constrain


class EncoderDecoder(nn.Module):
    """A U-Net (Ronneberger et al., 2015): `[B, H, W, C] -> [B, H, W, channels]`, float32.

    Level i has `widths[i]` feature maps at 1/2^i of the resolution. Its blocks are the cascade's: two 3x3 convolutions, each
    followed by layer norm and LReLU; levels are joined by its resamplings, not by strides. Height and width must be
    multiples of 2^(levels - 1).
    """

    widths: tuple[int, ...]
    channels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        last = len(self.widths) - 1
        if x.shape[1] % 2**last or x.shape[2] % 2**last:
            raise ValueError(f"{len(self.widths)} levels need multiples of 2^{last} pixels, got {x.shape[1]}x{x.shape[2]}.")
        skips, x = [], x.astype(self.dtype)
        for i, width in enumerate(self.widths):
            x = self._block(constrain(halve_area(x), MIN_ROWS) if i else x, width, f"encoder_{i}")
            skips.append(x)
        for i in reversed(range(last)):
            x = jnp.concatenate([double_bilinear(x), skips[i]], axis=-1)
            x = self._block(constrain(x, MIN_ROWS), self.widths[i], f"decoder_{i}")
        wide = jnp.promote_types(self.dtype, jnp.float32)
        return nn.Conv(self.channels, (1, 1), kernel_init=nn.initializers.xavier_uniform(), dtype=wide, name="to_output")(x)

    def _block(self, x: jax.Array, width: int, name: str) -> jax.Array:
        for n in (1, 2):
            x = Conv3x3(width, self.dtype, name=f"{name}_conv{n}")(x)
            x = nn.leaky_relu(LayerNorm(name=f"{name}_norm{n}")(x), 0.2)
        return x
