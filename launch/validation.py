"""Held-out perceptual distance and contact sheets during training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from crn_jax.data.pipeline import validation_batches
from crn_jax.data.sources import Source
from crn_jax.experiment import Experiment
from crn_jax.losses import RELEASED_WEIGHTS, layer_terms
from crn_jax.train import Objective, make_eval_step
from launch.contact_sheet import Row
from launch.reporting import named

DISTANCE_WEIGHTS = np.array(RELEASED_WEIGHTS["cityscapes_256p"])
"""Held-out distances use these whatever λ a run trains with, so that they compare across runs and rescalings."""


class Validation(NamedTuple):
    """`distance` is the weighted sum of the `terms` [6], means over the examples; `rows` are for a contact sheet."""

    distance: float
    terms: np.ndarray
    rows: list[Row]

    def line(self) -> dict[str, Any]:
        """For metrics.jsonl."""
        return {"validation": {"distance": self.distance, "terms": named(self.terms)}}


class Validator:
    """Measures parameters on a fixed selection of the validation split. With k images, the nearest one counts."""

    def __init__(self, experiment: Experiment, objective: Objective, source: Source):
        self._batches = list(validation_batches(source, experiment.batch_size, experiment.run.validation_examples))
        self._evaluate = make_eval_step(objective)
        self._sheet_examples = experiment.run.sheet_examples
        self._objective = objective

    def __call__(self, params: dict, vgg_params: dict) -> Validation:
        """Validates one set of parameters."""
        terms, rows = [], []
        for batch, count in self._batches:
            batch_terms, images = self._evaluate(params, vgg_params, batch)
            terms.append(_nearest(np.asarray(batch_terms, np.float64)[:count]))
            images = np.asarray(jnp.clip(jnp.round(images), 0, 255), np.uint8)
            rows += [Row(*row) for row in zip(batch["layout"], batch["photograph"], images)][:count]
        spread = np.linspace(0, len(rows) - 1, min(self._sheet_examples, len(rows))).round().astype(int)
        return _validation(terms, [rows[i] for i in spread])

    def floor(self, train_source: Source, vgg_params: dict, limit: int = 512) -> Validation:
        """The distance of the mean training photograph (over at most `limit`): what a cascade has to beat."""
        total, seen = 0.0, 0
        for batch, count in validation_batches(train_source, 1, limit):
            total, seen = total + batch["photograph"][0].astype(np.float64), seen + count
        mean = np.float32(total / seen)
        dtype, pooling = jnp.dtype(self._objective.cascade.dtype), self._objective.pooling
        measure = jax.jit(lambda vgg, photograph, images: layer_terms(vgg, photograph, images, pooling, dtype))
        terms = []
        for batch, count in self._batches:
            images = np.broadcast_to(mean, (len(batch["photograph"]), 1, *mean.shape))
            batch_terms = measure(vgg_params, batch["photograph"].astype(np.float32), images)
            terms.append(np.asarray(batch_terms, np.float64)[:count, 0])
        return _validation(terms, [])


def _validation(terms: list[np.ndarray], rows: list[Row]) -> Validation:
    mean = np.concatenate(terms).mean(0)
    return Validation(float(mean @ DISTANCE_WEIGHTS), mean, rows)


def _nearest(terms: np.ndarray) -> np.ndarray:
    """Terms `[B, k, 6]` of each example's image with the smallest distance: `[B, 6]`."""
    return terms[np.arange(len(terms)), (terms @ DISTANCE_WEIGHTS).argmin(1)]
