"""Scores runs and folders of images side by side: `python -m launch.evaluate RUN [RUN | FOLDER ...]`.

It prints a table, and writes evaluation.json and report.html. With --study_page or --study it makes or reads a study with
people instead, as in the paper.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from PIL import Image

from crn_jax.buckets import is_bucket
from crn_jax.data.geometry import Fit
from crn_jax.data.labels.indexed import Reading
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.pipeline import spread
from crn_jax.data.sources import Split
from crn_jax.errors import UserError, counted, did_you_mean
from crn_jax.experiment import Synthesis, require_kind
from crn_jax.files import sha256_of
from crn_jax.generator import Generator, init_params
from crn_jax.run import Run, is_run, output_folder
from crn_jax.scores.inception import PUBLISHED_SHA256, load_inception
from crn_jax.scores.lpips import load_lpips, network_name
from crn_jax.synthesize import synthesize
from crn_jax.vgg_weights import obtain_vgg19
from launch.common.catalogue import take_configs
from launch.common.jax_setup import set_up_jax
from launch.common.names import command_line
from launch.common.options import BucketPath, read_options
from launch.common.output import read_json, staged, write_json
from launch.common.processes import Processes, agree, first_says, gather, is_first, join_apart, several_processes, wait_for_all
from launch.common.terminal import command, console, progress_bar
from launch.evaluation.comparison import Comparison, open_comparison
from launch.evaluation.methods import PHOTOGRAPHS, Method, images_of_folder, photographs, run_of
from launch.evaluation.open_segmenter import Opened, open_segmenter
from launch.evaluation.protocols import Conventions, data_of, judge_on, open_conventions, protocols_on
from launch.evaluation.ranking import differences, ranking
from launch.evaluation.report import Example, write_report
from launch.evaluation.score_tables import layers_table, protocols_table, scores_table
from launch.evaluation.scoring import SCORES, Judges, Tally, by_protocol, summary
from launch.evaluation.study import StudyMethod, write_study
from launch.evaluation.study_answers import analyse, study_table, to_json

_MUCH_VOID = 0.1  # segmenters hardly ever answer void


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Scores trained runs and folders of images on held-out layouts and photographs."""

    methods: Annotated[tuple[BucketPath, ...], tyro.conf.Positional] = ()
    """Run folders of launch.train, and folders of images that have the data's size and the held-out photographs' names."""
    data: Annotated[str | None, tyro.conf.arg(aliases=["--data.root"])] = None
    """The folder of the data set. Default: the folder that the first run was trained on."""
    read: Annotated[Reading | None, tyro.conf.arg(aliases=["--data.read"])] = None
    """What palette PNGs hold, of the data and of label folders: ids, or colours. Default: as the first run was trained."""
    instances: Annotated[str | None, tyro.conf.arg(aliases=["--data.instances"])] = None
    """The folder of instance maps, for runs with instance boundaries. Default: as the first such run was trained."""
    split: Split = "val"
    """The part of the data set whose examples are scored."""
    experiment: str | None = None
    """The experiment whose data set and size are used. It is needed, and allowed, only if no run is given."""
    configs: Path | None = None
    """A file of your own experiments, for --experiment. Default: $CRN_JAX_CONFIGS."""
    examples: int | None = None
    """The largest number of examples to score, spread evenly over the split. Default: all."""
    checkpoint: str = "latest"
    """The checkpoint of each run: latest, best (smallest held-out distance), or a number of steps."""
    segmenter: str | None = None
    """The segmenter for mIoU and pixel accuracy. It is a run of launch.train segmenter_*; or a published judge's weights:
    drn-d-105_ms_cityscapes.pth for Cityscapes' classes, deeplabv2_resnet101_msc-cocostuff164k-100000.pth for COCO-Stuff's, the
    folder of encoder_epoch_50.pth and decoder_epoch_50.pth for ADE20K's; or package.module:factory, where factory() returns a
    function from images uint8 [B, H, W, 3] to class ids [B, H, W]; or a folder of label PNGs named METHOD/EXAMPLE.png, with the
    ids or colours of the data set's own layouts (for Cityscapes labelIds, not train ids)."""
    protocol: tuple[Literal["spade", "oasis", "pix2pixhd", "paper"], ...] = ()
    """Also measure mIoU, accuracy and FID as others did, side by side: with the classes of Cityscapes, ADE20K or COCO-Stuff,
    and a --segmenter that takes images of any size. docs/evaluation.md says what each protocol is."""
    inception: Path | None = None
    """The weights for FID and KID: pt_inception-2015-12-05-6726825d.pth, which pytorch-fid publishes."""
    lpips: tuple[Path, Path] | None = None
    """The two files for LPIPS: its linear weights (v0.1, alex.pth or vgg.pth), and torchvision's AlexNet or VGG-16."""
    classes: tuple[str, ...] = ()
    """Classes, such as car person. The perceptual distance is measured once more, on their pixels alone."""
    vgg: Annotated[str | None, tyro.conf.arg(aliases=["--vgg.weights"])] = None
    """The file of VGG-19 weights. Default: launch.evaluate looks where launch.train does."""
    batch_size: int = 1
    """The number of examples that a device computes at a time. It changes speed and memory only."""
    out: Path | None = None
    """The folder for the results. Default: `evaluation` in the first run's folder."""
    save_images: bool = False
    """Also write every image to OUT/images/METHOD/EXAMPLE.png, for other tools."""
    study_page: Path | None = None
    """Write the page of a study with people to this HTML file, and score nothing. --study_kind says what is compared."""
    study_kind: Literal["unlimited", "timed"] = "unlimited"
    """unlimited: the first run against each other (the paper's Table 1); timed: photograph against run, for 1/8 to 8 s."""
    study_pairs: int = 100
    """The number of pairs that everyone answers, besides ten sentinels. More pairs show more layouts, but take longer."""
    study_seed: int = 0
    """The seed by which layouts are chosen. A page with another seed is another study; --study reads results of one study."""
    study: tuple[Path, ...] | None = None
    """Result files of a study. Print what people preferred, and score nothing. With --out, also write it to study.json."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = Processes()


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line, and scores or makes or reads a study."""
    with command():
        given = sys.argv[1:] if arguments is None else arguments
        asked: Arguments = read_options(Arguments, "evaluate", take_configs(given))
        set_up_jax()
        if asked.batch_size < 1 or (asked.examples is not None and asked.examples < 1):
            raise UserError(f"--batch_size and --examples must be at least 1, got {asked.batch_size} and {asked.examples}.")
        if asked.study is not None:
            return tell_study(asked, asked.study)
        join_apart(asked.processes)
        console.quiet = not is_first()
        comparison = open_comparison(
            asked.methods,
            asked.checkpoint,
            asked.experiment,
            asked.data,
            asked.split,
            asked.examples,
            asked.read,
            asked.instances,
        )
        if asked.study_page:
            return make_study(asked, asked.study_page, comparison) if is_first() else None
        evaluate(asked, comparison, command_line("evaluate", *given))


