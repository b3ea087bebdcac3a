"""Scores runs and images, side by side: `python -m launch.evaluate RUN [RUN | FOLDER ...]`.

Writes a table, evaluation.json and report.html. With --study_page or --study: the paper's study with people instead.
"""

import contextlib
import dataclasses
import functools
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import rich.progress
import tyro
from PIL import Image

from crn_jax.cascade import init_params
from crn_jax.data.label_space import LabelSpace
from crn_jax.data.pipeline import validation_indices
from crn_jax.data.sources import Source, Split, open_source
from crn_jax.errors import UserError
from crn_jax.experiment import Synthesis
from crn_jax.inception import load_inception
from crn_jax.lpips import load_lpips
from crn_jax.synthesize import Run, load_run
from crn_jax.vgg_weights import perception_network
from launch.contenders import PHOTOGRAPHS, Batch, Contender, images_of_folder, photographs, run_of
from launch.report import Example, write_report
from launch.score_tables import layers_table, scores_table
from launch.scoring import SCORES, Judges, Tally, summary
from launch.segmenters import open_segmenter
from launch.study import Method, write_study
from launch.study_results import analyse, study_table, to_json
from launch.terminal import command, console
from launch.train import named


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Scores trained runs, and folders of images, on held-out layouts and photographs."""

    contenders: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Run folders of launch.train, or folders of images of the data's size, named after the held-out photographs."""
    data: Annotated[str | None, tyro.conf.arg(aliases=["--data.root"])] = None
    """Folder of the data set. Default: the one that the first run was trained on."""
    split: Split = "val"
    """Which part of it."""
    experiment: str | None = None
    """Where no run is given: the experiment whose data set and size are meant."""
    examples: int | None = None
    """Score at most so many, spread evenly over the split. Default: all."""
    checkpoint: str = "latest"
    """Of the runs: latest, best (smallest held-out distance), or a number of steps."""
    segmenter: str | None = None
    """For mIoU and pixel accuracy: a run of launch.train segmenter_*; package.module:factory, where factory() gives a function
    from images uint8 [B, H, W, 3] to class ids [B, H, W]; or a folder of label PNGs, CONTENDER/EXAMPLE.png."""
    inception: Path | None = None
    """For FID and KID: pt_inception-2015-12-05-6726825d.pth, as pytorch-fid publishes it."""
    lpips: tuple[Path, Path] | None = None
    """For LPIPS: its linear weights (v0.1, alex.pth or vgg.pth) and torchvision's AlexNet or VGG-16."""
    vgg: str | None = None
    """VGG-19 weights. Default: as launch.train finds them."""
    batch_size: int = 1
    """Examples at a time. It changes speed and memory only."""
    out: Path | None = None
    """Folder for the results. Default: evaluation in the first run's folder."""
    save_images: bool = False
    """Also write every image, to OUT/images/CONTENDER/EXAMPLE.png, for other tools."""
    study_page: Path | None = None
    """Write the page of a study with people to this HTML file, and score nothing: the first run against the others."""
    study_kind: Literal["unlimited", "timed"] = "unlimited"
    """unlimited: the first run beside another (the paper's Table 1); timed: photograph and run for 1/8 to 8 s (Figure 4)."""
    study: tuple[Path, ...] = ()
    """Result files of a study: print what people preferred, and nothing else."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is scored on what."""

    experiment: Synthesis
    source: Source
    indices: list[int]
    label_space: LabelSpace
    judges: Judges
    vgg19: dict[str, str]
    contenders: list[Contender]

    @property
    def names(self) -> list[str]:
        """Of the examples."""
        return [self.source.names[i] for i in self.indices]

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Examples, by their numbers among those that are scored."""
        examples = [self.source[self.indices[n]] for n in numbers]
        arrays = (np.stack([example[key] for example in examples]) for key in ("layout", "photograph"))
        return Batch(numbers, [self.names[n] for n in numbers], *arrays)

    def batches(self, numbers: Sequence[int], size: int) -> Iterator[tuple[Batch, int]]:
        """Full batches, the last filled up with its last example, and how many of each are no filling."""
        for start in range(0, len(numbers), size):
            part = list(numbers[start : start + size])
            yield self.batch(part + part[-1:] * (size - len(part))), len(part)


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and scores."""
    with command():
        asked = tyro.cli(Arguments, prog="python -m launch.evaluate", args=arguments, use_underscores=True)
        if asked.study:
            analysis = analyse(asked.study)
            console.print(study_table(analysis))
            if asked.out:
                with staged(asked.out) as folder:
                    (folder / "study.json").write_text(json.dumps(to_json(analysis), indent=1))
            return
        subject = subject_of(asked)
        if asked.study_page:
            return make_study(asked, subject)
        evaluate(asked, subject, shlex.join(["python", "-m", "launch.evaluate", *(arguments or sys.argv[1:])]))


