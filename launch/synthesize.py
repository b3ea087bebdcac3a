"""Turns layouts into images: `python -m launch.synthesize RUN LAYOUT.png [LAYOUT.png | FOLDER ...]`.

All devices of this process take part. Several processes, on one host or on several, share the layouts, and each writes its own
images.
"""

import collections
import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from PIL import Image

from crn_jax.buckets import address_of, is_bucket
from crn_jax.data.instances import check_instances, instance_files
from crn_jax.data.labels.indexed import Reading
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.diversity import assemble
from crn_jax.errors import UserError, counted, did_you_mean
from crn_jax.run import Run, load_run, output_folder
from launch.common.contact_sheet import Row, contact_sheet, grid
from launch.common.jax_setup import set_up_jax
from launch.common.options import BucketPath, read_options
from launch.common.output import explained_writing, remove_unfinished, write_png
from launch.common.processes import Processes, agree, is_first, join_apart, several_processes, sum_over_processes
from launch.common.profiler import Profiler
from launch.common.terminal import command, console, track
from launch.synthesis.layouts import Sizing, find_layouts, fitted, folders_with_layouts, on_disk
from launch.synthesis.record import Record
from launch.synthesis.stream import Job, Synthesized, image_note, is_foreign, sheet_note, synthesize_all