def evaluate(asked: Arguments, comparison: Comparison, line: str) -> None:
    """Scores every method, and writes all results at the end, or none if it fails.

    Several processes share the examples, and the first one writes the results.
    """
    vgg = dataclasses.replace(comparison.experiment.vgg, weights=asked.vgg or comparison.experiment.vgg.weights)
    vgg_params, vgg19 = obtain_vgg19(vgg)
    vgg_params = jax.device_put(vgg_params)
    methods = methods_of(comparison, vgg_params)
    judges, notes = judges_of(asked, comparison, methods, vgg_params, vgg19)
    notes = [*comparison.notes(), *notes, *earlier_images(asked)]
    refuse_deleting(asked)
    count = len(comparison.examples.indices)
    if several_processes():
        agree({"examples": count, "methods": [method.about for method in methods], "VGG-19": vgg19})
        if count < jax.process_count():
            raise UserError(f"{counted(count, 'example')} cannot be shared by {jax.process_count()} processes. Start fewer.")
    with staged(out_folder(asked)) if is_first() else contextlib.nullcontext(Path()) as folder:
        images_folder = Path(first_says(str(folder))) / "images" if asked.save_images else None
        tallies, resources = measure(asked, comparison, methods, judges, images_folder)
        if is_first():
            notes += void_notes(tallies[PHOTOGRAPHS], asked.segmenter)
            results = results_of(methods, tallies, resources, judges)
            height, width = comparison.experiment.size
            evaluation = {
                "title": f"{comparison.experiment.data.source} {asked.split}, {counted(count, 'example')} at {height}x{width}",
                "command": line,
                "versions": {"jax": jax.__version__, "numpy": np.__version__},
                "device": jax.devices()[0].device_kind,
                "vgg19": vgg19,
                "notes": notes,
                "saved_images": asked.save_images or has_saved_images(out_folder(asked)),
                "classes": comparison.examples.source.label_space.classes,
                "names": comparison.examples.names,
                "scores": [score._asdict() for score in SCORES if any(score.key in result["scores"] for result in results)],
                "candidates": results,
                "differences": differences(tallies, results),
            }
            if judges.conventions:
                evaluation["protocols"] = judges.conventions.described()
            write_json(folder / "evaluation.json", evaluation)
            shown = examples_to_show(asked, comparison, methods, judges, evaluation)
            write_report(evaluation, shown, comparison.examples.source.label_space, folder / "report.html")
    if several_processes():
        wait_for_all("the results are written")
    if is_first():
        tell(evaluation, notes, out_folder(asked))


