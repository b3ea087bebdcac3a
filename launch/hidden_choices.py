"""Measures what collections cover: `python -m launch.hidden_choices RUN [RUN ...]`, for runs trained on streets.

A street's layout tells neither the hour nor the colours of its cars. Which of them do a run's images of held-out layouts show,
and are the photograph's among them? The hour is read off an image by comparing it with the scene drawn at each; the
colour of the largest car, by its median pixel under that hour's light.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import rich.progress
import rich.table
import scipy.ndimage
import tyro

from crn_jax.data.sources import open_source
from crn_jax.data.streets import CAR_COLORS, CLASS, LIGHT, TIMES, Street, render_street
from crn_jax.errors import UserError
from crn_jax.run import Run, load_run
from crn_jax.synthesize import synthesize
from launch.common.names import as_typed
from launch.common.terminal import command, console
from launch.training.metrics_log import read_metrics


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Counts which hidden choices of held-out streets the images of each run show."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, as launch.train makes them."""
    checkpoint: str = "latest"
    """latest, best (smallest held-out distance), or a number of steps."""


class Shown(NamedTuple):
    """What an image shows: the hour, and the colour of the largest car (None without one of 30 pixels)."""

    time: str
    car: str | None


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line, and prints a table."""
    with command():
        asked = tyro.cli(Arguments, prog=as_typed("python -m launch.hidden_choices"), args=arguments, use_underscores=True)
        run_name = rich.table.Column("run", no_wrap=True)
        headers = "k", "distance", "assembled", "hours shown", "right one", "car colours", "right one"
        table = rich.table.Table(run_name, *headers, box=None)
        if not asked.runs:
            raise UserError("Give at least one run folder of launch.train.")
        for folder in asked.runs:
            run = load_run(folder, asked.checkpoint)
            validations = [line for line in read_metrics(folder / "metrics.jsonl") if "validation" in line]
            validation = next((line["validation"] for line in validations if line["step"] == run.step), {"distance": np.nan})
            assembled = validation.get("diversity", {"assembled_distance": validation["distance"]})["assembled_distance"]
            numbers = [f"{validation['distance']:.1f}", f"{assembled:.1f}", *coverage(run, folder)]
            table.add_row(folder.resolve().name, str(run.experiment.generator.num_images), *numbers)
        console.print(table)


def coverage(run: Run, folder: Path) -> list[str]:
    """Means over the held-out scenes: hours shown (of 3), share with the photograph's; car colours (of 6), likewise.

    Raises:
      UserError: if the run was not trained on streets of all hours.
    """
    data, size = run.experiment.data, run.experiment.generator.size
    if data.source != "streets" or data.clear_days:
        raise UserError(f"{folder}: this run was not trained on streets of all hours (streets_diverse is).")
    source = open_source(dataclasses.replace(data, cache=None, vivid=False), "val", size)  # scenes are drawn again below
    hours, cars = [], []
    for index in rich.progress.track(range(len(source)), folder.resolve().name, console=console):
        street = render_street(source.first + index, size)
        references = {time: render_street(source.first + index, size, time=time).photograph for time in TIMES}
        images = np.asarray(synthesize(run.experiment.generator, run.params, street.layout[None]))[0]
        there = shown(street.photograph, street, references)
        found = [shown(image, street, references) for image in images]
        hours.append([len({each.time for each in found}), there.time in {each.time for each in found}])
        if there.car:
            cars.append([len({each.car for each in found}), there.car in {each.car for each in found}])
    numbers = []
    for counts in (hours, cars):
        count, hit = np.mean(counts, axis=0) if counts else (np.nan, np.nan)
        numbers += [f"{count:.2f}", f"{hit:.0%}"]
    return numbers


def shown(image: np.ndarray, street: Street, references: dict[str, np.ndarray]) -> Shown:
    """Reads the hidden choices off an image uint8 `[H, W, 3]` of a street; `references` has the street at each hour."""
    time = min(TIMES, key=lambda time: np.abs(_coarse(image) - _coarse(references[time])).mean())
    regions, count = scipy.ndimage.label(street.layout == CLASS["car"])
    sizes = scipy.ndimage.sum_labels(regions > 0, regions, range(1, count + 1))
    if not count or max(sizes) < 30:
        return Shown(time, None)
    color = np.median(image[regions == 1 + np.argmax(sizes)], axis=0) / np.array(LIGHT[time][0])
    return Shown(time, min(CAR_COLORS, key=lambda name: np.abs(color - CAR_COLORS[name]).sum()))


def _coarse(image: np.ndarray) -> np.ndarray:
    """Means over 8x8 pixels (what is left over at the edges is not looked at)."""
    h, w = image.shape[0] // 8, image.shape[1] // 8
    return image[: 8 * h, : 8 * w].reshape(h, 8, w, 8, 3).mean((1, 3))


if __name__ == "__main__":
    main()
