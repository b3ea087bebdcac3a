"""Surveys what a data set holds. It decodes every photograph and layout once, on several threads.

It writes nothing, and does not stop at the first file that `crn_jax.data` refuses. `problems.py` says what is wrong.
"""

import contextlib
import dataclasses
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from PIL import Image

from crn_jax.data import nyu
from crn_jax.data.labels.generated_colors import palette
from crn_jax.data.labels.indexed import AmbiguousPalette, Reading
from crn_jax.data.labels.label_space import Color, Examined, LabelSpace
from crn_jax.data.photographs import Photograph, read_photograph
from crn_jax.data.pipeline import spread
from crn_jax.data.sources import DataConfig, Split, instance_maps_of, pairs_of
from crn_jax.errors import UserError
from crn_jax.files import expanded
from launch.datasets.instance_survey import InstanceLook, look_at_instances

Value = int | Color
KEPT_VALUES = 64
"""The number of unknown values that are kept of a layout; an antialiased layout has thousands."""

BLACK: Color = (0, 0, 0)

_MOST_CLASSES = 200
_VOID_ID = 255
_SEVERAL_IDS = 2
_NOTHING = LabelSpace("nothing", ("void",), (BLACK,), {-1: 0})
_ANY_ID = LabelSpace("the layouts", ("a class", "void"), (*palette(1), BLACK), dict.fromkeys(range(256), 0))


@dataclasses.dataclass(frozen=True)
class Pair:
    """A photograph and its layout, in files."""

    split: Split
    name: str
    photograph: Path
    layout: Path
    instances: Path | None = dataclasses.field(default=None, kw_only=True)
    """The layout's instance map, if the data set is inspected for instance boundaries."""

    def read_photograph(self, layout_size: tuple[int, int] | None) -> Photograph:
        """Reads the photograph. The height and width of its layout may tell whether it is turned."""
        return read_photograph(self.photograph, layout_size)

    def read_layout(self, label_space: LabelSpace) -> Examined:
        """Reads the layout as class ids `[H, W]`, and counts the pixels of each id or colour that is unknown."""
        return label_space.examine(self.layout)


@dataclasses.dataclass(frozen=True)
class Frame(Pair):
    """A pair of NYU Depth, whose pairs are all in one file."""

    file: Path
    number: int

    def read_photograph(self, layout_size: tuple[int, int] | None) -> Photograph:
        """Reads the frame's photograph. It is sRGB and has no orientation, so `layout_size` is ignored."""
        return Photograph(Image.fromarray(nyu.read_frame(self.file, self.number)[0]))

    def read_layout(self, label_space: LabelSpace) -> Examined:
        """Reads the frame's layout as class ids `[480, 640]`. An unknown id raises UserError in place of being counted."""
        return Examined(label_space.from_ids(nyu.read_frame(self.file, self.number)[1], self.layout), {})


class Look(NamedTuple):
    """What decoding a pair has shown."""

    size: tuple[int, int] | None
    """The height and width of the photograph, or None if it cannot be read."""
    layout_size: tuple[int, int] | None
    """The height and width of the layout, or None if it cannot be read."""
    digest: bytes
    """A hash of the photograph's size and pixels, whatever the file's format. It is empty if the file cannot be read."""
    pixels: np.ndarray
    """The number of pixels of each class, `[c]`. Unknown ids and colours count as void."""
    unknown: dict[Value, int]
    """The most frequent ids or colours that the label space does not have, with their pixels."""
    refused: tuple[str, ...]
    """The reasons why files cannot be read."""
    converted_from: str | None = None
    """The colour space that the photograph was converted from."""
    turned: bool = False
    """Whether the photograph was turned, as its EXIF orientation says."""
    doubts: tuple[str, ...] = ()
    """Small damage of the photograph, which does not prevent decoding."""
    palette: dict[int, Color] = {}  # noqa: RUF012  # nobody changes it
    """The colour of each index, if the layout is a palette PNG whose indices are ids."""
    instances: InstanceLook | None = None
    """What the layout's instance map shows."""
    ambiguous: str = ""
    """The two readings of the layout, if it is a palette PNG that does not tell which is right."""