def subject_of(asked: Arguments) -> Subject:
    """Opens all that the command line names, before anything is computed or written.

    Raises:
      UserError: naming what is missing or does not go together.
    """
    if not asked.contenders:
        raise UserError("Give at least one run folder of launch.train, or a folder of images with --experiment NAME.")
    if min(asked.batch_size, asked.examples or 1) < 1:
        raise UserError(f"--batch_size and --examples must be at least 1, got {asked.batch_size} and {asked.examples}.")
    runs = {path: load_run(path, asked.checkpoint) for path in asked.contenders if (path / "run.json").exists()}
    experiment = common_experiment(asked, runs)
    data = dataclasses.replace(experiment.data, root=asked.data or experiment.data.root)
    source = open_source(data, asked.split, experiment.size)
    indices = validation_indices(source, asked.examples or len(source))
    vgg_params, vgg19 = perception_network(dataclasses.replace(experiment.vgg, weights=asked.vgg or experiment.vgg.weights))
    vgg_params = jax.device_put(vgg_params)

    names = contender_names(asked.contenders)
    examples = [source.names[i] for i in indices]
    contenders = [photographs()]
    for name, path in zip(names, asked.contenders):
        if path in runs:
            contenders.append(run_of(name, runs[path], vgg_params))
        else:
            contenders.append(images_of_folder(name, path, examples, experiment.size))
    segmenter = None
    if asked.segmenter:
        everyone = [name for contender in contenders for name in contender.names]
        segmenter, _ = open_segmenter(asked.segmenter, source.label_space, experiment.size, everyone, examples)
    judges = Judges(
        vgg_params,
        experiment.vgg.pooling,
        load_inception(asked.inception) if asked.inception else None,
        load_lpips(*asked.lpips) if asked.lpips else None,
        segmenter,
    )
    return Subject(experiment, source, indices, source.label_space, judges, vgg19, contenders)


def common_experiment(asked: Arguments, runs: dict[Path, Run]) -> Synthesis:
    """The first run's, which the others' data set and size must equal, or the one that is named.

    Raises:
      UserError: if there is none, or if runs do not compare.
    """
    if not runs:
        folder = asked.contenders[0]
        if not asked.experiment:
            raise UserError(f"{folder} is not a run folder. To score images alone, name their data and size with --experiment.")
        return named(asked.experiment, Synthesis)
    (first, one), *others = runs.items()
    for path, other in others:
        for what in ("size", "data.source", "vgg.pooling"):
            here, there = (_field(run.experiment, what) for run in (one, other))
            if here != there:
                raise UserError(f"{first} and {path} do not compare: {what} is {here} there and {there} here.")
    return one.experiment


def _field(experiment: Synthesis, name: str) -> Any:
    for part in name.split("."):
        experiment = getattr(experiment, part)
    return experiment


