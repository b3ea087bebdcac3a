"""The evaluation of a generator on held-out examples: the images that it synthesizes, and their distances to photographs."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from crn_jax.diversity import assemble, pairwise_terms
from crn_jax.generator import Generator, generate, layout_of, one_hot
from crn_jax.images import to_uint8
from crn_jax.losses import Perception, best_images, layer_terms
from crn_jax.settings import RELEASED_WEIGHTS
from crn_jax.sharding import all_gathered
from crn_jax.train import TrainState

DISTANCE_WEIGHTS = np.array(RELEASED_WEIGHTS["cityscapes_256p"])
"""The weights of all held-out distances. They do not follow a run's λ, so distances compare across runs and rescalings."""


class Collection(NamedTuple):
    """The evaluation of the k > 1 images of a layout as a collection."""

    class_terms: Float[Array, "B k c 6"]  # each image's terms by class
    present: Bool[Array, "B c"]  # whether the layout has the class
    choice: Int[Array, "B c"]  # the image that shows each class best
    assembled: UInt8[Array, "B H W 3"]  # the virtual image of Eq. 3, made by this choice
    assembled_terms: Float[Array, "B 6"]
    pairwise_terms: Float[Array, "B 6"]  # between the images, means over all pairs


class Evaluation(NamedTuple):
    """The evaluation of a batch: the images, the terms of each, and the collection that they are if k > 1."""

    terms: Float[Array, "B k 6"]
    images: UInt8[Array, "B k H W 3"]
    collection: Collection | None


class EvalStep:
    """The function `evaluate(params, vgg_params, batch) -> Evaluation`, as two jitted programs.

    The second one, `compare(vgg_params, batch, images) -> Evaluation`, compares any images (0..255, `[B, k, H, W, 3]`) with a
    batch's photographs, and with each other.
    """

    def __init__(self, generator: Generator, perception: Perception, everywhere: jax.sharding.Sharding | None = None):
        def images_of(params: dict, batch: dict) -> Array:
            layout = layout_of(generator, batch["layout"], batch.get("instances"))
            return generate(generator, all_gathered(params, generator.dtype), layout)

        self._images_of = jax.jit(images_of)
        self.compare = jax.jit(functools.partial(evaluation_of, generator, perception), out_shardings=everywhere)

    def __call__(self, params: dict, vgg_params: dict, batch: dict) -> Evaluation:
        return self.compare(vgg_params, batch, self._images_of(params, batch))


def make_eval_step(generator: Generator, perception: Perception, abstract: TrainState | None = None) -> EvalStep:
    """Makes the function that evaluates a generator on a batch.

    On a mesh, give `abstract` as for the training step. Every device then ends up with a copy of the whole evaluation.
    """
    return EvalStep(generator, perception, None if abstract is None else abstract.step.sharding)


def evaluation_of(
    generator: Generator, perception: Perception, vgg_params: dict, batch: dict, images: Float[Array, "B k H W 3"]
) -> Evaluation:
    """Compares images (0..255) of a batch's layouts with its photographs and, if there are several of each, with each other."""
    layout, photograph = one_hot(generator, batch["layout"]), batch["photograph"]
    if images.shape[1] == 1:
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
