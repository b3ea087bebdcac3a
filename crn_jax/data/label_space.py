"""Label spaces: which classes a data set has, how its files write them, and how they are drawn.

Within the project a layout on the host is uint8 (uint16 past 256 classes) `[H, W]` of class indices 0 ... c-1, **void
last**. Files hold raw ids or colours; `LabelSpace` translates both, and refuses what it does not know instead of guessing.
"""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from crn_jax.errors import UserError

Color = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class LabelSpace:
    """Names, colours and raw ids of a data set's classes; the last class is void."""

    name: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    """One per class, for reading colour PNGs and for drawing."""
    ids: dict[int, int]
    """Raw id in a file -> class index."""
    void_colors: tuple[Color, ...] = ()
    """Further colours that files use for void."""

    def __post_init__(self):
        if len(self.colors) != len(self.classes) or self.classes[-1] != "void":
            raise ValueError(f"Label space {self.name}: a colour per class, and void last; got {self.classes}.")
        if not set(self.ids.values()) <= set(range(len(self.classes))):
            raise ValueError(f"Label space {self.name}: ids must map to 0..{len(self.classes) - 1}, got {self.ids}.")

    @property
    def num_classes(self) -> int:
        """Classes, void included."""
        return len(self.classes)

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """Of layouts."""
        return np.uint8 if self.num_classes <= 256 else np.uint16

    def read(self, path: str | Path) -> np.ndarray:
        """Reads a layout PNG of ids or of colours: class indices `[H, W]`.

        A palette PNG is read by colour, unless its palette is foreign to the label space: a grey ramp, or one none of
        whose used colours (but black) it knows. Then its indices are ids.

        Raises:
          UserError: naming the file and each id or colour that is not of this label space, with its number of pixels.
        """
        image = open_image(path)
        if image.mode in ("RGB", "RGBA"):
            return self._from_colors(np.asarray(image.convert("RGB")), path)
        if image.mode == "P":
            if self._foreign_palette(image):
                return self._from_ids(np.asarray(image), path)
            return self._from_colors(np.asarray(image.convert("RGB")), path)
        if image.mode == "L" and (bits := _bit_depth(path)) < 8:
            # Pillow stretches these to 0..255, which would turn one id into another.
            raise UserError(f"{path}: a grey PNG of {bits} bits a pixel; save ids with 8 or 16 bits.")
        if image.mode in ("L", "I", "I;16"):
            return self._from_ids(np.asarray(image), path)
        raise UserError(f"{path}: a layout is a PNG of ids (8 or 16 bit) or of colours, not of mode {image.mode}.")

    def draw(self, layout: np.ndarray) -> np.ndarray:
        """Colours of a layout: `[..., H, W] -> uint8 [..., H, W, 3]`."""
        return np.array(self.colors, np.uint8)[layout]

    def _foreign_palette(self, image: Image.Image) -> bool:
        used = np.unique(np.asarray(image))
        colors = [tuple(color) for color in np.reshape(image.getpalette("RGB"), (-1, 3))[used].tolist()]
        if all(color == (i, i, i) for i, color in zip(used, colors)):
            return True
        return not {*self.colors, *self.void_colors} & {*colors} - {(0, 0, 0)}

    def _from_ids(self, raw: np.ndarray, path) -> np.ndarray:
        known = np.array(sorted(i for i in self.ids if i >= 0))
        position = np.minimum(np.searchsorted(known, raw), len(known) - 1)
        unknown = known[position] != raw
        if unknown.any():
            values, counts = np.unique(raw[unknown], return_counts=True)
            found = ", ".join(f"{v} ({n:,} pixels)" for v, n in zip(values[:8], counts[:8]))
            raise UserError(
                f"{path}: label id {found} is not one of {self.name}'s: {_ranges(known)}. Map the file's ids to these, or "
                f"check that it belongs to this data set."
            )
        return np.array([self.ids[i] for i in known], self.dtype)[position]

    def _from_colors(self, rgb: np.ndarray, path) -> np.ndarray:
        table = {_code(color): self.num_classes - 1 for color in self.void_colors}
        table |= {_code(color): index for index, color in enumerate(self.colors)}
        known = np.array(sorted(table))
        codes = _code(np.moveaxis(rgb.astype(np.int32), -1, 0))
        position = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        unknown = known[position] != codes
        if unknown.any():
            raise UserError(self._unknown_colors(rgb[unknown], path))
        return np.array([table[code] for code in known], self.dtype)[position]

    def _unknown_colors(self, pixels: np.ndarray, path) -> str:
        colors, counts = np.unique(pixels, axis=0, return_counts=True)
        most = np.argsort(-counts)[:5]
        distances = np.square(colors[most, None].astype(int) - np.array(self.colors)).sum(-1)
        found = "; ".join(
            f"{tuple(int(v) for v in colors[i])} ({counts[i]:,} pixels, nearest {self.classes[nearest]})"
            for i, nearest in zip(most, distances.argmin(-1))
        )
        return (
            f"{path}: {len(colors)} colours are not in {self.name}'s palette: {found}. Save layouts as PNG without "
            f"antialiasing, resize them by nearest neighbour only, or check the data set."
        )


