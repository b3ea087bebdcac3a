"""Checks data sets before the first step: `python -m launch.inspect DIR [DIR ...]`.

It decodes every photograph and layout, tells what is there, what is wrong and how to mend it, and prints the command that
trains on the data. It writes inspection.html, with a contact sheet, and inspection.json. The exit status is 0 if all data sets
can be trained on, 1 if one cannot, and 2 if the command line is wrong or says too little to inspect the data.
"""

import contextlib
import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import rich.table
import tyro
from PIL import Image
from rich.text import Text

from crn_jax.data.folders import refuse_unreadable
from crn_jax.data.instances import decoded
from crn_jax.data.labels.indexed import Reading
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.labels.published import find_label_space
from crn_jax.data.sources import Split, label_space_of, refuse_without_instances
from crn_jax.errors import UserError, counted
from launch.common.exit_status import FAILED
from launch.common.jax_setup import set_up_jax
from launch.common.names import command_line
from launch.common.options import read_options
from launch.common.output import staged, write_json
from launch.common.page import data_url, write_page
from launch.common.terminal import command, console, show_error, track
from launch.datasets.guesses import OF_FILES, InFiles, choose, sample_of
from launch.datasets.instance_survey import drawn as draw_instances
from launch.datasets.instance_survey import first_instance
from launch.datasets.instance_survey import summary as instance_summary
from launch.datasets.problems import problems_of, shown
from launch.datasets.survey import (
    Look,
    Pair,
    Part,
    class_layouts,
    class_pixels,
    duplicates,
    fitting_labels,
    parts_of,
    representative,
    scan,
    unknown_values,
)
from launch.datasets.training_command import cascade_of_size, rehearse, training_arguments

_EXAMPLES, _EXAMPLE_WIDTH = 24, 320
_TERMINAL_CLASSES = 40
_UNKNOWN_TOLD = 64
_READINGS = 4  # ambiguous layouts that are shown


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Tells whether data sets can be trained on, what is in them, and what is wrong with them."""

    roots: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR [DIR ...]")]
    """Folders of data sets. Each is inspected by itself."""
    source: InFiles | None = None
    """The layout of the folders and files. Default: guessed from the folders that are there."""
    labels: str | None = None
    """The label space: a name, or a JSON file of your own. Default: the source's label space."""
    read: Annotated[Reading | None, tyro.conf.arg(aliases=["--data.read"])] = None
    """What layouts that are palette PNGs hold: ids, or colours. Default: as the label file says, or each palette tells."""
    boundaries: Annotated[bool, tyro.conf.arg(aliases=["--cascade.boundaries"])] = False
    """Also check the data set's instance maps, and propose a training with instance boundaries."""
    instances: Annotated[Path | None, tyro.conf.arg(aliases=["--data.instances"])] = None
    """The folder of instance maps, PNGs of the layouts' names, for --boundaries. Default: the data set's own."""
    size: tuple[int, int] | None = None
    """The height and width to train at. Default: a size that two CPU cores can train on, in the photographs' median shape."""
    out: Path | None = None
    """The folder for the results. Several data sets get a folder each in it. Default: inspections/NAME of the data set."""


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line, and inspects the data sets."""
    with command():
        asked: Arguments = read_options(Arguments, "inspect", arguments)
        set_up_jax()
        check(asked)
        line = command_line("inspect", *(arguments or sys.argv[1:]))
        if not all([can_be_trained_on(asked, root, line) for root in asked.roots]):
            sys.exit(FAILED)


def can_be_trained_on(asked: Arguments, root: Path, line: str) -> bool:
    """Inspects a data set. If several are asked for, one that cannot be inspected does not keep the others from it."""
    try:
        return inspect(asked, root, line)
    except UserError as error:
        if len(asked.roots) == 1:
            raise
        show_error(str(error))
        return False


def check(asked: Arguments) -> None:
    """Raises UserError if the command line is wrong, before any file is read."""
    if not asked.roots:
        raise UserError("Name at least one folder of a data set.")
    if asked.size:
        cascade_of_size(asked.size)
    if asked.labels:
        find_label_space(asked.labels)
    if asked.instances and not asked.boundaries:
        raise UserError(f"--instances {asked.instances} is for --boundaries. Add this option, too.")
    folders = [out_folder(asked, root) for root in asked.roots]
    if twice := sorted({str(folder) for folder in folders if folders.count(folder) > 1}):
        raise UserError(f"The results of several data sets would go to {', '.join(twice)}. Inspect these one at a time.")


def inspect(asked: Arguments, root: Path, line: str) -> bool:
    """Inspects a data set, and prints and writes the results. Returns whether it can be trained on.

    The folder for the results is opened first, so that nobody learns after an hour of decoding that it cannot be written.
    """
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder.")
    refuse_unreadable(root)
    out = out_folder(asked, root)
    with staged(out) as folder:
        found, page = inspected(asked, root, line)
        write_json(folder / "inspection.json", found)
        write_page("inspect.html", page, folder / "inspection.html")
    tell(found, out)
    return found["can_train"]


def inspected(asked: Arguments, root: Path, line: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inspects a data set. Returns what inspection.json and the page hold."""
    choice = choose(root, asked.source, asked.labels, asked.read, out_folder(asked, root) / "labels.json")
    data, notes = choice.data, choice.notes
    if asked.boundaries:
        data = dataclasses.replace(data, instances=str(asked.instances) if asked.instances else None)
        refuse_without_instances(data)
    label_space, parts = label_space_of(data), parts_of(data, asked.boundaries)
    if choice.all_needed:
        parts = {split: dataclasses.replace(part, all_needed=True) for split, part in parts.items()}
    pairs = [pair for part in parts.values() for pair in part.pairs]
    looks = list(track(scan(pairs, label_space, first_instance(data)), "Decoding", len(pairs)))
    training = training_arguments(data, label_space, pairs, looks, asked.size, asked.boundaries)
    instances = [look.instances for look in looks if look.instances]
    strange = [pair for pair, look in zip(pairs, looks) if look.unknown]
    fitting = fitting_labels(sample_of(strange), OF_FILES) if strange else []
    ambiguous = [pair for pair, look in zip(pairs, looks) if look.ambiguous][:_READINGS]
    problems = problems_of(parts, looks, label_space, fitting, root, choice.is_guess, choice.draft)
    if not any(problem.blocks for problem in problems):
        said, refusals = rehearse(training, pairs, looks)
        notes, problems = notes + said, problems + refusals
    can_train = not any(problem.blocks for problem in problems)
    found = {
        "title": f"{root.resolve().name}: {counted(len(pairs), 'photograph')} with layouts",
        "source": data.source,
        "command": line,
        "notes": notes,
        "can_train": can_train,
        "train": command_line("train", *training),
        "problems": [problem._asdict() for problem in problems],
        "splits": [split_summary(split, part, pairs, looks) for split, part in parts.items()],
        "label_space": label_space.name,
        "instances": instance_summary(instances) if instances else None,
        "classes": class_summaries(pairs, looks, label_space),
        "unknown": unknown_summaries(pairs, looks, label_space, root),
        "duplicates": [[shown(pair.photograph, root) for pair in group] for group in duplicates(pairs, looks)],
    }
    chosen = [pairs[i] for i in representative(looks, _EXAMPLES)]
    page = {
        "found": found,
        "examples": list(examples(chosen, label_space, first_instance(data))),
        "readings": [reading for pair in ambiguous for reading in readings(pair, label_space, root)],
    }
    return found, page