def contender_names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, or as much more of their paths as tells them apart.

    Raises:
      UserError: for a folder that is given twice, or whose name is taken.
    """
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len({PHOTOGRAPHS, *names}) == len(names) + 1:
            return names
    raise UserError(f"The same folder is given twice, among {', '.join(map(str, paths))}.")


def evaluate(asked: Arguments, subject: Subject, command_line: str) -> None:
    """Scores every contender, and writes the results at the end, all or nothing."""
    first = asked.contenders[0]
    out = asked.out or (first / "evaluation" if (first / "run.json").exists() else Path("evaluation"))
    with staged(out) as folder:
        tallies, resources = measure(asked, subject, folder / "images" if asked.save_images else None)
        results = results_of(subject, tallies, resources)
        height, width = subject.experiment.size
        evaluation = {
            "title": f"{subject.experiment.data.source} {asked.split}, {len(subject.indices)} examples at {height}x{width}",
            "command": command_line,
            "versions": {"jax": jax.__version__, "numpy": np.__version__},
            "vgg19": subject.vgg19,
            "segmenter": asked.segmenter,
            "notes": notes_of(asked, subject),
            "classes": subject.label_space.classes,
            "names": subject.names,
            "scores": [score._asdict() for score in SCORES if any(score.key in result["scores"] for result in results)],
            "candidates": results,
        }
        (folder / "evaluation.json").write_text(json.dumps(finite(evaluation), indent=1))
        write_report(evaluation, examples_to_show(asked, subject, evaluation), subject.label_space, folder / "report.html")
    console.print(scores_table(evaluation))
    console.print(layers_table(evaluation))
    for note in evaluation["notes"]:
        console.print(note, markup=False, style="dim")
    console.print(f"{out / 'report.html'} shows it with images, {out / 'evaluation.json'} has every number.", markup=False)


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder; what is written there replaces its namesakes in `folder` at the end, all of it or nothing."""
    temporary = folder.with_name(f"{folder.name}.unfinished")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a call that was killed
        temporary.mkdir(parents=True)
        yield temporary
        folder.mkdir(exist_ok=True)
        for path in temporary.iterdir():
            if (folder / path.name).is_dir():
                shutil.rmtree(folder / path.name)
            os.replace(path, folder / path.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}); choose another folder with --out.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def measure(
    asked: Arguments, subject: Subject, images_folder: Path | None
) -> tuple[dict[str, Tally], dict[str, dict[str, float]]]:
    """Goes through all examples once for each contender: what was measured, and what it took, by the contenders' names."""
    tallies, resources = {}, {}
    num_classes, numbers = subject.label_space.num_classes, range(len(subject.indices))
    with rich.progress.Progress(*rich.progress.Progress.get_default_columns(), console=console, transient=True) as progress:
        for contender in subject.contenders:
            task = progress.add_task(contender.names[0], total=len(numbers))
            tallies |= {name: Tally() for name in contender.names}
            for batch, count in subject.batches(numbers, asked.batch_size):
                for name, made in contender.make(batch).items():
                    images = made.scored(batch)
                    measured = subject.judges.measure(name, batch, images, num_classes)
                    tallies[name].add(measured | made.numbers, count)
                    if images_folder:
                        save_images(images_folder / name, batch.names[:count], images)
                progress.advance(task, count)
            resources[contender.names[0]] = contender.resources(subject.batch([0] * asked.batch_size))
    return tallies, resources


def save_images(folder: Path, names: Sequence[str], images: np.ndarray) -> None:
    """As PNGs, named after the examples."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images):
        Image.fromarray(image).save(folder / f"{name}.png")


def results_of(subject: Subject, tallies: dict[str, Tally], resources: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Each contender's part of evaluation.json."""
    real = tallies[PHOTOGRAPHS].arrays()["features"]
    results = []
    for contender in subject.contenders:
        for name in contender.names:
            about = {"name": name, "kind": contender.kind, "about": contender.about, "resources": resources.get(name, {})}
            results.append(about | summary(tallies[name].arrays(), real, subject.judges.inception_params is not None))
    return results