def open_image(path: str | Path) -> Image.Image:
    """Opens and decodes an image file.

    Raises:
      UserError: naming the file, if it is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file.") from error
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror}).") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: the image is truncated or damaged ({error}).") from error


def _bit_depth(path: str | Path) -> int:
    """Bits a sample of a PNG, from its header; 8 for other files."""
    with open(path, "rb") as file:
        header = file.read(25)
    return header[24] if header.startswith(b"\x89PNG") else 8


def _code(color):
    red, green, blue = color
    return (red * 256 + green) * 256 + blue


def _ranges(values) -> str:
    """0, 1, 2, 5 -> '0..2, 5'."""
    runs: list[list[int]] = []
    for value in map(int, values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1][1:] = [value]
        else:
            runs.append([value])
    return ", ".join("..".join(map(str, run)) for run in runs)


# The table of cityscapesScripts' helpers/labels.py: (labelId, class, colour).
_CITYSCAPES = (
    (7, "road", (128, 64, 128)), (8, "sidewalk", (244, 35, 232)), (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)), (13, "fence", (190, 153, 153)), (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)), (20, "traffic sign", (220, 220, 0)), (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)), (23, "sky", (70, 130, 180)), (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)), (26, "car", (0, 0, 142)), (27, "truck", (0, 0, 70)), (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)), (32, "motorcycle", (0, 0, 230)), (33, "bicycle", (119, 11, 32)),
)  # fmt: skip

CITYSCAPES = LabelSpace(
    name="cityscapes",
    classes=tuple(name for _, name, _ in _CITYSCAPES) + ("void",),
    colors=tuple(color for _, _, color in _CITYSCAPES) + ((0, 0, 0),),
    # polegroup (18) shares pole's colour, so the released program, which reads colours, trains it as pole.
    ids={i: len(_CITYSCAPES) for i in range(-1, 34)} | {i: n for n, (i, _, _) in enumerate(_CITYSCAPES)} | {18: 5},
    void_colors=(
        (20, 20, 20), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180), (150, 100, 100),
        (150, 120, 90), (0, 0, 90), (0, 0, 110),
    ),
)  # fmt: skip
"""19 classes and void; files hold labelIds or the official colours ((20, 20, 20) occurs in GTA5's)."""

_CAMVID = (
    ("sky", (128, 128, 128)), ("building", (128, 0, 0)), ("pole", (192, 192, 128)), ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)), ("tree", (128, 128, 0)), ("sign", (192, 128, 128)), ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)), ("pedestrian", (64, 64, 0)), ("bicyclist", (0, 128, 192)), ("void", (0, 0, 0)),
)  # fmt: skip

CAMVID = LabelSpace(
    name="camvid",
    classes=tuple(name for name, _ in _CAMVID),
    colors=tuple(color for _, color in _CAMVID),
    ids={i: i for i in range(len(_CAMVID))},
)
"""The 11 classes of the SegNet tutorial's split, and void."""
