"""Opens what launch.evaluate compares, runs, folders of images and held-out examples, and checks it before any computation."""

import dataclasses
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from crn_jax.buckets import is_bucket
from crn_jax.data.examples import Source
from crn_jax.data.labels.indexed import Reading
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.pipeline import spread
from crn_jax.data.sources import DRAWN, DataConfig, Split, label_space_of, open_source
from crn_jax.errors import UserError, counted
from crn_jax.experiment import Synthesis, require_kind
from crn_jax.run import Run, describe_data, is_run, load_run, read_description
from launch.common.command_line import experiment_of_kind
from launch.common.terminal import opened
from launch.evaluation.methods import PHOTOGRAPHS, Examples


class Comparison(NamedTuple):
    """Held-out examples, and the runs and folders of images that are compared on them, by name.

    The `experiment` is the first run's, or the one that was named. All methods use its data and size.
    """

    experiment: Synthesis
    data: DataConfig
    examples: Examples
    given: dict[str, Run | Path]
    trained_on: tuple[str, ...] = ()
    """Sentences on runs that may have been trained on some of the examples."""

    def notes(self) -> list[str]:
        """Says which runs were trained on photographs that differ from the examples, which are the first run's."""
        runs = {name: run.experiment.data for name, run in self.given.items() if isinstance(run, Run)}
        other = [
            f"{name} was trained with --data.{field} {there}, and these examples have {here}."
            for name, data in runs.items()
            for field in ("clear_days", "vivid", "fit")
            if (there := getattr(data, field)) != (here := getattr(self.experiment.data, field))
        ]
        return [*self.trained_on, *other]


def maybe_trained_on(runs: dict[str, Path], data: DataConfig, split: Split, source: Source) -> tuple[str, ...]:
    """Says which runs were trained on other photographs than those that the data set has for training now.

    If files were added, or the data set is another one, the split may have moved, and held-out examples were trained on.
    """
    if split == "train" or not runs or data.source in DRAWN or (data.cache and is_bucket(data.root or "")):
        return ()
    try:
        train = open_source(
            dataclasses.replace(data, cache=None, vivid=False), "train", source.size, label_space=source.label_space
        )
    except UserError:
        return ()  # the folder holds nothing to train on
    now, notes = describe_data(train, 1), list[str]()
    for name, path in runs.items():
        then = read_description(path)[2].get("data", {})
        if then.get("names_sha256", now["names_sha256"]) != now["names_sha256"]:
            notes.append(
                f"{name} was trained on {counted(then['examples'], 'photograph')}, and {data.root} has other ones for "
                f"training now ({now['examples']:,}). If files were added or removed since, the run may have been trained on "
                "some of these examples."
            )
    return tuple(notes)


def open_comparison(
    paths: Sequence[Path],
    checkpoint: str,
    experiment: str | None,
    root: str | None,
    split: Split,
    limit: int | None,
    read: Reading | None = None,
    instances: str | None = None,
) -> Comparison:
    """Loads the runs and lists the held-out examples. The arguments are those of the command line.

    Raises:
      UserError: if something is missing, or if the runs do not compare.
    """
    if not paths:
        raise UserError("Give at least one run folder of launch.train, or a folder of images with --experiment NAME.")
    runs = {path: load_run(path, checkpoint) for path in paths if is_run(path)}
    common, label_space = common_ground(paths, runs, experiment)
    if read:
        label_space = dataclasses.replace(label_space, read_as=read)
    if instances and not any(run.experiment.boundaries for run in runs.values()):
        raise UserError(f"--instances {instances}: no run was trained with instance boundaries. Leave this option out.")
    if root and common.data.source in DRAWN:
        raise UserError(f"--data {root}: streets are made, not read. Leave --data out.")
    cache = common.data.cache
    is_there = cache and (is_bucket(cache) or os.path.isdir(os.path.expandvars(os.path.expanduser(cache))))
    if limit is not None or not is_there:
        cache = None  # a cache is not worth building for a few examples, nor after the run was moved to another machine
    with_instances = [run.experiment for run in runs.values() if run.experiment.boundaries]
    maps = with_instances[0].data.instances if with_instances else common.data.instances
    data = dataclasses.replace(common.data, root=root or common.data.root, cache=cache, instances=instances or maps)
    source = opened(data, split, common.size, label_space, instances=common.boundaries or bool(with_instances))
    indices = spread(source, len(source) if limit is None else limit)
    names = names_of(paths)
    trained = maybe_trained_on({name: path for name, path in names.items() if path in runs}, data, split, source)
    given = {name: runs.get(path, path) for name, path in names.items()}
    return Comparison(common, data, Examples(source, indices), given, trained)


def common_ground(paths: Sequence[Path], runs: dict[Path, Run], name: str | None) -> tuple[Synthesis, LabelSpace]:
    """Returns the experiment whose data and size all methods use, and its classes.

    Without a `name`, this is the first run's experiment; the other runs must have the same source and size. The classes are
    those that the run's folder records, so its label file may have changed or gone.

    Raises:
      UserError: if there is no experiment, or if the runs do not compare.
    """
    if not runs:
        if not name:
            if missing := [path for path in paths if not is_bucket(path) and not path.exists()]:
                raise UserError(f"{missing[0]}: there is no such folder.")
            raise UserError(
                f"{paths[0]} is not a run folder. To score images alone, name their data and size with --experiment."
            )
        experiment = experiment_of_kind(name, Synthesis)
        return experiment, label_space_of(experiment.data)
    (first, one), *_ = runs.items()
    if name:
        raise UserError(f"--experiment {name}: the run {first} says what its data and size are. Leave --experiment out.")
    for path, run in runs.items():
        for what in ("size", "data.source"):
            here, there = (operator.attrgetter(what)(r.experiment) for r in (one, run))
            if here != there:
                raise UserError(f"{first} and {path} do not compare: {what} is {here} there and {there} here.")
        if run.label_space.classes != one.label_space.classes:
            raise UserError(f"{first} and {path} do not compare: they were trained on different classes.")
    return require_kind(one.experiment, Synthesis, f"The run {first}"), one.label_space


def names_of(paths: Sequence[Path]) -> dict[str, Path]:
    """Names each folder by its last part, or by as many parts of its path as tell all folders apart.

    Raises:
      UserError: if a folder is given twice, or has the name of the photographs.
    """
    parts = [path.resolve().parts[1:] for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len({PHOTOGRAPHS, *names}) == len(names) + 1:
            return dict(zip(names, paths))
    raise UserError(f"A folder is given twice, or called {PHOTOGRAPHS}: {', '.join(map(str, paths))}.")
