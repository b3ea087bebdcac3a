"""Held-out mIoU and contact sheets while a segmenter is trained."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from crn_jax.data.examples import Source
from crn_jax.data.pipeline import spread, validation_batches
from crn_jax.experiment import SegmenterExperiment
from crn_jax.scores.metrics import confusion, segmentation_scores
from crn_jax.scores.segmenter import segment
from crn_jax.sharding import all_gathered, local_rows, put_batch
from crn_jax.train import TrainState
from launch.common.contact_sheet import Row, contact_sheet
from launch.common.processes import sum_over_processes


class Segmentation(NamedTuple):
    """The confusion `[c, c]` of all examples, void left out of its scores, and the answers, `[H, W]` by index, to be shown."""

    confusion: np.ndarray
    images: dict[int, np.ndarray]

    @property
    def distance(self) -> float:
        """What the best checkpoint has least of."""
        return 1 - segmentation_scores(self.confusion).miou

    def line(self) -> dict[str, Any]:
        """For metrics.jsonl."""
        return {"validation": segmentation_scores(self.confusion)._asdict()}

    def headline(self) -> str:
        """In words."""
        scores = segmentation_scores(self.confusion)
        return f"held-out mIoU {scores.miou:.1%}, pixel accuracy {scores.accuracy:.1%}"

    def numbers(self) -> dict[str, float]:
        """What has to be finite."""
        return {"distance": self.distance}

    def pictures(self, source: Source, title: str, warning: str) -> dict[str, Image.Image]:
        """The contact sheet."""
        rows = []
        for index, answer in self.images.items():
            example = source[index]
            rows.append(Row(example["layout"], example["photograph"], source.label_space.draw(answer)[None]))
        return {"contact_sheet": contact_sheet(rows, source.label_space, title, warning, made="segmented")}


class SegmenterValidator:
    """Measures parameters on a fixed selection of the validation split; arguments as of `validation.Validator`."""

    floor_name = "most frequent class"

    def __init__(self, experiment: SegmenterExperiment, source: Source, mesh: Mesh, abstract: TrainState, vgg_params: dict):
        self._mesh, self._batch_size, self._config = mesh, experiment.batch_size, experiment.segmenter
        self._indices = spread(source, experiment.run.validation_examples)
        self._source = source
        self._everywhere = abstract.step.sharding
        self._shown = set(spread(self._indices, experiment.run.sheet_examples))

        def answers(params: dict, batch: dict) -> tuple[jax.Array, jax.Array]:
            params = all_gathered(params, experiment.segmenter.dtype)
            return segment(experiment.segmenter, params, batch["photograph"]), batch["layout"]

        self._answers = jax.jit(answers, out_shardings=self._everywhere)

    def __call__(self, params: dict) -> Segmentation:
        """Validates one set of parameters."""
        total, images, row = 0, {}, 0
        rows = local_rows(self._mesh, self._batch_size)
        for local in validation_batches(self._source, self._batch_size, self._indices, rows):
            answers = self._answers(params, put_batch(self._mesh, self._batch_size, local))
            for answer, layout in zip(*map(np.asarray, answers)):
                if row < len(self._indices):  # behind them, the last batch is filled up
                    total = total + confusion(layout, answer, self._config.num_classes)
                    images |= {self._indices[row]: answer} if row in self._shown else {}
                row += 1
        return Segmentation(total, images)

    def floor(self, train_source: Source, limit: int = 512) -> Segmentation:
        """What the class that most training pixels have (of at most `limit` layouts) scores, said of every pixel."""
        num_classes, counts = self._config.num_classes, np.zeros(self._config.num_classes, np.int64)
        for index in spread(train_source, limit)[jax.process_index() :: jax.process_count()]:
            counts += np.bincount(train_source[index]["layout"].ravel(), minlength=num_classes)
        most = int(sum_over_processes(counts)[:-1].argmax())
        layouts = (self._source[index]["layout"] for index in self._indices)
        return Segmentation(sum(confusion(layout, np.full_like(layout, most), num_classes) for layout in layouts), {})

    @staticmethod
    def advice(folder: str) -> str:
        """What to do with a trained run."""
        return f"Next: python -m launch.evaluate RUN --segmenter {folder}"
