"""Surveys a data set and finds what is wrong with it. It decodes every photograph and layout once, on several threads.

It writes nothing, and does not stop at the first problem: it collects all files that `crn_jax.data` refuses.
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

from crn_jax.data import folders, nyu
from crn_jax.data.labels.generated_colors import palette
from crn_jax.data.labels.indexed import AmbiguousPalette, Reading
from crn_jax.data.labels.label_space import Color, Examined, LabelSpace
from crn_jax.data.labels.published import COCOSTUFF_NEVER, LABEL_SPACES
from crn_jax.data.photographs import Photograph, read_photograph
from crn_jax.data.pipeline import spread
from crn_jax.data.sources import TOO_FEW, DataConfig, Split, instance_maps_of, pairs_of
from crn_jax.errors import UserError
from crn_jax.files import expanded
from launch.datasets.instance_survey import InstanceLook, doubts, look_at_instances

Value = int | Color
_KEPT_VALUES = 64  # unknown values that are kept of a layout; an antialiased layout has thousands
_EXAMPLES = 5  # files that a problem names
_MUCH_VOID = 0.5
_MOST_CLASSES = 200
_VOID_ID = 255
_SEVERAL_IDS = 2
_NOTHING = LabelSpace("nothing", ("void",), ((0, 0, 0),), {-1: 0})
_ANY_ID = LabelSpace("the layouts", ("a class", "void"), (*palette(1), (0, 0, 0)), dict.fromkeys(range(256), 0))


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
        return Photograph(Image.fromarray(nyu.read_frame(self.file, self.number)[0]))

    def read_layout(self, label_space: LabelSpace) -> Examined:
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


class Problem(NamedTuple):
    """Something to mend, or only to know, about a data set."""

    blocks: bool
    """Whether training would stop because of it."""
    what: str
    remedy: str
    examples: list[str]
    """A few of the files that have the problem."""


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

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [layout for found in pool.map(read, pairs) for layout in found]


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
    """Counts the pixels of each id or colour in these layouts, except black, which counts as void.

    Palette PNGs are read as `read` says, and as ids by default.
    """
    values: Counter[Value] = Counter()
    for one in readable(pairs, dataclasses.replace(_NOTHING, read_as=read or "ids")):
        values.update(one.unknown)
    return values


def drafted_labels(pairs: Sequence[Pair], name: str, read: Reading | None = None) -> dict[str, Any]:
    """Drafts a label file for these layouts: a class for each id or colour, which a person can rename.

    Id 255 is void if there are several other ids. Palette PNGs are read as `read` says, or as ids if they tell nothing else.

    Raises:
      UserError: if there are no ids or colours, or too many to be classes, if some layouts hold ids and others colours, or if
        palettes do not tell which they hold.
    """
    values = values_in(pairs, read)
    ids = sorted(value for value in values if isinstance(value, int))
    colors = [value for value, _ in values.most_common() if not isinstance(value, int)]
    if not values:
        pairs[0].read_layout(_NOTHING)  # raises the reason, if none can be read
        raise UserError(f"The layouts of {name} are black throughout, and black means void.")
    if len(values) > _MOST_CLASSES:
        raise UserError(
            f"The layouts of {name} hold {len(values):,} {'colours' if colors else 'ids'}, too many for classes. Save them "
            f"as PNG, without antialiasing, and resize them by nearest neighbour only."
        )
    if ids and colors:
        raise UserError(
            f"Some layouts of {name} hold ids ({ids[0]}, ...) and others colours ({colors[0]}, ...). Make them alike."
        )
    if colors:
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
    """Decodes every pair, in order, on as many threads as there are cores. Pillow and NumPy release Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
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
    common = dict(Counter(unknown).most_common(_KEPT_VALUES))
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


def problems_of(
    parts: dict[Split, Part], looks: Sequence[Look], label_space: LabelSpace, fitting: Sequence[str], root: Path
) -> list[Problem]:
    """Returns all problems of a data set.

    Args:
      parts: The splits.
      looks: What decoding showed of the pairs of all parts, in order.
      label_space: The label space of the layouts.
      fitting: The names of other label spaces that have all of the ids and colours.
      root: The folder that files are named relative to.
    """
    pairs = [pair for part in parts.values() for pair in part.pairs]
    return [
        *_incomplete(parts, root),
        *_unreadable(looks, root),
        *_ambiguous(pairs, looks, label_space, root),
        *_unmatched(pairs, looks, label_space, fitting, root),
        *_one_off(pairs, looks, label_space),
        *_of_two_sizes(pairs, looks, root),
        *_changed(pairs, looks, root),
        *_repeated(pairs, looks, root),
        *_lopsided(pairs, looks, label_space),
        *_instances(parts, looks, root),
    ]


def shown(path: Path, root: Path) -> str:
    """Returns a path as text, relative to the data set's folder if it lies in there."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def counted(n: int, noun: str) -> str:
    """Returns a number with its noun, such as "1 photograph" or "1,000 photographs"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def by(size: tuple[int, int]) -> str:
    """Returns a size as text, such as "256x512"."""
    return "{}x{}".format(*size)


