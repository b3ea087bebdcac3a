"""Joins records of one suite, such as of seeds or variants that were trained on different machines, into one record."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from crn_jax.errors import UserError
from crn_jax.experiment import from_json
from crn_jax.resuming import BY_CONTENT, differences
from launch.ablation.record import read_record
from launch.ablation.verify import APART, unequal

ROUNDING = 1e-6
"""How far scores of the photographs may be apart that are 0 but for rounding, such as their Fréchet distance to themselves."""

_SAME = ("suite", "question", "budget", "classes")
"""What the records of one suite have in common."""


JUDGED = ("miou", "accuracy", "miou_void", "accuracy_void")
"""The scores that depend on the segmenter."""


def joined(paths: Sequence[Path], command: str, judge: bool = True) -> dict[str, Any]:
    """Returns one record with the trainings of several, without results.

    Variants are in the order of the first record that has them, and seeds in ascending order. A training that one record has
    finished replaces the same training of another that has not. The pictures of a variant are those of the first record.

    Args:
      paths: the records.
      command: what the new record says of how it was made.
      judge: whether to keep what segmenters found, which has to come from one segmenter.

    Raises:
      UserError: if the records are of different suites, or hold the same training twice, or a variant with two settings.
    """
    if not paths:
        raise UserError("Name at least one record, such as runs/ablations/paper/record.json.gz.")
    records = [read_record(path) if judge else without_judge(read_record(path)) for path in paths]
    first = records[0]
    trainings: dict[tuple[str, int], tuple[Path, dict[str, Any]]] = {}
    for path, record in zip(paths, records):
        for key in _SAME:
            if record[key] != first[key]:
                raise UserError(f"{paths[0]} and {path} cannot be joined. Their {key}: {first[key]!r}, now {record[key]!r}.")
        for training in record["trainings"]:
            seat = training["variant"]["name"], training["seed"]
            if seat not in trainings or more_finished(trainings[seat], (path, training)):
                trainings[seat] = path, training
    order = list(dict.fromkeys(name for name, _ in trainings))
    seats = sorted(trainings, key=lambda seat: (order.index(seat[0]), seat[1]))
    chosen = [trainings[seat] for seat in seats]
    check_settings(chosen, by_time="minutes" in first["budget"])
    check_scoring(chosen)
    return {key: value for key, value in first.items() if key != "results"} | {
        "command": command,
        "versions": {
            key: ", ".join(map(str, distinct(record["versions"].get(key) for record in records))) for key in first["versions"]
        },
        "trainings": [training for _, training in chosen],
        "notes": distinct(itertools.chain(*(record["notes"] for record in records))),
        "examples": joined_examples(records),
    }


def without_judge(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record without what its segmenter found: mIoU, pixel accuracy, and what they are computed from."""

    def candidate(scored: dict[str, Any]) -> dict[str, Any]:
        found = {of: {key: value for key, value in scored[of].items() if key not in JUDGED} for of in ("scores", "per_image")}
        return scored | found | {"class_iou": None, "confusion": None}

    def evaluation(whole: dict[str, Any]) -> dict[str, Any]:
        return whole | {
            "candidates": [candidate(scored) for scored in whole["candidates"]],
            "scores": [score for score in whole["scores"] if score["key"] not in JUDGED],
            "notes": [note for note in whole["notes"] if not note.startswith("Segmenter: ")],
        }

    trainings = [
        training | {"evaluation": training["evaluation"] and evaluation(training["evaluation"])}
        for training in record["trainings"]
    ]
    note = "mIoU and pixel accuracy were left out when records were joined (--without_judge)."
    return record | {"trainings": trainings, "notes": [*record["notes"], note]}