@dataclasses.dataclass(frozen=True)
class Part:
    """The files of a split, before they are decoded."""

    pairs: list[Pair] = dataclasses.field(default_factory=list)
    lonely_photographs: list[Path] = dataclasses.field(default_factory=list)
    lonely_layouts: list[Path] = dataclasses.field(default_factory=list)
    missing: str = ""
    """The reason why there are no pairs, such as a missing folder."""
    all_needed: bool = True
    """Whether training refuses files that have no partner."""
    without_instances: str = ""
    """The reason why there are no instance maps, such as a missing file, if they are wanted."""


class Unknown(NamedTuple):
    """An id or a colour that the label space does not have."""

    value: Value
    pixels: int
    layouts: int
    example: Path
    nearest: str | None
    """The class of the nearest colour, or None for ids."""


def parts_of(data: DataConfig, boundaries: bool = False) -> dict[Split, Part]:
    """Lists the files of each split of a data set; for instance boundaries with the instance map of each layout."""
    parts = {split: _part(data, split) for split in get_args(Split)}
    return {split: _with_instances(data, split, part) for split, part in parts.items()} if boundaries else parts


def _with_instances(data: DataConfig, split: Split, part: Part) -> Part:
    if not part.pairs:
        return part
    layouts = {pair.name: pair.layout for pair in part.pairs}
    try:
        maps = instance_maps_of(data, split, layouts, list(layouts))
    except UserError as error:
        return dataclasses.replace(part, without_instances=str(error))
    return dataclasses.replace(part, pairs=[dataclasses.replace(pair, instances=maps[pair.name]) for pair in part.pairs])


def _part(data: DataConfig, split: Split) -> Part:
    try:
        if data.source == "nyu":
            assert data.root is not None, "data sets of files lie in a folder"
            file, frames, _ = nyu.find_frames(Path(expanded(data.root)), split)
            names = {number: Path(f"{file}, frame {number}") for number in frames}
            return Part([Frame(split, f"{n:04d}", name, name, file, n) for n, name in names.items()])
        photographs, layouts = pairs_of(data, split)
    except UserError as error:
        return Part(missing=str(error))
    return Part(
        [Pair(split, name, photographs[name], layouts[name]) for name in sorted(photographs.keys() & layouts.keys())],
        sorted(photographs[name] for name in photographs.keys() - layouts.keys()),
        sorted(layouts[name] for name in layouts.keys() - photographs.keys()),
        all_needed=data.source != "gta5",
    )


def unpaired(parts: Collection[Part]) -> str:
    """Names a photograph and a layout without a partner. Returns an empty string if all have partners."""
    lonely = {
        "layout": [path for part in parts for path in part.lonely_photographs],
        "photograph": [path for part in parts for path in part.lonely_layouts],
    }
    listed = " and ".join(f"{min(paths)} has no {partner}" for partner, paths in lonely.items() if paths)
    return listed and f"{listed}. Pairs are matched by file name, which a photograph and its layout must share."


def readable(pairs: Sequence[Pair], label_space: LabelSpace) -> list[Examined]:
    """Reads those layouts that can be read, as `Pair.read_layout` does."""

    def read(pair: Pair) -> list[Examined]:
        try:
            return [pair.read_layout(label_space)]
        except UserError:
            return []

    with ThreadPoolExecutor(threads()) as pool:
        return [layout for found in pool.map(read, pairs) for layout in found]


