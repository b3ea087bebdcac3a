"""What launch.ablate is to run; nothing is run here (test_ablate.py does that)."""

import dataclasses
import json
import re
import shlex
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tyro

from configs import ABLATIONS, camvid_96x128, demo
from crn_jax.ablation import Ablation, Variant
from crn_jax.data.sources import label_space_of
from crn_jax.errors import UserError
from crn_jax.experiment import GANExperiment, SegmenterExperiment, Synthesis
from crn_jax.run import describe_run
from launch import ablate
from launch.ablation.beforehand import check_judge
from launch.ablation.tasks import Budget, Task, shown, with_segmenter
from launch.common.command_line import parse
from launch.common.names import slug
from launch.common.output import read_json, write_json
from launch.common.terminal import console

STEPS = Budget(steps=80)


def task(folder: Path, budget: Budget = STEPS, arguments: str = "demo", score: tuple[str, ...] | None = ()) -> Task:
    return Task("it", folder, tuple(shlex.split(arguments)), budget, score)


def finish(task: Task, count: int | None = None) -> list[str]:
    """Pretends that so many commands (default: all) were run; their modules."""
    modules = []
    while len(modules) != count and (command := task.outstanding()) is not None:
        modules.append(command[0])
        task.folder.mkdir(exist_ok=True)
        if command[0] == "launch.evaluate":
            evaluated(task.folder, command)
        task.done(command)
    return modules


def evaluated(folder: Path, command: list[str]) -> None:
    """Writes what launch.evaluate writes, as far as it matters here."""
    (folder / "evaluation").mkdir(exist_ok=True)
    write_json(folder / "evaluation" / "evaluation.json", {"command": shown(command)})


@pytest.mark.parametrize("suite", ABLATIONS)
def test_every_variant_can_be_trained_and_compared_with_the_first(suite):
    ablation = ABLATIONS[suite]
    experiments = [parse(shlex.split(variant.arguments)).experiment for variant in ablation.variants]
    assert all(isinstance(experiment, Synthesis) for experiment in experiments)
    first, *others = experiments
    assert {(e.size, e.data, e.batch_size, e.seed) for e in others} == {(first.size, first.data, first.batch_size, first.seed)}
    assert len(set(experiments)) == len(experiments)  # none is there twice
    assert len({slug(variant.name) for variant in ablation.variants}) == len(experiments)
    if ablation.segmenter:
        segmenter = parse(shlex.split(ablation.segmenter)).experiment
        assert isinstance(segmenter, SegmenterExperiment) and (segmenter.size, segmenter.data.source) == (
            first.size,
            first.data.source,
        )


def test_the_papers_suites_have_its_preferences():
    """Table 1: the published shares, and so the order."""
    for suite in ("paper", "paper_48x64", "paper_cityscapes"):
        first, *others = ABLATIONS[suite].variants
        assert first.preferred is None
        assert [variant.preferred["Cityscapes"] for variant in others] == [67.7, 78.3, 96.9, 98.5, 99.7]
        assert [variant.preferred["NYU"] for variant in others] == [65.8, 71.2, 77.2, 82.3, 91.4]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "budget", "words"),
    [
        (None, Budget(), "as each experiment says"),
        ("3000", Budget(steps=3000), "3,000 steps"),
        ("30m", Budget(minutes=30), "30 minutes of training"),
        ("0.5 minutes", Budget(minutes=0.5), "0.5 minutes of training"),
    ],
)
def test_budgets(text, budget, words):
    assert Budget.parse(text) == budget and str(budget) == words


@pytest.mark.parametrize("text", ["", "0", "-3", "m", "0m", "1.5", "3 hours", "1e3"])
def test_budgets_that_are_none(text):
    with pytest.raises(UserError, match="give a number of steps, such as 3000, or minutes, such as 30m"):
        Budget.parse(text)


def test_a_task_is_trained_scored_and_shown(tmp_path):
    whole = task(tmp_path / "it", score=("--segmenter", "S"))
    training, scoring, showing = whole.commands()
    folder = str(tmp_path / "it")
    assert training == ["launch.train", "demo", "--run.folder", folder, "--steps", "80", "--run.validate_every", "10"]
    assert scoring == ["launch.evaluate", folder, "--segmenter", "S"]
    assert showing == ["launch.synthesize", folder, f"{folder}/layouts"]
    assert [command[0] for command in task(tmp_path, score=None).commands()] == ["launch.train"]
    *_, grids = task(tmp_path, arguments="demo --cascade.num_images 3").commands()
    assert grids[-1] == "--grid"
    assert list(task(tmp_path, Budget()).commands())[0] == ["launch.train", "demo", "--run.folder", str(tmp_path)]
    assert "250" in list(task(tmp_path, Budget(steps=10**6)).commands())[0]  # no fewer validations than the demo's own


