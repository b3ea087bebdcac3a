"""Contact sheets: layout | photograph | synthesized image(s), a row an example, with a legend."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crn_jax.data.label_space import LabelSpace

_GAP, _TEXT, _INK, _PAPER = 4, 14, (32, 32, 32), (255, 255, 255)


class Row(NamedTuple):
    """One example: class indices `[H, W]`, photograph uint8 `[H, W, 3]` if there is one, images uint8 `[k, H, W, 3]`."""

    layout: np.ndarray
    photograph: np.ndarray | None
    images: np.ndarray


def contact_sheet(rows: Sequence[Row], label_space: LabelSpace, title: str, warning: str = "") -> Image.Image:
    """Draws the sheet. Small images are enlarged by whole numbers, without smoothing, to be about 256 pixels wide."""
    height, width = rows[0].layout.shape
    zoom = max(1, round(256 / width))
    cell_h, cell_w = height * zoom, width * zoom
    columns = ["layout"] if rows[0].photograph is None else ["layout", "photograph"]
    count = len(rows[0].images)
    columns += ["synthesized"] if count == 1 else [f"synthesized {u}" for u in range(count)]
    font = ImageFont.load_default(_TEXT)

    present = sorted(set(np.unique([row.layout for row in rows]).tolist()))
    sheet_w = len(columns) * (cell_w + _GAP) + _GAP
    entries = _legend_positions([label_space.classes[i] for i in present], font, sheet_w)
    header = (2 + bool(warning)) * (_TEXT + 8)
    legend_top = header + len(rows) * (cell_h + _GAP)
    sheet = Image.new("RGB", (sheet_w, legend_top + (entries[-1][1] + 1) * (_TEXT + 8) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 3), title, _INK, font)
    if warning:
        draw.text((_GAP, _TEXT + 11), warning, (200, 0, 0), font)
    for c, name in enumerate(columns):
        draw.text((_GAP + c * (cell_w + _GAP), header - _TEXT - 5), name, _INK, font)
    for r, row in enumerate(rows):
        photographs = [] if row.photograph is None else [row.photograph]
        for c, image in enumerate([label_space.draw(row.layout), *photographs, *row.images]):
            cell = Image.fromarray(image).resize((cell_w, cell_h), Image.Resampling.NEAREST)
            sheet.paste(cell, (_GAP + c * (cell_w + _GAP), header + r * (cell_h + _GAP)))
    for index, (x, line) in zip(present, entries):
        y = legend_top + line * (_TEXT + 8) + 4
        draw.rectangle((x, y, x + _TEXT, y + _TEXT), label_space.colors[index], _INK)
        draw.text((x + _TEXT + 5, y - 1), label_space.classes[index], _INK, font)
    return sheet


def _legend_positions(names: Sequence[str], font, width: int) -> list[tuple[int, int]]:
    """(x, line) of every legend entry, wrapped at `width`."""
    positions, x, line = [], _GAP, 0
    for name in names:
        entry = _TEXT + 5 + int(font.getlength(name)) + 14
        if x > _GAP and x + entry > width:
            x, line = _GAP, line + 1
        positions.append((x, line))
        x += entry
    return positions