def out_folder(asked: Arguments, root: Path) -> Path:
    """Returns the folder for the results."""
    if asked.out and len(asked.roots) == 1:
        return asked.out
    return (asked.out or Path("inspections")) / root.resolve().name


def split_summary(split: Split, part: Part, pairs: Sequence[Pair], looks: Sequence[Look]) -> dict[str, Any]:
    """Returns the counts and sizes of a split, with the most frequent size first."""
    sizes = Counter(look.size for pair, look in zip(pairs, looks) if pair.split == split and look.size)
    return {
        "split": split,
        "photographs": len(part.pairs) + len(part.lonely_photographs),
        "layouts": len(part.pairs) + len(part.lonely_layouts),
        "pairs": len(part.pairs),
        "sizes": [{"height": h, "width": w, "count": n} for (h, w), n in sizes.most_common()],
    }


def class_summaries(pairs: Sequence[Pair], looks: Sequence[Look], label_space: LabelSpace) -> list[dict[str, Any]]:
    """Returns each class's share of all pixels, and its numbers of pixels and layouts in each split."""
    pixels = {split: class_pixels(pairs, looks, split, label_space) for split in get_args(Split)}
    layouts = {split: class_layouts(pairs, looks, split, label_space) for split in get_args(Split)}
    whole = np.sum(list(pixels.values()), 0)
    return [
        {
            "name": name,
            "color": "#{:02x}{:02x}{:02x}".format(*label_space.colors[n]),
            "share": float(whole[n] / max(1, whole.sum())),
            "pixels": {split: int(counts[n]) for split, counts in pixels.items()},
            "layouts": {split: int(counts[n]) for split, counts in layouts.items()},
        }
        for n, name in enumerate(label_space.classes)
    ]


def unknown_summaries(
    pairs: Sequence[Pair], looks: Sequence[Look], label_space: LabelSpace, root: Path
) -> list[dict[str, Any]]:
    """Returns the ids and colours that the label space does not have, sorted by their number of pixels."""
    return [
        unknown._asdict() | {"example": shown(unknown.example, root)}
        for unknown in unknown_values(pairs, looks, label_space)[:_UNKNOWN_TOLD]
    ]