@pytest.mark.quick
def test_nothing_finished_is_run_again(tmp_path):
    assert finish(task(tmp_path), 2) == ["launch.train", "launch.evaluate"]
    assert finish(task(tmp_path)) == ["launch.synthesize"]
    assert finish(task(tmp_path)) == []


def test_a_larger_budget_goes_on_and_all_behind_it_is_done_again(tmp_path):
    finish(task(tmp_path))
    assert finish(task(tmp_path, Budget(steps=90))) == ["launch.train", "launch.evaluate", "launch.synthesize"]


def test_another_judge_scores_again_what_is_trained_already(tmp_path):
    finish(task(tmp_path))
    assert finish(task(tmp_path, score=("--segmenter", "S"))) == ["launch.evaluate", "launch.synthesize"]


def test_scores_that_are_gone_or_of_another_command_are_measured_again(tmp_path):
    """Somebody has scored the run beside others, into the same file; or launch.check has moved the file away."""
    again = ["launch.evaluate", "launch.synthesize"]
    finish(task(tmp_path))
    evaluated(tmp_path, ["launch.evaluate", str(tmp_path), "runs/another"])
    assert finish(task(tmp_path)) == ["launch.evaluate"]
    for change in (Path.unlink, lambda path: path.write_text("{")):
        change(tmp_path / "evaluation" / "evaluation.json")
        assert finish(task(tmp_path))[0] == again[0]
    assert finish(task(tmp_path)) == []


def test_a_run_that_is_trained_further_is_not_scored_for_a_smaller_budget(tmp_path):
    """A larger budget was begun and stopped, so that its training is not among the finished commands."""
    finish(task(tmp_path))
    (tmp_path / "checkpoints" / "85").mkdir(parents=True)
    assert finish(task(tmp_path)) == []  # it was scored before
    for change in (lambda: task(tmp_path, score=("--segmenter", "S")), lambda: scored_at(tmp_path, 85)):
        with pytest.raises(UserError, match="is trained to step 85 already, so it cannot be scored after the 80 steps"):
            (change() or task(tmp_path)).outstanding()


def scored_at(folder: Path, step: int) -> None:
    """Somebody has scored the run by the same command at another step."""
    path = folder / "evaluation" / "evaluation.json"
    stored = read_json(path)
    write_json(path, stored | {"candidates": [{}, {"about": f"step {step}, k = 1"}]})


def test_a_run_of_other_settings_counts_as_nothing(tmp_path):
    """configs.py may have another experiment of that name now. The training itself then says what differs."""
    finish(task(tmp_path))
    given = parse(["demo", "--optimizer.learning_rate", "7"]).experiment
    description = describe_run(given, label_space_of(given.data), {"weights": "file"}, {"steps_per_epoch": 6})
    (tmp_path / "run.json").write_text(json.dumps(description))
    assert task(tmp_path).outstanding()[0] == "launch.train"
    assert task(tmp_path, arguments="demo --optimizer.learning_rate 7").finished()


def test_how_far_a_training_is(tmp_path):
    assert task(tmp_path).progress() == (0, None)
    given = parse(["demo", "--steps", "80"]).experiment
    description = describe_run(given, label_space_of(given.data), {"weights": "file"}, {"steps_per_epoch": 6})
    (tmp_path / "run.json").write_text(json.dumps(description))
    assert task(tmp_path).progress() == (0, 80)
    (tmp_path / "metrics.jsonl").write_text('{"step": 20}\n{"step": 40, "loss": 1}\n{"step": 60, "lo')
    assert task(tmp_path).progress() == (40, 80)


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        (
            "\n$ python a\nerror: first\n\n$ python b\nmore\nerror: x.h5: internal error in hdf5\n",
            "error: x.h5: internal error in hdf5",
        ),
        ("\n$ python a\nerror: an earlier one\n\n$ python b\nstep 3\n(exit status -9)\n", "python b\nstep 3\n(exit status -9)"),
        ("", ""),
    ],
)
def test_the_problem_is_that_of_the_last_command(log, problem, tmp_path):
    task(tmp_path).log.write_text(log)
    assert task(tmp_path).problem() == problem


