"""A run that is painted with: how a painted layout becomes its images, compiled once and in the background."""

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from crn_jax.errors import UserError
from crn_jax.files import expanded
from crn_jax.run import Run, load_run
from launch.synthesis.layouts import Fitted, Sizing, fitted_shape
from launch.synthesis.stream import compile_for

State = Literal["waiting", "compiling", "ready", "failed"]


@dataclasses.dataclass
class PaintedRun:
    """A run on the page. Its images are those of launch.synthesize to the bit, because the same function makes them."""

    source: str
    """The run folder, artifact, file or address, without the checkpoint."""
    run: Run
    fitted: Fitted
    """How a painted layout reaches the size that the run's network makes."""
    state: State = "waiting"
    problem: str = ""
    """Why the state is failed."""
    since: float = dataclasses.field(default_factory=time.monotonic)
    """When the state began, by the monotonic clock."""
    function: Callable[[np.ndarray], jax.Array] | None = None

    def compile(self) -> None:
        """Compiles the function from layouts to images. A failure becomes the run's state, which the page shows."""
        self._enter("compiling")
        try:
            self.function, _ = compile_for(self.run, 1, self.fitted.size, 1)
        except UserError as error:
            self._enter("failed", str(error))
        except Exception as error:  # whatever XLA refuses to compile, the other runs can be painted with
            self._enter("failed", f"Compiling for {page_name(self.source, self.run)} has failed: {error}")
        else:
            self._enter("ready")

    def images(self, layout: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Synthesizes from class ids `[H, W]` of the canvas.

        Returns:
          the images uint8 `[k, h, w, 3]`, and the layout `[h, w]` as the network got it.
        """
        assert self.function is not None
        given = self.fitted.layout(layout, self.run.label_space)
        return np.asarray(self.function(np.ascontiguousarray(given)[None]))[0], given

    def about(self) -> dict[str, Any]:
        """Describes the run, how its layout files are written, and its state as JSON."""
        space = self.run.label_space
        ids = {str(raw): class_id for raw, class_id in space.ids.items()}
        labels = {"ids": ids, "colors": [list(color) for color in space.colors]}
        state = {"state": self.state, "problem": self.problem, "seconds": round(time.monotonic() - self.since, 1)}
        return about_run(self.source, self.run, self.fitted.size) | {"labels": labels} | state

    def _enter(self, state: State, problem: str = "") -> None:
        self.since, self.problem, self.state = time.monotonic(), problem, state


def page_name(source: str, run: Run) -> str:
    """Returns how the page calls a run."""
    return f"{Path(os.path.abspath(source)).name}, step {run.step:,}"


def about_run(source: str, run: Run, size: tuple[int, int]) -> dict[str, Any]:
    """Describes a run as JSON. `size` is the height and the width of its images in pixels."""
    return {
        "name": page_name(source, run),
        "images": run.generator.num_images,
        "height": size[0],
        "width": size[1],
        "random_vgg19": run.vgg19["weights"] == "random",
    }


def about_canvas(run: Run) -> dict[str, Any]:
    """Describes the canvas of a run as JSON: its size, and the classes that are painted."""
    space, (height, width) = run.label_space, run.generator.size
    return {
        "labels": space.name,
        "classes": list(space.classes),
        "colors": [list(color) for color in space.colors],
        "height": height,
        "width": width,
        "bytes": np.dtype(space.dtype).itemsize,
    }


def check_paintable(run: Run, source: str) -> None:
    """Raises UserError if a run takes more than a layout."""
    if run.generator.boundaries:
        raise UserError(
            f"{source} was trained with instance boundaries, which the page cannot paint. Give a run without them; "
            f"launch.synthesize --instances makes the images of this one."
        )


def open_runs(asked: Sequence[str], checkpoint: str) -> list[PaintedRun]:
    """Loads the runs that are painted with. The first one decides the size of the canvas.

    Args:
      asked: runs as `load_run` takes them, each perhaps with its own checkpoint, as in `runs/demo@best`.
      checkpoint: the checkpoint of runs that name none.

    Raises:
      UserError: if a run cannot be loaded, has other classes than the first one, cannot make images of the canvas, or takes
        instance boundaries.
    """
    opened: list[PaintedRun] = []
    for each in asked:
        source, its_checkpoint = parted(each)
        run = load_run(source, its_checkpoint or checkpoint)
        check_paintable(run, source)
        first = opened[0].run if opened else run
        if run.label_space.classes != first.label_space.classes:
            raise UserError(
                f"{source} has the classes of {run.label_space.name}, and {opened[0].source} has those of "
                f"{first.label_space.name}. Runs can be compared on one canvas if they have the same classes."
            )
        canvas = f"The canvas of {opened[0].source if opened else source}"
        how: Sizing | None = None if opened else "run"
        fit = fitted_shape(first.generator.size, run.generator, run.experiment.data.fit, how, canvas)
        opened.append(PaintedRun(source, run, fit))
    return opened


def compile_in_background(runs: Sequence[PaintedRun]) -> None:
    """Compiles one run after the other in a thread, so that the page is there at once."""

    def compile_all() -> None:
        for run in runs:
            run.compile()

    threading.Thread(target=compile_all, name="compile", daemon=True).start()


def parted(asked: str) -> tuple[str, str]:
    """Splits `RUN@CHECKPOINT`. A path that exists is a run, and `@` in an address of the Hub names a revision."""
    path = expanded(asked)
    source, at, checkpoint = path.rpartition("@")
    if not at or not source or "/" in checkpoint or path.startswith("hf:") or Path(path).exists():
        return path, ""
    return source, checkpoint