def _incomplete(parts: dict[Split, Part], root: Path) -> Iterator[Problem]:
    missing = defaultdict(list)
    for split, part in parts.items():
        if part.missing:
            missing[part.missing].append(split)
            continue
        for noun, partner, lonely in (
            ("photograph", "layout", part.lonely_photographs),
            ("layout", "photograph", part.lonely_layouts),
        ):
            if lonely and part.all_needed:  # where partners are not needed, a note of open_source tells
                missed = {pair.photograph.parent for pair in part.pairs} | {path.parent for path in part.lonely_photographs}
                unread = [note for folder in sorted(missed) if (note := folders.unread(folder))]
                remedy = " ".join(["Pairs are matched by file name. Add the partners, or remove these files.", *unread])
                examples = [shown(path, root) for path in lonely[:_EXAMPLES]]
                yield Problem(True, f"{split}: {counted(len(lonely), noun)} without a {partner}", remedy, examples)
        if not part.pairs and (part.lonely_photographs or part.lonely_layouts):
            yield Problem(True, f"{split}: no photograph has a layout", "Give photographs and layouts the same names.", [])
        elif not part.pairs:
            yield Problem(True, f"{split}: too few pairs, so none is left for it", TOO_FEW, [])
    for reason, splits in missing.items():
        yield Problem(True, f"{' and '.join(splits)} cannot be listed", reason, [])


def _unreadable(looks: Sequence[Look], root: Path) -> Iterator[Problem]:
    reasons = [reason.replace(f"{root}{os.sep}", "") for look in looks for reason in dict.fromkeys(look.refused)]
    if reasons:
        remedy = "Download or make these files again, or remove them and their partners."
        yield Problem(True, f"{counted(len(reasons), 'file')} cannot be read", remedy, reasons[:_EXAMPLES])


def _ambiguous(pairs: Sequence[Pair], looks: Sequence[Look], label_space: LabelSpace, root: Path) -> Iterator[Problem]:
    """Finds palette PNGs that could be read in two ways, and those whose indices cannot be ids, as palettes differ."""
    said = [look.ambiguous.replace(f"{root}{os.sep}", "") for look in looks if look.ambiguous]
    if said:
        what = f"{counted(len(said), 'palette PNG')} could hold ids or colours"
        remedy = "Say which with --data.read ids or --data.read colors. The page inspection.html shows both readings."
        yield Problem(True, what, remedy, said[:_EXAMPLES])
    if label_space.read_as is None:
        seen: dict[int, tuple[Color, Path]] = {}
        try:
            for pair, look in zip(pairs, looks):
                refuse_changed(seen, look.palette, pair.layout)
        except UserError as error:
            what = "Indices of palette PNGs are no ids, because palettes differ"
            yield Problem(True, what, "If they are ids all the same, say --data.read ids.", [str(error)])


def _changed(pairs: Sequence[Pair], looks: Sequence[Look], root: Path) -> Iterator[Problem]:
    """Tells which photographs were converted or turned, and which may be damaged."""
    spaces = Counter(look.converted_from for look in looks if look.converted_from)
    if spaces:
        listed = [f"{name}: {counted(count, 'photograph')}" for name, count in spaces.most_common(_EXAMPLES)]
        what = f"{counted(spaces.total(), 'photograph')} in other colour spaces"
        yield Problem(False, what, "They are converted to sRGB whenever they are read.", listed)
    for noted, what, remedy in (
        (
            [look.turned for look in looks],
            "turned",
            "Their EXIF orientation says so, and their layouts have the turned size.",
        ),
        (
            [", ".join(look.doubts) for look in looks],
            "possibly damaged",
            "They can be decoded. Look at them, and fetch them again if a part is missing.",
        ),
    ):
        found = [
            shown(pair.photograph, root) + (f": {note}" if isinstance(note, str) else "")
            for pair, note in zip(pairs, noted)
            if note
        ]
        if found:
            yield Problem(False, f"{counted(len(found), 'photograph')} {what}", remedy, found[:_EXAMPLES])


def _unmatched(
    pairs: Sequence[Pair], looks: Sequence[Look], label_space: LabelSpace, fitting: Sequence[str], root: Path
) -> Iterator[Problem]:
    unknown = unknown_values(pairs, looks, label_space)
    own = "describe your own classes in a JSON file (--labels FILE.json)"
    for kind, values in (
        ("id", [u for u in unknown if isinstance(u.value, int)]),
        ("colour", [u for u in unknown if not isinstance(u.value, int)]),
    ):
        if not values:
            continue
        if fitting:
            remedy = f"These label spaces have all of them: {', '.join(f'--labels {name}' for name in fitting)}."
        elif kind == "id":
            remedy = f"Map them to the ids of {label_space.name}, or {own}."
        else:
            remedy = f"Save layouts as PNG without antialiasing and resize them by nearest neighbour only, or {own}."
        examples = [
            f"{u.value}: {counted(u.pixels, 'pixel')} in {counted(u.layouts, 'layout')}, such as {shown(u.example, root)}"
            + (f"; nearest: {u.nearest}" if u.nearest else "")
            for u in values[:_EXAMPLES]
        ]
        affected = sum(any(isinstance(v, int) == (kind == "id") for v in look.unknown) for look in looks)
        are = "is" if len(values) == 1 else "are"
        least = "At least " if any(len(look.unknown) == _KEPT_VALUES for look in looks) else ""
        what = f"{least}{counted(len(values), kind)} in {counted(affected, 'layout')} {are} not in {label_space.name}"
        yield Problem(True, what, remedy, examples)