def tell(evaluation: dict[str, Any], notes: Sequence[str], out: Path) -> None:
    """Prints the scores."""
    console.print(scores_table(evaluation))
    console.print(layers_table(evaluation))
    if "protocols" in evaluation:
        console.print(protocols_table(evaluation))
    for line in ranking(evaluation):
        console.print(line)
    for note in notes:
        console.print(note, style="dim")
    console.print(f"{out / 'report.html'} shows it with images, {out / 'evaluation.json'} has every number.")


def out_folder(asked: Arguments) -> Path:
    """Returns the folder for the results."""
    run = next((path for path in asked.methods if is_run(path)), None)
    return asked.out or (output_folder(run, "evaluation") if run else Path("evaluation"))


def refuse_deleting(asked: Arguments) -> None:
    """Raises UserError if --save_images would replace a folder of images that launch.evaluate has not made."""
    images = out_folder(asked) / "images"
    if not asked.save_images or not images.is_dir():
        return
    if inside := [path for path in asked.methods if not is_bucket(path) and path.resolve().is_relative_to(images.resolve())]:
        raise UserError(f"{inside[0]} is to be scored, and --save_images would replace {images}. Choose another --out.")
    if not has_saved_images(out_folder(asked)):
        raise UserError(
            f"{images} exists, and launch.evaluate did not make it: --save_images would replace it. Choose another folder "
            f"with --out."
        )


def earlier_images(asked: Arguments) -> list[str]:
    """Returns a note on images of an earlier evaluation, which stay beside the new scores."""
    images = out_folder(asked) / "images"
    if asked.save_images or not has_saved_images(out_folder(asked)):
        return []
    return [f"The images in {images} are those of an earlier evaluation, perhaps at another step. --save_images replaces them."]


def has_saved_images(out: Path) -> bool:
    """Whether an evaluation in this folder has saved images there. Those of older versions do not say, and may have."""
    file = out / "evaluation.json"
    return file.is_file() and (out / "images").is_dir() and read_json(file).get("saved_images", True)


def methods_of(comparison: Comparison, vgg_params: dict) -> list[Method]:
    """Returns the photographs as the first method, then the given runs and folders in order.

    Raises:
      UserError: if two methods have one name, such as a folder called "RUN, assembled".
    """
    methods = [photographs()]
    for name, given in comparison.given.items():
        if isinstance(given, Run):
            methods.append(run_of(name, given, vgg_params))
        else:
            methods.append(images_of_folder(name, given, comparison.examples))
    names = [name for method in methods for name in method.names]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UserError(f"Two methods would be called '{doubled.pop()}'. Rename a folder.")
    return methods


