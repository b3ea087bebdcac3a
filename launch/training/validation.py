"""Measures the held-out perceptual distance, and draws contact sheets, while a generator is trained."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from crn_jax.data.examples import Source
from crn_jax.data.pipeline import spread, validation_batches
from crn_jax.evaluation import DISTANCE_WEIGHTS, Collection, make_eval_step
from crn_jax.experiment import Synthesis
from crn_jax.sharding import local_rows, put, put_batch
from crn_jax.train import TrainState
from crn_jax.vgg import by_layer
from launch.common.contact_sheet import Row, contact_sheet, win_map
from launch.common.names import as_argument, command_line
from launch.common.processes import sum_over_processes
from launch.training.ahead import Ahead


class Diversity(NamedTuple):
    """How the k images of a layout differ, and what they are together. Distances are means over the held-out examples."""

    assembled_distance: float
    """The distance of the virtual images, which are assembled from the best image for each class."""
    class_distance: float
    """The sum over classes of the best image's distance within the class (Eq. 3)."""
    pairwise_distance: float
    """The distance between the images of a layout."""
    pairwise_pixels: float
    """The mean absolute difference between the images of a layout, on the scale 0..255."""
    wins: np.ndarray
    """The fraction of a class's layouts where an image is the best for it, `[k, c]`; NaN if there are none."""
    assembled: dict[int, np.ndarray]
    """The virtual images, uint8 `[H, W, 3]`, that a contact sheet shows, by their example's index."""

    def line(self) -> dict[str, Any]:
        """Returns the numbers for metrics.jsonl. `never_best` counts the images that are best for no class of any example."""
        numbers = {name: value for name, value in self._asdict().items() if isinstance(value, float)}
        wins = [[win if np.isfinite(win) else None for win in image] for image in self.wins.tolist()]
        return numbers | {"never_best": int((np.nansum(self.wins, axis=1) == 0).sum()), "wins": wins}


class Validation(NamedTuple):
    """How far synthesized images are from held-out photographs. If a layout has k images, the nearest one counts."""

    distance: float
    """The sum of the terms, weighted by `evaluation.DISTANCE_WEIGHTS`."""
    terms: np.ndarray
    """The terms of the perceptual distance, `[6]`, in the order of `vgg.TAPS`: means over the examples."""
    images: dict[int, np.ndarray]
    """The synthesized images, uint8 `[k, H, W, 3]`, that a contact sheet shows, by their example's index."""
    diversity: Diversity | None = None
    """How the images of a layout differ; None if k = 1."""

    def line(self) -> dict[str, Any]:
        """Returns the numbers for a line of metrics.jsonl."""
        line = {"distance": self.distance, "terms": by_layer(self.terms)}
        if self.diversity:
            line["diversity"] = self.diversity.line()
        return {"validation": line}

    def headline(self) -> str:
        """Returns the distances in words."""
        together = ""
        if self.diversity:
            assembled, pairwise = self.diversity.assembled_distance, self.diversity.pairwise_distance
            together = f" (assembled {assembled:.1f}, between images {pairwise:.1f})"
        return f"held-out distance {self.distance:.1f}{together}"

    def numbers(self) -> dict[str, float]:
        """Returns the numbers that have to be finite for a training to go on."""
        return by_layer(self.terms)

    def pictures(self, source: Source, title: str, warning: str) -> dict[str, Image.Image]:
        """Returns the contact sheet and, if a layout has several images, the map of wins."""
        examples = {index: source[index] for index in self.images}
        assembled = self.diversity.assembled if self.diversity else {}
        rows = [
            Row(e["layout"], e["photograph"], self.images[i], assembled.get(i), e.get("instances")) for i, e in examples.items()
        ]
        pictures = {"contact_sheet": contact_sheet(rows, source.label_space, title, warning)}
        if self.diversity:
            pictures["wins"] = win_map(self.diversity.wins, source.label_space)
        return pictures


