"""Measures held-out mIoU, and draws contact sheets, while a segmenter is trained."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from crn_jax.data.examples import Source
from crn_jax.data.pipeline import spread, validation_batches
from crn_jax.errors import UserError, counted
from crn_jax.experiment import SegmenterExperiment
from crn_jax.scores.metrics import confusion, segmentation_scores
from crn_jax.scores.segmenter import segment
from crn_jax.sharding import all_gathered, local_rows, put_batch
from crn_jax.train import TrainState
from launch.common.contact_sheet import Row, contact_sheet
from launch.common.names import as_argument, command_line
from launch.common.processes import sum_over_processes
from launch.training.ahead import Ahead


class Segmentation(NamedTuple):
    """How a segmenter labels the held-out examples. Its scores leave void out."""

    confusion: np.ndarray  # int64 [c, c]: numbers of pixels, rows the layouts' classes, columns the segmenter's
    images: dict[int, np.ndarray]  # class ids [H, W] of the examples that a contact sheet shows, by the examples' index

    @property
    def distance(self) -> float:
        """1 - mIoU, which is smallest at the best checkpoint."""
        return 1 - float(segmentation_scores(self.confusion).miou)

    def line(self) -> dict[str, Any]:
        """Returns the scores for a line of metrics.jsonl."""
        return {"validation": segmentation_scores(self.confusion)._asdict()}

    def headline(self) -> str:
        """Returns the scores in words."""
        scores = segmentation_scores(self.confusion)
        return f"held-out mIoU {scores.miou:.1%}, pixel accuracy {scores.accuracy:.1%}"

    def numbers(self) -> dict[str, float]:
        """Returns the numbers that have to be finite for a training to go on."""
        return {"distance": self.distance}

    def pictures(self, source: Source, title: str, warning: str) -> dict[str, Image.Image]:
        """Returns the contact sheet."""
        rows = []
        for index, answer in self.images.items():
            example = source[index]
            rows.append(Row(example["layout"], example["photograph"], source.label_space.draw(answer)[None]))
        return {"contact_sheet": contact_sheet(rows, source.label_space, title, warning, made="segmented")}


class SegmenterValidator:
    """Measures parameters on a fixed selection of the validation split. It takes the arguments of `validation.Validator`."""

    floor_name = "most frequent class"

    def __init__(
        self,
        experiment: SegmenterExperiment,
        source: Source,
        mesh: Mesh,
        abstract: TrainState,
        vgg_params: dict,
        train_source: Source | None = None,
    ):
        self._mesh, self._batch_size, self._config = mesh, experiment.batch_size, experiment.segmenter
        self._indices = spread(source, experiment.run.validation_examples)
        self._source = source
        self._everywhere = abstract.step.sharding
        self._shown = set(spread(self._indices, experiment.run.sheet_examples))
        self._counts = None if train_source is None else Ahead(self._pixels_of, train_source)

        def answers(params: dict, batch: dict) -> tuple[jax.Array, jax.Array]:
            params = all_gathered(params, experiment.segmenter.dtype)
            return segment(experiment.segmenter, params, batch["photograph"]), batch["layout"]

        self._answers = jax.jit(answers, out_shardings=self._everywhere)

    def wait(self) -> None:
        """Does nothing: a validation reads the examples anew."""

    def __call__(self, params: dict) -> Segmentation:
        """Labels the held-out examples with these parameters; every process has to call it."""
        total = np.zeros((self._config.num_classes,) * 2, np.int64)
        images, row = dict[int, np.ndarray](), 0
        rows = local_rows(self._mesh, self._batch_size)
        for local in validation_batches(self._source, self._batch_size, self._indices, rows):
            answers = self._answers(params, put_batch(self._mesh, self._batch_size, local))
            for answer, layout in zip(*map(np.asarray, answers)):
                if row < len(self._indices):  # the last batch is padded
                    total += confusion(layout, answer, self._config.num_classes)
                    images |= {self._indices[row]: answer} if row in self._shown else {}
                row += 1
        return Segmentation(total, images)

    def _pixels_of(self, source: Source, limit: int = 512) -> np.ndarray:
        """Counts each class's pixels in this process's part of at most `limit` layouts."""
        counts = np.zeros(self._config.num_classes, np.int64)
        for index in spread(source, limit)[jax.process_index() :: jax.process_count()]:
            counts += np.bincount(source[index]["layout"].ravel(), minlength=self._config.num_classes)
        return counts

    def floor(self) -> Segmentation:
        """Returns the scores of giving every pixel the class that is most frequent in training layouts."""
        assert self._counts
        total, counts = np.zeros((self._config.num_classes,) * 2, np.int64), self._counts.result()
        most = int(sum_over_processes(counts)[:-1].argmax())
        for index in self._indices:
            layout = self._source[index]["layout"]
            total += confusion(layout, np.full_like(layout, most), self._config.num_classes)
        if not total[:-1].sum():
            raise UserError(
                f"The {counted(len(self._indices), 'held-out layout')} of the validation have no class but void, so nothing "
                f"can be scored. Check the label file and its ids with launch.inspect, or raise --run.validation_examples."
            )
        return Segmentation(total, {})

    @staticmethod
    def advice(folder: str) -> str:
        """Returns a sentence that says what to do with a trained run."""
        return f"Next: {command_line('evaluate', 'RUN', '--segmenter', as_argument(folder))}"
