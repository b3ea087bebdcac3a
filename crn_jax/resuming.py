"""What may change when a run is resumed: its length, its places, its reports and its devices, but not what it computes."""

import json
import os
from typing import Any

from crn_jax.experiment import SegmenterExperiment, Training, from_json, to_json
from crn_jax.files import expanded

_MAY_CHANGE = (
    "name",
    "about",
    "epochs",
    "steps",
    "sharding.",
    "remat",
    "run.",
    "data.root",
    "data.instances",
    "data.threads",
    "data.cache",
    "vgg.weights",
)

BY_CONTENT = ("data.labels", "init_from", "segmenter")
"""The files and folders that may be moved when a run is resumed, because what they hold is compared."""


def differences(stored: Training, asked: Training, but: tuple[str, ...] = ()) -> list[str]:
    """Returns the fields that differ but must not change when a run is resumed, each as 'field: stored, now asked'.

    Fields that `but` names are left out.
    """
    before, after = flat(to_json(stored)), flat(to_json(asked))
    return [
        f"{key}: {before.get(key)}, now {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(_MAY_CHANGE) and key not in but
    ]


def description_changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Returns what differs between two descriptions of a run but must not change when it is resumed.

    Args:
      before: the description that `describe_run` made when the run, or a checkpoint of it, was stored.
      after: the description that it makes now.

    Raises:
      UserError: if a stored experiment does not fit this version of crn_jax.
    """
    after = json.loads(json.dumps(after))  # JSON's keys are strings
    changes = differences(from_json(before["experiment"]), from_json(after["experiment"]), BY_CONTENT)
    for part, keys in {"vgg19": ("weights", "sha256"), "data": after["data"]}.items():
        for key in keys:
            was, now = (description[part].get(key) for description in (before, after))
            if was != now:
                changes.append(f"{part}.{key}: {was}, now {now}")
    for key, value in after["label_space"].items():
        if key != "name" and key in before["label_space"] and before["label_space"][key] != value:
            changes.append(f"label_space.{key}: the layouts are read differently now")
    return changes + _other_runs(before, after)


def _other_runs(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Returns the options that name a run of other parameters than before, each with what differs."""
    changes = []
    stored, asked = from_json(before["experiment"]), from_json(after["experiment"])
    for option in ("init_from", "segmenter"):
        was, now = (getattr(experiment, option, None) for experiment in (stored, asked))
        if isinstance(asked, SegmenterExperiment) or was == now is None:
            continue
        held, holds = (description.get("origins", {}).get(option, {}) for description in (before, after))
        if was is None or now is None:
            changes.append(f"{option}: {was}, now {now}")
        elif held.get("sha256") and holds.get("sha256"):
            if held["sha256"] != holds["sha256"]:
                changes.append(
                    f"{option}: {now} (step {holds['step']:,}) holds other parameters than {was} (step {held['step']:,}) did"
                )
        elif os.path.realpath(expanded(was)) != os.path.realpath(expanded(now)):  # an older version described the run
            changes.append(f"{option}: {was}, now {now}, and it is not recorded what the former held")
    return changes


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts as one dict with dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves
