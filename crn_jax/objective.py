"""The objective of a generator's training: the perceptual loss of the images that it synthesizes, with λ.

A batch is `{"layout": uint8 or uint16 [B, H, W] class ids, "photograph": uint8 [B, H, W, 3]}`, and `"instances": uint16
[B, H, W]` if the generator takes instance boundaries.
"""

import dataclasses

import jax
from jaxtyping import Array, Float, Int

from crn_jax.generator import Generator, generate, init_params, layout_of, one_hot
from crn_jax.lambdas import LambdaState, init_lambdas, update_lambdas
from crn_jax.losses import Perception, layer_terms, perceptual_loss
from crn_jax.settings import LambdaConfig, LossConfig, OptimizerConfig, Remat
from crn_jax.train import Trainable
from crn_jax.vgg import abstract_vgg19
from crn_jax.vgg_layers import Pooling


@dataclasses.dataclass(frozen=True)
class Objective(Trainable):
    """The static part of a generator's training step. Its frozen parameters are VGG-19's."""

    generator: Generator
    lambdas: LambdaConfig
    optimizer: OptimizerConfig
    pooling: Pooling
    steps_per_epoch: int
    remat: Remat = "none"
    loss: LossConfig = LossConfig()

    @property
    def dtype(self) -> str:
        """The dtype of the convolutions."""
        return self.generator.dtype

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a batch's photographs, in pixels."""
        return self.generator.size

    @property
    def boundaries(self) -> bool:
        """Whether a batch has the instances of its pixels, too."""
        return self.generator.boundaries

    def abstract_frozen(self) -> dict:
        """Returns shapes and dtypes of VGG-19's parameters."""
        return abstract_vgg19()

    @property
    def perception(self) -> Perception:
        """How the loss compares images."""
        return Perception(self.pooling, self.dtype, self.remat, self.lambdas.depth)

    def init_params(self, key: Array) -> dict:
        """Returns the generator's parameters before the first step."""
        return init_params(self.generator, key)

    def init_lambdas(self) -> LambdaState:
        """Returns λ before the first step."""
        return init_lambdas(self.lambdas)

    def loss_of(
        self, params: dict, lambdas: LambdaState | None, frozen: dict, batch: dict, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Computes the loss of a batch, and its metrics.

        The metrics are means over the batch: the `terms` `[6]` that the loss weights, and `all_terms` `[k, P, 6]` of every
        image and region (see `synthesis_terms`). With them are the `weights` `[6]`, the current λ.
        """
        assert lambdas is not None  # `init_lambdas` returns them
        all_terms, _ = synthesis_terms(self, params, frozen, batch)
        with jax.named_scope("loss"):
            loss, terms = perceptual_loss(all_terms, lambdas.weights, self.loss.mean_share)
        return loss, {"terms": terms, "all_terms": all_terms.mean(0), "weights": lambdas.weights}

    def update_lambdas(self, lambdas: LambdaState | None, metrics: dict, step: Int[Array, ""]) -> LambdaState:
        """Returns λ after a step."""
        assert lambdas is not None  # `init_lambdas` returns them
        return update_lambdas(self.lambdas, lambdas, metrics["terms"], step, self.steps_per_epoch)


def synthesis_terms(
    objective: Objective, params: dict, vgg_params: dict, batch: dict
) -> tuple[Float[Array, "B k P 6"], Float[Array, "B k H W 3"]]:
    """Synthesizes images (0..255) from a batch's layouts, and returns their terms and the images.

    The P regions are the classes if the loss takes the best image of each class. Otherwise the only region is the image.
    """
    generator = objective.generator
    layout = layout_of(generator, batch["layout"], batch.get("instances"))
    images = generate(generator, params, layout, objective.remat)
    by_class = objective.loss.best_per == "class" and generator.num_images > 1
    masks = one_hot(generator, batch["layout"]) if by_class else None
    return layer_terms(vgg_params, batch["photograph"], images, masks, objective.perception), images