def test_minutes_become_steps_once(tmp_path):
    """The fastest of the first windows decides. What is measured later does not count."""
    timed = task(tmp_path, Budget(minutes=3))
    assert timed.outstanding()[-4:] == ["--steps", "60", "--run.validate_every", "60"]
    finish(timed, 1)
    seconds = {20: 9.0, 40: 0.5, 60: 0.6, 80: 0.1}
    lines = [{"step": step, "seconds_per_step": each} for step, each in seconds.items()]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert timed.outstanding()[-4:] == ["--steps", "360", "--run.validate_every", "45"]
    assert finish(timed) == ["launch.train", "launch.evaluate", "launch.synthesize"]
    assert timed.outstanding() is None
    slow = task(tmp_path, Budget(minutes=0.1))
    assert slow.outstanding()[-3] == "60"  # never fewer than were trained to measure it


def test_minutes_after_a_budget_in_steps(tmp_path):
    """The first steps are trained, and timed, already; nothing is trained to fewer steps than it has."""
    finish(task(tmp_path))
    lines = [{"step": step, "seconds_per_step": 0.5} for step in (20, 40, 60, 80)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    timed = task(tmp_path, Budget(minutes=3))
    assert timed.outstanding()[-4:-2] == ["--steps", "360"]
    assert finish(timed) == ["launch.train", "launch.evaluate", "launch.synthesize"]
    assert timed.outstanding() is None and task(tmp_path, Budget(steps=400)).outstanding()[0] == "launch.train"


def test_those_who_train_with_a_segmenter_get_it():
    arguments = with_segmenter(("camvid_gan_segmentation",), Path("mine"))
    experiment = parse(list(arguments)).experiment
    assert isinstance(experiment, GANExperiment) and experiment.segmenter == "mine"
    for unchanged in ("camvid_pix2pix", "camvid_96x128"):
        assert with_segmenter((unchanged,), Path("mine")) == (unchanged,)


def test_a_slurm_array_shares_the_tasks(monkeypatch):
    tasks = list(range(7))
    assert ablate.tasks_of_this_job(tasks) == tasks
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")  # alone, it is no array
    assert ablate.tasks_of_this_job(tasks) == tasks
    for first, step in ((0, 1), (1, 2)):
        monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", str(first))
        monkeypatch.setenv("SLURM_ARRAY_TASK_STEP", str(step))
        monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
        monkeypatch.setenv("SLURM_ARRAY_TASK_MAX", str(first + 2 * step))
        parts = []
        for i in range(first, first + 3 * step, step):
            monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(i))
            parts.append(ablate.tasks_of_this_job(tasks))
        assert parts == [[0, 3, 6], [1, 4], [2, 5]]
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")  # such as --array=1,5
    with pytest.raises(UserError, match=r"The 2 numbers of this array, from 1 to 5, have no common step.*such as 0-1"):
        ablate.tasks_of_this_job(tasks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("papr", "There is no suite 'papr'. Did you mean 'paper'?"),
        ("paper --only cascade pix2pixx", "has no variant 'pix2pixx'. Did you mean 'pix2pix'?"),
        ("paper --seeds 0", "at least 1"),
        ("paper --examples 0", "at least 1"),
        ("paper --segmenter nowhere", "nowhere: there is no such file or folder"),
        (
            "paper --judge nowhere",
            "--judge nowhere: this is neither a run folder nor a file of weights nor package.module:factory",
        ),
        ("paper --budget soon", "--budget soon"),
        (
            "paper --data D --judge no_module:factory",
            "--judge no_module:factory: there is no package 'no_module'. Install it, or",
        ),
        ("paper --segmenter S --train='--seed 3'", "--train gives --seed, about which --first_seed and --seeds decide."),
        ("paper --train=--run.folder=x", "--train gives --run.folder, about which --out decides."),
        ("paper --segmenter S --budget 9 --train='--steps 3'", "--train gives --steps, about which --budget decides."),
        ("diversity --data D", "--data.root D is not for streets, which are drawn."),
        ("paper --train='\"x'", '--train "x: No closing quotation'),
    ],
)
def test_mistakes_are_named(arguments, message, tmp_path):
    with console.capture() as capture, pytest.raises(SystemExit) as exit_:
        ablate.main([*shlex.split(arguments), "--out", str(tmp_path / "out")])
    assert exit_.value.code == 2 and message in capture.get()
    assert not (tmp_path / "out").exists()


