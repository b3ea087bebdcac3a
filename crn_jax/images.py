"""A network's output as images: the order of its channels, the scale, the rounding."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def to_images(rgb: Float[Array, "B H W channels"]) -> Float[Array, "B k H W 3"]:
    """Returns a network's 3k output channels as k images on the 0..255 scale, not clipped.

    The order of the channels is that of the released weights: first all k reds, then the greens, then the blues.
    """
    b, h, w, channels = rgb.shape
    images = rgb.reshape(b, h, w, 3, channels // 3).transpose(0, 4, 1, 2, 3)
    return (images + 1) / 2 * 255


def to_uint8(images: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """Returns images as they are written to files: rounded, and clipped to 0..255."""
    return jnp.clip(jnp.round(images), 0, 255).astype(jnp.uint8)


class FromLayout(nn.Module):
    """A network whose output channels become images, see `to_images`."""

    inside: nn.Module

    def __call__(self, layout: Float[Array, "B H W c"]) -> Float[Array, "B k H W 3"]:
        return to_images(self.inside(layout))
