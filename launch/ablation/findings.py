"""Reads the results of an ablation's trainings from their folders, and compares the variants.

A score of several seeds is their mean, and its interval reaches from the lowest end of their intervals to the highest. The
difference of two variants is paired image by image, with a 95% bootstrap interval over images and seeds.
"""

import dataclasses
import functools
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crn_jax.ablation import Variant
from crn_jax.data.photographs import open_photograph
from crn_jax.data.pipeline import spread
from crn_jax.data.sources import open_source
from crn_jax.experiment import SegmenterExperiment, Synthesis, require_kind
from crn_jax.resuming import differences
from crn_jax.run import read_description
from crn_jax.scores.statistics import difference as compared
from launch.ablation.tasks import Task, shown
from launch.common.page import data_url
from launch.cost.flops import forward_flops, step_flops
from launch.evaluation.evaluation_file import read_evaluation
from launch.evaluation.scoring import SCORES
from launch.training.metrics_log import read_metrics

CHOSEN = (
    ("best of ", "best_distance", "distance, best of k", "Perceptual distance of that one of k images which is nearest"),
    (
        "assembled",
        "assembled_distance",
        "distance, assembled",
        "Perceptual distance of the image assembled from the best of each class",
    ),
)
"""The scores of collections: the mark of the method in launch.evaluate, then key, title and explanation of the score here."""


class Entry(NamedTuple):
    """One training of the suite. `outcome` is what `Workers.run` returned, or None before."""

    variant: Variant
    seed: int
    task: Task
    outcome: str | None = None


