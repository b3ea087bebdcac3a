"""Guesses which data set a folder holds and what its classes are, where nobody says it, or drafts a label file.

A guess needs evidence. Ids that count up from 0 are none: any data set may be numbered so, and every class would get a wrong
name. Evidence is the published names of files, colours that somebody chose, ids with a data set's own gaps, or its folders.
"""

import dataclasses
import json
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from crn_jax.data.labels.indexed import Reading
from crn_jax.data.labels.label_space import Color, LabelSpace
from crn_jax.data.labels.published import LABEL_SPACES
from crn_jax.data.pipeline import spread
from crn_jax.data.sources import DataConfig, label_space_of
from crn_jax.errors import UserError, counted, some
from crn_jax.files import replace_text
from launch.datasets.survey import (
    BLACK,
    Pair,
    Value,
    drafted_labels,
    fitting_labels,
    parts_of,
    unpaired,
    used_palette,
    values_in,
)

InFiles = Literal["camvid", "cityscapes", "ade20k", "nyu", "gta5", "cocostuff", "folder"]
IN_FILES: tuple[InFiles, ...] = get_args(InFiles)
"""The sources that are read from files."""
OF_FILES = {name: space for name, space in LABEL_SPACES.items() if name not in ("nyu894", "nyu40", "nyu13")}
"""The label spaces of image files. NYU's .mat has nearly a thousand raw ids, so its own would fit almost any file."""
SAMPLE = 8
"""The number of layouts by which label spaces are guessed."""

_OWN_CLASSES = 'For classes of your own, name a file: --labels FILE.json, which holds {"classes": ["lawn", "path"]}.'
_OWN_PATHS = ("cityscapes", "nyu")  # no other data have their files' paths, such as aachen/*_gtFine_labelIds.png
_OWN_FOLDERS = (*_OWN_PATHS, "camvid", "ade20k", "cocostuff")  # not gta5: images/ and labels/ are anybody's
_PUBLISHED_NAMES = {
    "camvid": r"(0001TP|0006R0|0016E5|Seq05VD)_f?\d+",
    "ade20k": r"ADE_(train|val)_\d{8}",
    "cocostuff": r"(COCO_(train|val)2014_)?\d{12}",
}
_WITH_GAPS = ("cityscapes", "cityscapes_strict", "gta5")  # all others number their classes from 0 or 1, as anybody does
_SEVERAL = 3  # colours of one data set that are hardly there by chance


class Choice(NamedTuple):
    """The data set that a folder is taken for."""

    data: DataConfig
    notes: list[str]
    """Sentences for the user about what was guessed."""
    is_guess: bool = False
    """Whether its classes are those of a published label space that nobody has named."""
    all_needed: bool = False
    """Whether files without a partner are wrong even where the published data set lacks some, because this is another one."""
    draft: Path | None = None
    """The drafted label file that its classes are from."""


def choose(root: Path, source: InFiles | None, labels: str | None, read: Reading | None, draft: Path) -> Choice:
    """Returns the data set in a folder. What is None is guessed.

    If the layouts are in no known label space, their classes are those of the label file `draft`, which is written first if it
    does not exist.

    Raises:
      UserError: if the folder looks like none of the sources, if its layouts hold no classes, or if the draft is of another
        data set.
    """
    data, notes = DataConfig(source or "folder", str(root), labels=labels, read=read), list[str]()
    pairs: list[Pair] | None = None
    if not source:
        data, pairs = guessed_source(data)
        found = f" --labels {data.labels}" if data.labels != labels else ""
        notes.append(f"Guessed from the folders: --source {data.source}{found}, which finds {counted(len(pairs), 'pair')}.")
    if labels or source not in (None, "folder"):
        return Choice(data, notes)
    if pairs and data.source != "folder":
        is_published, note = resembles_published(data, pairs)
        if is_published:
            return Choice(data, [*notes, note] if note else notes, is_guess=True)
        notes.append(note)
    chosen = guessed_labels(data, pairs or listed(data), draft)
    return chosen._replace(notes=notes + chosen.notes, all_needed=True)


