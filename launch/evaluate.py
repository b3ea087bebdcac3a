"""Scores runs and images, side by side: `python -m launch.evaluate RUN [RUN | FOLDER ...]`.

Writes a table, evaluation.json and report.html. With --study_page or --study: the paper's study with people instead.
"""

import dataclasses
import functools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import rich.progress
import tyro
from PIL import Image
from rich.markup import escape

from crn_jax.data.pipeline import spread
from crn_jax.data.sources import Split
from crn_jax.errors import UserError
from crn_jax.files import sha256_of
from crn_jax.generator import init_params
from crn_jax.run import Run
from crn_jax.scores.inception import PUBLISHED_SHA256, load_inception
from crn_jax.scores.lpips import load_lpips, network_name
from crn_jax.synthesize import synthesize
from crn_jax.vgg_weights import obtain_vgg19
from launch.common.experiments import take_configs
from launch.common.names import as_typed
from launch.common.output import staged, write_json
from launch.common.terminal import command, console
from launch.evaluation.comparison import Comparison, open_comparison
from launch.evaluation.methods import PHOTOGRAPHS, Method, images_of_folder, photographs, run_of
from launch.evaluation.open_segmenter import open_segmenter
from launch.evaluation.report import Example, write_report
from launch.evaluation.score_tables import layers_table, scores_table
from launch.evaluation.scoring import SCORES, Judges, Tally, summary
from launch.evaluation.study import StudyMethod, write_study
from launch.evaluation.study_answers import analyse, study_table, to_json


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Scores trained runs, and folders of images, on held-out layouts and photographs."""

    methods: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Run folders of launch.train, or folders of images of the data's size, named after the held-out photographs."""
    data: Annotated[str | None, tyro.conf.arg(aliases=["--data.root"])] = None
    """Folder of the data set. Default: the one that the first run was trained on."""
    split: Split = "val"
    """Which part of it."""
    experiment: str | None = None
    """Where no run is given: the experiment whose data set and size are meant."""
    configs: Path | None = None
    """A file of experiments of your own, to name one in --experiment. Default: $CRN_JAX_CONFIGS."""
    examples: int | None = None
    """Score at most so many, spread evenly over the split. Default: all."""
    checkpoint: str = "latest"
    """Of the runs: latest, best (smallest held-out distance), or a number of steps."""
    segmenter: str | None = None
    """For mIoU and pixel accuracy: a run of launch.train segmenter_*; package.module:factory, where factory() gives a function
    from images uint8 [B, H, W, 3] to class ids [B, H, W]; or a folder of label PNGs, METHOD/EXAMPLE.png, in the ids or
    colours of the data set's own layouts (of Cityscapes labelIds, not train ids)."""
    inception: Path | None = None
    """For FID and KID: pt_inception-2015-12-05-6726825d.pth, as pytorch-fid publishes it."""
    lpips: tuple[Path, Path] | None = None
    """For LPIPS: its linear weights (v0.1, alex.pth or vgg.pth) and torchvision's AlexNet or VGG-16."""
    vgg: Annotated[str | None, tyro.conf.arg(aliases=["--vgg.weights"])] = None
    """VGG-19 weights. Default: as launch.train finds them."""
    batch_size: int = 1
    """Examples at a time. It changes speed and memory only."""
    out: Path | None = None
    """Folder for the results. Default: evaluation in the first run's folder."""
    save_images: bool = False
    """Also write every image, to OUT/images/METHOD/EXAMPLE.png, for other tools."""
    study_page: Path | None = None
    """Write the page of a study with people to this HTML file, and score nothing: the first run against the others."""
    study_kind: Literal["unlimited", "timed"] = "unlimited"
    """unlimited: the first run beside another (the paper's Table 1); timed: photograph and run for 1/8 to 8 s (Figure 4)."""
    study_pairs: int = 100
    """Pairs that everyone answers, beside ten sentinels; more of them make a study longer, and show more layouts."""
    study_seed: int = 0
    """Which layouts are shown. A page of another seed, or with other pairs, is another study: --study reads results of one."""
    study: tuple[Path, ...] | None = None
    """Result files of a study: print what people preferred, and nothing else (with --out, also write it to study.json)."""


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and scores."""
    with command():
        given = sys.argv[1:] if arguments is None else arguments
        asked = tyro.cli(Arguments, prog=as_typed("python -m launch.evaluate"), args=take_configs(given), use_underscores=True)
        if asked.batch_size < 1 or (asked.examples is not None and asked.examples < 1):
            raise UserError(f"--batch_size and --examples must be at least 1, got {asked.batch_size} and {asked.examples}.")
        if asked.study is not None:
            return tell_study(asked)
        comparison = open_comparison(asked.methods, asked.checkpoint, asked.experiment, asked.data, asked.split, asked.examples)
        if asked.study_page:
            return make_study(asked, comparison)
        evaluate(asked, comparison, as_typed(shlex.join(["python", "-m", "launch.evaluate", *given])))


def evaluate(asked: Arguments, comparison: Comparison, command_line: str) -> None:
    """Scores every method, and writes the results at the end, all or nothing."""
    vgg = dataclasses.replace(comparison.experiment.vgg, weights=asked.vgg or comparison.experiment.vgg.weights)
    vgg_params, vgg19 = obtain_vgg19(vgg)
    vgg_params = jax.device_put(vgg_params)
    methods = methods_of(comparison, vgg_params)
    judges, notes = judges_of(asked, comparison, methods, vgg_params, vgg19)
    with staged(out_folder(asked)) as folder:
        tallies, resources = measure(asked, comparison, methods, judges, folder / "images" if asked.save_images else None)
        results = results_of(methods, tallies, resources, judges.inception_params is not None)
        height, width = comparison.experiment.size
        count = len(comparison.examples.indices)
        evaluation = {
            "title": f"{comparison.experiment.data.source} {asked.split}, {count} examples at {height}x{width}",
            "command": command_line,
            "versions": {"jax": jax.__version__, "numpy": np.__version__},
            "device": jax.devices()[0].device_kind,
            "vgg19": vgg19,
            "notes": notes,
            "classes": comparison.examples.source.label_space.classes,
            "names": comparison.examples.names,
            "scores": [score._asdict() for score in SCORES if any(score.key in result["scores"] for result in results)],
            "candidates": results,
        }
        write_json(folder / "evaluation.json", evaluation)
        shown = examples_to_show(asked, comparison, methods, judges, evaluation)
        write_report(evaluation, shown, comparison.examples.source.label_space, folder / "report.html")
    console.print(scores_table(evaluation))
    console.print(layers_table(evaluation))
    for note in notes:
        console.print(note, markup=False, style="dim")
    out = out_folder(asked)
    console.print(f"{out / 'report.html'} shows it with images, {out / 'evaluation.json'} has every number.", markup=False)


def out_folder(asked: Arguments) -> Path:
    """Where the results go."""
    run = next((path for path in asked.methods if (path / "run.json").exists()), None)
    return asked.out or (run / "evaluation" if run else Path("evaluation"))


def methods_of(comparison: Comparison, vgg_params: dict) -> list[Method]:
    """The photographs first, then what was given, in order.

    Raises:
      UserError: if names meet, such as a folder's and that of what is made of a collection.
    """
    methods = [photographs()]
    for name, given in comparison.given.items():
        is_run = isinstance(given, Run)
        methods.append(run_of(name, given, vgg_params) if is_run else images_of_folder(name, given, comparison.examples))
    names = [name for method in methods for name in method.names]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UserError(f"Two methods would be called '{doubled.pop()}': rename a folder.")
    return methods


def judges_of(
    asked: Arguments, comparison: Comparison, methods: Sequence[Method], vgg_params: dict, vgg19: dict[str, str]
) -> tuple[Judges, list[str]]:
    """The networks that are asked for, and what has to be known before their figures are compared with others."""
    source, notes = comparison.examples.source, ["Intervals: 95%, bootstrap over images."]
    inception = segmenter = lpips_params = None
    if asked.segmenter:
        names = [name for method in methods for name in method.names]
        examples = comparison.examples.names
        segmenter, described = open_segmenter(asked.segmenter, source.label_space, source.size, names, examples)
        cityscapes = " Published mIoU of Cityscapes is by a DRN-D-105." if source.label_space.name == "cityscapes" else ""
        notes.append(f"Segmenter: {described}.{cityscapes}")
    if asked.inception:
        inception = jax.device_put(load_inception(asked.inception))
    notes += frechet_notes(asked.inception, len(comparison.examples.indices))
    if asked.lpips:
        lpips_params = jax.device_put(load_lpips(*asked.lpips))
        notes.append(f"LPIPS: {network_name(lpips_params)}.")
    if vgg19["weights"] == "random":
        notes.append("VGG-19 has seeded RANDOM weights: perceptual distances compare with nothing else.")
    if any("chosen" in method.names.values() for method in methods):
        notes.append(
            "Of a collection of k images, the one scored for layout i is image i mod k. 'best of k' and 'assembled' choose by "
            "the photograph, and so are not marked as best."
        )
    judges = Judges(vgg_params, inception, lpips_params, segmenter)
    judges.check(source.size)
    return judges, notes


def frechet_notes(inception: Path | None, count: int) -> list[str]:
    """What has to be known of FID and KID, or of what stands in their place, with so many images."""
    notes, features = [], 2048 if inception else 512
    if inception and sha256_of(inception) != PUBLISHED_SHA256:
        notes.append(f"FID and KID: {inception.name} is not the published file; compare them with nothing else.")
    if inception:
        notes.append(
            "KID leaves out the kernel between an image and its own photograph, as pairs ask for; most programs do not."
        )
    few = f" {count} images are fewer than {features} features, so it is biased upwards." if count < features else ""
    name = "FID" if inception else "Without --inception there is no FID and no KID. The Fréchet distance of VGG-19's features"
    return [*notes, f"{name} has no interval, as it depends on the number of images: compare like with like.{few}"]


def measure(
    asked: Arguments, comparison: Comparison, methods: Sequence[Method], judges: Judges, images_folder: Path | None
) -> tuple[dict[str, Tally], dict[str, dict[str, float]]]:
    """Goes through all examples once for each method: what was measured, and what it took, by the methods' names."""
    tallies, resources, examples = {}, {}, comparison.examples
    num_classes, numbers = examples.source.label_space.num_classes, range(len(examples.indices))
    with rich.progress.Progress(*rich.progress.Progress.get_default_columns(), console=console, transient=True) as progress:
        for method in methods:
            first, *_ = method.names
            task = progress.add_task(escape(first), total=len(numbers))
            tallies |= {name: Tally() for name in method.names}
            for batch, count in examples.batches(numbers, asked.batch_size):
                for name, made in method.make(batch).items():
                    images = made.scored(batch)
                    tallies[name].add(judges.measure(name, batch, images, num_classes) | made.numbers, count)
                    if images_folder:
                        save_images(images_folder / name, batch.names[:count], images)
                progress.advance(task, count)
            resources[first] = method.resources(examples.batch([0] * asked.batch_size))
    return tallies, resources


