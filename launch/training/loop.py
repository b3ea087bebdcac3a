"""The training loop, and what happens between its steps: validation, checkpoints, reports, stopping."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from crn_jax.checkpoint import Checkpoints
from crn_jax.data.examples import Source
from crn_jax.errors import UnrepeatableStep, UserError
from crn_jax.experiment import AnyExperiment
from crn_jax.sharding import put_batch
from crn_jax.train import TrainState
from crn_jax.vgg import by_layer
from crn_jax.vgg_layers import TAPS
from launch.common.contact_sheet import stacked
from launch.common.output import write_png
from launch.common.processes import is_first
from launch.common.profiler import Profiler
from launch.common.stop_signals import Stop
from launch.common.terminal import console, describe_devices
from launch.training.async_steps import AsyncSteps
from launch.training.ledger import Ledger, Phase
from launch.training.lock import Ownership
from launch.training.metrics_log import MetricsLog, NoLog, Window
from launch.training.progress import RANDOM_WARNING, Progress
from launch.training.replay import replayed
from launch.training.run_files import RunFiles
from launch.training.run_folder import check_room
from launch.training.segmenter_validation import Segmentation, SegmenterValidator
from launch.training.validation import Validation, Validator
from launch.training.watchdog import Watchdog

VALIDATORS: dict[str, Callable[..., Validator | SegmenterValidator]] = {"distance": Validator, "mIoU": SegmenterValidator}
"""For each score in `measured_by`, the class that measures it on held-out examples."""

_LEDGER_PHASES: dict[str, Phase] = {"step": "steps", "validation": "validation", "save": "saving", "wait": "saving"}
"""What the ledger calls the phases of the loop."""


@dataclasses.dataclass
class TrainingLoop:
    """The loop of one process over the steps of a training."""

    experiment: AnyExperiment
    description: dict
    """What run.json and every checkpoint say about the run."""
    mesh: Mesh
    frozen: dict
    """The frozen parameters that every step is given, placed on the mesh."""
    val_source: Source
    files: RunFiles
    log: MetricsLog | NoLog
    checkpoints: Checkpoints
    validator: Validator | SegmenterValidator
    epoch: int
    """The number of steps in an epoch."""
    ownership: Ownership | None
    """The first process's hold on the run folder."""
    watchdog: Watchdog
    ledger: Ledger
    profiler: Profiler

    @property
    def last_step(self) -> int:
        """The number of steps of the whole run."""
        return self.experiment.last_step(self.epoch)

    def run(self, train_step: Callable, state: TrainState, batches: Iterator[dict[str, np.ndarray]], first_step: int) -> bool:
        """Trains from `first_step` to the last step, or until a signal asks it to stop. It saves the state in either case.

        Returns whether all steps are done.

        Raises:
          UserError: if a number is not finite, or a file of the data is bad.
        """
        last_step, every, rescaled = self.last_step, self.experiment.run, self.experiment.rescale_epoch * self.epoch
        step, stopping = first_step, False
        with Progress(console, step, last_step, describe_devices(self.mesh)) as progress, Stop() as stop, self.profiler:
            look = functools.partial(self.look_at, progress)
            steps = AsyncSteps(batches, self.experiment.batch_size, look, self.ledger.waited)
            for step in range(first_step + 1, last_step + 1):
                self.begin("step", step)
                self.check_folder()
                with self.profiler.step(step, steps.settle):
                    batch = self.next_batch(steps, step, state)
                    state, metrics = self.compute(train_step, step, state, self.put(batch))
                    steps.add(step, metrics)
                stopping = stop.requested()
                validated = step == last_step or step % every.validate_every == 0
                saved = validated or stopping or step % every.checkpoint_every == 0
                if saved or step == rescaled:  # both read the state, which the next step donates
                    steps.settle()
                if step == rescaled:
                    self.report_rescaling(step, metrics["weights"], state)
                distance = self.validate(step, state).distance if validated else None
                if saved:
                    self.save(step, state, distance)
                if stopping:
                    break
            if first_step == last_step and not self.checkpoints.is_validated(step):  # the run was stopped here before
                self.validate(step, state)
            self.wait_for_save(step)
        self.farewell(step)
        return step == last_step

    def begin(self, phase: Literal["step", "validation", "save", "wait"], step: int) -> None:
        """Notes that the main thread begins a phase, which ends the one before."""
        self.watchdog.begin(phase, step)
        self.ledger.begin(_LEDGER_PHASES[phase])

    def look_at(self, progress: Progress, step: int, metrics: dict[str, np.ndarray], window: Window) -> None:
        """Checks the metrics of a step, and shows them."""
        terms = by_layer(metrics["terms"]) if "terms" in metrics else {}
        self.check_finite(step, terms, loss=float(metrics["loss"]), gradient=float(metrics["grad_norm"]))
        progress.step(step)
        self.ledger.step = step
        if step % self.experiment.run.log_every == 0 or step == self.last_step:
            line = {"epoch": (step - 1) // self.epoch + 1, **window.line(), "goodput": self.ledger.goodput()}
            self.log.write(step, line)
            progress.line(step, line)

    def compute(self, train_step: Callable, step: int, state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        """Computes a step, or every `replay_every` steps the same step twice.

        Raises:
          UnrepeatableStep: if it gave different bits the second time.
        """
        every = self.experiment.run.replay_every
        if every is None or step % every:
            return train_step(state, self.frozen, batch)
        result, wrong = replayed(train_step, state, self.frozen, batch)
        if wrong:
            self.wait_for_save(step)
            kept = self.checkpoints.latest_step()
            raise UnrepeatableStep(
                f"Step {step} was computed twice from the same state, and gave different bits in {', '.join(wrong[:5])}. "
                f"Either this machine computes wrongly, or its operations are not deterministic: docs/reliability.md lists the "
                f"flags that make GPUs so. This state is not saved. "
                + (f"The last checkpoint, step {kept}, is kept. " if kept else "Nothing had been saved yet. ")
                + "Give the same command on another machine."
            )
        return result

    def put(self, local: dict[str, np.ndarray]) -> dict:
        """Places this process's part of a batch on the mesh."""
        return put_batch(self.mesh, self.experiment.batch_size, local)

    def next_batch(self, steps: AsyncSteps, step: int, state: TrainState) -> dict[str, np.ndarray]:
        """Returns this process's part of a step's batch. If a file is bad, a single process first saves the state.

        One of several processes cannot save, because the others, whose files are good, would not take part.

        Raises:
          UserError: if a file of the data is bad.
        """
        try:
            return steps.next_batch()
        except UserError:
            steps.settle()
            if jax.process_count() == 1 and step - 1 not in (0, *self.checkpoints.steps()):
                self.save(step - 1, state, None)
            raise

    def check_folder(self) -> None:
        """Raises UserError if the run folder is lost to another training or to a failed disk, or a save has failed."""
        if self.ownership:
            self.ownership.check()
        self.checkpoints.check()

    def wait_for_save(self, step: int) -> None:
        """Waits until the checkpoint that is written in the background is complete."""
        self.begin("wait", step)
        self.checkpoints.wait()

    def save(self, step: int, state: TrainState, distance: float | None) -> None:
        """Starts to save the state after a step.

        Raises:
          UserError: if the disk has no room for it, or the save before has failed.
        """
        self.wait_for_save(step)
        self.begin("save", step)
        if self.ownership:
            self.ownership.beat()  # the folder may have been lost since the last time
        self.check_folder()
        if is_first():
            self.files.upload()  # a checkpoint must not be there without the metrics of its steps
            check_room(self.experiment.folder, state, copies=1)
        self.checkpoints.save(step, state, distance, self.description)
        self.ledger.saved()

    def check_finite(self, step: int, terms: dict[str, float], **numbers: float) -> None:
        """Raises UserError if a term, or another number, is NaN or infinite, before that state can be saved."""
        bad = [name for name, value in {**terms, **numbers}.items() if not np.isfinite(value)]
        if bad:
            self.wait_for_save(step)
            kept = self.checkpoints.latest_step()
            raise UserError(
                f"Not a finite number at step {step}: {', '.join(bad)}. "
                + (f"The last good checkpoint, step {kept}, is kept. " if kept else "Nothing had been saved yet. ")
                + "Try a smaller --optimizer.learning_rate, or --optimizer.schedule authors_fallback, in another --run.folder."
            )

    def measure_floor(self) -> None:
        """Logs the score that needs no training: that of the mean photograph, or of the most frequent class."""
        self.ledger.begin("validation")
        floor = self.validator.floor()
        self.log.write(0, {self.validator.floor_name.replace(" ", "_"): floor.line()["validation"]})
        console.print(f"The floor to beat, the {self.validator.floor_name}: {floor.headline()}")

    def validate(self, step: int, state: TrainState) -> Validation | Segmentation:
        """Measures the held-out examples. The first process logs the scores and draws a contact sheet."""
        if step:
            self.begin("validation", step)
        validation = self.validator(state.params if state.ema is None else state.ema)
        self.check_finite(step, validation.numbers())
        if is_first():
            self.show(step, validation)
        return validation

    def show(self, step: int, validation: Validation | Segmentation) -> None:
        """Writes a validation's line and contact sheet. At the start it also writes the layouts, for synthesis later."""
        self.log.write(step, validation.line())
        warning = RANDOM_WARNING if self.description["vgg19"]["weights"] == "random" else ""
        title = f"{self.experiment.name}, step {step}, {validation.headline()}"
        pictures = validation.pictures(self.val_source, title, warning)
        for name, picture in pictures.items():
            self.log.picture(step, name, np.asarray(picture))
        path = self.files.path / sheet_name(step)
        path.parent.mkdir(exist_ok=True)
        write_png(stacked(*pictures.values()), path)
        console.print(f"step {step}: {validation.headline()}, {self.files.folder}/{sheet_name(step)}")
        if step == 0 and self.experiment.generator:
            self.write_layouts(list(validation.images))

    def write_layouts(self, indices: list[int]) -> None:
        """Writes the layouts of held-out examples, and their instances if they have any, into the run folder."""
        for i, index in enumerate(indices):
            example = self.val_source[index]
            pictures = {"layouts": self.val_source.label_space.draw(example["layout"])}
            if "instances" in example:
                pictures["instances"] = example["instances"]
            for kind, pixels in pictures.items():
                folder = self.files.path / kind
                folder.mkdir(exist_ok=True)
                write_png(Image.fromarray(pixels), folder / f"{i}.png")

    def report_rescaling(self, step: int, before: np.ndarray, state: TrainState) -> None:
        """Logs λ before and after rescaling, and the mean terms that it was computed from."""
        assert state.lambdas is not None  # `rescale_epoch` is 0 if a loss has no terms to balance
        after, means = np.asarray(state.lambdas.weights), np.asarray(state.lambdas.sums) / self.epoch
        event = {
            "before": by_layer(before),
            "after": by_layer(after),
            "mean_terms": by_layer(means),
            "contributions": by_layer(after * means),
        }
        self.log.write(step, {"lambda_rescaled": event})
        changes = ", ".join(f"{name} {b:.3g} -> {a:.3g}" for name, b, a in zip(TAPS, before, after))
        console.print(f"step {step}: λ x elements rescaled: {changes}")

    def farewell(self, step: int) -> None:
        """Says where the run's images are and what to do next."""
        folder = self.experiment.folder
        if step < self.last_step:
            console.print(f"Stopped and saved at step {step} of {self.last_step}. The same command resumes.")
            return
        console.print(f"Trained to step {step}. Contact sheet: {folder}/{sheet_name(step)}")
        console.print(self.validator.advice(folder))


def sheet_name(step: int) -> str:
    """Returns the name of the contact sheet of a step in the run folder."""
    return f"contact_sheets/step_{step:07d}.png"
