"""Label spaces: which classes a data set has, how its files write them, and how they are drawn.

A layout in memory holds class indices 0 ... c-1, **void last**. It is a NumPy array `[H, W]` of uint8, or of uint16 if there
are more than 256 classes. Files hold raw ids or colours. `LabelSpace` translates both, and refuses what it does not know.
"""

import dataclasses
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from crn_jax.errors import UserError

Color = tuple[int, int, int]
_BLACK = (0, 0, 0)


@dataclasses.dataclass(frozen=True)
class LabelSpace:
    """The names, colours and raw ids of a data set's classes. The last class is void."""

    name: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    """One colour per class, for reading colour PNGs and for drawing."""
    ids: dict[int, int]
    """The class index of each raw id in a file."""
    void_colors: tuple[Color, ...] = ()
    """Further colours that files use for void."""

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

    def read(self, path: str | Path) -> Integer[np.ndarray, "H W"]:
        """Reads a layout PNG of ids or of colours, and returns class indices.

        A palette PNG is read by colour, unless its palette is foreign to the label space. A palette is foreign if it is a grey
        ramp, or if the label space knows none of its used colours but black. Then the indices into the palette are ids.

        Raises:
          UserError: if the file has ids or colours that are not in this label space, if it is damaged, or if files of its kind
            do not keep ids and colours exactly. The message names the file, and each unknown value with its number of pixels.
        """
        return self._all_known(self._decode(path), path)

    def examine(self, path: str | Path) -> tuple[Integer[np.ndarray, "H W"], dict[int | Color, int]]:
        """Reads a layout like `read`, but turns unknown ids or colours into void, and counts the pixels of each.

        Raises:
          UserError: if the file is damaged, or if files of its kind do not keep ids and colours exactly.
        """
        return self._look_up(self._decode(path))

    def from_ids(self, ids: Integer[np.ndarray, "H W"], where: str | Path) -> Integer[np.ndarray, "H W"]:
        """Turns raw ids into class indices, for data sets whose layouts are not in image files.

        Raises:
          UserError: if an id is not in this label space. The message begins with `where`, and names each such id.
        """
        return self._all_known(ids, where)

    def draw(self, layout: Integer[np.ndarray, "*batch H W"]) -> UInt8[np.ndarray, "*batch H W 3"]:
        """Draws layouts in the classes' colours."""
        return np.array(self.colors, np.uint8)[layout]

    def _decode(self, path: str | Path) -> np.ndarray:
        """Decodes what the file holds: integer ids `[H, W]`, or colours uint8 `[H, W, 3]`."""
        image = open_image(path)
        if image.format in ("JPEG", "MPO") or (image.format == "WEBP" and b"VP8L" not in Path(path).read_bytes()):
            raise UserError(
                f"{path}: lossy {image.format} blends ids and colours. Make the layout again from its source, as PNG."
            )
        bits = _bit_depth(path)
        if image.mode in ("RGB", "RGBA"):
            if bits == 16:  # Pillow would drop the lower 8.
                raise UserError(f"{path}: a colour PNG of 16 bits a channel. Save colours with 8.")
            if image.mode == "RGBA" and (clear := np.count_nonzero(np.asarray(image)[..., 3] < 255)):
                raise UserError(f"{path}: {clear:,} pixels are transparent. Paint them in void's colour, {self.colors[-1]}.")
            return np.asarray(image.convert("RGB"))
        if image.mode == "P":
            return np.asarray(image if self._foreign_palette(image, path) else image.convert("RGB"))
        if image.mode == "L" and bits < 8:
            # Pillow stretches these to 0..255, which would turn one id into another.
            raise UserError(f"{path}: a grey PNG of {bits} bits a pixel. Save ids with 8 or 16 bits.")
        if image.mode in ("L", "I", "I;16"):
            return np.asarray(image)
        raise UserError(f"{path}: a layout is a PNG of ids (8 or 16 bits) or of colours, not of mode {image.mode}.")

    def _foreign_palette(self, image: Image.Image, path: str | Path) -> bool:
        levels = image.getpalette("RGB") or []
        palette = {i: (levels[3 * i], levels[3 * i + 1], levels[3 * i + 2]) for i in range(len(levels) // 3)}
        used = np.unique(np.asarray(image)).tolist()
        if used[-1] not in palette:
            raise UserError(f"{path}: index {used[-1]} has no colour in the palette of {len(palette)}. Save the layout again.")
        if all(color in ((i, i, i), _BLACK) for i, color in palette.items()):
            if len(palette) == 1 and self.ids.get(0) != self.num_classes - 1:
                raise UserError(
                    f"{path}: all black, which may be id 0 or void. Save ids as a grey PNG, or colours as an RGB one."
                )
            return True
        colors = {palette[i] for i in used}
        if colors == {_BLACK}:  # One class only; the rest of the palette tells which.
            colors = {*palette.values()}
        return not {*self.colors, *self.void_colors} & colors - {_BLACK}

    def _look_up(self, stored: np.ndarray) -> tuple[np.ndarray, dict[int | Color, int]]:
        """Turns ids or colours into class indices, and unknown ones into void; counts the pixels of these, the most first."""
        if colored := stored.ndim == 3:
            stored = _code(np.moveaxis(stored.astype(np.int32), -1, 0))
            table = {_code(color): self.num_classes - 1 for color in self.void_colors}
            table |= {_code(color): index for index, color in enumerate(self.colors)}
        else:
            table = self.ids
        known = np.array(sorted(table))
        position = np.minimum(np.searchsorted(known, stored), len(known) - 1)
        layout = np.array([table[i] for i in known.tolist()], self.dtype)[position]
        unknown = known[position] != stored
        if not unknown.any():
            return layout, {}
        layout[unknown] = self.num_classes - 1
        values, counts = np.unique(stored[unknown], return_counts=True)
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
        found = ", ".join(f"{i} ({pixels:,} pixels)" for i, pixels in list(unknown.items())[:8])
        return (
            f"label id {found} is not one of {self.name}'s: {_ranges(sorted(self.ids))}. Map the file's ids to these, or "
            f"check that it belongs to this data set."
        )

    def _unknown_colors(self, unknown: dict[Color, int]) -> str:
        found = "; ".join(f"{color} ({unknown[color]:,} pixels, nearest {self._nearest(color)})" for color in list(unknown)[:5])
        if all(red == green == blue for red, green, blue in unknown):
            remedy = "They are grey: if they are ids, save them as a PNG of one channel."
        else:
            remedy = "Save layouts as PNG without antialiasing, resize them by nearest neighbour only, or check the data set."
        return f"{len(unknown)} colours are not in {self.name}'s palette: {found}. {remedy}"

    def _nearest(self, color: Color) -> str:
        distances = np.square(np.array(self.colors) - color).sum(-1)
        return " or ".join(self.classes[i] for i in np.flatnonzero(distances == distances.min()))


def open_image(path: str | Path) -> Image.Image:
    """Opens and decodes an image file.

    Raises:
      UserError: if the file is missing, truncated, damaged or not an image. The message names the file.
    """
    try:
        with Image.open(path) as image:
            image.verify()  # checksums, which decoding does not look at
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file.") from error
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror}).") from error
    except (OSError, SyntaxError, ValueError, LookupError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: the image is truncated or damaged ({error}).") from error


def _bit_depth(path: str | Path) -> int:
    """Returns the bits per sample of a PNG, read from its header, or 8 for other files."""
    with open(path, "rb") as file:
        header = file.read(25)
    return header[24] if header.startswith(b"\x89PNG") else 8


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