class Validator:
    """Measures parameters on a fixed selection of the validation split.

    Args:
      experiment: the experiment that is trained.
      source: the validation split.
      mesh: the devices; each process decodes its part of the examples.
      abstract: the state's shapes and their placement on the mesh.
      vgg_params: VGG-19's parameters, on the mesh.
      train_source: the training split, if its floor is to be measured. Threads read it, and the selection, at once.
    """

    def __init__(
        self,
        experiment: Synthesis,
        source: Source,
        mesh: Mesh,
        abstract: TrainState,
        vgg_params: dict,
        train_source: Source | None = None,
    ):
        self._experiment = experiment
        self._mesh, self._batch_size, self._vgg_params = mesh, experiment.batch_size, vgg_params
        rows = local_rows(mesh, self._batch_size)
        self._indices = spread(source, experiment.run.validation_examples)
        self._batches: Ahead[list[dict]] = Ahead(list, validation_batches(source, self._batch_size, self._indices, rows))
        self._mean = None if train_source is None else MeanPhotograph(train_source, experiment.data.threads)
        self._evaluate = make_eval_step(experiment.generator, experiment.perception, abstract)
        self._shown = set(spread(self._indices, experiment.run.sheet_examples))

    def wait(self) -> None:
        """Waits until the selection has been read.

        Raises:
          UserError: if one of its files is bad.
        """
        self._batches.result()

    def __call__(self, params: dict) -> Validation:
        """Measures these parameters; every process has to call it."""
        params = self._experiment.inference_params(params)
        numbers, images, assembled = [], dict[int, np.ndarray](), dict[int, np.ndarray]()
        for start, local in zip(range(0, len(self._indices), self._batch_size), self._batches.result()):
            batch = put_batch(self._mesh, self._batch_size, local)
            terms, batch_images, collection = self._evaluate(params, self._vgg_params, batch)
            for row in sorted(self._shown & set(range(start, start + self._batch_size))):
                images[self._indices[row]] = np.asarray(batch_images[row - start])
                if collection:
                    assembled[self._indices[row]] = np.asarray(collection.assembled[row - start])
            without_images: Any = collection and collection._replace(assembled=None)  # type: ignore[arg-type]  # to save memory
            numbers.append(jax.tree.map(np.asarray, (terms, without_images)))
        terms, collection = jax.tree.map(lambda *parts: np.concatenate(parts)[: len(self._indices)], *numbers)
        diversity = diversity_of(collection, assembled) if collection else None
        return _validation(_nearest(np.asarray(terms, np.float64)), images, diversity)

    def floor(self) -> Validation:
        """Returns the distance of the mean of training photographs, which a generator has to beat."""
        assert self._mean
        mean = np.broadcast_to(self._mean.result(), (self._batch_size, 1, *self._experiment.size, 3))
        images, terms = put(self._mesh, mean), []
        for local in self._batches.result():
            batch = put_batch(self._mesh, self._batch_size, local)
            terms.append(np.asarray(self._evaluate.compare(self._vgg_params, batch, images).terms[:, 0], np.float64))
        return _validation(np.concatenate(terms)[: len(self._indices)])

    floor_name = "mean photograph"

    def advice(self, folder: str) -> str:
        """Returns a sentence that says what to do with a trained run."""
        instances = ["--instances", f"{folder}/instances"] if self._experiment.boundaries else []
        run, layouts = as_argument(folder), as_argument(f"{folder}/layouts")
        return f"Next: {command_line('synthesize', run, layouts, *instances, '--sheet')}"


class MeanPhotograph:
    """The mean of at most `limit` photographs, float32 `[H, W, 3]`, which threads of every process begin to read at once."""

    def __init__(self, source: Source, threads: int, limit: int = 512):
        indices = spread(source, limit)
        own, threads = indices[jax.process_index() :: jax.process_count()], max(threads, 1)
        self._count = len(indices)
        self._totals = [Ahead(self._total, source, own[first::threads]) for first in range(threads)]

    @staticmethod
    def _total(source: Source, indices: list[int]) -> np.ndarray:
        total = np.zeros((*source.size, 3), np.int32)
        for index in indices:
            total += source[index]["photograph"]
        return total

    def result(self) -> np.ndarray:
        """Waits for the threads, and for the other processes."""
        total = sum_over_processes(np.stack([each.result() for each in self._totals]).sum(0, dtype=np.int32))
        return np.asarray(total / self._count, np.float32)


def _validation(
    terms: np.ndarray, images: dict[int, np.ndarray] | None = None, diversity: Diversity | None = None
) -> Validation:
    """Averages terms `[examples, 6]`."""
    mean = terms.mean(0)
    return Validation(float(mean @ DISTANCE_WEIGHTS), mean, images or {}, diversity)


def _nearest(terms: np.ndarray) -> np.ndarray:
    """Returns the terms `[B, 6]` of each example's nearest image, of terms `[B, k, 6]`."""
    return terms[np.arange(len(terms)), (terms @ DISTANCE_WEIGHTS).argmin(1)]


def diversity_of(collection: Collection, assembled: dict[int, np.ndarray]) -> Diversity:
    """Averages the collections of all examples. `assembled` holds the virtual images to show, by their example's index."""
    by_class = np.asarray(collection.class_terms, np.float64) @ DISTANCE_WEIGHTS  # [B, k, c]
    choice, present = np.asarray(collection.choice), np.asarray(collection.present)
    won = choice[:, None] == np.arange(by_class.shape[1])[None, :, None]
    layouts = present.sum(0)
    wins = (won & present[:, None]).sum(0) / np.where(layouts, layouts, np.nan)
    between = np.asarray(collection.pairwise_terms, np.float64)
    return Diversity(
        float((np.asarray(collection.assembled_terms, np.float64) @ DISTANCE_WEIGHTS).mean()),
        float(by_class.min(1).sum(1).mean()),
        float((between @ DISTANCE_WEIGHTS).mean()),
        float(between[:, 0].mean()),
        wins,
        assembled,
    )