def guessed_source(data: DataConfig) -> tuple[DataConfig, list[Pair]]:
    """Returns the source that finds most pairs in the folder, and these.

    Raises:
      UserError: if no source finds a pair.
    """
    candidates = [dataclasses.replace(data, source=source) for source in IN_FILES]
    if data.labels is None:
        candidates.append(dataclasses.replace(data, source="camvid", labels="camvid32"))
        candidates.append(dataclasses.replace(data, source="cityscapes", labels="cityscapes_trainids"))
    parts = [parts_of(candidate).values() for candidate in candidates]
    pairs = [[pair for part in found for pair in part.pairs] for found in parts]
    if not any(pairs):
        if lonely := next(filter(None, map(unpaired, parts)), ""):
            raise UserError(f"No photograph has a layout: {lonely}")
        missing = dict.fromkeys(part.missing for found in parts for part in found if part.missing)
        reasons = [reason for reason in missing if "there is no " not in reason]  # all sources but one lack their folders
        raise UserError(
            f"{data.root} has no photographs with layouts where {', '.join(IN_FILES)} have them. Give the data set's "
            f"top folder; or name the data set by --source, which tells what is missing. {' '.join(reasons)}".strip()
        )
    return max(zip(candidates, pairs), key=lambda candidate: len(candidate[1]))


def listed(data: DataConfig) -> list[Pair]:
    """Lists the pairs of a data set. Raises UserError if there are none."""
    parts = parts_of(data).values()
    pairs = [pair for part in parts for pair in part.pairs]
    if not pairs:
        raise UserError(" ".join([*dict.fromkeys(part.missing for part in parts), unpaired(parts)]).strip())
    return pairs


def resembles_published(data: DataConfig, pairs: Sequence[Pair]) -> tuple[bool, str]:
    """Returns whether a data set in a published one's folders is this one, or has its classes, and a note if it is not sure."""
    sample = sample_of(pairs)
    names = _PUBLISHED_NAMES.get(data.source)
    if data.source in _OWN_PATHS or (names and all(re.fullmatch(names, pair.name) for pair in sample)):
        return True, ""
    space, values = label_space_of(data), values_in(sample, data.read)
    if not values or is_likely(space, values, colors_of(sample), data.source in _OWN_FOLDERS):
        return True, f"The files have other names than {data.source}'s. {_OWN_CLASSES}" if names else ""
    return False, f"The folders are {data.source}'s, but the layouts do not look like its label space {space.name}."


def guessed_labels(data: DataConfig, pairs: Sequence[Pair], draft: Path) -> Choice:
    """Returns the data set with a label space that has all ids or colours of a few layouts, if there is evidence for it.

    If there is none, its classes are those of the label file `draft`, which is written first if it does not exist.

    Raises:
      UserError: if the layouts cannot be read, if they hold no classes, or if the draft is of another data set.
    """
    assert data.root is not None, "data sets that are inspected lie in a folder"
    root = Path(data.root).resolve()
    drafted = dataclasses.replace(data, labels=str(draft))
    if draft.exists():
        refuse_draft_of_another(draft, root)
        return Choice(drafted, [f"The classes are those of {draft}. Give --labels for others."], draft=draft)
    sample = sample_of(pairs)
    values, colors = values_in(sample, data.read), colors_of(sample)
    spaces = {name: dataclasses.replace(space, read_as=data.read) for name, space in OF_FILES.items()}
    fitting = fitting_labels(sample, spaces)
    if likely := [name for name in fitting if is_likely(spaces[name], values, colors)]:
        also = f" ({', '.join(likely[1:])} would fit as well)" if likely[1:] else ""
        note = f"Guessed from the layouts: --labels {likely[0]}{also}. {_OWN_CLASSES}"
        return Choice(dataclasses.replace(data, labels=likely[0]), [note], is_guess=True)
    possible = [name for name in fitting if is_likely(spaces[name], values, colors, in_own_folders=True)]
    return Choice(drafted, [write_draft(draft, root, pairs, data.read, possible)], draft=draft)