def notes_of(asked: Arguments, subject: Subject) -> list[str]:
    """What has to be known before the figures are compared with others."""
    notes, count = [], len(subject.indices)
    if asked.inception and count < 2048:
        notes.append(
            f"FID: {count} images are fewer than its 2048 features, so it is biased upwards; compare it only with figures of "
            f"as many images. KID has no such bias."
        )
    if not asked.inception:
        notes.append(
            "Without --inception there is no FID and no KID: the Fréchet distance is that of VGG-19's features, which the "
            "cascade is trained with, and compares with no published figure."
        )
    if asked.segmenter:
        notes.append(f"Segmenter: {asked.segmenter}. Published mIoU of Cityscapes is a DRN-D-105's, at its own resolution.")
    if subject.vgg19["weights"] == "random":
        notes.append("VGG-19 has seeded RANDOM weights: distances compare with nothing else.")
    if any(len(contender.names) > 1 for contender in subject.contenders):
        notes.append(
            "Of a collection of k images, the one scored for layout i is image i mod k. 'best of k' and 'assembled' choose by "
            "the photograph."
        )
    return notes + ["Intervals: 95%, bootstrap over images."]


def chosen_examples(evaluation: dict[str, Any], each: int = 3, spread: int = 6) -> dict[int, str]:
    """The numbers of examples to look at, and why: the first contender's best and worst, and some others."""
    first = evaluation["candidates"][1]  # behind the photographs
    order = np.argsort(first["per_image"]["distance"]).tolist()
    each = min(each, len(order) // 2)
    why = dict.fromkeys(np.linspace(0, len(order) - 1, min(spread, len(order))).round().astype(int).tolist(), "spread evenly")
    why |= dict.fromkeys(order[len(order) - each :], f"worst of {first['name']}")
    why |= dict.fromkeys(order[:each], f"best of {first['name']}")
    return dict(sorted(why.items(), key=lambda item: (item[1], item[0])))


def examples_to_show(asked: Arguments, subject: Subject, evaluation: dict[str, Any]) -> list[Example]:
    """The chosen examples, with all that the contenders make of them and what the segmenter sees there."""
    why, examples = chosen_examples(evaluation), {}
    for batch, count in subject.batches(list(why), asked.batch_size):
        for row, n in enumerate(batch.numbers[:count]):
            examples[n] = Example(n, why[n], batch.layout[row], batch.photograph[row], {}, {})
        for contender in subject.contenders:
            for name, made in contender.make(batch).items():
                segmenter = subject.judges.segmenter
                answers = segmenter(name, batch.names, made.scored(batch)) if segmenter else None
                for row, n in enumerate(batch.numbers[:count]):
                    if contender.kind != PHOTOGRAPHS:
                        examples[n].images[name] = made.images[row]
                    if answers is not None:
                        examples[n].predicted[name] = answers[row]
    return list(examples.values())


def finite(value: Any) -> Any:
    """The same, with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def make_study(asked: Arguments, subject: Subject) -> None:
    """Writes the page of a study with people. Its sentinels compare the photograph with an untrained cascade."""

    def image(contender: Contender, n: int) -> np.ndarray:
        batch = subject.batch([n])
        return contender.make(batch)[contender.names[0]].scored(batch)[0]

    config = subject.experiment.generator
    untrained = Run(subject.experiment, subject.label_space, init_params(config, jax.random.key(0)), 0, subject.vgg19)
    bad = run_of("untrained", untrained, subject.judges.vgg_params)
    methods = [Method(contender.names[0], functools.partial(image, contender)) for contender in subject.contenders[1:]]
    title = f"{subject.experiment.data.source}: which image is more realistic?"
    write_study(
        asked.study_page,
        methods,
        lambda n: subject.batch([n]).photograph[0],
        Method("untrained", functools.partial(image, bad)),
        range(len(subject.indices)),
        title=title,
        kind=asked.study_kind,
    )
    console.print(f"{asked.study_page}: open it in a browser, or send it to people; then")
    console.print("python -m launch.evaluate --study RESULT.json [RESULT.json ...]", markup=False)


if __name__ == "__main__":
    main()