def examples(pairs: Sequence[Pair], label_space: LabelSpace, first: int) -> Iterator[dict[str, Any]]:
    """Yields the examples of the contact sheet: small photographs and layouts as data URLs, and the ids that occur.

    Instances, whose ids begin with `first`, are a third picture.
    """
    for pair in pairs:
        layout = pair.read_layout(label_space).layout
        photograph = pair.read_photograph(layout.shape).image
        scale = min(1, _EXAMPLE_WIDTH / photograph.width)
        size = round(scale * photograph.width), max(1, round(scale * photograph.height))
        pictures = {"layout": label_space.draw(layout)}
        if pair.instances:
            with contextlib.suppress(UserError):  # the list of problems names it
                if (found := decoded(pair.instances)).shape == layout.shape:
                    pictures["instances"] = draw_instances(found, layout, label_space, first)
        small = {key: Image.fromarray(drawn).resize(size, Image.Resampling.NEAREST) for key, drawn in pictures.items()}
        yield {
            "name": pair.name,
            "split": pair.split,
            "size": [photograph.height, photograph.width],
            "occurring": np.unique(layout).tolist(),
            "photograph": data_url(np.asarray(photograph.resize(size, Image.Resampling.BICUBIC)), lossless=False),
            **{key: data_url(np.asarray(picture), lossless=True) for key, picture in small.items()},
        }


def readings(pair: Pair, label_space: LabelSpace, root: Path) -> Iterator[dict[str, str]]:
    """Yields both readings of an ambiguous palette PNG as small pictures: by its indices, and by its colours."""
    for reading, layout in label_space.readings(pair.layout).items():
        drawn = Image.fromarray(label_space.draw(layout))
        drawn.thumbnail((_EXAMPLE_WIDTH, _EXAMPLE_WIDTH), Image.Resampling.NEAREST)
        yield {
            "name": shown(pair.layout, root),
            "reading": reading,
            "classes": ", ".join(label_space.classes[n] for n in np.unique(layout).tolist()),
            "layout": data_url(np.asarray(drawn), lossless=True),
        }


def tell(found: dict[str, Any], out: Path) -> None:
    """Prints what is there, how to train on it, and what is wrong."""
    for note in found["notes"]:
        console.print(note, style="dim")
    console.print(splits_table(found))
    console.print(classes_table(found))
    if told := found["instances"]:
        in_all = f"{counted(told['instances'], 'instance')} in {counted(told['maps'], 'instance map')}"
        console.print(f"{in_all}: {told['mean']:.1f} on average, {told['most']:,} at most.\n")
    console.print(f"{out / 'inspection.html'} shows it with a contact sheet, {out / 'inspection.json'} has every number.\n")
    blocking, others = ([p for p in found["problems"] if p["blocks"] is blocks] for blocks in (True, False))
    if found["can_train"]:
        console.print("It can be trained on:", style="bold green")
        console.print(found["train"])
    for problem in others + blocking:
        sign, style = ("error", "bold red") if problem["blocks"] else ("note", "bold yellow")
        console.print(Text.assemble("\n", (f"{sign}:", style), f" {problem['what']}."))
        for example in problem["examples"]:
            console.print(f"  {example}", style="dim")
        console.print(f"  {problem['remedy']}")
    if blocking:
        until = f" until {counted(len(blocking), 'error')} above {'is' if len(blocking) == 1 else 'are'} mended."
        console.print(Text.assemble("\n", ("It cannot be trained on", "bold red"), f"{until} After that, train with:"))
        console.print(found["train"])


def splits_table(found: dict[str, Any]) -> rich.table.Table:
    """Returns a table with a row for each split."""
    table = rich.table.Table(title=found["title"], title_justify="left", box=None, header_style="dim")
    for column in ("", "photographs", "layouts", "pairs", "sizes"):
        table.add_column(column, justify="left" if column in ("", "sizes") else "right")
    for split in found["splits"]:
        sizes = [f"{size['height']}x{size['width']} ({size['count']:,})" for size in split["sizes"][:3]]
        more = len(split["sizes"]) - len(sizes)
        counts = (f"{split[key]:,}" for key in ("photographs", "layouts", "pairs"))
        table.add_row(split["split"], *counts, ", ".join(sizes) + (f" and {more:,} more" if more > 0 else ""))
    return table


def classes_table(found: dict[str, Any]) -> rich.table.Table:
    """Returns a table with a row and a bar for each class, most pixels first. The caption names classes that never occur."""
    occurring = sorted((c for c in found["classes"] if c["share"]), key=lambda c: -c["share"])
    never = [c["name"] for c in found["classes"] if not c["share"]]
    table = rich.table.Table(box=None, header_style="dim", caption_justify="left")
    for column in (f"{found['label_space']}", "pixels", "", "train layouts", "val layouts"):
        table.add_column(column, justify="left" if column in (found["label_space"], "") else "right")
    for c in occurring[:_TERMINAL_CLASSES]:
        bar = Text("█" * max(1, round(24 * c["share"] / occurring[0]["share"])), c["color"])
        share = f"{c['share']:.1%}" if c["share"] >= 0.001 else "<0.1%"
        table.add_row(c["name"], share, bar, *(f"{c['layouts'][split]:,}" for split in get_args(Split)))
    more = len(occurring) - _TERMINAL_CLASSES
    table.caption = (f"{more} more classes occur. " if more > 0 else "") + (
        f"Classes that never occur: {', '.join(never[:30])}" if never else ""
    )
    return table


if __name__ == "__main__":
    main()