def is_likely(space: LabelSpace, values: dict[Value, int], colors: Collection[Color], in_own_folders: bool = False) -> bool:
    """Whether layouts are likely to be in a label space.

    Args:
      space: The label space.
      values: The number of pixels of each id and colour of the layouts.
      colors: The colours that the palettes among the layouts have for what occurs.
      in_own_folders: Whether the layouts lie where only the label space's own data set has them.
    """
    ids = {value for value in values if isinstance(value, int)}
    if colors and space.has_own_colors and {*colors} <= space.class_of_color.keys():
        if len(colors) >= _SEVERAL or not ids <= space.ids.keys():
            return True
    if ids:
        tell = in_own_folders or (space.name in _WITH_GAPS and have_gaps(ids - {255}))
        return tell and 2 * len({space.ids[i] for i in ids & space.ids.keys()}) >= space.num_classes
    known = sum(pixels for value, pixels in values.items() if value in space.class_of_color and value != BLACK)
    return 2 * known >= sum(pixels for value, pixels in values.items() if value != BLACK)


def have_gaps(ids: Collection[int]) -> bool:
    """Whether ids do not just count up."""
    return bool(ids) and max(ids) - min(ids) >= len(ids)


def refuse_draft_of_another(draft: Path, root: Path) -> None:
    """Raises UserError if a label file was drafted for a data set in another folder, which may only have the same name."""
    beside = _beside(draft)
    if beside.is_file() and (owner := os.fsdecode(beside.read_bytes()).rstrip("\n")) != str(root):
        raise UserError(
            f"{draft} was drafted for the data set {owner}, not for {root}. Choose another folder for the results with --out "
            f"DIR. If the classes are the same, give --labels {draft}."
        )


def write_draft(draft: Path, root: Path, pairs: Sequence[Pair], read: Reading | None, possible: Sequence[str]) -> str:
    """Writes a label file for the data set in `root`, and beside it a file that names `root`.

    Returns a note, which also names the published label spaces that are `possible`.
    """
    values = values_in(pairs, read)
    fields = drafted_labels(pairs, values, root.name, read)
    draft.parent.mkdir(parents=True, exist_ok=True)
    _beside(draft).write_bytes(os.fsencode(root) + b"\n")
    lines = (f"  {json.dumps(field)}: {json.dumps(value, ensure_ascii=False)}" for field, value in fields.items())
    replace_text(draft, "{\n" + ",\n".join(lines) + "\n}\n")  # one line for each field, because people edit it
    found = counted(len(fields["classes"]), "colour" if "colors" in fields else "id")
    nothing_known = "" if possible else " of no known label space"
    notes = [f"The layouts hold {found}{nothing_known}. {draft} has a class for each. Give the classes names there."]
    if possible:
        have = "has" if len(possible) == 1 else "have"
        notes.append(
            f"{some([*possible])} {have} all of these, but ids that count up may be anybody's. If the layouts are in a known "
            f"label space, name it, such as --labels {possible[0]}."
        )
    return " ".join([*notes, *questions(fields, values)])


def questions(fields: dict[str, Any], values: Collection[Value]) -> list[str]:
    """Returns questions about greys and void in a draft of a label file, because void is declared, never guessed."""
    if fields.get("void_ids") == []:
        ids = " and ".join(map(str, fields["ids"]))
        return [f"They hold the ids {ids}. Is 255 void? If so, move 255 from ids to void_ids, and remove its class."]
    if fields.get("void_ids") and 255 in values:
        return ["Is 255 void? The draft says so in void_ids. If not, give it a class."]
    asked = []
    if "colors" in fields and all(red == green == blue for red, green, blue in fields["colors"]):
        asked.append("These greys may be ids. If they are, save the layouts as PNGs of one channel, and delete the draft.")
    if "colors" in fields and BLACK in values:
        asked.append('Is black void? The draft says so. If not, list black and, last, "void" in another colour.')
    return asked


def sample_of(pairs: Sequence[Pair]) -> list[Pair]:
    """Returns a few pairs, from the first to the last."""
    return [pairs[i] for i in spread(pairs, SAMPLE)]


def colors_of(pairs: Sequence[Pair]) -> set[Color]:
    """Returns the colours, except black, that palettes have for the indices that occur."""
    return {color for pair in pairs for color in used_palette(pair.layout).values()} - {BLACK}


def _beside(draft: Path) -> Path:
    return draft.with_name(f"{draft.stem}_of.txt")
