"""Labels photographs: `python -m launch.segment SEGMENTER PHOTOGRAPH [PHOTOGRAPH | FOLDER ...] --out FOLDER`.

It writes a layout PNG for each photograph, of the photograph's size, for launch.synthesize or for a training. What the same
segmenter has labelled already is not labelled again.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import rich.table
import tyro
from PIL import Image

from crn_jax.data.folders import by_name, unread
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.photographs import upright
from crn_jax.data.pipeline import spread
from crn_jax.errors import UserError, counted
from crn_jax.scores.metrics import class_iou, confusion, segmentation_scores
from launch.common.contact_sheet import Row, contact_sheet
from launch.common.jax_setup import set_up_jax
from launch.common.names import command_line
from launch.common.options import read_options
from launch.common.output import explained_writing, made_by, staged, write_json
from launch.common.terminal import command, console, track
from launch.evaluation.methods import files_of
from launch.segmentation.labeller import Labeller, open_labeller
from launch.segmentation.layout_files import write_layout
from launch.synthesis.stream import ahead

OVERVIEW = "overview"
"""The folder within OUT for the contact sheet and the scores. OUT itself holds nothing but layouts."""

MADE = "segmented"
"""How the note in a layout's file begins."""

_OURS = re.compile(rf"{MADE}, [0-9a-f]{{24}}")
"""The whole note. An experiment may be called as the note begins, and launch.synthesize notes its name."""

_SHEET_ROWS, _SHEET_WIDTH = 12, 384


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Makes layouts of photographs of any size, by a trained segmenter."""

    segmenter: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SEGMENTER")]
    """A run folder of launch.train segmenter_*; or package.module:factory, where factory() returns a function from images uint8
    [B, H, W, 3] of any size to class ids [B, H, W], with --labels."""
    photographs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PHOTOGRAPH [PHOTOGRAPH ...]")]
    """Photographs, or folders of photographs: PNG, JPEG or WebP."""
    out: Path
    """The folder for the layouts, NAME.png for each photograph. OUT/overview gets a contact sheet, and scores."""
    layouts: Path | None = None
    """A folder of right layouts, named as the photographs are, to compare with. It gives mIoU, the IoU of each class, and the
    confusion matrix."""
    labels: str | None = None
    """The classes of a plug-in's answers: a name such as camvid, or a JSON file of your own."""
    checkpoint: str = "best"
    """The checkpoint of a run: best (largest held-out mIoU), latest, or a number of steps."""
    overwrite: bool = False
    """Make all layouts again, and replace files that launch.segment did not make. Needed after a plug-in's code has changed."""


