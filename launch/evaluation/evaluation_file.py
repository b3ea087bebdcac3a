"""Reads what launch.evaluate has written: evaluation.json."""

from pathlib import Path
from typing import Any

from launch.common.output import read_json

_SCORE = {"value": (float, None), "low?": (float, None), "high?": (float, None)}
_CANDIDATE = {
    "name": str,
    "kind?": str,
    "about?": str,
    "scores": {"distance": {**_SCORE, "value": float}, "*": _SCORE},
    "resources": {"*": float},
    "per_image": {"distance": [float]},
}
EVALUATION = {
    "title": str,
    "versions": {"*": str},
    "device": str,
    "notes": [str],
    "scores": [{"key": str, "title": str, "unit": str}],
    "candidates": [_CANDIDATE],
}
"""What the content must have (see `json_file.check`)."""


def at_step(step: int) -> str:
    """Returns how the field `about` of a run's candidate begins, which says at which step the run was scored."""
    return f"step {step:,}, "


def read_evaluation(path: Path) -> dict[str, Any]:
    """Returns the content of evaluation.json. Its first candidate is the photographs, and the second is the first run.

    Raises:
      UserError: if the file cannot be read, or if something in it is missing or of another type. The message names the field.
    """
    return read_json(path, EVALUATION)
