"""Layouts as PNG files: ids, with the classes' colours as the palette, which viewers show."""

from pathlib import Path

import numpy as np
from PIL import Image

from crn_jax.data.labels.label_space import LabelSpace
from launch.common.output import write_png


def layout_image(layout: np.ndarray, label_space: LabelSpace) -> Image.Image:
    """Returns class ids `[H, W]` as a picture that `label_space.read` turns into the same class ids.

    Of several ids of one class, the smallest is written. Ids above 255 have no palette. Where a class has no id, as void may,
    colours are written in place of ids.
    """
    ids = id_of_each_class(label_space)
    if missing := {*np.unique(layout).tolist()} - ids.keys():
        assert missing <= {*range(label_space.num_classes)}
        return Image.fromarray(label_space.draw(layout))
    table = np.array([ids.get(index, 0) for index in range(label_space.num_classes)], np.uint16)
    if max(ids.values()) > 255:
        return Image.fromarray(table[layout])
    palette = np.tile(np.array(label_space.colors[-1], np.uint8), (256, 1))
    for raw, index in label_space.ids.items():
        if 0 <= raw <= 255:
            palette[raw] = label_space.colors[index]
    picture = Image.fromarray(table[layout].astype(np.uint8))
    picture.putpalette(palette.tobytes())
    return picture


def id_of_each_class(label_space: LabelSpace) -> dict[int, int]:
    """Returns the smallest id of each class that has one, by the class's index."""
    ids: dict[int, int] = {}
    for raw, index in label_space.ids.items():
        if raw >= 0:
            ids[index] = min(raw, ids.get(index, raw))
    return ids


def write_layout(layout: np.ndarray, label_space: LabelSpace, path: Path, made: str) -> None:
    """Writes a layout with a text that says how it was made. A half-written file never has this name."""
    write_png(layout_image(layout, label_space), path, made)