def save_images(folder: Path, names: Sequence[str], images: np.ndarray) -> None:
    """As PNGs, named after the examples."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images):
        Image.fromarray(image).save(folder / f"{name}.png")


def results_of(
    methods: Sequence[Method], tallies: dict[str, Tally], resources: dict[str, dict[str, float]], inception: bool
) -> list[dict[str, Any]]:
    """Each method's part of evaluation.json."""
    real = tallies[PHOTOGRAPHS].arrays()["features"]
    return [
        {"name": name, "kind": kind, "about": method.about, "resources": resources.get(name, {})}
        | summary(tallies[name].arrays(), real, inception)
        for method in methods
        for name, kind in method.names.items()
    ]


def chosen_examples(evaluation: dict[str, Any], each: int = 3, evenly: int = 6) -> dict[int, str]:
    """The numbers of examples to look at, and why: the first method's best and worst, and some others."""
    first = evaluation["candidates"][1]  # behind the photographs
    order = np.argsort(first["per_image"]["distance"]).tolist()
    each = min(each, len(order) // 2)
    why = dict.fromkeys(spread(order, evenly), "spread evenly")
    why |= dict.fromkeys(order[len(order) - each :], f"worst of {first['name']}")
    why |= dict.fromkeys(order[:each], f"best of {first['name']}")
    return dict(sorted(why.items(), key=lambda item: (item[1], item[0])))


def examples_to_show(
    asked: Arguments, comparison: Comparison, methods: Sequence[Method], judges: Judges, evaluation: dict[str, Any]
) -> list[Example]:
    """The chosen examples, with all that the methods make of them and what the segmenter sees there."""
    why, examples = chosen_examples(evaluation), {}
    for batch, count in comparison.examples.batches(list(why), asked.batch_size):
        for row, n in enumerate(batch.numbers[:count]):
            examples[n] = Example(n, why[n], batch.layout[row], batch.photograph[row], {}, {}, {})
        for method in methods:
            for name, made in method.make(batch).items():
                answers = judges.segmented(name, batch.names, made.scored(batch))
                for row, n in enumerate(batch.numbers[:count]):
                    if name != PHOTOGRAPHS:
                        examples[n].images[name] = made.images[row]
                        examples[n].scored[name] = n % made.images.shape[1]
                    if answers is not None:
                        examples[n].predicted[name] = answers[row]
    return list(examples.values())


def check_study(asked: Arguments) -> None:
    """Raises UserError for a page that cannot be written, or for numbers that make no study."""
    page, pairs, seed = asked.study_page, asked.study_pairs, asked.study_seed
    if not page.parent.is_dir():
        raise UserError(f"--study_page {page}: there is no folder {page.parent}.")
    if page.is_dir():
        raise UserError(f"--study_page {page} is a folder; name an HTML file.")
    if pairs < 1 or seed < 0:
        raise UserError(f"--study_pairs must be at least 1, and --study_seed not negative, got {pairs} and {seed}.")


def make_study(asked: Arguments, comparison: Comparison) -> None:
    """Writes the page of a study with people.

    Its sentinels show the photograph beside an untrained cascade's image; the authors' beside a baseline's, which is harder.
    """
    check_study(asked)
    page, examples = asked.study_page, comparison.examples

    def synthesized(run: Run, n: int) -> np.ndarray:
        layout = examples.batch([n]).layout
        images = np.asarray(synthesize(run.experiment.generator, run.params, layout))[0]
        return images[n % len(images)]

    def read(name: str, method: Method, n: int) -> np.ndarray:
        return method.make(examples.batch([n]))[name].images[0, 0]

    methods = []
    for name, given in comparison.given.items():
        if isinstance(given, Run):
            methods.append(StudyMethod(name, functools.partial(synthesized, given)))
        else:
            methods.append(StudyMethod(name, functools.partial(read, name, images_of_folder(name, given, examples))))
    config = comparison.experiment.generator
    untrained = Run(comparison.experiment, examples.source.label_space, init_params(config, jax.random.key(0)), 0, {})
    write_study(
        page,
        methods,
        lambda n: examples.batch([n]).photograph[0],
        StudyMethod("(an untrained cascade)", functools.partial(synthesized, untrained)),
        range(len(examples.indices)),
        title=f"{comparison.experiment.data.source}: which image is more realistic?",
        kind=asked.study_kind,
        pairs=asked.study_pairs,
        seed=asked.study_seed,
    )
    console.print(f"{page}: open it in a browser, or send it to people; then", markup=False)
    console.print("python -m launch.evaluate --study RESULT.json [RESULT.json ...]", markup=False)


def tell_study(asked: Arguments) -> None:
    """Prints what people preferred."""
    if asked.methods:
        raise UserError("--study reads result files; runs and images are not looked at then: leave them out.")
    analysis = analyse(asked.study)
    console.print(study_table(analysis))
    if asked.out:
        with staged(asked.out) as folder:
            write_json(folder / "study.json", to_json(analysis))


if __name__ == "__main__":
    main()
