"""Finds what is wrong with a data set, from what decoding its files has shown. Each problem comes with its remedy."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from crn_jax.data import folders
from crn_jax.data.labels.label_space import Color, LabelSpace
from crn_jax.data.labels.published import COCOSTUFF_NEVER, LABEL_SPACES
from crn_jax.data.sources import TOO_FEW, Split
from crn_jax.errors import UserError, counted
from launch.datasets.survey import KEPT_VALUES, Look, Pair, Part, class_pixels, duplicates, refuse_changed, unknown_values

_EXAMPLES = 5  # files that a problem names
_MUCH_VOID, _NEARLY_ALL_VOID = 0.5, 0.9
_MUCH_BOUNDARY = 0.5


class Problem(NamedTuple):
    """Something to mend, or only to know, about a data set."""

    blocks: bool
    """Whether training would stop because of it."""
    what: str
    remedy: str
    examples: list[str]
    """A few of the files that have the problem."""


def problems_of(
    parts: dict[Split, Part],
    looks: Sequence[Look],
    label_space: LabelSpace,
    fitting: Sequence[str],
    root: Path,
    is_guess: bool = False,
    draft: Path | None = None,
) -> list[Problem]:
    """Returns all problems of a data set.

    Args:
      parts: The splits.
      looks: What decoding showed of the pairs of all parts, in order.
      label_space: The label space of the layouts.
      fitting: The names of other label spaces that have all of the ids and colours.
      root: The folder that files are named relative to.
      is_guess: Whether the label space is a published one that nobody has named.
      draft: The drafted label file that the label space is from.
    """
    pairs = [pair for part in parts.values() for pair in part.pairs]
    return [
        *_incomplete(parts, root),
        *_unreadable(looks, root),
        *_ambiguous(pairs, looks, label_space, root),
        *_unmatched(pairs, looks, label_space, fitting, root, draft),
        *_one_off(pairs, looks, label_space),
        *_of_two_sizes(pairs, looks, root),
        *_changed(pairs, looks, root),
        *_repeated(pairs, looks, root),
        *_lopsided(pairs, looks, label_space, is_guess),
        *_instances(parts, looks, root),
    ]


def shown(path: Path, root: Path) -> str:
    """Returns a path as text, relative to the data set's folder if it lies in there."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def without_root(reason: str, root: Path) -> str:
    """Returns a message with the paths in it relative to the data set's folder. Other paths stay as they are."""
    return re.sub(rf"(?<!\S){re.escape(str(root) + os.sep)}", "", reason)


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
    reasons = [without_root(reason, root) for look in looks for reason in dict.fromkeys(look.refused)]
    if reasons:
        remedy = "Download or make these files again, or remove them and their partners."
        yield Problem(True, f"{counted(len(reasons), 'file')} cannot be read", remedy, reasons[:_EXAMPLES])


def _ambiguous(pairs: Sequence[Pair], looks: Sequence[Look], label_space: LabelSpace, root: Path) -> Iterator[Problem]:
    """Finds palette PNGs that could be read in two ways, and those whose indices cannot be ids, as palettes differ."""
    said = [without_root(look.ambiguous, root) for look in looks if look.ambiguous]
    if said:
        what = f"{counted(len(said), 'palette PNG')} could hold ids or colours"
        remedy = "Say which with --data.read ids or --data.read colors. The page inspection.html shows both readings."
        yield Problem(True, what, remedy, said[:_EXAMPLES])
    if label_space.read_as != "colors":  # a drafted label file says "ids", by the files that there were then
        seen: dict[int, tuple[Color, Path]] = {}
        try:
            for pair, look in zip(pairs, looks):
                refuse_changed(seen, look.palette, pair.layout)
        except UserError as error:
            if label_space.read_as is None:
                what = "Indices of palette PNGs are no ids, because palettes differ"
                yield Problem(True, what, "If they are ids all the same, say --data.read ids.", [str(error)])
            else:
                what = "Palettes differ, but indices of palette PNGs are read as ids, as --data.read or the label file says"
                yield Problem(False, what, 'If that is wrong, say "colors" there, or save layouts as RGB.', [str(error)])


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
    pairs: Sequence[Pair],
    looks: Sequence[Look],
    label_space: LabelSpace,
    fitting: Sequence[str],
    root: Path,
    draft: Path | None,
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
        if draft:
            remedy = f"{remedy.removesuffix('.')}, or delete {draft} to draft anew."
        examples = [
            f"{u.value}: {counted(u.pixels, 'pixel')} in {counted(u.layouts, 'layout')}, such as {shown(u.example, root)}"
            + (f"; nearest: {u.nearest}" if u.nearest else "")
            for u in values[:_EXAMPLES]
        ]
        affected = sum(any(isinstance(v, int) == (kind == "id") for v in look.unknown) for look in looks)
        are = "is" if len(values) == 1 else "are"
        least = "At least " if any(len(look.unknown) == KEPT_VALUES for look in looks) else ""
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
    maps = [look.instances for look in looks if look.instances]
    if dense := [shown(one.path, root) for one in maps if one.boundaries > _MUCH_BOUNDARY]:
        what = f"{counted(len(dense), 'instance map')} with boundaries in more than half of the pixels"
        remedy = "Look at them: photographs and antialiased pictures are no instance maps."
        yield Problem(False, what, remedy, dense[:_EXAMPLES])
    if maps and not any(one.within for one in maps):
        what = "Instance maps separate nothing that the layouts do not separate"
        remedy = "Either no two objects of a class touch, or these are layouts. Boundaries will bring little."
        yield Problem(False, what, remedy, [])


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
    within = [group for group in groups if len({pair.split for pair in group}) == 1]
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


def _lopsided(pairs: Sequence[Pair], looks: Sequence[Look], label_space: LabelSpace, is_guess: bool) -> Iterator[Problem]:
    pixels = {split: class_pixels(pairs, looks, split, label_space) for split in get_args(Split)}
    unlearned = [name for n, name in enumerate(label_space.classes) if pixels["val"][n] and not pixels["train"][n]]
    if unlearned and pixels["train"].any():
        what = f"In val but never in train: {', '.join(unlearned)}"
        yield Problem(False, what, "The cascade cannot learn these classes. Move layouts that show them to train.", [])
    whole = np.sum(list(pixels.values()), 0)
    if whole.sum() and whole[-1] > _MUCH_VOID * whole.sum():
        share = whole[-1] / whole.sum()
        remedy = f"Check that the layouts are in {label_space.name}, or name another label space with --labels."
        if blocks := is_guess and bool(share > _NEARLY_ALL_VOID):
            remedy = (
                f"The label space {label_space.name} was only guessed. If it is right, give --labels {label_space.name}, else "
                f"--labels FILE.json with your own classes."
            )
        yield Problem(blocks, f"{share:.0%} of all pixels are void", remedy, [])
