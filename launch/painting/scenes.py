"""What held-out layouts give a painter: layouts to start from, objects to stamp, and a blank horizon."""

import base64
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from crn_jax.data.sources import open_source
from crn_jax.errors import UserError
from crn_jax.run import Run
from launch.common.terminal import console

DRAWN = 6
"""The number of held-out layouts that are drawn if a run of procedural streets has stored none."""
_OBJECTS_EACH = 4
_SMALLEST, _LARGEST = 0.0008, 0.12  # of the canvas
_FULL = 0.2  # the part of its box that an object fills at least
_WHOLE = 0.15  # the part of a class that lies in whole objects, if it is one of objects


class Stamp(NamedTuple):
    """An object cut out of a layout along its class."""

    class_id: int
    mask: np.ndarray
    """Where the object is, bool `[h, w]`."""


class Horizon(NamedTuple):
    """A scene of two classes, one above the other."""

    above: int
    below: int
    row: int
    """The first row of the lower class."""


def about_scenes(layouts: Sequence[np.ndarray], classes: Sequence[str], size: tuple[int, int]) -> dict[str, Any]:
    """Describes what there is to start from, and the objects to stamp, as JSON."""
    return {
        "layouts": len(layouts),
        "horizon": horizon(layouts, classes, size)._asdict(),
        "stamps": [
            {
                "class": stamp.class_id,
                "shape": stamp.mask.shape,
                "mask": base64.b64encode(np.packbits(stamp.mask).tobytes()).decode(),
            }
            for stamp in stamps(layouts, len(classes) - 1)
        ],
    }


def held_out_layouts(run: Run) -> list[np.ndarray]:
    """Returns the layouts that a run has stored to try, as class ids `[H, W]` at the run's size.

    A run of procedural streets that has stored none, such as an artifact, gets streets that it was not trained on.
    """
    if run.layouts:
        return list(_readable(run))
    if run.experiment.data.source not in ("streets", "detailed_streets"):
        return []
    source = open_source(dataclasses.replace(run.experiment.data, cache=None, vivid=False), "val", run.generator.size)
    return [source[index]["layout"] for index in range(min(DRAWN, len(source)))]


def _readable(run: Run) -> Iterator[np.ndarray]:
    """Yields the stored layouts. One that somebody has added may have another size or other classes, and is left out."""
    for path in run.layouts:
        try:
            yield run.read_layout(path)
        except UserError as error:
            console.print(f"A layout to start from is left out. {error}")


def stamps(layouts: Sequence[np.ndarray], void: int) -> list[Stamp]:
    """Cuts out the objects of layouts: connected areas of one class, neither tiny nor large, that no border cuts off.

    Classes that are seldom whole, such as a road or a sky, are surfaces and give no objects. The class with the most pixels in
    whole objects comes first, and of each class the largest objects.
    """
    found: dict[int, list[np.ndarray]] = {}
    pixels: dict[int, int] = {}
    for layout in layouts:
        for class_id in np.unique(layout).tolist():
            is_class = layout == class_id
            pixels[class_id] = pixels.get(class_id, 0) + int(is_class.sum())
            found.setdefault(class_id, []).extend(_whole_objects(is_class))
    whole = {class_id: sum(int(mask.sum()) for mask in masks) for class_id, masks in found.items()}
    order = sorted((n for n in found if n != void and whole[n] >= _WHOLE * pixels[n]), key=lambda n: -whole[n])
    largest = {n: sorted(found[n], key=np.count_nonzero, reverse=True)[:_OBJECTS_EACH] for n in order}
    return [Stamp(class_id, mask) for class_id in order for mask in largest[class_id]]


def _whole_objects(is_class: np.ndarray) -> list[np.ndarray]:
    import scipy.ndimage

    height, width = is_class.shape
    labels, _ = scipy.ndimage.label(is_class)
    objects = []
    for number, (rows, columns) in enumerate(scipy.ndimage.find_objects(labels), 1):
        mask = labels[rows, columns] == number
        cut_off = rows.start == 0 or columns.start == 0 or rows.stop == height or columns.stop == width
        share = np.count_nonzero(mask) / is_class.size
        if not cut_off and _SMALLEST <= share <= _LARGEST and mask.mean() >= _FULL:
            objects.append(mask)
    return objects


def horizon(layouts: Sequence[np.ndarray], classes: Sequence[str], size: tuple[int, int]) -> Horizon:
    """Returns the simplest scene: what held-out layouts have most of at the top, above what they have most of at the bottom.

    The lower class begins in the first row where it fills a quarter of the layouts. Without layouts, the names decide.
    """
    height, _ = size
    by_name = [next((classes.index(name) for name in names if name in classes), None) for names in _NAMES]
    default = [given if given is not None else fallback for given, fallback in zip(by_name, (0, min(1, len(classes) - 1)))]
    if not layouts:
        return Horizon(default[0], default[1], height // 2)
    stack, void = np.stack(layouts), len(classes) - 1

    def most(rows: np.ndarray, other: int | None, otherwise: int) -> int:
        counts = np.bincount(rows.ravel(), minlength=len(classes))
        counts[[void] if other is None else [void, other]] = 0
        return int(counts.argmax()) if counts.any() else otherwise

    band = max(1, height // 6)
    seen = stack[:, (stack == void).mean((0, 2)) < 0.5]  # at the bottom, photographs may show the car of the camera
    below = most(seen[:, -band:], by_name[0], default[1])
    above = by_name[0] if by_name[0] is not None else most(seen[:, :band], below, next(n for n in (0, 1) if n != below))
    filled = (stack == below).mean((0, 2)) >= 0.25
    row = int(filled.argmax()) if filled.any() else height // 2
    return Horizon(above, below, row or height // 2)


_NAMES = (("sky", "ceiling", "wall"), ("road", "ground", "terrain", "earth", "floor", "grass", "sidewalk"))
