"""The numbers that a run writes while it trains, to metrics.jsonl and for TensorBoard, as means over a window of steps."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crn_jax.buckets import copied, is_bucket
from crn_jax.errors import UserError
from crn_jax.files import replace_text
from crn_jax.formats.json_file import parse_json, read_sound_lines
from crn_jax.run import nearby
from crn_jax.vgg import by_layer
from launch.common.terminal import console


class MetricsLog:
    """The `metrics.jsonl` and TensorBoard files of a run that goes on from `first_step`. Lines of later steps are dropped."""

    def __init__(self, folder: Path, first_step: int):
        from launch.training.tensorboard_file import TensorBoardFile  # slow to import, and not needed to read

        self.path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path, console.print) if first_step and line["step"] <= first_step]
        replace_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(self.path, "a", encoding="utf-8")
        self._board = TensorBoardFile(folder / "tensorboard", first_step)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes one line to disk at once, and its numbers for TensorBoard, too."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        self._board.write(step, dict(_scalars(values)))

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture, uint8 `[H, W, 3]`, for TensorBoard."""
        self._board.picture(step, name, image)

    def close(self) -> None:
        """Writes out what is still buffered."""
        self._file.close()
        self._board.close()


class NoLog:
    """Takes the place of a `MetricsLog` in processes that do not write."""

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Does nothing."""

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


_LINE = {"step": int, "seconds_per_step?": float, "validation?": {"distance?": float}}


def read_metrics(path: Path, note: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """Returns the lines of a metrics.jsonl, as `read_sound_lines` does."""
    return read_sound_lines(path, _LINE, note)


def measured_folder(source: str | Path) -> Path:
    """Returns the folder here where metrics.jsonl and evaluation/ of a run are read, copied from a bucket or from the Hub.

    A run that is a single file has no such folder: its file is returned.

    Raises:
      UserError: if they cannot be fetched.
    """
    place = Path(nearby(source))
    if is_bucket(source) and not place.is_file():
        copied(source, lambda name: name in ("metrics.jsonl", "evaluation/evaluation.json"))
    return place


def last_step(path: Path) -> int:
    """Returns the step of the last line of a metrics.jsonl; 0 if there is no line. It reads only the end, if that is sound."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - (1 << 16)))
            *lines, _ = file.read().split(b"\n")  # what follows the last line break was cut short
    except FileNotFoundError:
        return 0
    with contextlib.suppress(UserError):
        return parse_json(lines[-1] if lines else b"", path, "", _LINE, nan=True)["step"]
    return max([line["step"] for line in read_metrics(path)], default=0)


def _scalars(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    flat = []
    for key, value in tree.items():
        if isinstance(value, dict):
            flat += _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)):
            flat.append((prefix + key, value))
    return flat


class Window:
    """Means of the metrics since the last line, and how the time was spent. Each step has `images` images."""

    def __init__(self, images: int):
        self._images = images
        self._start()

    def _start(self) -> None:
        self._steps: list[dict[str, np.ndarray]] = []
        self._seconds, self._waited = 0.0, 0.0

    def begin(self) -> None:
        """Starts the clock: training begins or goes on, and time before this moment does not count."""
        self._since = time.perf_counter()

    def wait(self, seconds: float) -> None:
        """Adds seconds that were spent waiting for data."""
        self._waited += seconds

    def add(self, metrics: dict[str, np.ndarray]) -> None:
        """Adds the metrics of a step that has just been computed."""
        self._steps.append({name: value for name, value in metrics.items() if name not in ("all_terms", "weights")})
        self._weights = metrics.get("weights")
        now = time.perf_counter()
        self._seconds, self._since = self._seconds + now - self._since, now

    def line(self) -> dict[str, Any]:
        """Returns the means as a line of metrics.jsonl, and begins a new window."""
        line: dict[str, Any] = {}
        for name in ("loss", *sorted(self._steps[0].keys() - {"loss", "grad_norm"}), "grad_norm"):
            mean = np.asarray(np.mean([metrics[name] for metrics in self._steps], axis=0, dtype=np.float64))
            line[name] = by_layer(mean) if mean.shape else float(mean)
        if self._weights is not None:
            line["lambda"] = by_layer(self._weights)
        line |= {
            "images_per_second": self._images * len(self._steps) / self._seconds,
            "seconds_per_step": self._seconds / len(self._steps),
            "waiting_for_data": self._waited / self._seconds,
        }
        self._start()
        return line
