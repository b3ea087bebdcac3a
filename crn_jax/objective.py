"""What a cascade (or a baseline in its place) is trained for: the perceptual loss of what it synthesizes, with λ.

A batch is `{"layout": uint8 or uint16 [B, H, W] class ids, "photograph": uint8 [B, H, W, 3]}`.
"""

import dataclasses

import jax

from crn_jax.generator import Generator, init_params, one_hot
from crn_jax.kernels.remat import Remat
from crn_jax.lambdas import LambdaConfig, LambdaState, init_lambdas, update_lambdas
from crn_jax.losses import LossConfig, Perception, layer_terms, perceptual_loss
from crn_jax.train import OptimizerConfig, Trainable
from crn_jax.vgg import Pooling


@dataclasses.dataclass(frozen=True)
class Objective(Trainable):
    """The static part of a generator's training step; its frozen parameters are VGG-19's."""

    generator: Generator
    lambdas: LambdaConfig
    optimizer: OptimizerConfig
    pooling: Pooling
    steps_per_epoch: int
    remat: Remat = "none"
    loss: LossConfig = LossConfig()

    @property
    def dtype(self) -> str:
        """Of the convolutions."""
        return self.generator.dtype

    @property
    def perception(self) -> Perception:
        """How the loss compares images."""
        return Perception(self.pooling, self.dtype, self.remat)

    def init_params(self, key: jax.Array) -> dict:
        """The generator's, fresh."""
        return init_params(self.generator, key)

    def init_lambdas(self) -> LambdaState:
        """λ before the first step."""
        return init_lambdas(self.lambdas)

    def loss_of(self, params: dict, lambdas: LambdaState, frozen: dict, batch: dict, step: jax.Array) -> tuple[jax.Array, dict]:
        """The loss [] of a batch.

        Metrics are means over the batch: the `terms` [6] that the loss weights, `all_terms` `[k, P, 6]` of every image and
        region (see `synthesis_terms`); and the `weights` [6], the λ in force; layers in the order of `TAPS`.
        """
        all_terms, _ = synthesis_terms(self, params, frozen, batch)
        loss, terms = perceptual_loss(all_terms, lambdas.weights, self.loss.mean_share)
        return loss, {"terms": terms, "all_terms": all_terms.mean(0), "weights": lambdas.weights}

    def update_lambdas(self, lambdas: LambdaState, metrics: dict, step: jax.Array) -> LambdaState:
        """λ after a step."""
        return update_lambdas(self.lambdas, lambdas, metrics["terms"], step, self.steps_per_epoch)


def synthesis_terms(objective: Objective, params: dict, vgg_params: dict, batch: dict) -> tuple[jax.Array, jax.Array]:
    """Synthesizes from a batch's layouts and compares: the terms `[B, k, P, 6]`, and the images `[B, k, H, W, 3]`, 0..255.

    The P regions are the classes if the loss takes the best image of each, else one, the image.
    """
    layout = one_hot(objective.generator, batch["layout"])
    images = objective.generator.network(objective.remat).apply({"params": params}, layout)
    masks = layout if objective.loss.best_per == "class" and objective.generator.num_images > 1 else None
    return layer_terms(vgg_params, batch["photograph"], images, masks, objective.perception), images
