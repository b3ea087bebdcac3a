"""Compares the variants of an ablation, by its record alone (see `record.py`).

A score of several seeds is their mean, and its interval reaches from the lowest end of their intervals to the highest. The
difference of two variants is paired image by image, with a 95% interval over images and seeds.
"""

import functools
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crn_jax.experiment import SegmenterExperiment, Synthesis, from_json, require_kind
from crn_jax.resuming import differences
from crn_jax.scores.statistics import Spread, spread_of_seeds
from crn_jax.scores.statistics import difference as compared
from launch.cost.flops import forward_flops, step_flops
from launch.evaluation.ranking import FEWEST
from launch.evaluation.scoring import SCORES
from launch.training.progress import late_rescaling

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


def collect(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of ablation.json and of the page. The first variant of the record is the reference.

    The distance is compared on the pixels of the record's classes, too.
    """
    trainings = record["trainings"]
    known = [training["evaluation"] for training in trainings if training["evaluation"]]
    groups = [list(group) for _, group in itertools.groupby(trainings, key=lambda training: training["variant"]["name"])]
    seeds = sorted({training["seed"] for training in trainings})
    spreads = {key: spread_of(groups, key, seeds) for key in _COMPARED}
    variants = [variant_results(groups, row, spreads) for row in range(len(groups))]
    spread = spreads["distance"]
    of_all = {key for variant in variants for key in variant["scores"]}
    collections = any(len(evaluation["candidates"]) > 2 for evaluation in known)
    first = known[0] if known else {}
    return {
        "title": f"{record['suite']}: {first.get('title', 'nothing is finished yet')}",
        "question": record["question"],
        "command": record["command"],
        "versions": first.get("versions", {}),
        "device": ", ".join(dict.fromkeys(evaluation["device"] for evaluation in known)),
        "budget": record["budget"],
        "seeds": seeds,
        "notes": list(dict.fromkeys(itertools.chain(*(evaluation["notes"] for evaluation in known))))
        + several_seeds(seeds)
        + record["notes"],
        "scores": [score for score in (*(s._asdict() for s in SCORES), *chosen_scores(collections)) if score["key"] in of_all],
        "compared": "perceptual distance" + " of the best of k" * collections,
        "fewest": FEWEST,
        "spread": spread and {"std": math.sqrt(spread.pooled), "degrees": spread.degrees},
        "classes": record["classes"],
        "photographs": first["candidates"][0]["scores"] if first else {},
        "variants": variants,
        "examples": record["examples"],
    }


def chosen_scores(collections: bool) -> list[dict[str, Any]]:
    """Returns the scores of collections in the form of `SCORES`. None is better, since the photograph was used to choose."""
    if not collections:
        return []
    return [{"key": key, "title": title, "unit": "", "better": None, "about": about} for _, key, title, about in CHOSEN]


def several_seeds(seeds: Sequence[int]) -> list[str]:
    """Returns a note on the intervals if there are several seeds."""
    if len(seeds) < 2:
        return []
    return ["A score is the mean over seeds. Its interval reaches from the lowest end of the seeds' intervals to the highest."]


def variant_results(
    groups: Sequence[Sequence[dict[str, Any]]], row: int, spreads: Mapping[str, Spread | None]
) -> dict[str, Any]:
    """Returns the trainings of the variant `groups[row]` and what they show together, as ablation.json holds them.

    `spreads` tells, for each of the compared scores, how far seeds move it.
    """
    group, reference = groups[row], groups[0]
    first = group[0]
    before, now = (from_json(each[0]["experiment"]) for each in (reference, group))
    scores = [scores_of(training["evaluation"]) for training in group if training["evaluation"]]
    references = {training["seed"]: training["evaluation"] for training in reference}
    both = [(ours["evaluation"], references.get(ours["seed"])) for ours in group]
    pairs = [(ours, theirs) for ours, theirs in both if ours and theirs]
    return {
        **first["variant"],
        "differs": differences(before, now) if row else [],
        "figures": figures(group),
        "scores": {key: together([one[key] for one in scores]) for key in common_keys(scores)},
        **{of: difference(pairs, key, spreads[key], row) if pairs and row else None for key, of in _COMPARED.items()},
        "rescaling": unused_rescaling(first),
        "runs": [run_results(training) for training in group],
    }


def unused_rescaling(training: dict[str, Any]) -> str | None:
    """Returns a note on a training that ends before it uses the rescaled λ, or None for others."""
    epoch = training["steps_per_epoch"]
    if epoch is None:
        return None
    experiment = from_json(training["trained"])
    if (due := late_rescaling(experiment, epoch)) is None:
        return None
    return f"λ is rescaled after step {due:,}, so none of the {experiment.last_step(epoch):,} steps used it"


def run_results(training: dict[str, Any]) -> dict[str, Any]:
    """Returns what ablation.json holds of one training."""
    lines, evaluation = training["lines"], training["evaluation"]
    return {
        **{key: training[key] for key in ("seed", "status", "problem", "commands")},
        "steps": lines[-1]["step"] if lines else 0,
        "curve": curve(lines),
        "scores": {key: score["value"] for key, score in scores_of(evaluation).items()} if evaluation else {},
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


def common_keys(scores: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the scores that every seed has. One may have been scored with more files, or by another version."""
    return [key for key in (scores[0] if scores else {}) if all(key in one for one in scores)]


def together(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Combines a score over seeds: the mean, the outer ends of all intervals, and the standard deviation over seeds."""
    ends = {"low": min, "high": max}
    found = {key: end(score[key] for score in scores) for key, end in ends.items() if all(key in s for s in scores)}
    values = [score["value"] for score in scores]
    over_seeds = {"std": statistics.stdev(values)} if len(values) > 1 else {}
    return {"value": statistics.fmean(values), **found, **over_seeds}


_COMPARED = {"distance": "difference", "class_distance": "class_difference"}
"""The scores by which variants are compared, and what ablation.json calls their differences."""


def spread_of(groups: Sequence[Sequence[dict[str, Any]]], key: str, seeds: Sequence[int]) -> Spread | None:
    """Returns how far seeds move a score, as all variants show together; None if no two variants have two seeds."""
    means = np.full((len(groups), len(seeds)), np.nan)
    for row, group in enumerate(groups):
        for training in group:
            measured = measured_of(training["evaluation"], key) if training["evaluation"] else None
            values = np.array(measured or [], np.float64)
            if np.isfinite(values).any():
                means[row, seeds.index(training["seed"])] = values[np.isfinite(values)].mean()
    return spread_of_seeds(means)


def measured_of(evaluation: dict[str, Any], key: str) -> list[float | None] | None:
    """Returns the scores of all images by which a training is compared; None if it has none."""
    return chosen_from(evaluation)["best_distance"]["per_image"].get(key)


def difference(
    pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    key: str = "distance",
    spread: Spread | None = None,
    variant: int = 1,
) -> dict[str, Any] | None:
    """Returns the difference of two variants' perceptual distances, from a pair of evaluations for each seed.

    A collection's distance is that of its best image, which is what its loss rewards (Eq. 2 and 3). `nearer` is the probability
    that the first variant is nearer to the photograph of an image drawn at random, `images` the number of images, and `seeds`
    holds the difference of each seed. With the key `class_distance`, images that have none of the classes do not count; without
    any image that counts, the difference is None. `spread` tells how far seeds move the variants' scores. Its row 0 is the
    reference, and `variant` is the row of the other one.
    """
    measured = [[measured_of(evaluation, key) for evaluation in pair] for pair in pairs]
    if any(values is None for pair in measured for values in pair):
        return None
    first, second = np.array(measured, np.float64).swapaxes(0, 1)  # [seeds, images]; null becomes NaN
    counts = np.isfinite(first).all(0)
    if not counts.any():
        return None
    first, second = first[:, counts], second[:, counts]
    from_seeds = (spread.of_difference(variant, 0, len(pairs)), spread.degrees) if spread else ()
    apart = compared(first, second, *from_seeds)
    ends = {"value": apart.value, "low": apart.low, "high": apart.high}
    return {**ends, "nearer": apart.smaller, "images": first.shape[1], "seeds": (first - second).mean(1).tolist()}


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


def figures(group: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns a variant's costs: operations by its configuration, and parameters and times as they were measured."""
    found = dict(operations(*(json.dumps(group[0][key]) for key in ("experiment", "segmenter"))))
    seconds = [line["seconds_per_step"] for training in group for line in training["lines"] if "seconds_per_step" in line]
    if seconds:
        found["seconds_per_step"] = statistics.median(seconds)
    scored = [training for training in group if training["evaluation"]]
    if minutes := [points[-1][1] for training in scored if (points := curve(training["lines"]))]:
        found["minutes"] = statistics.fmean(minutes)
    if resources := [training["evaluation"]["candidates"][1]["resources"] for training in scored]:
        found["parameters"] = resources[0]["parameters"]
        found["layouts_per_second"] = statistics.fmean(each["layouts_per_second"] for each in resources)
    return found


@functools.cache
def operations(experiment: str, segmenter: str) -> dict[str, float]:
    """Counts the floating-point operations of synthesizing from one layout, and of a training step.

    Args:
      experiment: what is trained, as text of JSON.
      segmenter: the segmenter that it is trained with, as text of JSON; null for none.
    """
    trained, judge = from_json(json.loads(experiment)), json.loads(segmenter)
    synthesis = require_kind(trained, Synthesis, trained.name)
    config = judge and require_kind(from_json(judge), SegmenterExperiment, "The segmenter").segmenter
    step = step_flops(synthesis.objective(1, config), synthesis.batch_size)
    return {"synthesis_flop": forward_flops(synthesis.generator), "step_flop": step}