SHEET_NAME = "contact_sheet.png"
SHEET_ROWS = 32
LONGEST_NAME = 255
"""The most bytes that the name of a file has, on most file systems."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Synthesizes images from layouts with a trained run, which stores all else that is needed.

    Images that exist already, made by the same parameters from the same layouts, are not made again.
    """

    run: Annotated[BucketPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder of launch.train, an artifact, or a .safetensors file of a run; or streets, which comes with crn_jax."""
    layouts: Annotated[tuple[BucketPath, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[LAYOUT ...]")] = ()
    """Layout PNGs, or folders of layout PNGs, with ids or colours of the run's label space. Default: the held-out layouts that
    the run has stored."""
    instances: BucketPath | None = None
    """For a run with instance boundaries: the folder of instance maps, PNGs of the layouts' names, or the one file of a single
    layout."""
    out: Path | None = None
    """The folder for the images. Default: RUN/synthesized; for an artifact or a file, NAME_synthesized."""
    checkpoint: str = "latest"
    """The checkpoint: latest, best (smallest held-out distance), or a number of steps."""
    fit: Sizing | None = None
    """How a layout gets a size that the run's network can make: a multiple of 64 pixels for seven modules. run: it gets the
    run's own size, as held-out examples do. own: it keeps its size, which must be such a multiple. pad: it is enlarged at its
    borders, and the image is cut back. resize: it is stretched to the nearest such size, and the image is stretched back.
    Default: run for layouts with the run's aspect ratio, own for others."""
    read: Annotated[Reading | None, tyro.conf.arg(aliases=["--data.read"])] = None
    """What layouts that are palette PNGs hold: ids, or colours. Default: as the run was trained."""
    batch_size: int | None = None
    """The number of layouts of one size that a device takes at a time. Default: 1 on a CPU; elsewhere 16, or fewer if that
    exceeds 1024 * 2048 pixels."""
    overwrite: bool = False
    """Make existing images again, and replace images that launch.synthesize did not make."""
    index: int | None = None
    """Write only this one of the k images of a layout, counted from 0."""
    pick: str | None = None
    """Write one image of a layout, composed of its k images. car=3,sky=1 takes cars from image 3, the sky from image 1, and all
    else from image --index (default: 0)."""
    grid: bool = False
    """Write the k images of a layout as one picture, from image 0 at the top left to the last one at the bottom right."""
    sheet: bool = False
    """Also write contact_sheet.png, which shows the first 32 layouts beside their images."""
    profile: str | None = None
    """FIRST:LAST, such as 3:5: a profile of these batches, for xprof, TensorBoard and Perfetto, in the folder profile beside
    the images."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = Processes()


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and synthesizes."""
    with command():
        asked: Arguments = read_options(Arguments, "synthesize", arguments)
        set_up_jax()
        if asked.batch_size is not None and asked.batch_size < 1:
            raise UserError(f"--batch_size {asked.batch_size}: at least 1 is needed.")
        join_apart(asked.processes)
        console.quiet = not is_first()
        out = asked.out or output_folder(asked.run, "synthesized")
        run_command(asked, out)


def run_command(arguments: Arguments, out: Path) -> None:
    """Synthesizes as asked into the folder `out`. It checks every layout's name and size before it writes the first image."""
    profiler = Profiler(arguments.profile, out / "profile", "batches")
    run = load_run(arguments.run, arguments.checkpoint)
    if arguments.read:
        run = run._replace(label_space=dataclasses.replace(run.label_space, read_as=arguments.read))
    if not arguments.layouts:
        arguments = with_own_layouts(arguments, run)
    choice = choice_of(arguments, run.label_space, run.generator.num_images)
    means = means_of(arguments, run)
    tasks = tasks_of(arguments, 1 if arguments.grid or choice is not None else run.generator.num_images, out)
    record = Record(out, f"{means.hexdigest()} {arguments.fit} {run.experiment.data.fit}", jax.process_index(), len(tasks))
    maps = instance_maps(arguments, run, [path for path, _ in tasks])
    refuse_overwriting(list(maps.values()), [image for _, targets in tasks for image in targets])
    if arguments.sheet and not arguments.overwrite:
        refuse_foreign([out / SHEET_NAME])
    own = share(tasks, arguments.sheet)
    on_sheet = dict(tasks[:SHEET_ROWS] if arguments.sheet and is_first() else [])

    def files(path: Path, targets: list[Path]) -> tuple[Path, list[Path]]:
        return path, [maps[path], *targets] if maps else targets

    unknown = [task for task in own if arguments.overwrite or task[0] in on_sheet or not record.has(*files(*task))]
    done, to_do = list[Job](), list[Job]()
    for job in planned(arguments, run, unknown, maps, means):
        (to_do if arguments.overwrite or job.path in on_sheet or not job.is_done else done).append(job)
    if several_processes():  # all have checked their layouts
        agree({"layouts": len(tasks), "parameters and options": means.hexdigest()})
    replaced, rows = sum(job.count_replaced() for job in to_do), {}
    with explained_writing(out):
        out.mkdir(parents=True, exist_ok=True)
        remove_unfinished(out)
        for job in done:
            record.add(*files(job.path, job.targets))
        written = synthesize_all(run, to_do, arguments.batch_size, functools.partial(write, arguments, choice), profiler)
        for job, row in track(written, "synthesizing", len(to_do)):
            record.add(*files(job.path, job.targets))
            if job.path in on_sheet:
                rows[job.path] = row
        if on_sheet:
            write_sheet(run, [rows[path] for path in on_sheet], out / SHEET_NAME)
    report(run, [image for _, targets in tasks for image in targets], sum(len(job.targets) for job in to_do), replaced, out)


def report(run: Run, images: list[Path], new: int, replaced: int, out: Path) -> None:
    """Says where the images of all processes are. This one has made `new` ones, and `replaced` stand in place of others."""
    if several_processes():
        new, replaced = sum_over_processes(np.array([new, replaced], np.int32)).tolist()
    total = len(images)
    kept = f", of which {total - new:,} existed already (--overwrite makes them again)" if new < total else ""
    console.print(f"{total:,} image{'s' * (total > 1)} in {out}{kept}, the first: {images[0]} (step {run.step})")
    if replaced:
        console.print(
            f"{counted(replaced, 'image')} made from other layouts, runs or options {'was' if replaced == 1 else 'were'} "
            f"replaced. Another folder for --out keeps both."
        )


Task = tuple[Path, list[Path]]
"""A layout and the images to write."""


def tasks_of(arguments: Arguments, num_images: int, out: Path) -> list[Task]:
    """Returns what is asked for: every layout with its images, of which there are `num_images`.

    Raises:
      UserError: if a layout does not exist, if two layouts have one name, or if an image would replace a layout.
    """
    paths = _without_own_images(list(find_layouts(arguments.layouts)), arguments, out)
    _tell_left_out(arguments.layouts, [out, *([arguments.instances] if arguments.instances else [])])
    targets = [[out / name for name in names] for names in target_names(paths, num_images)]
    refuse_overwriting(paths, [image for each in targets for image in each] + [out / SHEET_NAME] * arguments.sheet)
    return list(zip(paths, targets))


def _tell_left_out(given: Sequence[Path], others: Sequence[Path]) -> None:
    """Says which folders of layouts have further layouts in subfolders, which are not taken. `others` hold other pictures."""
    known = [path.resolve() for path in others]
    for folder in filter(Path.is_dir, given):
        deeper = (path for path in folders_with_layouts(folder) if path.resolve() not in known)
        if example := next((path for path in deeper if any(map(is_foreign, find_layouts((path,))))), None):
            console.print(f"{folder}: layouts in subfolders are left out. Give a subfolder to take them, such as {example}.")


def _without_own_images(paths: list[Path], arguments: Arguments, out: Path) -> list[Path]:
    """Leaves out what launch.synthesize has written into a folder of layouts, which --out may name, too."""
    place = out.resolve()
    if all(is_bucket(given) or given.resolve() != place for given in arguments.layouts):
        return paths
    kept = [path for path in paths if path in arguments.layouts or path.parent.resolve() != place or is_foreign(path)]
    return kept or paths


def with_own_layouts(arguments: Arguments, run: Run) -> Arguments:
    """Returns the arguments with the layouts that the run has stored, and with their instances if it takes any.

    Raises:
      UserError: if it has stored none.
    """
    if not run.layouts:
        raise UserError(f"Give at least one layout PNG, or a folder of layout PNGs, after {arguments.run}.")
    instances = arguments.instances or (run.instances[0].parent if run.instances else None)
    return dataclasses.replace(arguments, layouts=run.layouts, instances=instances)


def instance_maps(arguments: Arguments, run: Run, layouts: list[Path]) -> dict[Path, Path]:
    """Returns the file of each layout's instances, or an empty dict if the run takes no instance boundaries.

    Raises:
      UserError: if instances are missing or not wanted.
    """
    asked = arguments.instances
    if not run.generator.boundaries:
        if asked:
            raise UserError(
                f"--instances {asked}: the run {arguments.run} was trained without instance boundaries. Leave this option out."
            )
        return {}
    if asked is None:
        raise UserError(
            f"The run {arguments.run} was trained with instance boundaries, so it needs the instance map of each layout: "
            f"--instances FOLDER.{_own_maps(run)}"
        )
    place = on_disk(asked)
    if place.is_dir() or len(layouts) > 1:
        given = address_of(asked) if is_bucket(asked) else asked
        found = instance_files([path.stem for path in layouts], place, f"--instances {given}")
        return {path: found[path.stem] for path in layouts}
    return {layouts[0]: place}


def _own_maps(run: Run) -> str:
    """Says where the maps of the layouts are that a run folder has."""
    if not run.instances:
        return ""
    return f" The maps of {run.layouts[0].parent} are in {run.instances[0].parent}."


def share(tasks: list[Task], sheet: bool) -> list[Task]:
    """Returns the tasks of this process. The first process also takes those on the contact sheet, which it draws."""
    together = tasks[:SHEET_ROWS] if sheet else []
    apart = tasks[len(together) :][jax.process_index() :: jax.process_count()]
    return together + apart if is_first() else apart


def means_of(arguments: Arguments, run: Run) -> "hashlib._Hash":
    """Returns a hash of what an image depends on besides its layout and its size: parameters and options."""
    options = run.generator, arguments.index, arguments.pick, arguments.grid
    means = hashlib.sha256(repr(options).encode())
    if arguments.read:
        means.update(arguments.read.encode())
    for leaf in jax.tree.leaves(run.params):
        means.update(np.ascontiguousarray(leaf).data)
    return means


def planned(arguments: Arguments, run: Run, tasks: list[Task], maps: dict[Path, Path], means: "hashlib._Hash") -> list[Job]:
    """Plans a job for each task. `maps` has the instance map of each layout, if the run takes instance boundaries.

    Raises:
      UserError: if the size of a layout or of its instance map does not fit, or if an image would replace one that
        launch.synthesize did not make.
    """
    if not arguments.overwrite:
        refuse_foreign([image for _, targets in tasks for image in targets])
    generator, jobs = run.generator, []
    for path, targets in tasks:
        size = fitted(path, generator, run.experiment.data.fit, arguments.fit)
        digest = means.copy()
        digest.update(repr(size).encode() + path.read_bytes())
        if instances := maps.get(path):
            check_instances(instances, path, size.shape)
            digest.update(instances.read_bytes())
        note = image_note(run.experiment.name, run.step, digest.hexdigest()[:16])
        jobs.append(Job(path, instances, size, targets, note))
    return jobs


def write(arguments: Arguments, choice: np.ndarray | None, synthesized: Synthesized) -> tuple[Job, Row]:
    """Writes the images of a layout as asked, and returns the job and the layout's row on the contact sheet."""
    job, (layout, *instances), images = synthesized.job, synthesized.ids, synthesized.images()
    assembled = None if choice is None else np.asarray(assemble(images, layout, choice))
    cut = [job.fitted.image(image) for image in (images if assembled is None else [assembled])]
    for target, image in zip(job.targets, [grid(np.stack(cut))] if arguments.grid else cut, strict=True):
        write_png(Image.fromarray(image), target, job.made)
    return job, Row(layout, None, images, assembled if arguments.pick else None, *instances)


def choice_of(arguments: Arguments, label_space: LabelSpace, num_images: int) -> np.ndarray | None:
    """Returns for each class the number of the image to take it from, `[c]`, or None if --index and --pick were not given.

    Raises:
      UserError: if there is no such image or class, or if the options contradict each other.
    """
    if arguments.index is None and arguments.pick is None:
        return None
    if arguments.grid:
        raise UserError("--grid shows all images of a layout. Leave out --index and --pick, or --grid.")
    chosen: dict[str, int] = {}
    others = arguments.index or 0
    for part in picked(arguments.pick, label_space.classes) if arguments.pick is not None else ():
        name, _, number = (piece.strip() for piece in (part.rpartition("=") if "=" in part else (part, "", "")))
        if name not in label_space.classes:
            known = ", ".join(label_space.classes)
            raise UserError(f"--pick: there is no class '{name}'.{did_you_mean(name, label_space.classes)} Known: {known}.")
        if not re.fullmatch("[0-9]{1,6}", number):
            raise UserError(f"--pick wants CLASS=IMAGE, such as {name}=1, got '{part.strip()}'.")
        if name in chosen:
            raise UserError(f"--pick names {name} twice.")
        chosen[name] = int(number)
    for name, u in [("--index", others), *chosen.items()]:
        if not 0 <= u < num_images:
            raise UserError(f"{name}={u}: this run makes {num_images} image(s) of a layout, 0 to {num_images - 1}.")
    return np.array([chosen.get(name, others) for name in label_space.classes])


def picked(pick: str, classes: tuple[str, ...]) -> list[str]:
    """Splits CLASS=IMAGE,CLASS=IMAGE at its commas. The names of classes may have commas, too."""
    parts = list[str]()
    while pick:
        name = next((name for name in sorted(classes, key=len, reverse=True) if pick.startswith(f"{name}=")), "")
        part, _, pick = pick[len(name) :].partition(",")
        parts.append(name + part)
    return parts or [""]


def target_names(paths: list[Path], num_images: int) -> list[list[str]]:
    """Names the files of each layout's images: `NAME.png` for one image, `NAME_0.png` and so on for several.

    Raises:
      UserError: if two layouts would write the same file, or if a name would be too long for a file.
    """
    stems = [path.stem for path in paths]
    if doubled := sorted(stem for stem, count in collections.Counter(stems).items() if count > 1):
        raise UserError(
            f"Several layouts are called {', '.join(doubled)}: their images would overwrite each other. Give them in separate "
            f"calls with --out."
        )
    names = [[f"{s}.png"] if num_images == 1 else [f"{s}_{u}.png" for u in range(num_images)] for s in stems]
    for path, each in zip(paths, names):
        if len(os.fsencode(each[-1])) > LONGEST_NAME:
            raise UserError(f"{path}: the name of its image would have more than {LONGEST_NAME} bytes. Rename the layout.")
    return names


def refuse_overwriting(inputs: list[Path], targets: list[Path]) -> None:
    """Raises UserError if an image would replace a layout or an instance map, or the sheet an image."""
    if lost := {path.resolve() for path in inputs} & {path.resolve() for path in targets}:
        raise UserError(
            f"{min(lost)}: the image would overwrite this layout or instance map. Choose another folder with --out."
        )
    if len(set(targets)) < len(targets):
        raise UserError(f"A layout called {SHEET_NAME} leaves no name for the sheet. Rename it or leave out --sheet.")


def refuse_foreign(targets: list[Path]) -> None:
    """Raises UserError if an image would replace one that launch.synthesize did not make."""
    if foreign := next(filter(is_foreign, targets), None):
        raise UserError(
            f"{foreign}: this image exists already, and launch.synthesize did not make it. Choose another folder with --out, "
            f"or replace it with --overwrite."
        )


def write_sheet(run: Run, rows: list[Row], path: Path) -> None:
    """Writes the contact sheet, which shows layouts beside their images."""
    warning = "trained with RANDOM VGG-19 weights" if run.vgg19["weights"] == "random" else ""
    sheet = contact_sheet(rows, run.label_space, f"{run.experiment.name}, step {run.step}", warning)
    write_png(sheet, path, sheet_note(SHEET_NAME))


if __name__ == "__main__":
    main()
