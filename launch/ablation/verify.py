"""Verifies a record of an ablation: computes its results again, and scores its runs again.

The results are computed from the lines and evaluations that the record holds, by the code of this version. The runs are scored
by launch.evaluate as they were for the record. A record may come from anybody, so nothing that it names is executed.
"""

import contextlib
import itertools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import crn_jax.__main__
from crn_jax.errors import UserError
from crn_jax.scores.metrics import pixels_by_class
from launch.ablation.findings import collect
from launch.ablation.summary import conclusions
from launch.ablation.workers import own
from launch.common.output import finite
from launch.evaluation.evaluation_file import read_evaluation
from launch.evaluation.scoring import AVERAGED, means, percent_of
from launch.training.metrics_log import read_metrics

SCORING = ("--segmenter", "--inception", "--lpips", "--classes", "--examples", "--vgg.weights")
"""The options of launch.evaluate that an ablation gives, and a record may repeat."""

SETS_APART = 1e-2
"""How far a score of a whole set may be from the record's, relatively, or absolutely if it is small."""

APART = 2e-3
"""How far the score of an image may be from the record's, relative to the largest. Another device rounds otherwise."""


def results_of(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the results of a record, with the conclusions."""
    results = collect(record)
    return finite(results | {"conclusions": list(conclusions(results))})


@contextlib.contextmanager
def computable(*paths: Path) -> Iterator[None]:
    """Turns errors within the `with` block, which computes results of records in these files, into one that names the files.

    Raises:
      UserError: if the results cannot be computed.
    """
    where = ", ".join(map(str, paths))
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{where}: the results cannot be computed from this ({error!r}). Fetch the record again.") from error


def unequal_results(record: dict[str, Any], path: Path) -> list[str]:
    """Computes the results again, and returns what differs from those that the record in the file `path` holds.

    Raises:
      UserError: if nothing can be computed from the record.
    """
    with computable(path):
        apart = [
            f"{training['folder']}: {line}"
            for training in record["trainings"]
            if training["evaluation"]
            for candidate in training["evaluation"]["candidates"]
            for line in unequal_means(candidate)
        ]
        again = json.loads(json.dumps(results_of(record)))
    return apart + list(unequal(record["results"], stored_part(again)))


def stored_part(results: dict[str, Any]) -> dict[str, Any]:
    """Returns the results without the images, which the record holds once already."""
    return {key: value for key, value in results.items() if key != "examples"}


def unequal_means(candidate: dict[str, Any]) -> Iterator[str]:
    """Computes the scores of a candidate of launch.evaluate again, from those of its images and its confusion matrix."""
    images = {key: np.array(values, np.float64) for key, values in candidate["per_image"].items() if key in AVERAGED}
    for key in candidate["scores"]:
        by_pixels = key.removesuffix("_void") in ("miou", "accuracy")
        if (key in AVERAGED and key not in images) or (by_pixels and not candidate.get("confusion")):
            yield f"{candidate['name']}.{key}: the record lacks what it is computed from"
    stored = {key: candidate["scores"][key] for key in images if key in candidate["scores"]}
    again = {key: score for key, score in means(images).items() if key in stored}
    yield from unequal(stored, finite(again), where=candidate["name"])
    if candidate.get("confusion"):
        pixels = pixels_by_class(np.array(candidate["confusion"]))
        for key, suffix in itertools.product(("miou", "accuracy"), ("", "_void")):
            if key + suffix not in candidate["scores"]:
                continue  # an older version did not measure it
            score = float(percent_of(key, count_void=bool(suffix))(pixels))
            where = f"{candidate['name']}.{key}{suffix}"
            yield from unequal(candidate["scores"][key + suffix]["value"], finite(score), where=where)


def unequal_scores(record: dict[str, Any], folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Scores the runs of an ablation's folder again.

    Yields:
      the name of a training, and what is wrong: scores of images that differ from the record's, or a run that is not there.

    Raises:
      UserError: if a run cannot be scored, or the record asks for other options than `SCORING`.
    """
    for training in record["trainings"]:
        if not training["evaluation"]:
            continue
        name, run = f"{training['variant']['name']}, seed {training['seed']}", folder / training["folder"]
        check_scoring(training["score"], name)
        if not (run / "run.json").is_file():
            yield name, [f"there is no run {run}"]
            continue
        with tempfile.TemporaryDirectory() as out:
            words = ["evaluate", str(run.absolute()), *training["score"], "--out", out]  # never an option: it begins with /
            found = subprocess.run(
                [sys.executable, "-P", crn_jax.__main__.__file__, *words],
                env=own({}),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            if found.returncode:
                raise UserError(f"{run}: the run cannot be scored again.\n{found.stdout.strip()[-4000:]}")
            again = read_evaluation(Path(out) / "evaluation.json")
        lines = read_metrics(run / "metrics.jsonl")
        logged = [f"the line of step {line['step']} is not in metrics.jsonl" for line in training["lines"] if line not in lines]
        yield name, [*unequal_images(training["evaluation"], again), *unequal_sets(training["evaluation"], again), *logged[:3]]


def check_scoring(arguments: Sequence[str], name: str) -> None:
    """Raises UserError if arguments of launch.evaluate would do more than score, or would import code."""
    for word in arguments:
        if (word.startswith("-") and word not in SCORING) or (":" in word and not Path(word).exists()):
            raise UserError(
                f"{name}: the record asks for {word!r}, which is not run. Score this run by launch.evaluate yourself."
            )


def unequal_images(stored: dict[str, Any], again: dict[str, Any]) -> Iterator[str]:
    """Yields which scores of single images differ by more than rounding between two evaluations of the same run."""
    before, now = ([candidate["name"] for candidate in each["candidates"]] for each in (stored, again))
    if before != now:
        yield f"now {', '.join(now)} are scored, then {', '.join(before)}"
    for one, other in zip(stored["candidates"], again["candidates"]):
        for key in one["per_image"]:
            first, second = (np.array(each["per_image"].get(key, []), np.float64) for each in (one, other))
            apart = APART * abs(first[np.isfinite(first)]).max(initial=0)
            if first.shape != second.shape or not np.allclose(first, second, 0, apart, equal_nan=True):
                yield f"{key} of {one['name']} differs"


def unequal_sets(stored: dict[str, Any], again: dict[str, Any]) -> Iterator[str]:
    """Yields what else differs between two evaluations of the same run: the weights, the images, and scores of whole sets."""
    weights, now = (each.get("vgg19", {}).get("sha256") for each in (stored, again))
    yield from unequal(weights, now, where="VGG-19") if weights else ()  # an older version has not written it
    yield from unequal(stored["names"], again.get("names"), where="names") if "names" in stored else ()
    for one, other in zip(stored["candidates"], again["candidates"]):
        for key, score in one["scores"].items():
            now, where = other["scores"].get(key, {"value": None}), f"{one['name']}.{key}"
            yield from unequal(score["value"], now["value"], SETS_APART, SETS_APART, where)


def unequal(stored: Any, again: Any, rel_tol: float = 1e-9, abs_tol: float = 0.0, where: str = "") -> Iterator[str]:
    """Yields what differs between two pieces of JSON, with its place. Numbers may differ by tolerances."""
    if isinstance(stored, dict) and isinstance(again, dict) and stored.keys() == again.keys():
        for key in stored:
            yield from unequal(stored[key], again[key], rel_tol, abs_tol, f"{where}.{key}" if where else key)
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        for n, (one, other) in enumerate(zip(stored, again)):
            yield from unequal(one, other, rel_tol, abs_tol, f"{where}[{n}]")
    elif is_number(stored) and is_number(again):
        if not math.isclose(stored, again, rel_tol=rel_tol, abs_tol=abs_tol):
            yield f"{where}: {stored:.6g}, now {again:.6g}"
    elif stored != again:
        yield f"{where}: {short(stored)}, now {short(again)}"


def numbers_in(fields: Any) -> int:
    """Counts the numbers in JSON."""
    if isinstance(fields, dict | list):
        return sum(map(numbers_in, fields.values() if isinstance(fields, dict) else fields))
    return is_number(fields)


def is_number(value: Any) -> bool:
    """Returns whether a value of JSON is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def short(value: Any) -> str:
    """Returns a value of JSON as text that fits a line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."
