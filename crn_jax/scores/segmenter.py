"""A segmenter, which says what class each pixel of a photograph shows. Its network is the encoder-decoder of the baselines.

It judges synthesized images. Therefore it is trained from scratch and on photographs alone, without the VGG-19 that the cascade
is trained against. It never answers void.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Integer, Shaped, UInt8

from crn_jax.lambdas import LambdaState
from crn_jax.settings import OptimizerConfig, SegmenterConfig
from crn_jax.train import Trainable


@dataclasses.dataclass(frozen=True)
class SegmenterObjective(Trainable):
    """The static part of a segmenter's training step: cross-entropy over the pixels that are not void."""

    segmenter: SegmenterConfig
    optimizer: OptimizerConfig
    steps_per_epoch: int

    @property
    def dtype(self) -> str:
        """The dtype of the convolutions."""
        return self.segmenter.dtype

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a batch's photographs, in pixels."""
        return self.segmenter.size

    def init_params(self, key: jax.Array) -> dict:
        """Returns fresh parameters. Their shapes do not depend on the resolution, so the smallest photograph is enough."""
        scale = 2 ** (len(self.segmenter.widths) - 1)
        return jax.jit(self.segmenter.network().init)(key, jnp.zeros((1, scale, scale, 3)))["params"]

    def loss_of(
        self, params: dict, lambdas: LambdaState | None, frozen: dict, batch: dict, step: jax.Array
    ) -> tuple[Float[Array, ""], dict]:
        """Returns the loss of a batch. The only metric is `accuracy`, the fraction of the pixels not void that are right."""
        layout = batch["layout"].astype(jnp.int32)
        scores = _scores(self.segmenter, params, batch["photograph"])
        known = layout != self.segmenter.num_classes - 1
        accuracy = (known & (scores.argmax(-1) == layout)).sum() / jnp.maximum(known.sum(), 1)
        return cross_entropy(scores, layout), {"accuracy": accuracy}


def cross_entropy(scores: Float[Array, "B H W C"], layout: Integer[Array, "B H W"]) -> Float[Array, ""]:
    """Returns the mean cross-entropy over the pixels that are not void, or 0 if all are void. C leaves void out."""
    known = layout < scores.shape[-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, jnp.where(known, layout, 0))
    return jnp.where(known, losses, 0).sum() / jnp.maximum(known.sum(), 1)


def scaled(photographs: Shaped[Array | np.ndarray, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """Scales photographs from 0..255 to the network's input, float32 in -1..1."""
    return jnp.asarray(photographs, jnp.float32) / 127.5 - 1


def _scores(config: SegmenterConfig, params: dict, photographs: Array) -> Array:
    scores = config.network().apply({"params": params}, scaled(photographs))
    assert isinstance(scores, jax.Array)  # Flax returns a tuple only if collections are mutable
    return scores


def segment(
    config: SegmenterConfig, params: dict, photographs: UInt8[Array | np.ndarray, "B H W 3"]
) -> Integer[Array, "B H W"]:
    """Segments RGB photographs. The function is compiled once for each config and batch size.

    Args:
      config: the shape of the segmenter.
      params: the parameters of the segmenter.
      photographs: photographs of the size that the segmenter was trained on.

    Returns:
      Class ids, never void. They are uint8, or uint16 if there are more than 256 classes.

    Raises:
      ValueError: if the photographs have another size.
    """
    _check_size(config, photographs)
    return _segment(config, params, photographs)


def class_probabilities(
    config: SegmenterConfig, params: dict, photographs: UInt8[Array | np.ndarray, "B H W 3"]
) -> Float[Array, "B H W c"]:
    """Returns the probability of each class but void, for each pixel; `segment` returns the most probable class.

    Arguments and errors are those of `segment`.
    """
    _check_size(config, photographs)
    return _probabilities(config, params, photographs)


def _check_size(config: SegmenterConfig, photographs: Array | np.ndarray) -> None:
    if tuple(np.shape(photographs)[1:]) != (*config.size, 3):
        raise ValueError(f"The segmenter is for photographs of {config.size[0]}x{config.size[1]}, got {np.shape(photographs)}.")


@functools.partial(jax.jit, static_argnums=0)
def _segment(config: SegmenterConfig, params: dict, photographs: jax.Array) -> jax.Array:
    return _scores(config, params, photographs).argmax(-1).astype(jnp.uint8 if config.num_classes <= 256 else jnp.uint16)


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(config: SegmenterConfig, params: dict, photographs: jax.Array) -> jax.Array:
    return jax.nn.softmax(_scores(config, params, photographs))