def judges_of(
    asked: Arguments, comparison: Comparison, methods: Sequence[Method], vgg_params: dict, vgg19: dict[str, str]
) -> tuple[Judges, list[str]]:
    """Loads the networks that are asked for, and returns notes on what their scores can be compared with."""
    source, notes = comparison.examples.source, ["Intervals are 95% bootstrap intervals over images."]
    inception = segmenter = lpips_params = conventions = opened = None
    notes += [method.note for method in methods if method.note]
    if asked.segmenter:
        names = [name for method in methods for name in method.names]
        examples = comparison.examples.names
        opened = open_segmenter(asked.segmenter, source.label_space, source.size, names, examples)
        segmenter = opened.segmenter
        notes.append(f"Segmenter: {opened.described}.")
        data = data_of(source.label_space)
        if data and opened.network != judge_on(data):
            notes[-1] += f" Published mIoU on {data} was measured with {judge_on(data)}."
    if asked.protocol:
        if opened is None:
            raise UserError(f"--protocol {asked.protocol[0]} needs a judge: --segmenter with published weights or a plug-in.")
        conventions = conventions_of(asked, comparison, opened)
        notes += protocol_notes(conventions, opened, comparison.data.fit)
    if asked.inception:
        inception = jax.device_put(load_inception(asked.inception))
    notes += frechet_notes(asked.inception, len(comparison.examples.indices))
    if asked.lpips:
        lpips_params = jax.device_put(load_lpips(*asked.lpips))
        notes.append(f"LPIPS: {network_name(lpips_params)}.")
    if vgg19["weights"] == "random":
        notes.append("VGG-19 has seeded RANDOM weights, so its distances cannot be compared with those of other evaluations.")
    if any("chosen" in method.names.values() for method in methods):
        notes.append(
            "From a collection of k images, image i mod k is scored for layout i. 'best of k' and 'assembled' are chosen by "
            "comparison with the photograph, so they are never marked as best."
        )
    classes = numbers_of(asked.classes, source.label_space)
    if classes:
        notes.append(
            f"The distance on chosen classes counts the pixels of {' and '.join(asked.classes)} in the layouts. In deep "
            "layers, they see their surroundings, too."
        )
    judges = Judges(vgg_params, inception, lpips_params, segmenter, classes, conventions)
    judges.check(source.size)
    return judges, notes


def conventions_of(asked: Arguments, comparison: Comparison, opened: Opened) -> Conventions:
    """Opens the protocols that are asked for.

    Raises:
      UserError: if the segmenter does not take images of their sizes.
    """
    examples = comparison.examples
    protocols = protocols_on(examples.source.label_space, asked.protocol)
    for protocol in protocols:
        if protocol.size not in (None, examples.source.size) and not opened.any_size:
            there, here = ("x".join(map(str, size)) for size in (protocol.size, examples.source.size))
            raise UserError(
                f"--protocol {protocol.name} judges images of {there}, but {asked.segmenter} is for {here} only. Give "
                f"published weights, or a plug-in."
            )
    return open_conventions(protocols, comparison.data, asked.split, examples.source, examples.indices)


def protocol_notes(conventions: Conventions, opened: Opened, fit: Fit) -> list[str]:
    """Returns notes on figures that cannot stand beside published ones, by another judge or other parts of the photographs."""
    notes = []
    # The paper published no such figures.
    others = [protocol for protocol in conventions.protocols if protocol.judge != opened.network and protocol.name != "paper"]
    if others:
        published = ", ".join(f"{protocol.name} ({protocol.judge})" for protocol in others)
        notes.append(f"Another judge measured what is published by {published}, so these figures here cannot stand beside it.")
    # Files that `resize` takes have the shape already.
    if fit not in ("resize", "stretch") and any(protocol.size == (256, 256) for protocol in conventions.protocols):
        notes.append(
            f"SPADE and OASIS stretch photographs to squares. The fit is {fit} here, so these figures cannot stand beside "
            "theirs."
        )
    return notes


def numbers_of(classes: Sequence[str], label_space: LabelSpace) -> tuple[int, ...]:
    """Returns the numbers of these classes.

    Raises:
      UserError: if there is no such class.
    """
    for name in classes:
        if name not in label_space.classes:
            known = ", ".join(label_space.classes)
            raise UserError(f"--classes: there is no class '{name}'.{did_you_mean(name, label_space.classes)} Known: {known}.")
    return tuple(label_space.classes.index(name) for name in classes)


