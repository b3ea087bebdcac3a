"""A segmenter: which class each pixel of a photograph shows. The encoder-decoder of the baselines, turned round.

It judges synthesized images, so it is trained on photographs alone, from scratch: the VGG-19 that the cascade is trained
against has no part in it. Void is not among its answers.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crn_jax.train import OptimizerConfig, Trainable
from crn_jax.unet import EncoderDecoder


@dataclasses.dataclass(frozen=True)
class SegmenterConfig:
    """The shape of a segmenter."""

    num_classes: int
    """Classes of the layouts, void included."""
    size: tuple[int, int]
    """Height and width of its photographs, in pixels: that of the images it is to judge."""
    widths: tuple[int, ...] = (32, 64, 128, 256, 256)
    """Feature maps of each level; the resolution is halved from one to the next."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the convolutions. Parameters, norms and the loss stay float32."""

    def __post_init__(self):
        scale = 2 ** (len(self.widths) - 1)
        if not self.widths or min(self.widths) < 1 or self.num_classes < 2:
            raise ValueError(f"A segmenter needs at least one level, maps on each, and a class besides void; got {self}.")
        if self.size[0] % scale or self.size[1] % scale:
            raise ValueError(f"size must be multiples of 2^(levels - 1) = {scale}, got {self.size[0]} {self.size[1]}.")

    def network(self) -> EncoderDecoder:
        """The network, from photographs to a score for each class but void."""
        return EncoderDecoder(self.widths, self.num_classes - 1, jnp.dtype(self.dtype))


@dataclasses.dataclass(frozen=True)
class SegmenterObjective(Trainable):
    """The static part of a segmenter's training step: cross-entropy over the pixels that are not void."""

    segmenter: SegmenterConfig
    optimizer: OptimizerConfig
    steps_per_epoch: int

    @property
    def dtype(self) -> str:
        """Of the convolutions."""
        return self.segmenter.dtype

    def init_params(self, key: jax.Array) -> dict:
        """The network's, fresh; their shapes do not depend on the resolution, so the smallest photograph serves."""
        scale = 2 ** (len(self.segmenter.widths) - 1)
        return jax.jit(self.segmenter.network().init)(key, jnp.zeros((1, scale, scale, 3)))["params"]

    def loss_of(self, params: dict, lambdas: None, frozen: dict, batch: dict, step: jax.Array) -> tuple[jax.Array, dict]:
        """The loss [] of a batch; the metric is the `accuracy` [], the share of pixels that are right."""
        layout = batch["layout"].astype(jnp.int32)
        scores = self.segmenter.network().apply({"params": params}, scaled(batch["photograph"]))
        known = layout != self.segmenter.num_classes - 1
        accuracy = (known & (scores.argmax(-1) == layout)).sum() / jnp.maximum(known.sum(), 1)
        return cross_entropy(scores, layout), {"accuracy": accuracy}


def cross_entropy(scores: jax.Array, layout: jax.Array) -> jax.Array:
    """Of scores `[N, H, W, c-1]` and layouts int32 `[N, H, W]`: the mean [] over pixels that are not void; 0 without any."""
    known = layout < scores.shape[-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, jnp.where(known, layout, 0))
    return jnp.where(known, losses, 0).sum() / jnp.maximum(known.sum(), 1)


def scaled(photographs: jax.Array) -> jax.Array:
    """0..255 `[N, H, W, 3]` -> float32 -1..1, what the network takes."""
    return photographs.astype(jnp.float32) / 127.5 - 1


def segment(config: SegmenterConfig, params: dict, photographs: jax.Array) -> jax.Array:
    """Segments photographs: jitted, compiled once per config and shape.

    Args:
      config: the segmenter's.
      params: its parameters.
      photographs: uint8 `[N, H, W, 3]`, RGB, of the size that the segmenter was trained on.

    Returns:
      class indices `[N, H, W]`, uint8 (uint16 past 256 classes), never void.

    Raises:
      ValueError: for another size.
    """
    if tuple(np.shape(photographs)[1:]) != (*config.size, 3):
        raise ValueError(f"The segmenter is for photographs of {config.size[0]}x{config.size[1]}, got {np.shape(photographs)}.")
    return _segment(config, params, photographs)


@functools.partial(jax.jit, static_argnums=0)
def _segment(config: SegmenterConfig, params: dict, photographs: jax.Array) -> jax.Array:
    scores = config.network().apply({"params": params}, scaled(photographs))
    return scores.argmax(-1).astype(jnp.uint8 if config.num_classes <= 256 else jnp.uint16)
