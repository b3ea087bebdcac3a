"""Label spaces: which classes a data set has, how its files write them, and how they are drawn.

A layout in memory holds class ids 0 ... c-1, **void last**. It is a NumPy array `[H, W]` of uint8, or of uint16 if there
are more than 256 classes. Files hold raw ids or colours. `LabelSpace` translates both, and refuses what it does not know.
"""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from crn_jax.data.labels.generated_colors import MOST_COLORS, palette
from crn_jax.data.labels.indexed import Indexed, Meaning, Reading, meaning_of
from crn_jax.data.labels.stored_pixels import refuse_clear, stored_pixels
from crn_jax.errors import UserError, counted

Color = tuple[int, int, int]


class Examined(NamedTuple):
    """A layout that may hold unknown ids or colours."""

    layout: Integer[np.ndarray, "H W"]
    """Class ids. Unknown ids and colours are void."""
    unknown: dict[int | Color, int]
    """The number of pixels of each unknown id or colour, the most first."""
    palette: dict[int, Color] = {}  # noqa: RUF012  # nobody changes it
    """The colour of each index that occurs, if the file is a palette PNG whose indices are ids."""


AT_ONCE = 1 << 20
"""The number of pixels that are looked up at a time."""


@dataclasses.dataclass(frozen=True)
class LabelSpace:
    """The names, colours and raw ids of a data set's classes. The last class is void."""

    name: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    """One colour per class, for reading colour PNGs and for drawing."""
    ids: dict[int, int]
    """The class id of each raw id in a file."""
    void_colors: tuple[Color, ...] = ()
    """Further colours that files use for void."""
    read_as: Reading | None = None
    """How palette PNGs are read: by their indices, which are ids, or by their colours. None: as `indexed.meaning_of` finds."""

    def __post_init__(self):
        if len(self.colors) != len(self.classes) or self.classes[-1] != "void":
            raise ValueError(f"Label space {self.name}: each class needs a colour, and void must be last, got {self.classes}.")
        if not set(self.ids.values()) <= set(range(len(self.classes))):
            raise ValueError(f"Label space {self.name}: ids must map to 0..{len(self.classes) - 1}, got {self.ids}.")
        every = (*self.colors, *self.void_colors)
        if wrong := [color for color in every if not all(0 <= level <= 255 for level in color)]:
            raise ValueError(f"Label space {self.name}: a colour has levels from 0 to 255, got {wrong[0]}.")
        if len({*every}) < len(every):
            raise ValueError(f"Label space {self.name}: a colour must stand for one class only, got {every}.")

    @property
    def num_classes(self) -> int:
        """The number of classes, void included."""
        return len(self.classes)

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The dtype of layouts."""
        return np.uint8 if self.num_classes <= 256 else np.uint16

    @functools.cached_property
    def class_of_color(self) -> dict[Color, int]:
        """The class id of each colour that files may have."""
        return dict.fromkeys(self.void_colors, self.num_classes - 1) | {color: n for n, color in enumerate(self.colors)}

    @functools.cached_property
    def has_own_colors(self) -> bool:
        """Whether somebody chose the colours, so that files may be drawn in them. Else they were generated."""
        if (count := self.num_classes + len(self.void_colors)) > MOST_COLORS:
            return True
        generated = [c for c in palette(count) if c not in self.void_colors]
        return [*self.colors[:-1]] != generated[: self.num_classes - 1]

    def read(self, path: str | Path) -> Integer[np.ndarray, "H W"]:
        """Reads a layout of ids or of colours, and returns class ids. `indexed.py` says which of them a palette PNG holds.

        Raises:
          UserError: if the file has ids or colours that are not in this label space, if it is damaged, or if files of its kind
            do not keep ids and colours exactly. The message names the file, and each unknown value with its number of pixels.
        """
        return self._all_known(self._decode(path)[0], path)

    def examine(self, path: str | Path) -> "Examined":
        """Reads a layout like `read`, but turns unknown ids or colours into void, and counts the pixels of each.

        Raises:
          UserError: if the file is damaged, or if files of its kind do not keep ids and colours exactly.
        """
        stored, palette = self._decode(path)
        return Examined(*self._look_up(stored), palette)

    def from_ids(self, ids: Integer[np.ndarray, "H W"], where: str | Path) -> Integer[np.ndarray, "H W"]:
        """Turns raw ids into class ids, for data sets whose layouts are not in image files.

        Raises:
          UserError: if an id is not in this label space. The message begins with `where`, and names each such id.
        """
        return self._all_known(ids, where)

    def draw(self, layout: Integer[np.ndarray, "*batch H W"]) -> UInt8[np.ndarray, "*batch H W 3"]:
        """Draws layouts in the classes' colours."""
        return np.array(self.colors, np.uint8)[layout]

    def readings(self, path: str | Path) -> dict[Reading, Integer[np.ndarray, "H W"]]:
        """Reads a palette PNG in both ways, with void for what is unknown. Other files give an empty dict.

        Raises:
          UserError: if the file is damaged.
        """
        stored = self._stored(path)
        if not isinstance(stored, Indexed):
            return {}
        return {"ids": self._look_up(stored.indices)[0], "colors": self._look_up(stored.colors)[0]}

    def used_palette(self, path: str | Path) -> dict[int, Color]:
        """Returns the colour of each index that occurs in a palette PNG. Other files give an empty dict.

        Raises:
          UserError: if the file is damaged.
        """
        stored = self._stored(path)
        return {i: stored.palette[i] for i in stored.used} if isinstance(stored, Indexed) else {}

    def _decode(self, path: str | Path) -> tuple[np.ndarray, dict[int, Color]]:
        """Decodes integer ids `[H, W]`, or colours uint8 `[H, W, 3]`; and the colours that a palette has for ids."""
        stored = self._stored(path)
        if not isinstance(stored, Indexed):
            return stored, {}
        reading = self.read_as or meaning_of(stored, self._meaning, path)
        if reading == "ids":
            return stored.indices, {i: stored.palette[i] for i in stored.used}
        clear = [i for i in stored.clear if self.class_of_color.get(stored.palette[i]) != self.num_classes - 1]
        if clear:
            refuse_clear(path, int(np.count_nonzero(np.isin(stored.indices, clear))), self._paint)
        return stored.colors, {}

    @property
    def _meaning(self) -> Meaning:
        return Meaning(self.name, self.classes, self.ids, self.class_of_color, self.has_own_colors)

    def _stored(self, path: str | Path) -> np.ndarray | Indexed:
        """Decodes a file: ids `[H, W]`, colours `[H, W, 3]`, or a palette PNG."""
        return stored_pixels(path, "a layout", self._paint)

    @property
    def _paint(self) -> str:
        return f"void's colour, {self.colors[-1]}"

    def _look_up(self, stored: np.ndarray) -> tuple[np.ndarray, dict[int | Color, int]]:
        """Turns ids or colours into class ids, and unknown ones into void; counts the pixels of these, the most first.

        It takes some rows at a time, because its 64-bit arrays are many times as large as the layout.
        """
        colored = stored.ndim == 3
        table = {_code(color): index for color, index in self.class_of_color.items()} if colored else self.ids
        known = np.array(sorted(table))
        classes = np.array([table[i] for i in known.tolist()], self.dtype)
        layout, found = np.empty(stored.shape[:2], self.dtype), list[tuple[np.ndarray, np.ndarray]]()
        rows = max(1, AT_ONCE // max(1, stored.shape[1]))
        for start in range(0, len(stored), rows):
            part = stored[start : start + rows]
            codes = _code(np.moveaxis(part.astype(np.int32), -1, 0)) if colored else part
            position = np.minimum(np.searchsorted(known, codes), len(known) - 1)
            unknown = known[position] != codes
            layout[start : start + rows] = np.where(unknown, self.dtype(self.num_classes - 1), classes[position])
            if unknown.any():
                found.append(np.unique(codes[unknown], return_counts=True))
        if not found:
            return layout, {}
        values, place = np.unique(np.concatenate([values for values, _ in found]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([counts for _, counts in found])).astype(np.int64)
        order = np.argsort(-counts, kind="stable")
        keys = [(v >> 16, v >> 8 & 255, v & 255) if colored else v for v in values[order].tolist()]
        return layout, dict(zip(keys, counts[order].tolist()))

    def _all_known(self, stored: np.ndarray, where: str | Path) -> np.ndarray:
        layout, unknown = self._look_up(stored)
        if unknown:
            complaint = self._complaint(unknown)
            same = stored == np.array(next(iter(unknown)))
            row, column = np.argwhere(same.all(-1) if stored.ndim == 3 else same)[0]
            raise UserError(f"{where}: {complaint} (The first: row {row}, column {column}.)")
        return layout

    def _complaint(self, unknown: dict[int | Color, int]) -> str:
        colors = {color: pixels for color, pixels in unknown.items() if isinstance(color, tuple)}
        ids = {i: pixels for i, pixels in unknown.items() if isinstance(i, int)}
        return self._unknown_colors(colors) if colors else self._unknown_ids(ids)

    def _unknown_ids(self, unknown: dict[int, int]) -> str:
        found = ", ".join(f"{i} ({counted(pixels, 'pixel')})" for i, pixels in list(unknown.items())[:8])
        said = f"label id {found} is not one" if len(unknown) == 1 else f"label ids {found} are none"
        return (
            f"{said} of {self.name}'s: {_ranges(sorted(self.ids))}. Map the file's ids to these, or check that it belongs to "
            f"this data set."
        )

    def _unknown_colors(self, unknown: dict[Color, int]) -> str:
        most = list(unknown.items())[:5]
        found = "; ".join(f"{color} ({counted(pixels, 'pixel')}, nearest {self._nearest(color)})" for color, pixels in most)
        if all(red == green == blue for red, green, blue in unknown):
            remedy = "Greys may be ids. If they are, save them as a PNG of one channel."
        else:
            remedy = "Save layouts as PNG without antialiasing, resize them by nearest neighbour only, or check the data set."
        are = "is" if len(unknown) == 1 else "are"
        return f"{counted(len(unknown), 'colour')} {are} not in {self.name}'s palette: {found}. {remedy}"

    def _nearest(self, color: Color) -> str:
        distances = np.square(np.array(self.colors) - color).sum(-1)
        return " or ".join(self.classes[i] for i in np.flatnonzero(distances == distances.min()))


def _code(color):
    red, green, blue = color
    return (red * 256 + green) * 256 + blue


def _ranges(values) -> str:
    """Writes the sorted integers 0, 1, 2, 5 as '0..2, 5'."""
    runs: list[list[int]] = []
    for value in map(int, values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1][1:] = [value]
        else:
            runs.append([value])
    return ", ".join("..".join(map(str, run)) for run in runs)