def collect(
    suite: str, question: str, entries: Sequence[Entry], budget: str, command: str, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the content of ablation.json and of the page. The first variant of `entries` is the reference.

    The distance is compared on the pixels of `classes`, too.
    """
    evaluations = {entry.task.folder: evaluation_of(entry.task) for entry in entries}
    known = [evaluation for evaluation in evaluations.values() if evaluation]
    groups = [list(group) for _, group in itertools.groupby(entries, key=lambda entry: entry.variant.name)]
    reference = groups[0]
    variants = [variant_results(group, reference, evaluations) for group in groups]
    of_all = {key for variant in variants for key in variant["scores"]}
    collections = any(len(evaluation["candidates"]) > 2 for evaluation in known)
    first = known[0] if known else {}
    return {
        "title": f"{suite}: {first.get('title', 'nothing is finished yet')}",
        "question": question,
        "command": command,
        "versions": first.get("versions", {}),
        "device": ", ".join(dict.fromkeys(evaluation["device"] for evaluation in known)),
        "budget": budget,
        "seeds": sorted({entry.seed for entry in entries}),
        "notes": list(dict.fromkeys(itertools.chain(*(evaluation["notes"] for evaluation in known))))
        + several_seeds(entries)
        + damaged_lines(entries),
        "scores": [score for score in (*(s._asdict() for s in SCORES), *chosen_scores(collections)) if score["key"] in of_all],
        "compared": "perceptual distance" + " of the best of k" * collections,
        "classes": list(classes),
        "photographs": first["candidates"][0]["scores"] if first else {},
        "variants": variants,
        "examples": examples(entries),
    }


def evaluation_of(task: Task) -> dict[str, Any] | None:
    """Returns what launch.evaluate found of a finished task, or None before."""
    path = task.folder / "evaluation" / "evaluation.json"
    return read_evaluation(path) if task.outstanding() is None and path.is_file() else None


def chosen_scores(collections: bool) -> list[dict[str, Any]]:
    """Returns the scores of collections in the form of `SCORES`. None is better, since the photograph was used to choose."""
    if not collections:
        return []
    return [{"key": key, "title": title, "unit": "", "better": None, "about": about} for _, key, title, about in CHOSEN]


def several_seeds(entries: Sequence[Entry]) -> list[str]:
    """Returns a note on the intervals if there are several seeds."""
    if len({entry.seed for entry in entries}) < 2:
        return []
    return ["A score is the mean over seeds. Its interval reaches from the lowest end of the seeds' intervals to the highest."]


def damaged_lines(entries: Sequence[Entry]) -> list[str]:
    """Returns a note on each metrics.jsonl that has damaged lines."""
    notes: list[str] = []
    for entry in entries:
        read_metrics(entry.task.folder / "metrics.jsonl", notes.append)
    return notes


def variant_results(
    group: Sequence[Entry], reference: Sequence[Entry], evaluations: dict[Path, dict[str, Any] | None]
) -> dict[str, Any]:
    """Returns a variant's trainings and what they show together, as ablation.json holds them."""
    variant, task = group[0].variant, group[0].task
    runs = [run_results(entry, evaluations[entry.task.folder]) for entry in group]
    scores = [scores_of(evaluation) for entry in group if (evaluation := evaluations[entry.task.folder])]
    pairs = [
        (ours, theirs)
        for one, other in zip(group, reference)
        if (ours := evaluations[one.task.folder]) and (theirs := evaluations[other.task.folder])
    ]
    return {
        "name": variant.name,
        "about": variant.about,
        "differs": differences(reference[0].task.experiment, task.experiment) if group is not reference else [],
        "preferred": variant.preferred,
        "figures": figures(group, evaluations),
        "scores": {key: together([one[key] for one in scores]) for key in (scores[0] if scores else {})},
        "difference": difference(pairs) if pairs and group is not reference else None,
        "class_difference": difference(pairs, "class_distance") if pairs and group is not reference else None,
        "rescaling": unused_rescaling(task),
        "runs": runs,
    }


def unused_rescaling(task: Task) -> str | None:
    """Returns a note on a training that ends before it uses the rescaled λ, or None for others."""
    file = task.folder / "run.json"
    if not file.is_file():
        return None
    experiment, _, description = read_description(task.folder)
    epoch = description["data"]["steps_per_epoch"]
    last, due = experiment.last_step(epoch), experiment.rescale_epoch * epoch
    return f"λ is rescaled after step {due:,}, so none of the {last:,} steps used it" if last <= due else None


def run_results(entry: Entry, evaluation: dict[str, Any] | None) -> dict[str, Any]:
    """Returns what ablation.json holds of one training."""
    task, lines = entry.task, lines_of(entry.task)
    status = "finished" if task.outstanding() is None else entry.outcome if entry.outcome == "failed" else "waiting"
    if status == "waiting" and lines:
        status = "training"
    return {
        "seed": entry.seed,
        "status": status,
        "problem": task.problem() if status == "failed" else None,
        "steps": lines[-1]["step"] if lines else 0,
        "curve": curve(lines),
        "scores": {key: score["value"] for key, score in scores_of(evaluation).items()} if evaluation else {},
        "commands": [shown(command) for command in task.finished()],
    }


def chosen_from(evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the candidates of an evaluation by the keys of `CHOSEN`. With one image a layout, each is the run itself."""
    _, run, *chosen = evaluation["candidates"]
    by_mark = {candidate["name"].removeprefix(run["name"]): candidate for candidate in chosen}
    return {key: next((by_mark[name] for name in by_mark if mark in name), run) for mark, key, *_ in CHOSEN}


def scores_of(evaluation: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Returns a run's scores by key, with the distances of the images chosen from its collections."""
    chosen = {key: candidate["scores"]["distance"] for key, candidate in chosen_from(evaluation).items()}
    scores = {key: score for key, score in evaluation["candidates"][1]["scores"].items() if score["value"] is not None}
    return scores | chosen


def together(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Combines a score over seeds: the mean, the outer ends of all intervals, and the standard deviation over seeds."""
    ends = {"low": min, "high": max}
    found = {key: end(score[key] for score in scores) for key, end in ends.items() if all(key in s for s in scores)}
    values = [score["value"] for score in scores]
    over_seeds = {"std": statistics.stdev(values)} if len(values) > 1 else {}
    return {"value": statistics.fmean(values), **found, **over_seeds}


def difference(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], key: str = "distance") -> dict[str, Any] | None:
    """Returns the difference of two variants' perceptual distances, from a pair of evaluations for each seed.

    A collection's distance is that of its best image, which is what its loss rewards (Eq. 2 and 3). `nearer` is the probability
    that the first variant is nearer to the photograph of an image drawn at random, and `seeds` holds the difference of each
    seed. With the key `class_distance`, images that have none of the classes do not count; without any image that counts, the
    difference is None.
    """
    measured = [[chosen_from(evaluation)["best_distance"]["per_image"].get(key) for evaluation in pair] for pair in pairs]
    if any(values is None for pair in measured for values in pair):
        return None
    first, second = np.array(measured, np.float64).swapaxes(0, 1)  # [seeds, images]; null becomes NaN
    counts = np.isfinite(first).all(0)
    if not counts.any():
        return None
    first, second = first[:, counts], second[:, counts]
    apart = compared(first, second)
    ends = {"value": apart.value, "low": apart.low, "high": apart.high}
    return {**ends, "nearer": apart.smaller, "seeds": (first - second).mean(1).tolist()}


def lines_of(task: Task) -> list[dict[str, Any]]:
    """Returns the lines of a task's metrics.jsonl up to its budget, since a larger budget may have been begun."""
    lines = read_metrics(task.folder / "metrics.jsonl")
    return [line for line in lines if task.budget.steps is None or line["step"] <= task.budget.steps]


def curve(lines: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Returns the validations of metrics.jsonl: step, minutes of training until then, distance."""
    points, minutes, before = [], 0.0, 0
    for line in lines:
        if "seconds_per_step" in line:
            minutes += line["seconds_per_step"] * (line["step"] - before) / 60
            before = line["step"]
        if "validation" in line:
            points.append([line["step"], minutes, line["validation"]["distance"]])
    return points


def figures(group: Sequence[Entry], evaluations: dict[Path, dict[str, Any] | None]) -> dict[str, float]:
    """Returns a variant's costs: operations by its configuration, and parameters and times as they were measured."""
    found = dict(operations(group[0].task))
    lines = [lines_of(entry.task) for entry in group]
    seconds = [line["seconds_per_step"] for run in lines for line in run if "seconds_per_step" in line]
    if seconds:
        found["seconds_per_step"] = statistics.median(seconds)
    minutes = [curve(run)[-1][1] for entry, run in zip(group, lines) if evaluations[entry.task.folder]]
    if minutes:
        found["minutes"] = statistics.fmean(minutes)
    resources = [e["candidates"][1]["resources"] for entry in group if (e := evaluations[entry.task.folder])]
    if resources:
        found["parameters"] = resources[0]["parameters"]
        found["layouts_per_second"] = statistics.fmean(each["layouts_per_second"] for each in resources)
    return found


@functools.cache
def operations(task: Task) -> dict[str, float]:
    """Counts the floating-point operations of synthesizing from one layout, and of a training step."""
    experiment = require_kind(task.experiment, Synthesis, task.name)
    segmenter = None
    if run := experiment.segmenter_run:
        segmenter = require_kind(read_description(run)[0], SegmenterExperiment, f"The run {run}").segmenter
    step = step_flops(experiment.objective(1, segmenter), experiment.batch_size)
    return {"synthesis_flop": forward_flops(experiment.generator), "step_flop": step}


def examples(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Returns the layouts of the contact sheets, and the images that each finished variant's first seed makes of them."""
    synthesized = {e.variant.name: e.task for e in entries if e.seed == 0 and e.task.outstanding() is None}
    if not synthesized:
        return []
    experiment = next(iter(synthesized.values())).experiment
    source = open_source(dataclasses.replace(experiment.data, cache=None), "val", experiment.size)
    validated = spread(source, experiment.run.validation_examples)
    rows = []
    for n, position in enumerate(spread(validated, experiment.run.sheet_examples)):
        example = source[validated[position]]
        files = {name: task.folder / "synthesized" / f"{n}.png" for name, task in synthesized.items()}
        images = {name: np.asarray(open_photograph(file)) for name, file in files.items() if file.is_file()}
        rows.append(
            {
                "name": source.names[validated[position]],
                "layout": data_url(source.label_space.draw(example["layout"]), lossless=True),
                "photograph": data_url(example["photograph"], lossless=False),
                "images": {name: data_url(image, lossless=False) for name, image in images.items()},
            }
        )
    return rows
