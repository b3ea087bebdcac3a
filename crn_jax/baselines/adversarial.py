"""The adversarial networks that the paper compares the cascade with (section 5): pix2pix, and one in the manner of DCGAN.

Layouts are float `[B, H, W, c]`, one-hot; images are `[B, H, W, 3]`, float32, RGB on the 0..255 scale, in and out. Kernels
start from N(0, 0.02²), scales of norms from N(1, 0.02²), as published. The networks are pure functions: batch norm takes its
statistics from the batch at hand, in training and after it (as pix2pix does, one image at a time, so that it is an instance
norm). What shares a batch therefore shows in the result, and a discriminator gets real and synthesized images in batches of
their own.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crn_jax.kernels.convolution import DIMENSIONS
from crn_jax.sharding import MIN_ROWS, constrain

_NORMAL = nn.initializers.normal(0.02)


def fitting(widths: tuple[int, ...], height: int, width: int, smallest: int = 1) -> tuple[int, ...]:
    """The first of `widths`, one for each time that both sides can be halved, to no less than `smallest` pixels.

    Raises:
      ValueError: if that is less than twice.
    """
    sides, count = [height, width], 0
    while count < len(widths) and all(side % 2 == 0 and side >= 2 * smallest for side in sides):
        sides, count = [side // 2 for side in sides], count + 1
    if count < 2:
        raise ValueError(
            f"A network of {len(widths)} widths halves sides of {height}x{width} (to no less than {smallest}) {count} time(s); "
            "it has to twice."
        )
    return widths[:count]


@jax.custom_vjp
def transposed_conv4x4(x: jax.Array, k: jax.Array) -> jax.Array:
    """The transpose of a 4x4 convolution of stride 2, padding 1: `[B, H, W, C] * [4, 4, C, D] -> [B, 2H, 2W, D]`.

    Row i of x, times row a of k, is added to row 2i + 2 - a of the result; likewise for columns.
    """
    return jax.lax.conv_general_dilated(x, k, (1, 1), ((2, 2), (2, 2)), (2, 2), dimension_numbers=DIMENSIONS)


def _transposed_forward(x: jax.Array, k: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return transposed_conv4x4(x, k), (x, k)


def _transposed_backward(residuals: tuple[jax.Array, jax.Array], y: jax.Array) -> tuple[jax.Array, jax.Array]:
    # By the convolution that this is the transpose of: XLA computes JAX's own derivative by k 30 times slower on CPUs.
    x, k = residuals

    def convolution(k: jax.Array) -> jax.Array:
        flipped = k[::-1, ::-1].swapaxes(2, 3)
        return jax.lax.conv_general_dilated(y, flipped, (2, 2), ((1, 1), (1, 1)), dimension_numbers=DIMENSIONS)

    by_x, by_k = jax.vjp(convolution, k)
    return by_x, by_k(x)[0]


transposed_conv4x4.defvjp(_transposed_forward, _transposed_backward)


class BatchNorm(nn.Module):
    """Batch norm by the statistics of the batch at hand, with a scale and a bias per channel; statistics in float32."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C]
        scale = self.param("scale", lambda key, shape: 1 + _NORMAL(key, shape), x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        y = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
        mean = y.mean((0, 1, 2), keepdims=True)
        variance = jnp.square(y - mean).mean((0, 1, 2), keepdims=True)
        y = (y - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale[None, None, None] + bias[None, None, None]
        return y.astype(x.dtype)


class Conv4x4(nn.Module):
    """Layer Ck of pix2pix and DCGAN: a 4x4 convolution of padding 1, batch norm, LReLU: `[B, H, W, C] -> [B, h, w, width]`."""

    width: int
    dtype: jnp.dtype
    stride: int = 2
    norm: bool = True
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(
            self.width, (4, 4), self.stride, padding=1, use_bias=self.bias, kernel_init=_NORMAL, dtype=self.dtype, name="conv"
        )(x)
        x = constrain(x, MIN_ROWS)
        return nn.leaky_relu(BatchNorm(name="norm")(x) if self.norm else x, 0.2)


class TransposedConv4x4(nn.Module):
    """`transposed_conv4x4`, with a bias or batch norm: `[B, H, W, C] -> [B, 2H, 2W, width]`."""

    width: int
    dtype: jnp.dtype
    norm: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _NORMAL, (4, 4, x.shape[-1], self.width))
        x = constrain(transposed_conv4x4(x.astype(self.dtype), kernel.astype(self.dtype)), MIN_ROWS)
        if self.norm:
            return BatchNorm(name="norm")(x)
        return x + self.param("bias", nn.initializers.zeros, (self.width,))[None, None, None]


def _generate(layout: jax.Array, widths: tuple[int, ...], dtype: jnp.dtype, skips: bool, noise_layers: int) -> jax.Array:
    """Encodes a layout down to `widths[-1]` maps and decodes an image; called within a module, whose layers these become."""
    encoded, last = [layout.astype(dtype)], len(widths) - 1
    for i, width in enumerate(widths):
        # None at the innermost: of one pixel of one image it would leave its bias only.
        encoded.append(Conv4x4(width, dtype, norm=0 < i < last, name=f"encoder_{i}")(encoded[-1]))

    # ReLU of LReLU is ReLU, so that what is skipped to may be taken behind the encoder's nonlinearity.
    x = nn.relu(encoded.pop())
    for i in reversed(range(last)):
        x = TransposedConv4x4(widths[i], dtype, name=f"decoder_{i + 1}")(x)
        if last - i <= noise_layers:
            x = _noise(x, f"dropout_{i + 1}")
        x = nn.relu(jnp.concatenate([encoded[i + 1], x], axis=-1) if skips else x)
    x = TransposedConv4x4(3, jnp.promote_types(dtype, jnp.float32), norm=False, name="decoder_0")(x)
    return (jnp.tanh(x) + 1) / 2 * 255


def _noise(x: jax.Array, name: str) -> jax.Array:
    """Half of x at random; without a key, as when images are synthesized, always the same half."""
    dropout = nn.Dropout(0.5, deterministic=False, name=name)
    return dropout(x, rng=None if dropout.has_rng("dropout") else jax.random.key(0))


class Pix2PixGenerator(nn.Module):
    """The U-Net-256 of pix2pix (Isola et al., 2017): a layout `[B, H, W, c]` -> an image `[B, H, W, 3]`.

    C64-C128-C256-C512-C512-C512-C512-C512 down, CD512-CD512-CD512-C512-C256-C128-C64 up, each layer of the way up beside that
    of the same size on the way down. Dropout in the first three layers of the way up is the noise, in training and after it:
    by `rngs={"dropout": key}` or, without, always the same. (So the paper and the Torch program; the PyTorch program has it in
    the second to the fourth.) No norm in the first layer, nor in the innermost, as the authors corrected their first release.
    With three channels in, the 54.41M parameters of their PyTorch program.

    The layout is one-hot where the authors' program has it in colours. Sides that cannot be halved eight times take as many
    of the layers, from the outside, as they can be halved: 96x128 five, down to 3x4. So the parameters depend on the size.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512, 512, 512)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, layout: jax.Array) -> jax.Array:
        widths = fitting(self.widths, *layout.shape[1:3])
        return _generate(layout, widths, self.dtype, skips=True, noise_layers=3)


class DCGANGenerator(nn.Module):
    """A generator in the manner of DCGAN (Radford et al., 2016): a layout `[B, H, W, c]` -> an image `[B, H, W, 3]`.

    Our reconstruction: the paper says that the generator's input is L, nothing of layers and widths. Strided convolutions
    bring the layout to the few pixels that DCGAN's noise starts from, 4x8 of 256x512 or 3x4 of 96x128; transposed ones make
    the image. Batch norm and ReLU as in DCGAN, no skips, no noise. Sides are halved to no less than 3 pixels, so the
    parameters depend on the size.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, layout: jax.Array) -> jax.Array:
        widths = fitting(self.widths, *layout.shape[1:3], smallest=3)
        return _generate(layout, widths, self.dtype, skips=False, noise_layers=0)


