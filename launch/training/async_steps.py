"""The host's view of the training steps: it looks at one step while the devices compute the next, so that they never wait."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from launch.training.metrics_log import Window


class AsyncSteps:
    """Looks at the metrics of each step while the devices compute the next one.

    Args:
      batches: this process's parts of the batches.
      images: the number of images in a batch, over all processes.
      look: a function that is called with each step, its metrics, and the window of steps since the last log line.
      waited: a function that is called with the seconds that were spent waiting for a batch.
    """

    def __init__(
        self,
        batches: Iterator[dict[str, np.ndarray]],
        images: int,
        look: Callable[[int, dict[str, np.ndarray], Window], None],
        waited: Callable[[float], object] = lambda seconds: None,
    ):
        self._batches, self._look, self._waited, self._window = batches, look, waited, Window(images)
        self._computed: tuple[int, dict[str, jax.Array]] | None = None  # the step that is not looked at yet

    def next_batch(self) -> dict[str, np.ndarray]:
        """Returns the next batch. Time until it comes counts as waiting, unless the devices still compute the step before."""
        if self._computed is None:
            self._window.begin()
        asked = time.perf_counter()
        batch = next(self._batches)
        loss: Any = None if self._computed is None else self._computed[1]["loss"]
        if loss is None or loss.is_ready():  # a method that the type of jax.Array does not declare
            waited = time.perf_counter() - asked
            self._window.wait(waited)
            self._waited(waited)
        return batch

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Notes a step that the devices have just been given, and looks at the step before."""
        self.settle()
        self._computed = step, metrics

    def settle(self) -> None:
        """Waits until the last step is computed, and looks at it."""
        if self._computed is not None:
            (step, metrics), self._computed = self._computed, None
            numbers = {name: np.asarray(value) for name, value in metrics.items()}
            self._window.add(numbers)
            self._look(step, numbers, self._window)