def more_finished(one: tuple[Path, dict[str, Any]], other: tuple[Path, dict[str, Any]]) -> bool:
    """Returns whether the second of two records of a training is the finished one.

    Raises:
      UserError: if both are finished, and have other scores.
    """
    (path, kept), (other_path, training) = one, other
    if kept["evaluation"] and training["evaluation"] and scores_of_images(kept) != scores_of_images(training):
        name = f"{kept['variant']['name']}, seed {kept['seed']}"
        raise UserError(f"{path} and {other_path} both have '{name}' with other scores. Train other seeds with --first_seed.")
    return not kept["evaluation"] and bool(training["evaluation"])


def scores_of_images(training: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the scores of all images of a finished training."""
    return [candidate["per_image"] for candidate in training["evaluation"]["candidates"]]


def check_settings(trainings: Sequence[tuple[Path, dict[str, Any]]], by_time: bool = False) -> None:
    """Raises UserError if trainings of one variant differ in other settings than the seed, or in their steps.

    With a budget in minutes (`by_time`), machines may have made different numbers of steps.
    """
    for (path, one), (other_path, other) in itertools.pairwise(trainings):
        if one["variant"]["name"] == other["variant"]["name"]:
            before, now = (from_json(each["experiment"] | {"seed": 0}) for each in (one, other))
            apart = differences(before, now, BY_CONTENT)  # the record has the names of folders alone
            steps, now_steps = (
                each["lines"][-1]["step"] if each["evaluation"] and each["lines"] else 0 for each in (one, other)
            )
            if steps and now_steps and steps != now_steps and not by_time:
                apart.append(f"steps: {steps:,}, now {now_steps:,}")
            if apart:
                name = one["variant"]["name"]
                raise UserError(f"{path} and {other_path}: '{name}' was trained with two settings: {', '.join(apart)}.")


RESCORE = "Remove the folder evaluation of those that were scored first, and give the command again."
"""The remedy for trainings of one ablation that were scored in different ways."""

WITHOUT_JUDGE = "Their segmenters differ. --without_judge joins all scores but mIoU and pixel accuracy."
"""The remedy for records of different segmenters."""


def check_scoring(trainings: Sequence[tuple[Path, dict[str, Any]]], remedy: str = "") -> None:
    """Raises UserError if the trainings were not scored on the same images, or by other weights or another judge.

    The photographs are scored, too. Another judge or other weights give them other scores.
    """
    scored = [(path, training["evaluation"]) for path, training in trainings if training["evaluation"]]
    for path, evaluation in scored[1:]:
        first_path, first = scored[0]
        apart = list(unequal(conditions(first), conditions(evaluation), APART, ROUNDING))
        if apart:
            unjudged = unequal(conditions(first, judge=False), conditions(evaluation, judge=False), APART, ROUNDING)
            judge_alone = not list(unjudged)
            raise UserError(
                f"{first_path} and {path} were scored in different ways: {'; '.join(apart[:3])}. "
                f"{remedy or WITHOUT_JUDGE * judge_alone}".rstrip()
            )


def conditions(evaluation: dict[str, Any], judge: bool = True) -> dict[str, Any]:
    """Returns what the evaluations of one suite have in common: the images, the weights, and how the photographs score.

    `judge` says whether the scores count that depend on the segmenter.
    """
    photographs = evaluation["candidates"][0]["scores"]
    scores = {key: score["value"] for key, score in photographs.items() if judge or key not in JUDGED}
    weights = evaluation.get("vgg19", {}).get("sha256")
    return {"images": evaluation["title"], "names": evaluation.get("names"), "VGG-19": weights, "photographs": scores}


def joined_examples(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the layouts of the first record that has pictures, with the images that any record shows of them."""
    rows: dict[str, dict[str, Any]] = {}
    for row in itertools.chain(*(record["examples"] for record in records)):
        kept = rows.setdefault(row["name"], row | {"images": {}})
        kept["images"] = row["images"] | kept["images"]
    first: list[dict[str, Any]] = next((record["examples"] for record in records if record["examples"]), [])
    return [rows[row["name"]] for row in first]


def distinct(values: Iterable[Any]) -> list[Any]:
    """Returns the values in order, each once, without None."""
    return list(dict.fromkeys(value for value in values if value is not None))
