"""The record of an ablation: all that its page is computed from, in one file, so that others can check the page.

It holds every training's experiment, logged lines and evaluation, with the scores of every image, the six layouts with their
images, and the results. `collect` computes the results from the rest, and `launch.ablate verify` repeats that.
"""

import dataclasses
import gzip
import importlib.metadata
import json
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crn_jax.ablation import Variant
from crn_jax.checksums import KEY, sealed, unsealed
from crn_jax.data.photographs import open_photograph
from crn_jax.data.pipeline import spread
from crn_jax.data.sources import open_source
from crn_jax.errors import UserError
from crn_jax.experiment import to_json
from crn_jax.files import replacing
from crn_jax.formats.json_file import check, parse_json
from crn_jax.run import read_description
from launch.ablation.tasks import Task, shown
from launch.common.output import finite
from launch.common.page import data_url
from launch.evaluation.evaluation_file import EVALUATION, read_evaluation
from launch.training.metrics_log import read_metrics

FILE = "record.json.gz"
"""The name of the record in the folder of an ablation."""

LARGEST = 1 << 26
"""The bytes of JSON that a record may have."""

_TRAINING = {
    "variant": {"name": str, "about": str, "preferred": (dict, None)},
    "seed": int,
    "folder": str,
    "status": str,
    "problem": (str, None),
    "commands": [str],
    "score": [str],
    "experiment": dict,
    "segmenter": (dict, None),
    "trained": (dict, None),
    "steps_per_epoch": (int, None),
    "lines": [{"step": int}],
    "evaluation": (dict, None),
}
_RECORD = {
    "suite": str,
    "question": str,
    "command": str,
    "budget": str,
    "classes": [str],
    "notes": [str],
    "versions": dict,
    "trainings": [_TRAINING],
    "examples": [{"name": str, "images": dict}],
    "results": dict,
}


class Entry(NamedTuple):
    """One training of the suite. `outcome` is what `Workers.run` returned, or None before."""

    variant: Variant
    seed: int
    task: Task
    outcome: str | None = None


def record_of(
    suite: str, question: str, entries: Sequence[Entry], budget: str, command: str, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """Reads what the trainings of a suite have left in their folders, as plain JSON without the results."""
    notes: list[str] = []
    return {
        "suite": suite,
        "question": question,
        "command": command,
        "budget": budget,
        "classes": list(classes),
        "versions": {"crn_jax": importlib.metadata.version("crn_jax"), "commit": commit()},
        "trainings": [training_of(entry, notes) for entry in entries],
        "notes": notes,
        "examples": examples(entries),
    }


def training_of(entry: Entry, notes: list[str]) -> dict[str, Any]:
    """Returns one training of a record. Damaged lines of its metrics.jsonl are added to the notes."""
    task = entry.task
    lines = lines_of(task, notes)
    status = "finished" if task.outstanding() is None else entry.outcome if entry.outcome == "failed" else "waiting"
    if status == "waiting" and lines:
        status = "training"
    trained = read_description(task.folder) if (task.folder / "run.json").is_file() else None
    segmenter = task.experiment.segmenter_run
    return {
        "variant": {"name": entry.variant.name, "about": entry.variant.about, "preferred": entry.variant.preferred},
        "seed": entry.seed,
        "folder": "/".join(task.folder.parts[-2:]),
        "status": status,
        "problem": task.problem() if status == "failed" else None,
        "commands": [shown(command) for command in task.finished()],
        "score": list(task.score or ()),
        "experiment": to_json(task.experiment),
        "segmenter": to_json(read_description(segmenter)[0]) if segmenter else None,
        "trained": to_json(trained[0]) if trained else None,
        "steps_per_epoch": trained[2]["data"]["steps_per_epoch"] if trained else None,
        "lines": lines,
        "evaluation": evaluation_of(task),
    }


def evaluation_of(task: Task) -> dict[str, Any] | None:
    """Returns what launch.evaluate found of a finished task, or None before."""
    path = task.folder / "evaluation" / "evaluation.json"
    return read_evaluation(path) if task.outstanding() is None else None


def lines_of(task: Task, notes: list[str]) -> list[dict[str, Any]]:
    """Returns the lines of a task's metrics.jsonl up to its budget, since a larger budget may have been begun."""
    lines = read_metrics(task.folder / "metrics.jsonl", notes.append)
    return [line for line in lines if task.budget.steps is None or line["step"] <= task.budget.steps]


def examples(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Returns the layouts of the contact sheets, and the images that each finished variant's first seed makes of them."""
    first = min(entry.seed for entry in entries)
    synthesized = {e.variant.name: e.task for e in entries if e.seed == first and e.task.outstanding() is None}
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


def commit() -> str | None:
    """Returns the commit of the clone that the code is in, with a + if it was changed since, or None without a clone."""
    try:
        words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes a record with its results and its own checksum, compressed. The same record gives the same bytes.

    The pictures of many variants may be too large to be read again. The record then lacks them; nothing is computed from them.
    """
    text = json.dumps(sealed(finite(record)), separators=(",", ":"))
    if len(text) > LARGEST and record["examples"]:
        return write_record(path, record | {"examples": []})
    if len(text) > LARGEST:
        raise UserError(
            f"{path}: the record has {len(text) >> 20} MB of JSON, and at most {LARGEST >> 20} are read again. Score fewer "
            f"examples (--examples), or put fewer trainings into one record."
        )
    with replacing(path) as file:
        file.write(gzip.compress(text.encode(), mtime=0))


def read_record(path: Path) -> dict[str, Any]:
    """Reads a record that `write_record` wrote.

    Raises:
      UserError: if the file is missing, damaged, or of another kind.
    """
    remedy = "Fetch it again, or repeat the launch.ablate that wrote it."
    try:
        with gzip.open(path) as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: this is no record of launch.ablate, or it is cut short ({error}). {remedy}") from error
    if len(content) > LARGEST:
        raise UserError(f"{path}: a record has at most {LARGEST >> 20} MB of JSON, and this file has more. {remedy}")
    record = parse_json(content, path, remedy, _RECORD | {KEY: str})
    try:
        record = unsealed(record)
        for training in record["trainings"]:
            if training["evaluation"]:
                check(training["evaluation"], EVALUATION)
    except ValueError as error:
        raise UserError(f"{path}: the file is damaged: {error} {remedy}") from error
    return record
