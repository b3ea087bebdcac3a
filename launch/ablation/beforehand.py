"""What can be known of an ablation before its first training, so that nobody learns of a mistake after hours."""

import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path

from crn_jax.ablation import Ablation, Variant
from crn_jax.buckets import is_bucket
from crn_jax.data.sources import label_space_of
from crn_jax.errors import UserError, did_you_mean
from crn_jax.experiment import AnyExperiment
from crn_jax.files import expanded
from crn_jax.run import holds_run, read_description
from launch.ablation.record import Entry
from launch.common.names import command_line
from launch.evaluation.open_segmenter import is_weights

_DECIDED = {"--seed": "--first_seed and --seeds decide", "--run.folder": "--out decides"}
"""The options of launch.train that an ablation gives itself, and what decides about them."""


def check_words(variants: Sequence[Variant], train: Sequence[str], budget: bool, segmenter: bool) -> None:
    """Raises UserError if a variant, or `--train`, gives an option that the ablation would override without a word.

    Args:
      variants: the variants.
      train: the words of `--train`.
      budget: whether the ablation has a budget.
      segmenter: whether it trains a segmenter, too, whose steps and seed `--train` decides.
    """
    decided = _DECIDED | ({"--steps": "--budget decides"} if budget else {})
    given = [(f"The variant '{variant.name}'", shlex.split(variant.arguments), {*decided}) for variant in variants]
    for whose, words, refused in [("--train", train, {"--run.folder"} if segmenter else {*decided}), *given]:
        for option in (word.partition("=")[0] for word in words):
            if option in refused:
                raise UserError(f"{whose} gives {option}, about which {decided[option]}. Leave it out there.")


def check_comparable(ablation: Ablation, entries: Sequence[Entry]) -> None:
    """Raises UserError if the variants cannot be scored on the same images, or the suite's classes are none of the data's."""
    first, *others = (entry.task.experiment for entry in entries)
    for entry, experiment in zip(entries[1:], others):
        for what, ours, theirs in (
            ("size", first.size, experiment.size),
            ("data set", first.data.source, experiment.data.source),
            ("number of classes", first.num_classes, experiment.num_classes),
        ):
            if ours != theirs:
                raise UserError(
                    f"The variants '{entries[0].variant.name}' and '{entry.variant.name}' cannot be compared on the same "
                    f"images: the {what} of one is {ours}, and that of the other {theirs}. Give both the same."
                )
    if ablation.classes:
        known = label_space_of(first.data).classes
        for name in ablation.classes:
            if name not in known:
                raise UserError(f"The suite compares the class '{name}', which the data lack.{did_you_mean(name, known)}")


def check_files(paths: Sequence[Path | None]) -> None:
    """Raises UserError if a file is missing that is needed only after the first training."""
    for path in paths:
        if path is not None and not is_bucket(path) and not path.exists():
            raise UserError(f"{path}: there is no such file or folder.")


def check_judge(asked: str, experiment: AnyExperiment) -> None:
    """Raises UserError if `--judge` is nothing that judges the images of this experiment."""
    judge = expanded(asked)
    if holds_run(judge):
        described, space, _ = read_description(judge)
        if space.classes != label_space_of(experiment.data).classes:
            theirs = ", ".join(space.classes)
            raise UserError(f"--judge {asked} is for other classes: {theirs}. Give a segmenter of this suite's classes.")
        if described.size != experiment.size:
            (height, width), size = described.size, experiment.size
            remedy = command_line("train", described.name, "--segmenter.size", *map(str, size))
            raise UserError(f"--judge {asked} is for {height}x{width}, the images are {size[0]}x{size[1]}. Train one: {remedy}")
    elif ":" in judge and not is_bucket(judge) and not Path(judge).exists():
        package = judge.partition(":")[0].partition(".")[0]  # to look for more would import it
        if not package or importlib.util.find_spec(package) is None:
            raise UserError(f"--judge {asked}: there is no package '{package}'. Install it, or add its folder to PYTHONPATH.")
    elif not is_weights(judge):
        raise UserError(
            f"--judge {asked}: this is neither a run folder nor a file of weights nor package.module:factory. To judge "
            "by label files of another tool, score each run by launch.evaluate."
        )
