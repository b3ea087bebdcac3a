"""Palette PNGs: whether their indices are ids, or their colours are classes.

A palette PNG holds an index for each pixel, and a colour for each index. Both kinds of writers are common:

- Programs for data sets store **ids**, and add any palette to look at: PASCAL VOC's, ADE20K's, matplotlib's, greys.
- Drawing programs store **colours**, and number them as they like. Only the colours tell the classes.

The first of these rules that applies decides:

1. Indices and colours show the same classes: it does not matter. The palettes of Cityscapes and GTA5 are such. If some colours
   are unknown, three known ones are enough, as in ADE20K's palette, which has one colour for road and skyscraper.
2. Each index has the grey of its own number: the indices are ids.
3. The palette holds nothing but colours of the label space, which somebody chose: the colours are right. Entries that do not
   occur and are black, white or the grey of their number are filling, and do not count.
4. No colour that occurs, except black, is the label space's or nearly so: the indices are ids. But if indices and colours could
   have been numbered anew, because each entry occurs, or if the colours are greys that are ids as well, rule 5 applies.
5. The file is refused. `--data.read ids` or `--data.read colors` says what it holds.

If neither the indices nor the colours are all known, the file is refused anyway, for what is unknown.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from crn_jax.errors import UserError, counted

Color = tuple[int, int, int]
Reading = Literal["ids", "colors"]
READINGS: tuple[Reading, ...] = get_args(Reading)

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_NEAR = 4  # levels; a palette that was converted or rounded is as near
_SEVERAL = 3
_TOLD = 6


class Indexed(NamedTuple):
    """A decoded palette PNG."""

    indices: UInt8[np.ndarray, "H W"]
    palette: list[Color]
    counts: list[int]
    """The number of pixels of each index."""
    clear: list[int]
    """The indices that occur and are transparent."""

    @property
    def used(self) -> list[int]:
        """The indices that occur."""
        return [i for i, count in enumerate(self.counts) if count]

    @property
    def colors(self) -> UInt8[np.ndarray, "H W 3"]:
        """The colour of each pixel."""
        return np.array(self.palette, np.uint8)[self.indices]

    @classmethod
    def of(cls, image: Image.Image, path: str | Path) -> "Indexed":
        """Takes apart an image of mode P. Raises UserError if an index has no colour."""
        levels = image.getpalette("RGB") or []
        palette = [(levels[i], levels[i + 1], levels[i + 2]) for i in range(0, len(levels), 3)]
        indices = np.asarray(image)
        counts = np.bincount(indices.ravel()).tolist()
        if len(counts) > len(palette):
            raise UserError(
                f"{path}: index {len(counts) - 1} has no colour in the palette of {len(palette)}. Save the layout again."
            )
        alpha = image.info.get("transparency", b"")
        opacity = dict(enumerate(alpha)) if isinstance(alpha, bytes) else {alpha: 0}
        return cls(indices, palette, counts, [i for i, count in enumerate(counts) if count and opacity.get(i, 255) < 255])


class Meaning(NamedTuple):
    """What ids and colours mean in a label space."""

    name: str
    classes: Sequence[str]
    class_of_id: Mapping[int, int]
    class_of_color: Mapping[Color, int]
    has_own_colors: bool


class AmbiguousPalette(UserError):
    """A palette PNG could be read in two ways."""


def meaning_of(file: Indexed, labels: Meaning, path: str | Path) -> Reading:
    """Finds out whether a palette PNG holds ids or colours, by the rules in the module's docstring.

    Raises:
      AmbiguousPalette: if both are possible and differ. The message shows both readings.
    """
    used = file.used
    by_id = [labels.class_of_id.get(i) for i in used]
    by_color = [labels.class_of_color.get(file.palette[i]) for i in used]
    are_ids, are_colors = None not in by_id, None not in by_color
    agree = are_ids and all(color in (index, None) for index, color in zip(by_id, by_color))
    telling = {file.palette[i] for i in used} - {_BLACK}
    if agree and (are_colors or len(telling & labels.class_of_color.keys()) >= _SEVERAL):
        return "ids"
    if _is_ramp(file):
        return "ids"
    entries = {i: color for i, color in enumerate(file.palette) if i in used or color not in (_BLACK, _WHITE, (i, i, i))}
    colors = {*entries.values()} - {_BLACK}
    is_own = colors and {*entries.values()} <= labels.class_of_color.keys()
    if is_own and labels.has_own_colors and not (are_ids and _begins_a_voc_map(entries)):
        return "colors"
    is_related = _near(telling or colors, {*labels.class_of_color} - {_BLACK})
    if not are_ids and not are_colors:
        return "colors" if is_related else "ids"  # unknown ones are told by whoever looks them up
    if is_related or not colors:
        why = "Its palette does not tell which is right."
    elif [*entries] == used == [*range(len(used))]:
        why = "Each entry of its palette occurs, as in files whose colours were numbered anew, so its indices may be no ids."
    elif all(red == green == blue and red in labels.class_of_id for red, green, blue in map(file.palette.__getitem__, used)):
        why = "Its greys are ids as well. If the greys are right, save them as a grey PNG without a palette."
    else:
        return "ids"
    raise AmbiguousPalette(
        f"{path}: a palette PNG of which indices and colours mean different things in {labels.name}. "
        f"By its indices, it shows {_told(used, by_id, file, labels, 'id')}; by its colours, "
        f"{_told(used, by_color, file, labels, 'colour')}. {why} Say what it holds: --data.read ids or --data.read colors, or "
        f'"read" in the label file.'
    )


def _is_ramp(file: Indexed) -> bool:
    """Whether each index has the grey of its own number. Unused entries may be black."""
    greys = [color == (i, i, i) for i, color in enumerate(file.palette)]
    filled = all(grey or color == _BLACK for grey, color in zip(greys, file.palette))
    return filled and any(greys[1:]) and all(greys[i] for i in file.used)


def _near(colors: set[Color], others: set[Color]) -> bool:
    if not colors or not others:
        return False
    apart = np.abs(np.array(sorted(colors))[:, None] - np.array(sorted(others))[None])
    return bool((apart.max(-1) <= _NEAR).any())


def _begins_a_voc_map(entries: Mapping[int, Color]) -> bool:
    """Whether several entries are those of PASCAL VOC's map, or of PaddleSeg's, which is VOC's without its first entry."""
    return len(entries) > 1 and any(all(color == _voc_color(i + shift) for i, color in entries.items()) for shift in (0, 1))


def _voc_color(index: int) -> Color:
    """Returns a colour of PASCAL VOC's map. The bits of the index go to red, green and blue in turn, the highest bits first."""
    red, green, blue = (sum((index >> 3 * k + channel & 1) << 7 - k for k in range(3)) for channel in range(3))
    return red, green, blue


def _told(used: list[int], classes: Sequence[int | None], file: Indexed, labels: Meaning, noun: str) -> str:
    words = []
    for i, index in zip(used, classes):
        value = i if noun == "id" else file.palette[i]
        words.append(labels.classes[index] if index is not None else f"the unknown {noun} {value}")
    order = sorted(range(len(used)), key=lambda n: -file.counts[used[n]])
    more = f" and {len(used) - _TOLD} more" if len(used) > _TOLD else ""
    return ", ".join(f"{words[n]} ({counted(file.counts[used[n]], 'pixel')})" for n in order[:_TOLD]) + more
