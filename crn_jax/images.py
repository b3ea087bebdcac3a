"""What a network emits, as images: the order of the channels, the scale, the rounding."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def to_images(rgb: jax.Array) -> jax.Array:
    """What a network emits, `[B, H, W, 3k]`, as images `[B, k, H, W, 3]` on the 0..255 scale.

    As in the released weights, all k reds come first, then the greens, then the blues.
    """
    b, h, w, channels = rgb.shape
    images = rgb.reshape(b, h, w, 3, channels // 3).transpose(0, 4, 1, 2, 3)
    return (images + 1) / 2 * 255


def to_uint8(images: jax.Array) -> jax.Array:
    """Synthesized images as they are written: rounded, clipped to 0..255."""
    return jnp.clip(jnp.round(images), 0, 255).astype(jnp.uint8)


class FromLayout(nn.Module):
    """A network's output as images: `[B, H, W, c] -> [B, k, H, W, 3]`, see `cascade.to_images`."""

    inside: nn.Module

    def __call__(self, layout: jax.Array) -> jax.Array:
        return to_images(self.inside(layout))