def threads() -> int:
    """Returns how many threads decode: one for each core, but at most 16, because each holds a whole picture."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16)


def fitting_labels(pairs: Sequence[Pair], label_spaces: dict[str, LabelSpace]) -> list[str]:
    """Returns the names of the label spaces that have all ids and colours of these layouts.

    Those with the fewest classes come first, and among equals those that find the least void.
    """
    fitting: dict[str, tuple[int, float]] = {}
    for name, label_space in label_spaces.items():
        layouts = readable(pairs, label_space)
        void = float(np.mean([(one.layout == label_space.num_classes - 1).mean() for one in layouts] or [1]))
        if void < 1 and not any(one.unknown for one in layouts):
            fitting[name] = label_space.num_classes, void
    return sorted(fitting, key=fitting.__getitem__)


def values_in(pairs: Sequence[Pair], read: Reading | None) -> Counter[Value]:
    """Counts the pixels of each id or colour in these layouts.

    Palette PNGs are read as `read` says, and as ids by default.
    """
    values: Counter[Value] = Counter()
    for one in readable(pairs, dataclasses.replace(_NOTHING, read_as=read or "ids")):
        values.update(one.unknown)
        if black := one.layout.size - sum(one.unknown.values()):  # the one colour that _NOTHING has
            values[BLACK] += black
    return values


def drafted_labels(pairs: Sequence[Pair], values: Counter[Value], name: str, read: Reading | None = None) -> dict[str, Any]:
    """Drafts a label file for layouts that hold these `values`: a class for each id or colour, which a person can rename.

    Black is void, and so is id 255 if there are several other ids. Colours come by their number of pixels, but greys in order,
    because they may be ids. Palette PNGs are read as `read` says, or as ids if they tell nothing else.

    Raises:
      UserError: if there are no ids or colours, or too many to be classes, if some layouts hold ids and others colours, or if
        palettes do not tell which they hold.
    """
    ids = sorted(value for value in values if isinstance(value, int))
    colors = [value for value, _ in values.most_common() if not isinstance(value, int) and value != BLACK]
    if not ids and not colors:
        pairs[0].read_layout(_NOTHING)  # raises the reason, if none can be read
        raise UserError(f"The layouts of {name} are black throughout, and black means void.")
    if (count := len(ids) + len(colors)) > _MOST_CLASSES:
        raise UserError(
            f"The layouts of {name} hold {count:,} {'colours' if colors else 'ids'}, too many for classes. Save them "
            f"as PNG, without antialiasing, and resize them by nearest neighbour only."
        )
    if ids and colors:
        raise UserError(
            f"Some layouts of {name} hold ids ({ids[0]}, ...) and others colours ({colors[0]}, ...). Make them alike."
        )
    if colors:
        if all(red == green == blue for red, green, blue in colors):
            colors.sort()
        fields: dict[str, Any] = {"name": name, "classes": [f"class {n}" for n in range(len(colors))], "colors": colors}
        return fields | ({"read": read} if read else {})
    if read is None and refuse_doubtful_palettes(pairs):
        read = "ids"
    class_ids = [value for value in ids if value != _VOID_ID]
    if len(class_ids) < _SEVERAL_IDS:  # a mask of 0 and 255, rather than a class and void
        class_ids = ids
    fields = {"name": name, "classes": [f"class {i}" for i in class_ids], "ids": class_ids}
    fields |= {"void_ids": []} if _VOID_ID in class_ids else {"void_ids": [_VOID_ID]}
    return fields | ({"read": read} if read else {})


def refuse_doubtful_palettes(pairs: Sequence[Pair]) -> int:
    """Counts palette PNGs, and refuses those whose indices may be no ids.

    Programs number the colours of a palette as they like, often in order of appearance.

    Raises:
      UserError: if an index has different colours in two files, or if each file holds just the colours that occur in it.
    """
    seen: dict[int, tuple[Color, Path]] = {}
    count, doubts = 0, list[str]()
    for pair in pairs:
        if used := used_palette(pair.layout):
            count += 1
            refuse_changed(seen, used, pair.layout)
            try:
                pair.read_layout(_ANY_ID)
            except AmbiguousPalette as error:
                doubts.append(str(error))
    if count and len(doubts) == count:
        raise UserError(doubts[0])
    return count


def refuse_changed(seen: dict[int, tuple[Color, Path]], used: dict[int, Color], path: Path) -> None:
    """Adds the palette of a file to those `seen`. Raises UserError if an index had another colour before."""
    for index, color in used.items():
        before, first = seen.setdefault(index, (color, path))
        if before != color:
            raise UserError(
                f"{first} and {path}: index {index} is of colour {before} in one palette and {color} in the other, so indices "
                f"are no ids. Say --data.read colors if the colours are right, or save the layouts as RGB, without a palette."
            )


def used_palette(path: Path) -> dict[int, Color]:
    """Returns the colour of each index that occurs in a palette PNG. Other and unreadable files give an empty dict."""
    with contextlib.suppress(UserError):  # the survey reports unreadable files
        return _NOTHING.used_palette(path)
    return {}


def scan(pairs: Sequence[Pair], label_space: LabelSpace, first_instance: int = 1) -> Iterator[Look]:
    """Decodes every pair, in order, on several threads. Pillow and NumPy release Python's lock."""
    with ThreadPoolExecutor(threads()) as pool:
        looks = pool.map(lambda pair: look_at(pair, label_space, first_instance), pairs)
        try:
            yield from looks
        finally:
            pool.shutdown(cancel_futures=True)  # if the caller stops early