TWO_SIZES = "demo", "demo --cascade.widths 8 8 8"


@pytest.mark.parametrize(
    ("words", "classes", "message"),
    [
        (TWO_SIZES, (), "cannot be compared on the same images: the size of one is (64, 128), and that of the other (16, 32)"),
        (("demo", "demo --seed 5"), (), "The variant '1' gives --seed, about which --first_seed and --seeds decide"),
        (("demo", "demo"), ("cars",), "The suite compares the class 'cars', which the data lack. Did you mean 'car'?"),
    ],
)
def test_variants_that_cannot_be_compared_are_refused_before_the_first_training(monkeypatch, words, classes, message):
    variants = tuple(Variant(str(n), arguments) for n, arguments in enumerate(words))
    monkeypatch.setattr(ablate, "ablations", lambda: {"mine": Ablation("Why?", variants, classes=classes)})
    with pytest.raises(UserError, match=re.escape(message)):
        planned("mine")


def test_a_judge_of_other_classes_or_another_size_is_refused_before_the_first_training(tiny_segmenter):
    _, folder = tiny_segmenter
    fitting = dataclasses.replace(demo, cascade=dataclasses.replace(demo.cascade, base=(3, 4)))
    check_judge(str(folder), fitting)
    with pytest.raises(UserError, match="is for 48x64, the images are 64x128. Train one: .* --segmenter.size 64 128"):
        check_judge(str(folder), demo)
    with pytest.raises(UserError, match="is for other classes: road"):
        check_judge(str(folder), camvid_96x128)


def test_the_commands_can_be_seen_beforehand(tmp_path):
    with console.capture() as capture, pytest.raises(SystemExit) as exit_:
        ablate.main(["paper", "--data", "D", "--dry_run", "--only", "gan-segmentation", "--out", str(tmp_path / "out")])
    assert exit_.value.code == 0 and not (tmp_path / "out").exists()
    segmenter, training, *_ = capture.get().splitlines()
    assert segmenter.startswith("python -m launch.train segmenter_camvid --data.root D")
    assert "camvid_gan_segmentation --data.root D --segmenter" in training
    parse(shlex.split(training)[3:])


def planned(arguments: str) -> tuple[list[Task], list[Task]]:
    """The training of the segmenter, if there is one, and those of the variants."""
    asked = tyro.cli(ablate.Arguments, args=shlex.split(arguments), use_underscores=True)
    own, entries = ablate.plan(asked, ablate.suite(asked), STEPS, Path("out"))
    return own, [entry.task for entry in entries]


@pytest.mark.parametrize(("suite", "trained"), [("paper", 1), ("design", 0)])
def test_the_judge_may_be_another_than_the_segmenter_that_is_trained_with(suite, trained):
    """The suite's own is trained where a variant needs it."""
    own, tasks = planned(f"{suite} --judge judges:strict")
    assert len(own) == trained and {task.score for task in tasks} == {("--segmenter", "judges:strict")}
    trained_with = [task.experiment.segmenter for task in tasks if "camvid_gan_segmentation" in task.train]
    assert trained_with == ["out/segmenter"] * trained
    _, tasks = planned(f"{suite} --segmenter S")
    assert {task.score for task in tasks} == {("--segmenter", "S")}


def test_what_is_given_for_every_training():
    own, tasks = planned('paper --train="--data.cache C --batch_size 2 --steps 7 --seed 3"')
    assert [(task.experiment.steps, task.experiment.seed) for task in own] == [(7, 3)]  # its budget is not the variants'
    assert {(task.experiment.data.cache, task.experiment.batch_size) for task in (*own, *tasks)} == {("C", 2)}


def test_command_lines_are_parsed_one_at_a_time(monkeypatch):
    """Workers do so in threads, under which tyro's caches would be emptied."""
    alone = threading.Lock()

    def cli(*_, default, **__):
        assert alone.acquire(blocking=False)
        time.sleep(0.01)
        alone.release()
        return default

    monkeypatch.setattr("launch.common.command_line.tyro.cli", cli)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(parse, [["demo"]] * 8))) == 8
