"""Contact sheets: one row for each example, with its layout, photograph and synthesized images, and a legend of the classes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crn_jax.boundaries import boundaries_of
from crn_jax.data.labels.label_space import LabelSpace

_CELL = 512  # pixels; the longer side of a cell of large images
_GAP, _TEXT, _INK, _PAPER, _FULL = 4, 14, (32, 32, 32), (255, 255, 255), (0, 70, 140)


class Row(NamedTuple):
    """One example of a contact sheet."""

    layout: np.ndarray  # class ids [H, W]
    photograph: np.ndarray | None  # uint8 [H, W, 3]
    images: np.ndarray  # uint8 [k, H, W, 3]
    assembled: np.ndarray | None = None  # uint8 [H, W, 3], made of the images that are the best for each class
    instances: np.ndarray | None = None  # ids [H, W]


def contact_sheet(
    rows: Sequence[Row], label_space: LabelSpace, title: str, warning: str = "", made: str = "synthesized"
) -> Image.Image:
    """Draws the sheet. `made` is the word above the images that says how they came about.

    Small images are enlarged by a whole number, without smoothing, so that the widest is about 256 pixels wide. Images of more
    than 512 pixels are shrunk, because 32 rows of several at 1024x2048 would make a picture of hundreds of megapixels.
    """
    sizes = _cell_sizes([row.layout.shape for row in rows])
    cell_w = max(width for _, width in sizes)
    columns = ["layout"] if rows[0].photograph is None else ["layout", "photograph"]
    count = len(rows[0].images)
    columns += [made] if count == 1 else [f"{made} {u}" for u in range(count)]
    columns += [] if rows[0].assembled is None else ["assembled"]
    font = ImageFont.load_default(_TEXT)

    present = sorted(set().union(*(np.unique(row.layout).tolist() for row in rows)))
    sheet_w = len(columns) * (cell_w + _GAP) + _GAP
    entries = _legend_positions([label_space.classes[i] for i in present], font, sheet_w)
    header = (2 + bool(warning)) * (_TEXT + 8)
    legend_top = header + sum(height + _GAP for height, _ in sizes)
    sheet = Image.new("RGB", (sheet_w, legend_top + (entries[-1][1] + 1) * (_TEXT + 8) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 3), title, _INK, font)
    if warning:
        draw.text((_GAP, _TEXT + 11), warning, (200, 0, 0), font)
    for c, name in enumerate(columns):
        draw.text((_GAP + c * (cell_w + _GAP), header - _TEXT - 5), name, _INK, font)
    y = header
    for row, (height, width) in zip(rows, sizes):
        photographs = [] if row.photograph is None else [row.photograph]
        assembled = [] if row.assembled is None else [row.assembled]
        for c, image in enumerate([_drawn(row, label_space), *photographs, *row.images, *assembled]):
            is_smooth = c > 0 and height < len(image)  # a layout keeps the colours of its classes
            how = Image.Resampling.BICUBIC if is_smooth else Image.Resampling.NEAREST
            sheet.paste(Image.fromarray(image).resize((width, height), how), (_GAP + c * (cell_w + _GAP), y))
        y += height + _GAP
    for index, (x, line) in zip(present, entries):
        y = legend_top + line * (_TEXT + 8) + 4
        draw.rectangle((x, y, x + _TEXT, y + _TEXT), label_space.colors[index], _INK)
        draw.text((x + _TEXT + 5, y - 1), label_space.classes[index], _INK, font)
    return sheet


def _cell_sizes(shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Returns the height and the width at which the images of each row are shown. All are enlarged, or shrunk, alike."""
    longest = max(max(shape) for shape in shapes)
    scale = max(1, round(256 / max(width for _, width in shapes))) if longest <= _CELL else _CELL / longest
    return [(max(1, round(scale * height)), max(1, round(scale * width))) for height, width in shapes]


def _drawn(row: Row, label_space: LabelSpace) -> np.ndarray:
    """Draws a layout. Where an instance ends and its class goes on, which classes alone do not show, it is white."""
    drawn = label_space.draw(row.layout)
    if row.instances is not None:
        instances, classes = (boundaries_of(ids[None])[0] for ids in (row.instances, row.layout))
        drawn[instances & ~classes] = _PAPER
    return drawn


def grid(images: np.ndarray) -> np.ndarray:
    """Returns k images, uint8 `[k, H, W, 3]`, as one picture with rows of about sqrt(k) images."""
    k, height, width, _ = images.shape
    columns = math.ceil(math.sqrt(k))
    rows = -(-k // columns)
    picture = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), _PAPER, np.uint8)
    for u, image in enumerate(images):
        top, left = u // columns * (height + _GAP), u % columns * (width + _GAP)
        picture[top : top + height, left : left + width] = image
    return picture


def win_map(wins: np.ndarray, label_space: LabelSpace) -> Image.Image:
    """Draws in which fraction of the layouts each of k images is the best for a class.

    `wins` `[k, c]` holds these fractions. A class with NaN occurs in no layout, and is left out.
    """
    font, cell = ImageFont.load_default(_TEXT), (48, _TEXT + 8)
    classes = [c for c in range(wins.shape[1]) if np.isfinite(wins[:, c]).all()]
    label_w = max([int(font.getlength(label_space.classes[c])) for c in classes], default=0) + 3 * _GAP
    title = "Fraction of layouts where an image is the best for a class"
    width = max(label_w + len(wins) * cell[0], int(font.getlength(title))) + 2 * _GAP
    picture = Image.new("RGB", (width, (len(classes) + 2) * cell[1] + _GAP), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((_GAP, 3), title, _INK, font)
    for u in range(len(wins)):
        draw.text((label_w + (u + 0.5) * cell[0], 1.5 * cell[1]), str(u), _INK, font, anchor="mm")
    for line, c in enumerate(classes, 2):
        draw.text((_GAP, line * cell[1] + 3), label_space.classes[c], _INK, font)
        for u, win in enumerate(wins[:, c]):
            shade = tuple(round(paper + win * (full - paper)) for paper, full in zip(_PAPER, _FULL))
            x, y = label_w + u * cell[0], line * cell[1]
            draw.rectangle((x, y, x + cell[0] - 2, y + cell[1] - 2), shade)
            ink = _PAPER if win > 0.5 else _INK
            draw.text((x + cell[0] / 2, y + cell[1] / 2), f"{win:.0%}" if win else "-", ink, font, anchor="mm")
    return picture


def stacked(*pictures: Image.Image) -> Image.Image:
    """Returns the pictures as one, each below the one before it."""
    height = sum(picture.height for picture in pictures)
    whole = Image.new("RGB", (max(picture.width for picture in pictures), height), _PAPER)
    y = 0
    for picture in pictures:
        whole.paste(picture, (0, y))
        y += picture.height
    return whole


def _legend_positions(names: Sequence[str], font, width: int) -> list[tuple[int, int]]:
    """Returns (x, line) for each entry of the legend, whose lines are at most `width` pixels wide."""
    positions, x, line = [], _GAP, 0
    for name in names:
        entry = _TEXT + 5 + int(font.getlength(name)) + 14
        if x > _GAP and x + entry > width:
            x, line = _GAP, line + 1
        positions.append((x, line))
        x += entry
    return positions
