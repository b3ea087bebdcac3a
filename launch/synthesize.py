"""Turns layouts into images: `python -m launch.synthesize RUN LAYOUT.png [LAYOUT.png | FOLDER ...]`."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import rich.progress
import tyro
from PIL import Image

from crn_jax.data.geometry import view
from crn_jax.data.label_space import LabelSpace
from crn_jax.diversity import assemble
from crn_jax.errors import UserError
from crn_jax.experiment import nearest
from crn_jax.synthesize import Run, load_run, synthesize
from launch.contact_sheet import Row, contact_sheet, grid
from launch.terminal import command, console

SHEET_NAME = "contact_sheet.png"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Synthesizes images from layouts with a trained run; nothing else has to be said again."""

    run: Annotated[Path, tyro.conf.Positional]
    """A run folder, as launch.train makes it."""
    layouts: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Layout PNGs, or folders of them: ids or palette colours of the run's label space, of the run's aspect ratio."""
    out: Path | None = None
    """Folder for the images. Default: RUN/synthesized."""
    checkpoint: str = "latest"
    """latest, best (smallest held-out distance), or a number of steps."""
    index: int | None = None
    """Of a collection of k images, write only this one, counted from 0."""
    pick: str | None = None
    """Of a collection, write one image made of several: car=3,sky=1 takes cars from image 3, the sky from 1, and all else from
    --index (default: 0)."""
    grid: bool = False
    """Write a collection as one picture, from image 0 at the top left to the last at the bottom right."""
    sheet: bool = False
    """Also write contact_sheet.png: layouts beside images."""


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and synthesizes."""
    with command():
        run_command(tyro.cli(Arguments, prog="python -m launch.synthesize", args=arguments, use_underscores=True))


def run_command(arguments: Arguments) -> None:
    """Reads every layout before the first image is written, so that a bad one costs nothing."""
    if not arguments.layouts:
        raise UserError("Give at least one layout PNG, or a folder of them, behind the run folder.")
    run = load_run(arguments.run, arguments.checkpoint)
    paths = list(find_layouts(arguments.layouts))
    num_images = run.experiment.generator.num_images
    choice = choice_of(arguments, run.label_space, num_images)
    targets = target_names(paths, 1 if arguments.grid or choice is not None else num_images)
    layouts = [fitted(run, path) for path in paths]
    out = arguments.out or arguments.run / "synthesized"
    refuse_overwriting(paths, [out / name for names in targets for name in names] + [out / SHEET_NAME] * arguments.sheet)
    rows = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for layout, names in rich.progress.track(list(zip(layouts, targets)), "synthesizing", console=console):
            images = np.asarray(synthesize(run.experiment.generator, run.params, layout[None]))[0]
            assembled = None if choice is None else np.asarray(assemble(images, layout, choice))
            written = [grid(images)] if arguments.grid else images if choice is None else [assembled]
            for name, image in zip(names, written, strict=True):
                Image.fromarray(image).save(out / name)
            if arguments.sheet:
                rows.append(Row(layout, None, images, assembled if arguments.pick else None))
        if arguments.sheet:
            write_sheet(run, rows, out / SHEET_NAME)
    except OSError as error:
        raise UserError(f"{out}: the images cannot be written there ({error}); choose another folder with --out.") from error
    first = out / targets[0][0]
    console.print(f"{sum(map(len, targets))} images in {out}, the first: {first} (step {run.step})", markup=False)


def choice_of(arguments: Arguments, label_space: LabelSpace, num_images: int) -> np.ndarray | None:
    """The image to take each class from, `[c]`; None if --index and --pick were not given.

    Raises:
      UserError: if the collection has no such image, the label space no such class, or the options contradict each other.
    """
    if arguments.index is None and arguments.pick is None:
        return None
    if arguments.grid:
        raise UserError("--grid shows all images of a collection; leave out --index and --pick, or --grid.")
    chosen, others = {}, arguments.index or 0
    for part in (arguments.pick or "").split(",") if arguments.pick is not None else ():
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in label_space.classes:
            known = ", ".join(label_space.classes)
            raise UserError(f"--pick: there is no class '{name}'.{nearest(name, label_space.classes)} Known: {known}.")
        if not number.isdecimal():
            raise UserError(f"--pick wants CLASS=IMAGE, such as {name}=1, got '{part.strip()}'.")
        if name in chosen:
            raise UserError(f"--pick names {name} twice.")
        chosen[name] = int(number)
    for name, u in [("--index", others), *chosen.items()]:
        if not 0 <= u < num_images:
            raise UserError(f"{name}={u}: this run makes {num_images} image(s) a layout, 0 to {num_images - 1}.")
    return np.array([chosen.get(name, others) for name in label_space.classes])


def fitted(run: Run, path: Path) -> np.ndarray:
    """A layout `[H, W]` at the run's size, reached as the run's held-out examples were."""
    layout, fit = run.label_space.read(path), run.experiment.data.fit
    chosen = view(layout.shape, run.experiment.generator.size, "crop" if fit == "random_crop" else fit, path=path)
    return chosen.layout(layout, run.label_space.num_classes - 1)


def find_layouts(paths: tuple[Path, ...]) -> Iterator[Path]:
    """The PNG files that the paths name, those of a folder in order.

    Raises:
      UserError: if a path does not exist or a folder has no PNG.
    """
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() == ".png")
            if not inside:
                raise UserError(f"{path}: there is no PNG in this folder.")
            yield from inside
        elif path.is_file():
            yield path
        else:
            raise UserError(f"{path}: there is no such file or folder.")


def target_names(paths: list[Path], num_images: int) -> list[list[str]]:
    """File names of each layout's images: `NAME.png`, or `NAME_0.png` ... for a collection.

    Raises:
      UserError: if two layouts would write the same file.
    """
    stems = [path.stem for path in paths]
    if doubled := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise UserError(
            f"Several layouts are called {', '.join(doubled)}: their images would overwrite each other. Give them in separate "
            f"calls with --out."
        )
    return [[f"{s}.png"] if num_images == 1 else [f"{s}_{u}.png" for u in range(num_images)] for s in stems]


def refuse_overwriting(layouts: list[Path], targets: list[Path]) -> None:
    """Raises UserError if an image would replace a layout, or the sheet an image."""
    if lost := {path.resolve() for path in layouts} & {path.resolve() for path in targets}:
        raise UserError(f"{min(lost)}: the image would overwrite this layout; choose another folder with --out.")
    if len(set(targets)) < len(targets):
        raise UserError(f"A layout called {SHEET_NAME} leaves no name for the sheet; rename it or leave out --sheet.")


def write_sheet(run: Run, rows: list[Row], path: Path) -> None:
    """The layouts beside their images."""
    warning = "trained with RANDOM VGG-19 weights" if run.vgg19["weights"] == "random" else ""
    contact_sheet(rows, run.label_space, f"{run.experiment.name}, step {run.step}", warning).save(path)


if __name__ == "__main__":
    main()
