"""The held-out evaluation of parameters: what they synthesize, and how far it is from the photographs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from crn_jax.diversity import assemble, pairwise_terms
from crn_jax.generator import Generator, one_hot
from crn_jax.images import to_uint8
from crn_jax.losses import RELEASED_WEIGHTS, Perception, best_images, layer_terms
from crn_jax.sharding import all_gathered
from crn_jax.train import TrainState

DISTANCE_WEIGHTS = np.array(RELEASED_WEIGHTS["cityscapes_256p"])
"""Held-out distances use these whatever λ a run trains with, so that they compare across runs and rescalings."""


class Collection(NamedTuple):
    """What k > 1 images of a layout are together."""

    class_terms: jax.Array  # [B, k, c, 6]: each image's terms, by class
    present: jax.Array  # bool [B, c]: whether the layout has the class
    choice: jax.Array  # int32 [B, c]: the image that shows each class best
    assembled: jax.Array  # uint8 [B, H, W, 3]: the virtual image made of those
    assembled_terms: jax.Array  # [B, 6]
    pairwise_terms: jax.Array  # [B, 6]: between the images, means over the pairs


class Evaluation(NamedTuple):
    """Of a batch: the terms of each image, the images, and what they are together if there are several."""

    terms: jax.Array  # [B, k, 6]
    images: jax.Array  # uint8 [B, k, H, W, 3]
    collection: Collection | None


def make_eval_step(
    generator: Generator, perception: Perception, abstract: TrainState | None = None
) -> Callable[[dict, dict, dict], Evaluation]:
    """Makes `evaluate(params, vgg_params, batch) -> Evaluation`, jitted.

    On a mesh (`abstract`, as for the training step) every device ends up with a copy of all of it.
    """

    def evaluate(params: dict, vgg_params: dict, batch: dict) -> Evaluation:
        layout = one_hot(generator, batch["layout"])
        params = all_gathered(params, generator.dtype)
        images = generator.network().apply({"params": params}, layout)
        return evaluation_of(generator, perception, vgg_params, batch, images)

    return jax.jit(evaluate, out_shardings=None if abstract is None else abstract.step.sharding)


def evaluation_of(generator: Generator, perception: Perception, vgg_params: dict, batch: dict, images: jax.Array) -> Evaluation:
    """Compares images `[B, k, H, W, 3]`, 0..255, of a batch's layouts with its photographs, and with each other."""
    layout, photograph = one_hot(generator, batch["layout"]), batch["photograph"]
    if generator.num_images == 1:
        terms = layer_terms(vgg_params, photograph, images, None, perception)
        return Evaluation(terms.sum(2), to_uint8(images), None)
    terms = layer_terms(vgg_params, photograph, images, layout, perception)
    choice = best_images(terms, jnp.asarray(DISTANCE_WEIGHTS, jnp.float32))
    virtual = assemble(images, batch["layout"], choice)
    of_virtual = layer_terms(vgg_params, photograph, virtual[:, None], None, perception).sum((1, 2))
    between = pairwise_terms(vgg_params, images, perception)
    present = layout.any((1, 2))
    collection = Collection(terms, present, choice, to_uint8(virtual), of_virtual, between)
    return Evaluation(terms.sum(2), to_uint8(images), collection)
