"""The steps of a training as the host sees them: one behind the devices, so that these do not wait for it."""

import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from launch.training.metrics_log import Window


class AsyncSteps:
    """Looks at what each step yields while the devices compute the next one.

    Args:
      batches: this process's parts of the batches.
      images: in a batch, of all processes.
      look: is called with a step, its metrics and the window that they are in.
    """

    def __init__(
        self,
        batches: Iterator[dict[str, np.ndarray]],
        images: int,
        look: Callable[[int, dict[str, np.ndarray], Window], None],
    ):
        self._batches, self._look, self._window = batches, look, Window(images)
        self._computed: tuple[int, dict[str, jax.Array]] | None = None  # what is not looked at yet

    def next_batch(self) -> dict[str, np.ndarray]:
        """The next batch. Time until it comes counts as waiting, unless the devices are still at work on the step before."""
        if self._computed is None:
            self._window.begin()
        asked = time.perf_counter()
        batch = next(self._batches)
        if self._computed is None or self._computed[1]["loss"].is_ready():
            self._window.wait(time.perf_counter() - asked)
        return batch

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes in a step that the devices have just been given, and looks at the one before."""
        self.settle()
        self._computed = step, metrics

    def settle(self) -> None:
        """Looks at the last step, too, which waits until it is computed."""
        if self._computed is not None:
            (step, metrics), self._computed = self._computed, None
            metrics = {name: np.asarray(value) for name, value in metrics.items()}
            self._window.add(metrics)
            self._look(step, metrics, self._window)
