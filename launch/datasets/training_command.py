"""Finds the command line of launch.train for a data set that has been inspected, and tries it on the data."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from crn_jax.data.geometry import alike, sizes_that_fit
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.sources import DataConfig, Split, label_space_of, open_source
from crn_jax.errors import UserError
from crn_jax.settings import PAPER_WIDTHS
from launch.common.catalogue import experiments
from launch.common.command_line import parse
from launch.datasets.problems import Problem
from launch.datasets.survey import Look, Pair

_START = "camvid_96x128"  # the experiment whose schedule other data take over
_START_EXAMPLES = 367
_SMALL = (128, 256)  # the number of pixels that two CPU cores can train on
_SMALLEST = 16  # the smallest side that VGG-19 takes


def training_arguments(
    data: DataConfig,
    label_space: LabelSpace,
    pairs: Sequence[Pair],
    looks: Sequence[Look],
    size: tuple[int, int] | None,
    boundaries: bool = False,
) -> list[str]:
    """Returns the command line of launch.train for this data set.

    It names an experiment that fits the data, or else sets the options of another experiment.

    Raises:
      UserError: if no cascade makes images of `size`.
    """
    assert data.root is not None, "data sets that are inspected lie in a folder"
    sizes = Counter(look.size for look in looks if look.size)
    root = no_option(data.root)
    labels, instances = (path and no_option(path) for path in (data.labels, data.instances))
    with_boundaries = ["--cascade.boundaries"] * boundaries + (["--data.instances", instances] if instances else [])
    for name, experiment in experiments().items():
        same = experiment.trains == "cascade" and experiment.data.source == data.source
        same = same and label_space_of(dataclasses.replace(experiment.data, read=data.read)) == label_space
        same = same and size in (None, experiment.size)
        if same and all(alike(found, experiment.size) for found in sizes):
            return [name, "--data.root", root, *(["--data.read", data.read] if data.read else []), *with_boundaries]
    base, modules = cascade_of_size(size) if size else cascade_for(sizes)
    height, width = (side * 2 ** (modules - 1) for side in base)
    narrow = (256,) * (modules - 2) + (128, 64)
    widths = narrow if height * width <= math.prod(_SMALL) else PAPER_WIDTHS[:modules]
    start = experiments()[_START]
    examples = max(1, sum(pair.split == "train" for pair in pairs))
    epochs = max(2, round(start.epochs * _START_EXAMPLES / examples))
    name = re.sub(r"[^\w.-]+", "_", Path(data.root).resolve().name).lstrip("-")
    options: dict[str, Sequence[Any]] = {
        "--name": [f"{name}_{height}x{width}"],
        "--about": [f"The photographs of {name} at {height}x{width}."],
        "--data.source": [data.source],
        "--data.root": [root],
        "--data.labels": [labels] if labels else [],
        "--data.read": [data.read] if data.read else [],
        "--data.fit": [] if all(alike(found, (height, width)) for found in sizes) else ["crop"],
        "--cascade.num_classes": [label_space.num_classes],
        "--cascade.base": base,
        "--cascade.widths": widths,
        "--epochs": [epochs],
        "--lambdas.rescale_epoch": [max(1, epochs // 11)],
    }
    words = [str(word) for option, values in options.items() if values for word in (option, *values)]
    return [_START, *words, *with_boundaries]


def no_option(path: str) -> str:
    """Returns a path that no command line takes for an option."""
    return f"./{path}" if path.startswith("-") else path


def cascade_for(sizes: Counter[tuple[int, int]]) -> tuple[tuple[int, int], int]:
    """Returns the base and the number of modules of a cascade for photographs of these sizes.

    Its images are as large as two CPU cores can train on, but no larger than the photographs. Their shape is the median of the
    photographs' shapes, because a crop to it loses least.
    """
    found = sorted(sizes.elements(), key=lambda size: size[0] / size[1]) or [_SMALL]
    shape = found[len(found) // 2]
    # Where no size fits, photographs are cropped.
    fitting = sizes_that_fit(shape, min(shape, _SMALL, key=math.prod)) or {(4, 8): [_SMALL]}
    base, (size, *_) = next(iter(fitting.items()))
    doublings = (size[0] // base[0]).bit_length() - 1
    return base, 1 + max(doublings, 2, math.ceil(math.log2(_SMALLEST / min(base))))


def cascade_of_size(size: tuple[int, int]) -> tuple[tuple[int, int], int]:
    """Returns the base and the largest number of modules of a cascade that makes images of `size`.

    Raises:
      UserError: if there is none. The message names a size near it that has one.
    """
    for modules in range(9, 2, -1):
        scale = 2 ** (modules - 1)
        if size[0] % scale == size[1] % scale == 0 and min(size) >= 3 * scale and min(size) >= _SMALLEST:
            return (size[0] // scale, size[1] // scale), modules
    height, width = (max(48, 16 * round(side / 16)) for side in size)
    raise UserError(
        f"--size {size[0]} {size[1]}: each module doubles the size, so both sides must be multiples of 4, and at "
        f"least {_SMALLEST}. Try {height} {width}."
    )


def rehearse(training: list[str], pairs: Sequence[Pair], looks: Sequence[Look]) -> tuple[list[str], list[Problem]]:
    """Opens the data as launch.train would, with the narrowest and the widest example of each split.

    Returns:
      What launch.train would note, and a problem if it would refuse the data.
    """
    notes: list[str] = []
    try:
        experiment = parse(training).experiment
        for split in get_args(Split):
            source = open_source(experiment.data, split, experiment.size, None, None, experiment.boundaries)
            notes += source.notes
            shapes = {
                pair.name: look.size[0] / look.size[1] for pair, look in zip(pairs, looks) if pair.split == split and look.size
            }
            for name in {min(shapes, key=shapes.__getitem__), max(shapes, key=shapes.__getitem__)}:
                source[source.names.index(name)]
    except UserError as error:
        return notes, [Problem(True, "launch.train refuses the data", str(error), [])]
    return list(dict.fromkeys(notes)), []