def frechet_notes(inception: Path | None, count: int) -> list[str]:
    """Returns notes on FID and KID, or on the Fréchet distance that replaces them, for `count` images."""
    notes, features = [], 2048 if inception else 512
    if inception and sha256_of(inception) != PUBLISHED_SHA256:
        notes.append(f"FID and KID: {inception.name} is not the published file, so they compare with nothing else.")
    if inception:
        notes.append(
            "KID leaves out the kernel between an image and its own photograph, because they are a pair. Most programs keep it."
        )
    few = f" It is biased upwards here: there are fewer images ({count}) than features ({features})." * (count < features)
    name = "FID" if inception else "Without --inception there is no FID and no KID. The Fréchet distance of VGG-19's features"
    return [*notes, f"{name} has no interval. It depends on the number of images, so compare equal numbers only.{few}"]


def measure(
    asked: Arguments, comparison: Comparison, methods: Sequence[Method], judges: Judges, images_folder: Path | None
) -> tuple[dict[str, Tally], dict[str, dict[str, float]]]:
    """Measures every method on all examples, and returns the measurements and the resources by the methods' names."""
    tallies: dict[str, Tally] = {}
    resources: dict[str, dict[str, float]] = {}
    examples = comparison.examples
    num_classes = examples.source.label_space.num_classes
    numbers = range(len(examples.indices))[jax.process_index() :: jax.process_count()]
    together = asked.batch_size * jax.local_device_count()
    batch_size = together if together <= len(numbers) else asked.batch_size
    with progress_bar() as progress:
        for method in methods:
            first, *_ = method.names
            task = progress.add_task(first, total=len(numbers))
            tallies |= {name: Tally() for name in method.names}
            for batch, count in examples.batches(numbers, batch_size):
                for name, made in method.make(batch).items():
                    images = made.scored(batch)
                    tallies[name].add(
                        judges.measure(name, batch, images, num_classes, made.as_made(batch)) | made.numbers, count
                    )
                    if images_folder:
                        save_images(images_folder / name, batch.names[:count], images)
                progress.advance(task, count)
            resources[first] = method.resources(examples.batch([0] * asked.batch_size))
    return together_from(tallies, len(examples.indices)), resources


def together_from(tallies: dict[str, Tally], count: int) -> dict[str, Tally]:
    """Returns the measurements of all processes, of which each has measured every P-th of `count` examples."""
    own = {f"{i}.{key}": rows for i, tally in enumerate(tallies.values()) for key, rows in tally.measurements().items()}
    sums = {f"{i} confusion": tally.confusion for i, tally in enumerate(tallies.values()) if tally.confusion is not None}
    parts, whole = gather(own | sums), dict[str, np.ndarray]()
    for key, rows in own.items():
        whole[key] = np.empty((count, *rows.shape[1:]), rows.dtype)
        for process, part in enumerate(parts):
            whole[key][process :: len(parts)] = part[key]
    return {
        name: Tally(
            [{key.partition(".")[2]: rows for key, rows in whole.items() if key.startswith(f"{i}.")}],
            np.sum([part[f"{i} confusion"] for part in parts], 0) if sums else None,
        )
        for i, name in enumerate(tallies)
    }


def save_images(folder: Path, names: Sequence[str], images: np.ndarray) -> None:
    """Writes images as PNGs that are named after the examples."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images):
        Image.fromarray(image).save(folder / f"{name}.png")


def results_of(
    methods: Sequence[Method], tallies: dict[str, Tally], resources: dict[str, dict[str, float]], judges: Judges
) -> list[dict[str, Any]]:
    """Returns each method's part of evaluation.json."""
    real, conventions = tallies[PHOTOGRAPHS].arrays(), judges.conventions
    results = []
    for method in methods:
        for name, kind in method.names.items():
            arrays = tallies[name].arrays()
            result: dict[str, Any] = {"name": name, "kind": kind, "about": method.about, "resources": resources.get(name, {})}
            result |= summary(arrays, real, judges.inception_params is not None, tallies[name].confusion)
            if conventions:
                result["protocols"] = by_protocol(conventions, arrays, real)
            results.append(result)
    return results