def look_at(pair: Pair, label_space: LabelSpace, first_instance: int = 1) -> Look:
    """Decodes a pair, and returns what it shows. Ids from `first_instance` on stand for instances."""
    size = layout_size = None
    digest, pixels, refused = b"", np.zeros(label_space.num_classes, np.int64), list[str]()
    photograph, unknown, palette, instances, ambiguous = None, dict[Value, int](), dict[int, Color](), None, ""
    try:
        layout, unknown, palette = pair.read_layout(label_space)
        layout_size = layout.shape[0], layout.shape[1]
        pixels = np.bincount(layout.ravel(), minlength=label_space.num_classes)
        if pair.instances:
            instances = look_at_instances(pair.instances, pair.layout, layout, first_instance)
    except AmbiguousPalette as error:
        ambiguous = str(error)
    except UserError as error:
        refused.append(str(error))
    try:
        photograph = pair.read_photograph(layout_size)
        size = photograph.image.height, photograph.image.width
        digest = hashlib.blake2b(repr(size).encode() + photograph.image.tobytes(), digest_size=16).digest()
    except UserError as error:
        refused.insert(0, str(error))
    told = photograph[1:] if photograph else (None, False, ())
    common = dict(Counter(unknown).most_common(KEPT_VALUES))
    return Look(size, layout_size, digest, pixels, common, tuple(refused), *told, palette, instances, ambiguous)


def unknown_values(pairs: Sequence[Pair], looks: Sequence[Look], label_space: LabelSpace) -> list[Unknown]:
    """Returns the ids and colours that the label space does not have, sorted by their number of pixels."""
    pixels, layouts = Counter[Value](), Counter[Value]()
    example: dict[Value, Path] = {}
    for pair, look in zip(pairs, looks):
        pixels.update(look.unknown)
        layouts.update(look.unknown.keys())
        for value in look.unknown:
            example.setdefault(value, pair.layout)
    colors = np.array(label_space.colors)

    def nearest(value: Value) -> str | None:
        if isinstance(value, int):
            return None
        return label_space.classes[int(np.square(colors - np.array(value)).sum(-1).argmin())]

    return [Unknown(value, n, layouts[value], example[value], nearest(value)) for value, n in pixels.most_common()]


def duplicates(pairs: Sequence[Pair], looks: Sequence[Look]) -> list[list[Pair]]:
    """Returns groups of pairs whose photographs are equal, pixel by pixel."""
    groups = defaultdict(list)
    for pair, look in zip(pairs, looks):
        if look.digest:
            groups[look.digest].append(pair)
    return [group for group in groups.values() if len(group) > 1]


def representative(looks: Sequence[Look], count: int) -> list[int]:
    """Returns the positions of at most `count` readable pairs: a few that show as many classes as possible, then others."""
    whole = [i for i, look in enumerate(looks) if look.size and look.layout_size]
    if not whole:
        return []
    present = np.array([looks[i].pixels > 0 for i in whole])
    wanted, chosen = present.any(0), list[int]()
    while len(chosen) < count and wanted.any():
        best = int((present & wanted).sum(1).argmax())
        chosen.append(whole[best])
        wanted &= ~present[best]
    others = [i for i in whole if i not in chosen]
    return sorted(chosen + [others[i] for i in spread(others, count - len(chosen))])


def class_pixels(pairs: Sequence[Pair], looks: Sequence[Look], split: Split, label_space: LabelSpace) -> np.ndarray:
    """Counts the pixels of each class in a split, `[c]`."""
    zero = np.zeros(label_space.num_classes, np.int64)
    return np.sum([zero, *(look.pixels for pair, look in zip(pairs, looks) if pair.split == split)], 0)


def class_layouts(pairs: Sequence[Pair], looks: Sequence[Look], split: Split, label_space: LabelSpace) -> np.ndarray:
    """Counts the layouts of a split that have each class, `[c]`."""
    zero = np.zeros(label_space.num_classes, np.int64)
    return np.sum([zero, *(look.pixels > 0 for pair, look in zip(pairs, looks) if pair.split == split)], 0)
