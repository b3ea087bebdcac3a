"""Held-out perceptual distance and contact sheets during training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from crn_jax.data.pipeline import validation_batches, validation_indices
from crn_jax.data.sources import Source
from crn_jax.experiment import Experiment
from crn_jax.losses import RELEASED_WEIGHTS, layer_terms
from crn_jax.sharding import local_rows, put, put_batch
from crn_jax.train import Objective, TrainState, make_eval_step
from launch.processes import sum_over_processes
from launch.reporting import named

DISTANCE_WEIGHTS = np.array(RELEASED_WEIGHTS["cityscapes_256p"])
"""Held-out distances use these whatever λ a run trains with, so that they compare across runs and rescalings."""


class Validation(NamedTuple):
    """`distance` is the weighted sum of the `terms` [6], means over the examples.

    `images` has the synthesized images, uint8 `[k, H, W, 3]`, of the examples that a contact sheet shows, by their index.
    """

    distance: float
    terms: np.ndarray
    images: dict[int, np.ndarray]

    def line(self) -> dict[str, Any]:
        """For metrics.jsonl."""
        return {"validation": {"distance": self.distance, "terms": named(self.terms)}}


class Validator:
    """Measures parameters on a fixed selection of the validation split. With k images, the nearest one counts.

    Args:
      experiment: what is trained.
      objective: its static part.
      source: the validation split.
      mesh: the devices; each process decodes its share of the examples.
      abstract: the state's shapes and places on the mesh.
      vgg_params: the perception network, on the mesh.
    """

    def __init__(
        self, experiment: Experiment, objective: Objective, source: Source, mesh: Mesh, abstract: TrainState, vgg_params: dict
    ):
        self._mesh, self._batch_size, self._objective, self._vgg_params = mesh, experiment.batch_size, objective, vgg_params
        self._rows = local_rows(mesh, self._batch_size)
        self._indices = validation_indices(source, experiment.run.validation_examples)
        self._batches = list(validation_batches(source, self._batch_size, self._indices, self._rows))
        self._evaluate = make_eval_step(objective, abstract)
        self._everywhere = abstract.step.sharding
        shown = np.linspace(0, len(self._indices) - 1, min(experiment.run.sheet_examples, len(self._indices)))
        self._shown = set(shown.round().astype(int).tolist())

    def __call__(self, params: dict) -> Validation:
        """Validates one set of parameters."""
        terms, images = [], {}
        for start, local in zip(range(0, len(self._indices), self._batch_size), self._batches):
            batch = put_batch(self._mesh, self._batch_size, local)
            batch_terms, batch_images = self._evaluate(params, self._vgg_params, batch)
            terms.append(_nearest(np.asarray(batch_terms, np.float64)))
            for row in sorted(self._shown & set(range(start, start + self._batch_size))):
                images[self._indices[row]] = np.asarray(batch_images[row - start])
        return self._mean(terms, images)

    def floor(self, train_source: Source, limit: int = 512) -> Validation:
        """The distance of the mean training photograph (over at most `limit`): what a cascade has to beat."""
        indices = validation_indices(train_source, limit)
        total = np.zeros((*train_source.size, 3), np.int32)
        for index in indices[jax.process_index() :: jax.process_count()]:
            total += train_source[index]["photograph"]
        mean = np.float32(sum_over_processes(total) / len(indices))
        shape = (self._batch_size, 1, *mean.shape)
        dtype, pooling = jnp.dtype(self._objective.cascade.dtype), self._objective.pooling

        def measure(vgg_params, photograph, mean):
            images = jnp.broadcast_to(mean[None, None], shape)
            return layer_terms(vgg_params, photograph.astype(jnp.float32), images, pooling, dtype)

        measure, mean = jax.jit(measure, out_shardings=self._everywhere), put(self._mesh, mean)
        terms = []
        for local in self._batches:
            photograph = put_batch(self._mesh, self._batch_size, local)["photograph"]
            terms.append(np.asarray(measure(self._vgg_params, photograph, mean), np.float64)[:, 0])
        return self._mean(terms, {})

    def _mean(self, terms: list[np.ndarray], images: dict[int, np.ndarray]) -> Validation:
        mean = np.concatenate(terms)[: len(self._indices)].mean(0)  # the last batch may repeat its last example
        return Validation(float(mean @ DISTANCE_WEIGHTS), mean, images)


def _nearest(terms: np.ndarray) -> np.ndarray:
    """Terms `[B, k, 6]` of each example's image with the smallest distance: `[B, 6]`."""
    return terms[np.arange(len(terms)), (terms @ DISTANCE_WEIGHTS).argmin(1)]
