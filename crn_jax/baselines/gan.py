"""The adversarial baselines, as they are trained: a generator against a discriminator, at once.

One loss serves both. In the generator's part the discriminator's parameters are constants, in the discriminator's part the
synthesized image is; so each gradient reaches its own network only. Adam works parameter by parameter, so one optimizer is two.
(pix2pix updates the discriminator first, and the generator against the new one; here both see the same step.)
"""

import dataclasses
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from crn_jax.baselines.adversarial import DCGANDiscriminator, DCGANGenerator, PatchDiscriminator, Pix2PixGenerator
from crn_jax.generator import init_params
from crn_jax.kernels.remat import Remat
from crn_jax.scores.segmenter import SegmenterConfig, cross_entropy, scaled
from crn_jax.train import OptimizerConfig, Trainable


@dataclasses.dataclass(frozen=True)
class GANConfig:
    """A generator and a discriminator; widths of None are those published, or of dcgan our reconstruction's."""

    num_classes: int
    """Channels of the layout, void included."""
    size: tuple[int, int]
    """Height and width of the images, in pixels; parameters depend on it."""
    networks: Literal["pix2pix", "dcgan"]
    """pix2pix: U-Net-256 and the 70x70 PatchGAN; dcgan: our reconstruction of the paper's GAN."""
    widths: tuple[int, ...] | None = None
    """Feature maps of the generator's layers, from the outside."""
    discriminator_widths: tuple[int, ...] | None = None
    """Feature maps of the discriminator's layers."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the convolutions."""

    @property
    def num_images(self) -> int:
        """Images k synthesized from one layout."""
        return 1

    @property
    def min_size(self) -> tuple[int, int]:
        """Of the layout that parameters are made with."""
        return self.size

    fixed_size: ClassVar[bool] = True

    def network(self, remat: Remat = "none") -> nn.Module:
        """The generator, `[B, H, W, c] -> [B, 1, H, W, 3]`; `remat` is not heeded."""
        kind = Pix2PixGenerator if self.networks == "pix2pix" else DCGANGenerator
        widths = {} if self.widths is None else {"widths": self.widths}
        return OneImage(kind(**widths, dtype=jnp.dtype(self.dtype)))

    def discriminator(self) -> nn.Module:
        """Layouts `[B, H, W, c]` and images `[B, H, W, 3]` -> logits."""
        kind = PatchDiscriminator if self.networks == "pix2pix" else DCGANDiscriminator
        widths = {} if self.discriminator_widths is None else {"widths": self.discriminator_widths}
        return kind(**widths, dtype=jnp.dtype(self.dtype))


class OneImage(nn.Module):
    """A generator's images `[B, H, W, 3]` as collections of one, `[B, 1, H, W, 3]`."""

    inside: nn.Module

    def __call__(self, layout: jax.Array) -> jax.Array:
        return self.inside(layout)[:, None]


@dataclasses.dataclass(frozen=True)
class GANLossConfig:
    """What the generator is trained for beside deceiving the discriminator."""

    l1_weight: float = 100.0
    """Of the mean absolute difference, on the scale -1..1; pix2pix: 100."""
    segmentation_weight: float = 0.0
    """Of the segmenter's cross-entropy; the paper does not say how much."""


@dataclasses.dataclass(frozen=True)
class GANObjective(Trainable):
    """The static part of a GAN's training step; its frozen parameters are the `segmenter`'s, under that name, if there is one.

    Parameters are `{"generator": ..., "discriminator": ...}`.
    """

    gan: GANConfig
    loss: GANLossConfig
    optimizer: OptimizerConfig
    steps_per_epoch: int
    segmenter: SegmenterConfig | None = None

    @property
    def dtype(self) -> str:
        """Of the convolutions."""
        return self.gan.dtype

    def init_params(self, key: jax.Array) -> dict:
        """Both networks', fresh."""
        one, other = jax.random.split(key)
        layout = jnp.zeros((1, *self.gan.size, self.gan.num_classes))
        discriminator = jax.jit(self.gan.discriminator().init)(other, layout, layout[..., :3])["params"]
        return {"generator": init_params(self.gan, one), "discriminator": discriminator}

    def loss_of(self, params: dict, lambdas: None, frozen: dict, batch: dict, step: jax.Array) -> tuple[jax.Array, dict]:
        """The sum [] of both networks' losses. Metrics: `deceived` (the generator's cross-entropy), `l1`, `segmentation` and
        `discriminator` (its cross-entropy, real and synthesized images by half)."""
        layout = jax.nn.one_hot(batch["layout"].astype(jnp.int32), self.gan.num_classes)
        photograph = batch["photograph"].astype(jnp.float32)
        noise = {"dropout": jax.random.fold_in(jax.random.key(0), step)}
        images = self.gan.network().apply({"params": params["generator"]}, layout, rngs=noise)[:, 0]

        def judged(parameters: dict, images: jax.Array) -> jax.Array:
            return self.gan.discriminator().apply({"params": parameters}, layout, images)

        constant = jax.lax.stop_gradient
        metrics = {
            "deceived": _binary(judged(constant(params["discriminator"]), images), 1),
            "l1": jnp.abs(images - photograph).mean() / 127.5,
            "segmentation": jnp.zeros(()),
        }
        if self.segmenter is not None:
            scores = self.segmenter.network().apply({"params": frozen["segmenter"]}, scaled(images))
            metrics["segmentation"] = cross_entropy(scores, batch["layout"].astype(jnp.int32))
        real, false = judged(params["discriminator"], photograph), judged(params["discriminator"], constant(images))
        metrics["discriminator"] = (_binary(real, 1) + _binary(false, 0)) / 2
        generator = metrics["deceived"] + self.loss.l1_weight * metrics["l1"]
        generator += self.loss.segmentation_weight * metrics["segmentation"]
        return generator + metrics["discriminator"], metrics


def _binary(logits: jax.Array, target: float) -> jax.Array:
    return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, target)).mean()
