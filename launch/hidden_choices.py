"""Counts which hidden choices a run's images show: `python -m launch.hidden_choices RUN [RUN ...]`, for runs of streets.

A street's layout tells neither the hour nor the colours of the cars. This command counts which hours and colours the k images
of a held-out layout show, and how often they include those of the photograph. To tell the hour, it compares an image with the
same scene drawn at each hour. To tell a car's colour, it takes the median pixel of the largest car, under that hour's light.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import rich.table
import tyro

from crn_jax.data.sources import Streets, open_source
from crn_jax.data.streets import CAR_COLORS, CLASS, LIGHT, TIMES, Street, Time, render_street
from crn_jax.errors import UserError
from crn_jax.run import Run, load_run
from crn_jax.synthesize import synthesize
from launch.common.jax_setup import set_up_jax
from launch.common.options import BucketPath, read_options
from launch.common.terminal import command, console, track
from launch.evaluation.comparison import names_of
from launch.training.metrics_log import measured_folder, read_metrics


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Counts which hidden choices the images of each run show, for held-out layouts of streets."""

    runs: Annotated[tuple[BucketPath, ...], tyro.conf.Positional]
    """The run folders that launch.train made."""
    checkpoint: str = "latest"
    """The checkpoint: latest, best (smallest held-out distance), or a number of steps."""


class Shown(NamedTuple):
    """The hidden choices that an image shows."""

    time: str
    car: str | None
    """The colour of the largest car, or None if no car has 30 pixels."""


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line, and prints a table."""
    with command():
        asked: Arguments = read_options(Arguments, "hidden_choices", arguments)
        set_up_jax()
        run_name = rich.table.Column("run", no_wrap=True)
        headers = "k", "distance", "assembled", "hours shown", "right one", "car colours", "right one"
        table = rich.table.Table(run_name, *headers, box=None)
        if not asked.runs:
            raise UserError("Give at least one run folder that launch.train made.")
        for name, folder in names_of(asked.runs).items():
            run = load_run(folder, asked.checkpoint)
            distances = [f"{distance:.1f}" for distance in held_out_distances(folder, run.step)]
            k = str(run.generator.num_images)
            table.add_row(name, k, *distances, *coverage(run, folder))
        console.print(table)


def held_out_distances(source: Path, step: int) -> tuple[float, float]:
    """Reads the held-out distance at a step, and that of the assembled images; NaN if none was measured then."""
    folder = measured_folder(source)
    for line in read_metrics(folder / "metrics.jsonl") if folder.is_dir() else ():
        if "validation" in line and line["step"] == step:
            distance = line["validation"]["distance"]
            return distance, line["validation"].get("diversity", {}).get("assembled_distance", distance)
    return np.nan, np.nan


def coverage(run: Run, folder: Path) -> list[str]:
    """Counts hours and car colours, and returns four texts for the table.

    They are the mean number of hours that the images of a layout show (of 3), the fraction of layouts where the photograph's
    hour is among them, and the same two for the colour of the largest car (of 6).

    Raises:
      UserError: if the run was not trained on streets of all hours.
    """
    data, generator = run.experiment.data, run.generator
    if data.source != "streets" or data.clear_days:
        raise UserError(f"{folder}: this run was not trained on streets of all hours, as streets_diverse is.")
    source = open_source(dataclasses.replace(data, cache=None, vivid=False), "val", generator.size)
    assert isinstance(source, Streets)
    hours, cars = [], []
    for index in track(range(len(source)), folder.resolve().name, len(source)):
        street = render_street(source.first + index, source.size)
        references = {time: render_street(source.first + index, source.size, time=time).photograph for time in TIMES}
        ids = (street.layout[None], street.instances[None]) if generator.boundaries else (street.layout[None],)
        images = np.asarray(synthesize(generator, run.params, *ids))[0]
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


def shown(image: np.ndarray, street: Street, references: Mapping[Time, np.ndarray]) -> Shown:
    """Tells which hidden choices an image uint8 `[H, W, 3]` of a street shows; `references` has the street at each hour."""
    import scipy.ndimage

    time = min(TIMES, key=lambda time: np.abs(_coarse(image) - _coarse(references[time])).mean())
    regions, count = scipy.ndimage.label(street.layout == CLASS["car"])
    sizes = scipy.ndimage.sum_labels(regions > 0, regions, range(1, count + 1))
    if not count or np.max(sizes) < 30:
        return Shown(time, None)
    color = np.median(image[regions == 1 + np.argmax(sizes)], axis=0) / np.array(LIGHT[time][0])
    return Shown(time, min(CAR_COLORS, key=lambda name: np.abs(color - CAR_COLORS[name]).sum()))


def _coarse(image: np.ndarray) -> np.ndarray:
    """Returns means over 8x8 pixels. Pixels that are left over at the lower and right edges are ignored."""
    h, w = image.shape[0] // 8, image.shape[1] // 8
    return image[: 8 * h, : 8 * w].reshape(h, 8, w, 8, 3).mean((1, 3))


if __name__ == "__main__":
    main()