def _beside(layout: jax.Array, images: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """What a discriminator sees: the layout and the image, -1..1, as channels of one array."""
    return jnp.concatenate([layout.astype(dtype), (images / 127.5 - 1).astype(dtype)], axis=-1)


class PatchDiscriminator(nn.Module):
    """The 70x70 PatchGAN of pix2pix: layout `[B, H, W, c]`, image `[B, H, W, 3]` -> a logit for each patch, `[B, h, w]`.

    C64-C128-C256-C512, the last of stride 1 and the first without norm, and a last convolution to one channel. A logit sees
    70x70 pixels; the next one those 8 pixels further on. h = H/8 - 2 (30 of 256), likewise w.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, layout: jax.Array, images: jax.Array) -> jax.Array:
        x, last = _beside(layout, images, self.dtype), len(self.widths) - 1
        for i, width in enumerate(self.widths):
            stride = 1 if i == last else 2
            x = Conv4x4(width, self.dtype, stride, norm=i > 0, bias=i == 0, name=f"conv_{i}")(x)
        wide = jnp.promote_types(self.dtype, jnp.float32)
        logits = nn.Conv(1, (4, 4), padding=1, kernel_init=_NORMAL, dtype=wide, name="to_logits")(x)[..., 0]
        if not logits.size:
            raise ValueError(f"An image of {images.shape[1]}x{images.shape[2]} is too small for a single patch.")
        return logits


class DCGANDiscriminator(nn.Module):
    """A discriminator in the manner of DCGAN: layout `[B, H, W, c]`, image `[B, H, W, 3]` -> one logit for the image, `[B]`.

    Our reconstruction, as `DCGANGenerator`: strided convolutions to the same few pixels, with batch norm in all but the first,
    LReLU, and one linear map of all that is left.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, layout: jax.Array, images: jax.Array) -> jax.Array:
        x = _beside(layout, images, self.dtype)
        for i, width in enumerate(fitting(self.widths, *layout.shape[1:3], smallest=3)):
            x = Conv4x4(width, self.dtype, norm=i > 0, bias=i == 0, name=f"conv_{i}")(x)
        wide = jnp.promote_types(self.dtype, jnp.float32)
        return nn.Dense(1, kernel_init=_NORMAL, dtype=wide, name="to_logit")(x.reshape(x.shape[0], -1))[:, 0]