class Job(NamedTuple):
    """One photograph to label."""

    photograph: Path
    target: Path
    segmenter: str
    """What identifies the segmenter."""

    @property
    def made(self) -> str:
        """A text in the layout's file that says how it was made. It takes reading the photograph."""
        identity = self.segmenter.encode("utf-8", "surrogateescape")
        return f"{MADE}, {hashlib.sha256(identity + self.photograph.read_bytes()).hexdigest()[:24]}"

    @property
    def is_done(self) -> bool:
        """Whether the layout exists already, made by the same segmenter from the same photograph."""
        made, whole = made_by(self.target)
        return whole and made == self.made


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and labels."""
    with command():
        asked: Arguments = read_options(Arguments, "segment", arguments)
        set_up_jax()
        segment(asked)


def segment(asked: Arguments) -> None:
    """Labels as asked. It checks all names before it labels the first photograph."""
    if not asked.photographs:
        raise UserError("Give at least one photograph, or a folder of photographs, after the segmenter.")
    labeller = open_labeller(asked.segmenter, asked.labels, asked.checkpoint)
    jobs = planned(asked, labeller)
    names = [job.photograph.stem for job in jobs]
    right = files_of(asked.layouts, names, (".png",)) if asked.layouts else {}
    refuse_to_replace(right.values(), jobs)
    to_do = [job for job in track(jobs, "looking", len(jobs)) if asked.overwrite or not job.is_done]
    refused = list[str]()
    with explained_writing(asked.out):
        asked.out.mkdir(parents=True, exist_ok=True)
    for _ in track(label_all(to_do, labeller, refused.append), "labelling", len(to_do)):
        pass
    if refused:
        raise UserError(
            f"{counted(len(refused), 'photograph')} could not be labelled: {'; '.join(refused[:5])} The other layouts are in "
            f"{asked.out}. The same command goes on with those that are missing."
        )
    (asked.out / OVERVIEW / "scores.json").unlink(missing_ok=True)  # they may be those of another segmenter
    with staged(asked.out / OVERVIEW) as folder:
        if right:
            scores = compared(jobs, right, labeller.label_space)
            write_json(folder / "scores.json", {"segmenter": labeller.name, **scores})
            console.print(scores_table(scores))
        write_sheet([jobs[i] for i in spread(jobs, _SHEET_ROWS)], right, labeller, folder / "contact_sheet.png")
    kept = (
        f", of which {len(jobs) - len(to_do):,} existed already (--overwrite makes them again)"
        if len(to_do) < len(jobs)
        else ""
    )
    console.print(
        f"{len(jobs):,} layout{'s' * (len(jobs) > 1)} in {asked.out}{kept}. {asked.out / OVERVIEW} shows some of them."
    )
    console.print(f"Next: {command_line('synthesize', 'RUN', asked.out, '--sheet')}")


def planned(asked: Arguments, labeller: Labeller) -> list[Job]:
    """Plans a job for each photograph.

    Raises:
      UserError: if a photograph does not exist, if two have one name, or if a layout would replace a photograph or a file that
        launch.segment did not make.
    """
    photographs, jobs = list(find_photographs(asked.photographs)), dict[str, Job]()
    for photograph in photographs:
        job = Job(photograph, asked.out / f"{photograph.stem}.png", labeller.identity)
        other = jobs.setdefault(photograph.stem, job).photograph
        if not other.samefile(photograph):
            raise UserError(f"{other} and {photograph} would both become {job.target}. Label them into two folders.")
    inputs = {photograph.resolve() for photograph in photographs}
    for job in jobs.values():
        if job.target.resolve() in inputs:
            raise UserError(f"{job.target}: the layout would replace this photograph. Choose another folder with --out.")
        made, _ = made_by(job.target)
        if job.target.exists() and not asked.overwrite and not _OURS.fullmatch(made or ""):
            raise UserError(
                f"{job.target}: this file exists already, and launch.segment did not make it. Choose another folder with "
                f"--out, or replace it with --overwrite."
            )
    return list(jobs.values())


def refuse_to_replace(right: Iterable[Path], jobs: list[Job]) -> None:
    """Raises UserError if a layout would replace one of the right layouts, which then would agree with itself."""
    there = {path.resolve() for path in right}
    for job in jobs:
        if job.target.resolve() in there:
            raise UserError(f"{job.target}: the layout would replace this right layout. Choose another folder with --out.")


def find_photographs(paths: tuple[Path, ...]) -> Iterator[Path]:
    """Finds the photographs that the paths name, those of a folder in order, and tells of formats that are not read.

    Raises:
      UserError: if a path does not exist, or a folder has no photograph, or two of one name.
    """
    for path in paths:
        if path.is_dir():
            yield from by_name(path).values()
            if note := unread(path):
                console.print(note, style="dim")
        elif path.is_file():
            yield path
        else:
            raise UserError(f"{path}: there is no such file or folder.")


def label_all(jobs: list[Job], labeller: Labeller, refuse: Callable[[str], object]) -> Iterator[Job]:
    """Labels photographs, and yields each job when its layout is written. Threads read and write in the meantime.

    A photograph that cannot be read is left out, and `refuse` is told why.
    """

    def read(job: Job) -> tuple[Job, Image.Image | None]:
        try:
            return job, upright(job.photograph)
        except UserError as error:
            refuse(str(error))
            return job, None

    def write(labelled: tuple[Job, np.ndarray]) -> Job:
        job, layout = labelled
        with explained_writing(job.target.parent):
            write_layout(layout, labeller.label_space, job.target, job.made)
        return job

    with ThreadPoolExecutor(2) as pool:
        labelled = ((job, labeller.label(photograph)) for job, photograph in ahead(pool, read, jobs, 2) if photograph)
        yield from ahead(pool, write, labelled, 2)


def compared(jobs: list[Job], right: dict[str, Path], label_space: LabelSpace) -> dict[str, Any]:
    """Compares the layouts with the right ones. Void in the right ones does not count.

    Returns:
      mIoU, accuracy, the IoU by the class's name, and the confusion matrix; its rows are the right classes.

    Raises:
      UserError: if a right layout cannot be read, or has another size than its photograph.
    """
    total = np.zeros((label_space.num_classes,) * 2, np.int64)
    for job in track(jobs, "comparing", len(jobs)):
        found, wanted = label_space.read(job.target), label_space.read(right[job.photograph.stem])
        if found.shape != wanted.shape:
            there, here = ("x".join(map(str, layout.shape)) for layout in (wanted, found))
            raise UserError(f"{right[job.photograph.stem]} is {there}, but the photograph {job.photograph} is {here}.")
        total += confusion(wanted, found, label_space.num_classes)
    scores, ious = segmentation_scores(total), class_iou(total).tolist()
    return {
        "miou": float(scores.miou),
        "accuracy": float(scores.accuracy),
        "iou": dict(zip(label_space.classes, ious)),
        "classes": label_space.classes,
        "confusion": total.tolist(),
    }


def scores_table(scores: dict[str, Any]) -> rich.table.Table:
    """Returns a table of each class: its IoU, and what it is taken for most often."""
    table = rich.table.Table(box=None, header_style="dim", caption_justify="left")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    table.add_column("found", justify="right")
    table.add_column("most often taken for")
    matrix = np.array(scores["confusion"])
    for index, (name, iou) in enumerate(scores["iou"].items()):
        row = matrix[index].copy()
        if not row.sum():
            continue
        found, row[index] = row[index] / row.sum(), 0
        mistaken = f"{scores['classes'][row.argmax()]} ({row.max() / matrix[index].sum():.0%})" if row.max() else ""
        table.add_row(name, f"{iou:.1%}", f"{found:.0%}", mistaken)
    table.caption = f"mIoU {scores['miou']:.1%}, pixel accuracy {scores['accuracy']:.1%}"
    return table


def write_sheet(jobs: list[Job], right: dict[str, Path], labeller: Labeller, path: Path) -> None:
    """Writes a contact sheet: layouts and photographs, and right layouts if there are any."""
    rows = []
    for job in jobs:
        photograph, found = upright(job.photograph), labeller.label_space.read(job.target)
        scale = min(1, _SHEET_WIDTH / photograph.width)
        size = max(1, round(scale * photograph.width)), max(1, round(scale * photograph.height))
        small = np.asarray(photograph.resize(size, Image.Resampling.BICUBIC))
        layouts = [found] if not right else [labeller.label_space.read(right[job.photograph.stem]), found]
        shown = [np.asarray(Image.fromarray(layout).resize(size, Image.Resampling.NEAREST)) for layout in layouts]
        drawn = labeller.label_space.draw(shown[-1])
        over = drawn if right else ((small.astype(np.uint16) + drawn) // 2).astype(np.uint8)
        rows.append(Row(shown[0], small, over[None]))
    made = "segmented" if right else "both"
    contact_sheet(rows, labeller.label_space, labeller.name, made=made).save(path)


if __name__ == "__main__":
    main()