def _one_off(pairs: Sequence[Pair], looks: Sequence[Look], label_space: LabelSpace) -> Iterator[Problem]:
    """Finds COCO-Stuff numbered from 1. All its ids but the last are known, but mean the next class."""
    if label_space != LABEL_SPACES["cocostuff"]:
        return
    pixels = np.sum([class_pixels(pairs, looks, split, label_space) for split in get_args(Split)], 0)
    if found := [f"{i}: {label_space.classes[i]}, {counted(int(pixels[i]), 'pixel')}" for i in COCOSTUFF_NEVER if pixels[i]]:
        what = f"Ids occur that COCO-Stuff's layouts never have ({len(found)} of {len(COCOSTUFF_NEVER)})"
        remedy = (
            "The ids seem to be numbered from 1, as in labels.txt and COCO-Stuff 10K, but stuffthingmaps_trainval2017 numbers "
            "from 0. Subtract 1 from each id, and turn 0 into 255."
        )
        yield Problem(False, what, remedy, found[:_EXAMPLES])


def _instances(parts: dict[Split, Part], looks: Sequence[Look], root: Path) -> Iterator[Problem]:
    """Tells which layouts have no instance map, and which maps look like something else."""
    for split, part in parts.items():
        if part.without_instances:
            remedy = "Add the files, or train without --cascade.boundaries."
            yield Problem(True, f"{split}: instance maps are missing", remedy, [part.without_instances])
    if seen := [look.instances for look in looks if look.instances]:
        yield from (Problem(False, *doubt) for doubt in doubts(seen, root))


def _of_two_sizes(pairs: Sequence[Pair], looks: Sequence[Look], root: Path) -> Iterator[Problem]:
    differing = [
        f"{shown(pair.photograph, root)} is {by(look.size)}, its layout {by(look.layout_size)}"
        for pair, look in zip(pairs, looks)
        if look.size and look.layout_size and look.size != look.layout_size
    ]
    if differing:
        remedy = "Resize one to the size of the other: a layout by nearest neighbour, a photograph with antialiasing."
        what = f"{counted(len(differing), 'layout')} of a different size than the photograph"
        yield Problem(True, what, remedy, differing[:_EXAMPLES])


def _repeated(pairs: Sequence[Pair], looks: Sequence[Look], root: Path) -> Iterator[Problem]:
    groups = duplicates(pairs, looks)
    across = [group for group in groups if len({pair.split for pair in group}) > 1]
    within = [group for group in groups if group not in across]
    for found, what, remedy in (
        (
            across,
            "in train and in val",
            "Keep each in one split, or the cascade is judged by photographs that it was trained on.",
        ),
        (within, "more than once in a split", "Keep one of each, unless these examples should count more than others."),
    ):
        if found:
            examples = [" = ".join(shown(pair.photograph, root) for pair in group) for group in found[:_EXAMPLES]]
            yield Problem(False, f"{counted(len(found), 'photograph')} {what}", remedy, examples)


def _lopsided(pairs: Sequence[Pair], looks: Sequence[Look], label_space: LabelSpace) -> Iterator[Problem]:
    pixels = {split: class_pixels(pairs, looks, split, label_space) for split in get_args(Split)}
    unlearned = [name for n, name in enumerate(label_space.classes) if pixels["val"][n] and not pixels["train"][n]]
    if unlearned and pixels["train"].any():
        what = f"In val but never in train: {', '.join(unlearned)}"
        yield Problem(False, what, "The cascade cannot learn these classes. Move layouts that show them to train.", [])
    whole = np.sum(list(pixels.values()), 0)
    if whole.sum() and whole[-1] > _MUCH_VOID * whole.sum():
        what = f"{whole[-1] / whole.sum():.0%} of all pixels are void"
        yield Problem(
            False, what, f"Check that the layouts are in {label_space.name}, or name another label space with --labels.", []
        )


def class_pixels(pairs: Sequence[Pair], looks: Sequence[Look], split: Split, label_space: LabelSpace) -> np.ndarray:
    """Counts the pixels of each class in a split, `[c]`."""
    zero = np.zeros(label_space.num_classes, np.int64)
    return np.sum([zero, *(look.pixels for pair, look in zip(pairs, looks) if pair.split == split)], 0)


def class_layouts(pairs: Sequence[Pair], looks: Sequence[Look], split: Split, label_space: LabelSpace) -> np.ndarray:
    """Counts the layouts of a split that have each class, `[c]`."""
    zero = np.zeros(label_space.num_classes, np.int64)
    return np.sum([zero, *(look.pixels > 0 for pair, look in zip(pairs, looks) if pair.split == split)], 0)
