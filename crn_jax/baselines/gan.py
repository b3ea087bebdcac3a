"""The training of the adversarial baselines: a generator and its discriminator, both in one step.

One loss serves both networks. Its part for the generator takes the discriminator's parameters as constants, and its part for
the discriminator takes the synthesized image as a constant, so that each gradient reaches one network only. Adam treats each
parameter separately, so that one optimizer does the work of two. (pix2pix updates the discriminator first, and then the
generator against the new discriminator; here both are updated at once.)
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from crn_jax.generator import init_params
from crn_jax.lambdas import LambdaState
from crn_jax.scores.segmenter import SegmenterObjective, cross_entropy, scaled
from crn_jax.settings import GANConfig, GANLossConfig, OptimizerConfig, SegmenterConfig
from crn_jax.train import Trainable


@dataclasses.dataclass(frozen=True)
class GANObjective(Trainable):
    """The static part of a GAN's training step.

    The parameters are `{"generator": ..., "discriminator": ...}`. If the loss needs a segmenter, the frozen parameters are
    `{"segmenter": ...}`.
    """

    gan: GANConfig
    loss: GANLossConfig
    optimizer: OptimizerConfig
    steps_per_epoch: int
    segmenter: SegmenterConfig | None = None

    @property
    def dtype(self) -> str:
        """The dtype of the convolutions."""
        return self.gan.dtype

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a batch's photographs, in pixels."""
        return self.gan.size

    def abstract_frozen(self) -> dict:
        """Returns shapes and dtypes of the segmenter's parameters, if there is one."""
        if self.segmenter is None:
            return {}
        segmenter = SegmenterObjective(self.segmenter, self.optimizer, self.steps_per_epoch)
        return {"segmenter": jax.eval_shape(segmenter.init_params, jax.random.key(0))}

    def init_params(self, key: Key[Array, ""]) -> dict:
        """Returns fresh parameters of both networks."""
        one, other = jax.random.split(key)
        layout = jnp.zeros((1, *self.gan.size, self.gan.num_classes))
        discriminator = jax.jit(self.gan.discriminator().init)(other, layout, layout[..., :3])["params"]
        return {"generator": init_params(self.gan, one), "discriminator": discriminator}

    def loss_of(
        self, params: dict, lambdas: LambdaState | None, frozen: dict, batch: dict, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict]:
        """Returns the sum of both networks' losses, and metrics.

        The metrics are `deceived` (the cross-entropy of the generator), `l1`, `segmentation`, and `discriminator` (the mean of
        the discriminator's cross-entropies for real and for synthesized images).
        """
        layout = jax.nn.one_hot(batch["layout"].astype(jnp.int32), self.gan.num_classes)
        photograph = batch["photograph"].astype(jnp.float32)
        noise = {"dropout": jax.random.fold_in(jax.random.key(0), step)}
        synthesized: Any = self.gan.network().apply({"params": params["generator"]}, layout, rngs=noise)
        images = synthesized[:, 0]

        def judged(parameters: dict, images: jax.Array) -> Any:
            return self.gan.discriminator().apply({"params": parameters}, layout, images)

        constant, metrics = jax.lax.stop_gradient, dict[str, jax.Array]()
        with jax.named_scope("deceived"):
            metrics["deceived"] = _binary(judged(constant(params["discriminator"]), images), 1)
        with jax.named_scope("l1"):
            metrics["l1"] = jnp.abs(images - photograph).mean() / 127.5
        with jax.named_scope("segmentation"):
            metrics["segmentation"] = jnp.zeros(())
            if self.segmenter is not None:
                scores: Any = self.segmenter.network().apply({"params": frozen["segmenter"]}, scaled(images))
                metrics["segmentation"] = cross_entropy(scores, batch["layout"].astype(jnp.int32))
        with jax.named_scope("discriminator"):
            real, false = judged(params["discriminator"], photograph), judged(params["discriminator"], constant(images))
            metrics["discriminator"] = (_binary(real, 1) + _binary(false, 0)) / 2
        generator = metrics["deceived"] + self.loss.l1_weight * metrics["l1"]
        generator += self.loss.segmentation_weight * metrics["segmentation"]
        return generator + metrics["discriminator"], metrics


def _binary(logits: jax.Array, target: float) -> jax.Array:
    return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, target)).mean()
