"""Surveys instance maps: how many instances there are, and how they look."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crn_jax.boundaries import boundaries_of
from crn_jax.data.instances import read_instances
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.sources import DataConfig


class InstanceLook(NamedTuple):
    """What decoding an instance map has shown."""

    path: Path
    instances: int
    """The number of different ids that stand for an instance."""
    boundaries: float
    """The share of pixels at boundaries."""
    within: int
    """The number of pixels where an instance ends and its class goes on, which a layout alone does not show."""


def first_instance(data: DataConfig) -> int:
    """Returns the smallest id that stands for an instance. In Cityscapes' maps, ids below 1000 are classes."""
    return 1000 if data.source == "cityscapes" and data.instances is None else 1


def look_at_instances(path: Path, layout_path: Path, layout: np.ndarray, first: int) -> InstanceLook:
    """Decodes the instance map of a layout, whose class ids are given, and returns what it shows.

    Raises:
      UserError: if it cannot be read, or does not belong to the layout.
    """
    ids = read_instances(path, layout_path, (layout.shape[0], layout.shape[1]))
    boundaries, edges = (boundaries_of(each[None])[0] for each in (ids, layout))
    count = int((np.unique(ids) >= first).sum())
    return InstanceLook(path, count, float(boundaries.mean()), int(np.count_nonzero(boundaries & ~edges)))


def drawn(ids: np.ndarray, layout: np.ndarray, label_space: LabelSpace, first: int) -> np.ndarray:
    """Draws each instance in a colour of its own on the layout, whose colours are darkened: uint8 `[h, w, 3]`."""
    values, numbers = np.unique(ids, return_inverse=True)
    colors = np.random.default_rng(0).integers(96, 256, (len(values), 3), np.uint8)
    is_one = (ids >= first)[..., None]
    return np.where(is_one, colors[numbers.reshape(ids.shape)], label_space.draw(layout) // 3)


def summary(looks: Sequence[InstanceLook]) -> dict[str, Any]:
    """Returns the number of maps, and the number of instances: in all, in the map that has most, and on average."""
    counts = [look.instances for look in looks]
    return {"maps": len(counts), "instances": sum(counts), "most": max(counts), "mean": sum(counts) / len(counts)}
