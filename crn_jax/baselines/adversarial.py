"""The adversarial baselines of the paper (section 5): pix2pix, and a network in the manner of DCGAN.

Layouts are one-hot. Images are float32, RGB on the 0..255 scale, as inputs and as outputs. Kernels start from N(0, 0.02²), and
the scales of norms from N(1, 0.02²), as published.

The networks are pure functions. Batch norm takes its statistics from the current batch, in training and in inference, as
pix2pix does with one image at a time (where it is an instance norm). A result therefore depends on the other images of its
batch, and a discriminator gets real and synthesized images in separate batches.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from crn_jax.baselines.shapes import PATCH_WIDTHS, fitting, patches
from crn_jax.kernels.convolution import DIMENSIONS
from crn_jax.settings import GANConfig
from crn_jax.sharding import MIN_ROWS, constrain

_NORMAL = nn.initializers.normal(0.02)


@jax.custom_vjp
def transposed_conv4x4(x: Float[Array, "B H W C"], k: Float[Array, "4 4 C D"]) -> Float[Array, "B 2*H 2*W D"]:
    """Computes the transpose of a 4x4 convolution of stride 2 with padding 1.

    Row i of x, times row a of k, is added to row 2i + 2 - a of the result, and columns in the same way.
    """
    return jax.lax.conv_general_dilated(x, k, (1, 1), ((2, 2), (2, 2)), (2, 2), dimension_numbers=DIMENSIONS)


def _transposed_forward(x: jax.Array, k: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return transposed_conv4x4(x, k), (x, k)


def _transposed_backward(residuals: tuple[jax.Array, jax.Array], y: jax.Array) -> tuple[jax.Array, jax.Array]:
    # It uses the convolution of which this is the transpose: JAX's own derivative by k is 30 times slower on CPUs.
    x, k = residuals

    def convolution(k: jax.Array) -> jax.Array:
        flipped = k[::-1, ::-1].swapaxes(2, 3)
        return jax.lax.conv_general_dilated(y, flipped, (2, 2), ((1, 1), (1, 1)), dimension_numbers=DIMENSIONS)

    by_x, by_k = jax.vjp(convolution, k)
    return by_x, by_k(x)[0]


transposed_conv4x4.defvjp(_transposed_forward, _transposed_backward)


class BatchNorm(nn.Module):
    """Batch norm by the float32 statistics of the current batch, with a scale and a bias for each channel."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        scale = self.param("scale", lambda key, shape: 1 + _NORMAL(key, shape), x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        y = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
        mean = y.mean((0, 1, 2), keepdims=True)
        variance = jnp.square(y - mean).mean((0, 1, 2), keepdims=True)
        y = (y - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale[None, None, None] + bias[None, None, None]
        return y.astype(x.dtype)


class Conv4x4(nn.Module):
    """Layer Ck of pix2pix and DCGAN: a 4x4 convolution with padding 1, batch norm, and leaky ReLU."""

    width: int
    dtype: jnp.dtype
    stride: int = 2
    norm: bool = True
    bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w {self.width}"]:
        x = nn.Conv(
            self.width, (4, 4), self.stride, padding=1, use_bias=self.bias, kernel_init=_NORMAL, dtype=self.dtype, name="conv"
        )(x)
        x = constrain(x, MIN_ROWS)
        return nn.leaky_relu(BatchNorm(name="norm")(x) if self.norm else x, 0.2)


class TransposedConv4x4(nn.Module):
    """A layer that computes `transposed_conv4x4`, with batch norm or a bias."""

    width: int
    dtype: jnp.dtype
    norm: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W {self.width}"]:
        kernel = self.param("kernel", _NORMAL, (4, 4, x.shape[-1], self.width))
        x = constrain(transposed_conv4x4(x.astype(self.dtype), kernel.astype(self.dtype)), MIN_ROWS)
        if self.norm:
            return BatchNorm(name="norm")(x)
        return x + self.param("bias", nn.initializers.zeros, (self.width,))[None, None, None]


def _generate(layout: jax.Array, widths: tuple[int, ...], dtype: jnp.dtype, skips: bool, noise_layers: int) -> jax.Array:
    """Encodes a layout down to `widths[-1]` maps and decodes an image; the layers belong to the module that calls this."""
    encoded, last = [layout.astype(dtype)], len(widths) - 1
    for i, width in enumerate(widths):
        # The innermost layer has no norm, which would leave only its bias of a single pixel.
        encoded.append(Conv4x4(width, dtype, norm=0 < i < last, name=f"encoder_{i}")(encoded[-1]))

    # ReLU of leaky ReLU is ReLU, so that skips may start behind the encoder's nonlinearity.
    x = nn.relu(encoded.pop())
    for i in reversed(range(last)):
        x = TransposedConv4x4(widths[i], dtype, name=f"decoder_{i + 1}")(x)
        if last - i <= noise_layers:
            x = _noise(x, f"dropout_{i + 1}")
        x = nn.relu(jnp.concatenate([encoded[i + 1], x], axis=-1) if skips else x)
    x = TransposedConv4x4(3, jnp.promote_types(dtype, jnp.float32), norm=False, name="decoder_0")(x)
    return (jnp.tanh(x) + 1) / 2 * 255


def _noise(x: jax.Array, name: str) -> jax.Array:
    """Drops a random half of x; without a key, as in synthesis, always the same half."""
    dropout = nn.Dropout(0.5, deterministic=False, name=name)
    return dropout(x, rng=None if dropout.has_rng("dropout") else jax.random.key(0))


class Pix2PixGenerator(nn.Module):
    """The generator of pix2pix (Isola et al., 2017), U-Net-256.

    The encoder is C64-C128-C256-C512-C512-C512-C512-C512 and the decoder CD512-CD512-CD512-C512-C256-C128-C64; skips connect
    layers of the same size. Dropout in the first three layers of the decoder is the noise, in training and in synthesis, where
    `rngs={"dropout": key}` chooses it. (The paper and the Torch program place it there; the PyTorch program has it in the
    second to the fourth layer.) The first and the innermost layer have no norm, as the authors corrected their first release.
    With three input channels, the network has the 54.41M parameters of their PyTorch program.

    The layout is one-hot; the authors' program takes colours. If the sides cannot be halved eight times, the network has only
    as many of the outer layers as they can be: five for 96x128, down to 3x4. The parameters therefore depend on the size.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512, 512, 512)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, layout: Float[Array, "B H W c"]) -> Float[Array, "B H W 3"]:
        height, width = layout.shape[1:3]
        widths = fitting(self.widths, height, width)
        return _generate(layout, widths, self.dtype, skips=True, noise_layers=3)


class DCGANGenerator(nn.Module):
    """A generator in the manner of DCGAN (Radford et al., 2016).

    This is our reconstruction: the paper says that the generator's input is the layout L, but not which layers and widths it
    has. Strided convolutions reduce the layout to as few pixels as DCGAN's noise has, 4x8 for 256x512 or 3x4 for 96x128.
    Transposed convolutions make the image. Batch norm and ReLU are as in DCGAN, and there are no skips and no noise. Sides are
    halved to no less than 3 pixels, so that the parameters depend on the size.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, layout: Float[Array, "B H W c"]) -> Float[Array, "B H W 3"]:
        height, width = layout.shape[1:3]
        widths = fitting(self.widths, height, width, smallest=3)
        return _generate(layout, widths, self.dtype, skips=False, noise_layers=0)


def _beside(layout: jax.Array, images: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Concatenates what a discriminator sees: the layout, and the image on the scale -1..1."""
    return jnp.concatenate([layout.astype(dtype), (images / 127.5 - 1).astype(dtype)], axis=-1)


class PatchDiscriminator(nn.Module):
    """The discriminator of pix2pix, the 70x70 PatchGAN, which returns a logit for each patch.

    The layers are C64-C128-C256-C512, of which the first has no norm and the last has stride 1, and a convolution to one
    channel. A logit sees 70x70 pixels, and its neighbour sees those 8 pixels further on, so that h = H/8 - 2 and w = W/8 - 2.
    """

    widths: tuple[int, ...] = PATCH_WIDTHS
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, layout: Float[Array, "B H W c"], images: Float[Array, "B H W 3"]) -> Float[Array, "B h w"]:
        patches(len(self.widths), *images.shape[1:3])  # raises ValueError if there is none
        x, last = _beside(layout, images, self.dtype), len(self.widths) - 1
        for i, width in enumerate(self.widths):
            stride = 1 if i == last else 2
            x = Conv4x4(width, self.dtype, stride, norm=i > 0, bias=i == 0, name=f"conv_{i}")(x)
        wide = jnp.promote_types(self.dtype, jnp.float32)
        logits = nn.Conv(1, (4, 4), padding=1, kernel_init=_NORMAL, dtype=wide, name="to_logits")(x)[..., 0]
        return logits


class DCGANDiscriminator(nn.Module):
    """A discriminator in the manner of DCGAN, which returns one logit for each image.

    This is our reconstruction, too: strided convolutions down to as few pixels as in `DCGANGenerator`, batch norm in all layers
    but the first, leaky ReLU, and one linear map of all features that remain.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, layout: Float[Array, "B H W c"], images: Float[Array, "B H W 3"]) -> Float[Array, " B"]:
        x = _beside(layout, images, self.dtype)
        height, width = layout.shape[1:3]
        for i, maps in enumerate(fitting(self.widths, height, width, smallest=3)):
            x = Conv4x4(maps, self.dtype, norm=i > 0, bias=i == 0, name=f"conv_{i}")(x)
        wide = jnp.promote_types(self.dtype, jnp.float32)
        return nn.Dense(1, kernel_init=_NORMAL, dtype=wide, name="to_logit")(x.reshape(x.shape[0], -1))[:, 0]


class OneImage(nn.Module):
    """A generator whose images form collections of one, as the k images of a cascade form a collection of k."""

    inside: nn.Module

    def __call__(self, layout: Float[Array, "B H W c"]) -> Float[Array, "B 1 H W 3"]:
        return self.inside(layout)[:, None]


def generator(config: GANConfig) -> OneImage:
    """Returns the generator that a config describes, from layouts [B, H, W, c] to images [B, 1, H, W, 3]."""
    kind: Any = Pix2PixGenerator if config.networks == "pix2pix" else DCGANGenerator
    widths = {} if config.widths is None else {"widths": config.widths}
    return OneImage(kind(**widths, dtype=jnp.dtype(config.dtype)))


def discriminator(config: GANConfig) -> nn.Module:
    """Returns the discriminator that a config describes, from layouts [B, H, W, c] and images [B, H, W, 3] to logits."""
    kind: Any = PatchDiscriminator if config.networks == "pix2pix" else DCGANDiscriminator
    widths = {} if config.discriminator_widths is None else {"widths": config.discriminator_widths}
    return kind(**widths, dtype=jnp.dtype(config.dtype))