def void_notes(photographs: Tally, segmenter: str | None) -> list[str]:
    """Returns a note if the segmenter takes much of the photographs for void, as answers in other numbers look."""
    if photographs.confusion is None:
        return []
    known = photographs.confusion[:-1]
    share = known[:, -1].sum() / max(1, known.sum())
    if share <= _MUCH_VOID:
        return []
    return [
        f"{segmenter} sees void in {share:.0%} of the photographs' pixels that have a class. Are its answers numbered "
        "otherwise, such as Cityscapes' train ids, or ADE20K's classes from 0? Then mIoU and accuracy mean nothing."
    ]


def chosen_examples(evaluation: dict[str, Any], each: int = 3, evenly: int = 6) -> dict[int, str]:
    """Chooses examples to look at: the first method's best and worst, and some others. Returns the reasons by their numbers."""
    first = evaluation["candidates"][1]  # after the photographs
    order = np.argsort(first["per_image"]["distance"]).tolist()
    each = min(each, len(order) // 2)
    why = dict.fromkeys(spread(order, evenly), "spread evenly")
    why |= dict.fromkeys(order[len(order) - each :], f"worst of {first['name']}")
    why |= dict.fromkeys(order[:each], f"best of {first['name']}")
    return dict(sorted(why.items(), key=lambda item: (item[1], item[0])))


def examples_to_show(
    asked: Arguments, comparison: Comparison, methods: Sequence[Method], judges: Judges, evaluation: dict[str, Any]
) -> list[Example]:
    """Returns the chosen examples with the images that the methods make of them and the classes that the segmenter sees."""
    why, examples = chosen_examples(evaluation), dict[int, Example]()
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


def check_study(page: Path, pairs: int, seed: int) -> None:
    """Raises UserError if the page cannot be written, or if the numbers make no study."""
    if not page.parent.is_dir():
        raise UserError(f"--study_page {page}: there is no folder {page.parent}.")
    if page.is_dir():
        raise UserError(f"--study_page {page} is a folder. Name an HTML file.")
    if pairs < 1 or seed < 0:
        raise UserError(f"--study_pairs must be at least 1, and --study_seed not negative, got {pairs} and {seed}.")


def make_study(asked: Arguments, page: Path, comparison: Comparison) -> None:
    """Writes the page of a study with people.

    Its sentinels show the photograph beside an untrained cascade's image. The authors' showed it beside a baseline's, which is
    harder.
    """
    check_study(page, asked.study_pairs, asked.study_seed)
    examples = comparison.examples

    def synthesized(generator: Generator, params: dict, n: int) -> np.ndarray:
        images = np.asarray(synthesize(generator, params, *examples.batch([n]).ids(generator)))[0]
        return images[n % len(images)]

    def read(name: str, method: Method, n: int) -> np.ndarray:
        return method.make(examples.batch([n]))[name].images[0, 0]

    methods = []
    for name, given in comparison.given.items():
        if isinstance(given, Run):
            generator = require_kind(given.experiment, Synthesis, f"The run {name}").generator
            methods.append(StudyMethod(name, functools.partial(synthesized, generator, given.params)))
        else:
            methods.append(StudyMethod(name, functools.partial(read, name, images_of_folder(name, given, examples))))
    config = comparison.experiment.generator
    untrained = functools.partial(synthesized, config, init_params(config, jax.random.key(0)))
    write_study(
        page,
        methods,
        lambda n: examples.batch([n]).photograph[0],
        StudyMethod("(an untrained cascade)", untrained),
        range(len(examples.indices)),
        title=f"{comparison.experiment.data.source}: which image is more realistic?",
        kind=asked.study_kind,
        pairs=asked.study_pairs,
        seed=asked.study_seed,
    )
    console.print(f"Open {page} in a browser, or send it to people. Then analyse the files that they save:")
    console.print("python -m launch.evaluate --study RESULT.json [RESULT.json ...]")


def tell_study(asked: Arguments, files: Sequence[Path]) -> None:
    """Prints what people preferred, by the result files of a study."""
    if asked.methods:
        raise UserError("--study reads result files, not runs or images. Leave them out.")
    analysis = analyse(files)
    console.print(study_table(analysis))
    if asked.out:
        with staged(asked.out) as folder:
            write_json(folder / "study.json", to_json(analysis))


if __name__ == "__main__":
    main()
