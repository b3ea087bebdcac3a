"""What a person sees of a training: first what is trained, then a bar with the time left, and loss, terms, λ and speed."""

from collections.abc import Iterator
from typing import Any

import rich.live
import rich.progress
import rich.table
from jax.sharding import Mesh
from rich.console import Console, Group
from rich.text import Text

from crn_jax.experiment import AnyExperiment, Experiment, Regression
from crn_jax.generator import count_parameters
from crn_jax.train import TrainState
from crn_jax.vgg_layers import TAPS
from launch.common.terminal import console, describe_devices

RANDOM_WARNING = "VGG-19 has seeded RANDOM weights, not ImageNet's: expect worse images."

_COMMON = ("epoch", "loss", "grad_norm", "images_per_second", "seconds_per_step", "waiting_for_data", "goodput")


def announce(experiment: AnyExperiment, mesh: Mesh, state: TrainState, first_step: int, epoch: int, vgg19: dict) -> None:
    """Says what is about to be trained.

    `epoch` is the number of steps in an epoch, and `vgg19` says where VGG-19's weights come from.
    """
    height, width = experiment.size
    images = f"k = {experiment.generator.num_images}, " if experiment.generator else ""
    console.print(
        Text(experiment.name, "bold"),
        f": {height}x{width}, {images}"
        f"{count_parameters(state.params):,} parameters, {epoch} steps an epoch, {experiment.last_step(epoch):,} steps, "
        f"on {describe_devices(mesh)}",
        sep="",
    )
    if experiment.about:
        console.print(experiment.about, style="dim")
    if due := late_rescaling(experiment, epoch):
        advice = "" if first_step else " --lambdas.rescale_epoch chooses another epoch."  # a run that goes on keeps its own
        console.print(f"λ is to be rescaled after step {due:,}, so no step uses the rescaled λ.{advice}", style="dim")
    for note in without_effect(experiment):
        console.print(note, style="dim")
    if first_step:
        console.print(f"Resuming {experiment.folder} at step {first_step}.")
    if vgg19["weights"] == "random":
        console.print(RANDOM_WARNING, style="bold yellow")
        console.print(vgg19["because"], style="dim")


def without_effect(experiment: AnyExperiment) -> Iterator[str]:
    """Yields a sentence for each setting that changes nothing beside the others."""
    schedule, rate = experiment.optimizer.schedule, experiment.optimizer.learning_rate
    if schedule != "constant":
        yield f"--optimizer.schedule {schedule} has rates of its own, so --optimizer.learning_rate {rate:g} is not used."
    if isinstance(experiment, Experiment) and experiment.init_moments == "kept" and not experiment.start:
        yield "--init_moments kept has no effect without --init_from: there is no run whose moments to keep."
    if isinstance(experiment, Regression) and not experiment.rescale_epoch and experiment.lambdas.conv5_2_factor != 1:
        yield "--lambdas.conv5_2_factor has no effect, because λ is never rescaled."


def late_rescaling(experiment: AnyExperiment, epoch: int) -> int | None:
    """Returns the step after which λ is to be rescaled, if no step would use it any more, and None otherwise."""
    due = experiment.rescale_epoch * epoch
    return due if experiment.last_step(epoch) <= due else None


def _own(line: dict[str, Any]) -> dict[str, float]:
    """Returns the numbers of a line that only this kind of training has."""
    return {name: value for name, value in line.items() if name not in _COMMON}


def _speed(line: dict[str, Any]) -> str:
    return (
        f"{line['images_per_second']:.2f} images/s, {line['waiting_for_data']:.0%} waiting for data, "
        f"goodput {line['goodput']:.0%}"
    )


class Progress:
    """A bar with the time left, above loss, terms, λ and speed. Where nothing can be drawn over, plain lines take its place."""

    def __init__(self, console: Console, first_step: int, last_step: int, devices: str):
        self._console, self._devices = console, devices
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("step"),
            rich.progress.MofNCompleteColumn(),
            rich.progress.BarColumn(None),
            rich.progress.TaskProgressColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
        )
        self._task = self._bar.add_task("train", total=last_step, completed=first_step)
        self._live = rich.live.Live(self._bar, console=console, refresh_per_second=2)
        self._last_step = last_step

    def __enter__(self):
        if self._console.is_interactive:
            self._live.start()
        return self

    def __exit__(self, *_):
        if self._console.is_interactive:
            self._live.stop()

    def step(self, step: int) -> None:
        """Moves the bar to a step."""
        self._bar.update(self._task, completed=step)

    def line(self, step: int, line: dict[str, Any]) -> None:
        """Shows a line of metrics."""
        if self._console.is_interactive:
            self._live.update(Group(self._bar, self._table(line)))
            return
        left = (self._last_step - step) * line["seconds_per_step"]
        if "terms" in line:
            details = "  ".join(f"{name} {value:.3g}·{line['lambda'][name]:.3g}" for name, value in line["terms"].items())
        else:
            details = "  ".join(f"{name} {value:.3g}" for name, value in _own(line).items())
        self._console.print(
            f"step {step}/{self._last_step}  loss {line['loss']:.4g}  {details}  "
            f"{_speed(line)}, on {self._devices}  left {left / 60:.0f} min"
        )

    def _table(self, line: dict[str, Any]) -> rich.table.Table:
        if "terms" in line:
            table = rich.table.Table("", *TAPS, "sum", box=None, header_style="dim")
            table.add_row("term", *(f"{v:.4g}" for v in line["terms"].values()), "")
            table.add_row("λ x elements", *(f"{v:.4g}" for v in line["lambda"].values()), "")
            contributions = [line["terms"][name] * line["lambda"][name] for name in TAPS]
            table.add_row("loss", *(f"{v:.4g}" for v in contributions), Text(f"{line['loss']:.4g}", "bold"))
        else:
            table = rich.table.Table("loss", *_own(line), box=None, header_style="dim")
            table.add_row(f"{line['loss']:.4g}", *(f"{value:.4g}" for value in _own(line).values()))
        table.caption = f"{_speed(line)}, {self._devices}"
        return table
