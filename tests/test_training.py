"""Whole runs through the command line: what they leave behind, and what survives an interruption."""

import functools
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from configs import EXPERIMENTS, RECIPES
from crn_jax import sharding, vgg_weights
from crn_jax.checkpoint import Checkpoints
from crn_jax.data.examples import Source
from crn_jax.data.labels.published import CITYSCAPES
from crn_jax.data.pipeline import training_batches, validation_batches
from crn_jax.data.sources import open_source
from crn_jax.errors import UserError
from crn_jax.evaluation import make_eval_step
from crn_jax.run import describe_data, load_run, read_description
from crn_jax.train import TrainState, make_train_step
from launch import hidden_choices, synthesize, train
from launch.common.command_line import parse, parse_stages
from launch.common.contact_sheet import grid
from launch.common.exit_status import TRY_AGAIN
from launch.common.terminal import console
from launch.training import session
from launch.training.metrics_log import read_metrics
from launch.training.progress import announce
from launch.training.run_folder import check_room
from tests.support.commands import PATIENCE, ROOT, final_state, redescribe, refused_run, run, start, trained_lines, wait_for
from tests.support.rounding import assert_identical

KILLS = int(os.environ.get("CRN_JAX_KILLS", "2"))
EPOCHS = 2 + KILLS  # room for them
LONG = ["--epochs", str(EPOCHS), "--run.checkpoint_every", "4", "--run.validate_every", "16", "--run.log_every", "3"]
STEPS = 6 * EPOCHS
VALIDATED = [*range(0, STEPS, 16), STEPS]
PAUSE = 0.2
"""Seconds before each step of a process that is disturbed: it lives that long for each step that it has not trained yet."""


@pytest.fixture(scope="module")
def tiny(tiny) -> list[str]:
    """16x32 pixels suffice here."""
    return [*tiny, "--cascade.base", "2", "4"]


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    run([*tiny, *LONG], folder)
    return folder


def test_layouts_that_are_read_differently_do_not_resume(tiny, uninterrupted, tmp_path):
    """A changed label file reads layouts differently. A cache in another place does not."""
    shutil.copytree(uninterrupted, tmp_path / "copy")

    def exchange(description: dict) -> None:
        classes = description["label_space"]["classes"]
        classes[0], classes[1] = classes[1], classes[0]

    description = redescribe(tmp_path / "copy", exchange)
    assert "label_space.classes: the layouts are read differently now" in refused_run([*tiny, *LONG], tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "run.json").read_text()) == description


def test_a_cache_changes_nothing(tiny, uninterrupted, tmp_path):
    cache = ["--data.cache", str(tmp_path / "cache")]
    with console.capture() as capture:
        run([*tiny, *cache, "--cache_only"], tmp_path / "cached")
    assert "70 examples of 16x32" in capture.get() and not (tmp_path / "cached").exists()
    run([*tiny, *LONG, *cache, "--steps", "10"], tmp_path / "cached")
    run([*tiny, *LONG, *cache], tmp_path / "cached")  # resumed within an epoch
    assert_identical(final_state(tmp_path / "cached"), final_state(uninterrupted))
    run([*tiny, *LONG], tmp_path / "cached")  # and it may be left out later


def test_kernels_in_the_order_of_gpus_change_nothing(tiny, uninterrupted, tmp_path, monkeypatch):
    """Made, trained, saved, loaded and trained on in another order in memory, here on the CPU; but for rounding."""
    monkeypatch.setattr(sharding, "is_gpu", lambda _: True)
    orders = set()

    def order(kernel: jax.Array) -> tuple[int, ...]:
        return kernel.format.layout.major_to_minor

    def step_that_looks(objective, abstract):
        step = make_train_step(objective, abstract)

        def looking(state, *arguments):
            orders.add(order(state.opt_state["module_1"].mu["conv2"]["kernel"]))
            state, metrics = step(state, *arguments)
            orders.add(order(state.params["module_1"]["conv2"]["kernel"]))
            return state, metrics

        looking.lower = step.lower
        return looking

    monkeypatch.setattr(session, "make_train_step", step_that_looks)
    run([*tiny, *LONG, "--steps", "3"], tmp_path / "run")
    run([*tiny, *LONG, "--steps", "6"], tmp_path / "run")
    assert orders == {(3, 0, 1, 2)}
    got, expected = (
        {line["step"]: line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line}
        for folder in (tmp_path / "run", uninterrupted)
    )
    assert {3, 6} <= got.keys() & expected.keys()
    # The orders differ by rounding. Adam makes a whole step of a gradient that is nothing but rounding, but the loss does not
    # follow such a step: its slope along it is that gradient.
    for step in (3, 6):
        np.testing.assert_allclose(got[step], expected[step], rtol=1e-5)


def test_a_run_does_not_go_back(tiny, uninterrupted, tmp_path, monkeypatch):
    """There are no checkpoints of earlier steps. A run that is trained as far as it is asked to be is left as it is."""
    shutil.copytree(uninterrupted, tmp_path / "copy")
    assert f"trained to step {STEPS} already, but only 5 steps are asked for" in refused_run(
        [*tiny, *LONG, "--steps", "5"], tmp_path / "copy"
    )
    monkeypatch.setattr(session, "compile_step", None)  # there is no step to compute
    run([*tiny, *LONG, "--steps", str(STEPS)], tmp_path / "copy")
    assert_identical(final_state(tmp_path / "copy"), final_state(uninterrupted))


def test_a_run_folder_holds_everything(uninterrupted, random_vgg_file):
    description = json.loads((uninterrupted / "run.json").read_text())
    assert description["experiment"]["cascade"]["widths"] == [8, 8, 8, 8]
    assert description["label_space"]["classes"][-1] == "void"
    assert description["vgg19"]["file"] == random_vgg_file.name
    sheets = sorted(p.name for p in (uninterrupted / "contact_sheets").iterdir())
    assert sheets == [f"step_{step:07d}.png" for step in VALIDATED]
    with Image.open(uninterrupted / "contact_sheets" / sheets[-1]) as sheet:
        assert sheet.width == 3 * 256 + 4 * 4
    assert list((uninterrupted / "tensorboard").iterdir())

    lines = read_metrics(uninterrupted / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(3, STEPS + 1, 3))
    training = next(line for line in lines if "loss" in line)
    total = sum(training["terms"][name] * training["lambda"][name] for name in training["terms"])
    assert training["loss"] == pytest.approx(total, rel=1e-5)
    assert lines[0].keys() == {"step", "mean_photograph"}
    assert [line["step"] for line in lines if "validation" in line] == VALIDATED


def test_the_last_checkpoints_and_the_best_are_kept(uninterrupted):
    checkpoints = Checkpoints(uninterrupted / "checkpoints")
    lines = read_metrics(uninterrupted / "metrics.jsonl")
    validated = {line["step"]: line["validation"]["distance"] for line in lines if "validation" in line}
    best = min((step for step in validated if step), key=validated.get)
    assert checkpoints.steps() == sorted({best, STEPS - 4, STEPS}) and checkpoints.best_step() == best
    checkpoints.close()


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tiny, uninterrupted, tmp_path):
    run([*tiny, *LONG], tmp_path / "again")
    assert_identical(final_state(uninterrupted), final_state(tmp_path / "again"))
    run([*tiny, *LONG, "--seed", "1", "--epochs", "1"], tmp_path / "other")
    a, b = (final_state(folder).params["to_rgb"]["kernel"] for folder in (uninterrupted, tmp_path / "other"))
    assert (a != b).any()


def test_killed_at_any_moment_and_resumed_it_ends_bit_identical(tiny, uninterrupted, tmp_path):
    """SIGKILL, in turn at a random moment and while a checkpoint is being written; CRN_JAX_KILLS sets how often."""
    folder, moments = tmp_path / "killed", random.Random(0)
    kills = {"any moment": 0, "saving": 0}
    for kind in list(kills) * (KILLS // 2):
        process, lines = start([*tiny, *LONG], folder, pause=PAUSE), trained_lines(folder)
        wait_for(process, lambda before=lines: trained_lines(folder) > before)
        if kind == "saving":
            wait_for(process, lambda: list((folder / "checkpoints").glob("*tmp*")), poll=0.0005)
        else:
            time.sleep(moments.uniform(0, 3) * PAUSE)
        process.kill()
        process.communicate()
        kills[kind] += process.returncode == -signal.SIGKILL
    assert min(kills.values()) >= min(2, KILLS // 2)
    with console.capture() as capture:
        run([*tiny, *LONG], folder)
    assert f"Trained to step {STEPS}" in capture.get()
    assert_identical(final_state(uninterrupted), final_state(folder))
    steps = [line["step"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]
    assert steps == list(range(3, STEPS + 1, 3))


def test_of_two_trainings_in_a_folder_one_is_refused_and_nothing_is_lost(tiny, uninterrupted, tmp_path):
    """Two that start together, and a third while one of them trains; images are synthesized meanwhile."""
    folder = tmp_path / "both"
    together = [start([*tiny, *LONG], folder, pause=0.2) for _ in range(2)]
    wait_for(together[0], lambda: any(process.poll() is not None for process in together))
    ends = sorted(process.returncode for process in together if process.poll() is not None)
    assert ends == [2]
    winner, loser = sorted(together, key=lambda process: process.poll() is not None)
    held = rf"{folder} is in use: process {winner.pid} on \S+, since \S+ \S+ UTC, trains there"
    assert re.search(held, loser.communicate()[0])
    wait_for(winner, lambda: list((folder / "checkpoints").glob("[0-9]")))
    assert re.search(held, refused_run([*tiny, *LONG], folder))
    synthesize.main([str(folder), str(uninterrupted / "layouts" / "0.png"), "--out", str(tmp_path / "images")])
    assert winner.poll() is None and list((tmp_path / "images").iterdir())
    assert f"Trained to step {STEPS}" in winner.communicate()[0] and winner.returncode == 0
    assert_identical(final_state(uninterrupted), final_state(folder))


def test_sigterm_saves_and_exits_cleanly(tiny, uninterrupted, tmp_path):
    folder = tmp_path / "stopped"
    process = start([*tiny, *LONG, "--run.checkpoint_every", "1000"], folder, pause=PAUSE)
    wait_for(process, lambda: trained_lines(folder))
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == TRY_AGAIN and "Stopped and saved at step" in output
    run([*tiny, *LONG], folder)
    assert_identical(final_state(uninterrupted), final_state(folder))


def test_too_little_memory_is_said_with_what_needs_less(tiny, tmp_path, monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nA dump of the allocator")

    monkeypatch.setattr(session.TrainingLoop, "run", full)
    said = refused_run(tiny, tmp_path)
    assert "allocating 9 bytes" in said and "--cascade.dtype bfloat16, --remat full" in said and "dump" not in said


def test_a_cache_needs_a_folder(tiny, tmp_path):
    assert "--data.cache DIR" in refused_run([*tiny, "--cache_only"], tmp_path)


def test_storage_that_orbax_does_not_write_to_is_refused(tiny):
    assert "s3://bucket/run: only folders and gs:// can be used" in refused_run(tiny, "s3://bucket/run")


def test_lambda_is_rescaled_and_contributions_are_equal_when_measured_again(tiny, tmp_path):
    """The learning rate is 0, so a second measurement meets the expectation that λ was set by."""
    run([*tiny, "--epochs", "3", "--lambdas.rescale_epoch", "2", "--optimizer.learning_rate", "0"], tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    event = next(line for line in lines if "lambda_rescaled" in line)
    assert event["step"] == 12 and set(event["lambda_rescaled"]["before"].values()) == {1.0}
    after = np.array(list(event["lambda_rescaled"]["after"].values()))
    state = final_state(tmp_path)
    np.testing.assert_allclose(state.lambdas.weights, after, rtol=1e-6)

    experiment, *_ = read_description(tmp_path)
    source = open_source(experiment.data, "train", experiment.cascade.size)
    evaluate, vgg = make_eval_step(experiment.generator, experiment.perception), vgg_weights.load_vgg19(experiment.vgg.weights)
    terms = [evaluate(state.params, vgg, batch)[0][0, 0] for batch in validation_batches(source, 1, range(6))]
    contributions = np.mean(terms, 0) * after
    assert len(terms) == 6 and contributions.max() / contributions.min() < 1.01


def test_a_run_of_other_settings_is_not_resumed(tiny, uninterrupted, tmp_path):
    message = refused_run([*tiny, "--cascade.widths", "8", "8", "8", "4", "--seed", "3"], uninterrupted)
    assert "cascade.widths: [8, 8, 8, 8], now [8, 8, 8, 4]" in message and "seed: 0, now 3" in message
    assert "--run.folder" in message


def test_a_run_without_a_step_takes_other_settings(tiny, uninterrupted, tmp_path):
    """Its first start may have failed for want of memory, which other settings mend."""
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoints"))
    given = [*tiny, *LONG, "--seed", "3", "--steps", "2"]
    assert "seed: 0, now 3" in refused_run(given, tmp_path)  # metrics.jsonl tells of steps
    (tmp_path / "metrics.jsonl").unlink()
    run(given, tmp_path)
    assert read_description(tmp_path)[0].seed == 3 and "seed: 3, now 4" in refused_run([*given, "--seed", "4"], tmp_path)


def test_a_last_step_that_was_not_validated_is_validated(tiny, uninterrupted, tmp_path):
    """A run may have been stopped at the step to which it is to be trained now."""
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    step = max(step for step in Checkpoints(tmp_path / "checkpoints").steps() if step not in VALIDATED)
    for later in Checkpoints(tmp_path / "checkpoints").steps():
        if later > step:
            shutil.rmtree(tmp_path / "checkpoints" / str(later))
    run([*tiny, *LONG, "--steps", str(step)], tmp_path)
    assert (tmp_path / "contact_sheets" / f"step_{step:07d}.png").is_file()
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert last["step"] == step and last["validation"]["distance"] > 0


def test_a_run_is_not_resumed_on_other_data(tiny, uninterrupted):
    """Steps per epoch and the order of the data would change under it."""
    message = refused_run([*tiny, *LONG, "--data.num_scenes", "7"], uninterrupted)
    assert "data.num_scenes: 6, now 7" in message and "data.steps_per_epoch: 6, now 7" in message


def test_names_that_are_not_utf8_identify_the_data():
    sources = [Source(CITYSCAPES, [os.fsdecode(name)], (16, 16)) for name in (b"\xe4.png", b"\xe5.png")]
    one, other = (describe_data(source, 1) for source in sources)
    assert one["names_sha256"] != other["names_sha256"]


def test_a_bad_file_in_the_middle_loses_nothing(tiny, uninterrupted, tmp_path, monkeypatch):
    """The error is the file's; the steps before it are saved."""

    def batches(*arguments):
        yield from itertools.islice(training_batches(*arguments), 5)
        raise UserError("b.png: the image is truncated")

    with monkeypatch.context() as patch:
        patch.setattr(session, "training_batches", batches)
        assert "b.png: the image is truncated" in refused_run([*tiny, *LONG], tmp_path)
    assert Checkpoints(tmp_path / "checkpoints").latest_step() == 5
    run([*tiny, *LONG], tmp_path)
    assert_identical(final_state(uninterrupted), final_state(tmp_path))


def test_batches_and_collections_train_and_validate(tiny, uninterrupted, tmp_path):
    """A collection that starts from a run with one image."""
    arguments = "--epochs 1 --batch_size 2 --cascade.num_images 2 --loss.best_per class --remat images".split()
    arguments += ["--data.no_clear_days", "--init_from", str(uninterrupted), "--optimizer.learning_rate", "0"]
    arguments += ["--cascade.base", "6", "8"]  # where cars are large enough to have a colour
    run([*tiny, *arguments, "--run.validation_examples", "3"], tmp_path)
    began, params = load_run(uninterrupted).params, final_state(tmp_path).params
    assert params["to_rgb"]["bias"].shape == (6,)
    jax.tree.map(np.testing.assert_array_equal, params["module_3"], began["module_3"])
    averaged = load_run(tmp_path).params
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), averaged, params)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    validation = lines[-1]["validation"]
    assert trained_lines(tmp_path) == 1
    assert 0 < validation["diversity"]["class_distance"] <= validation["distance"] * (1 + 1e-5)
    assert np.shape(validation["diversity"]["wins"]) == (2, 20)
    with Image.open(tmp_path / "contact_sheets" / "step_0000003.png") as sheet:
        assert sheet.width == 5 * 256 + 6 * 4  # layout, photograph, two images, and what they assemble to

    with console.capture() as capture:
        hidden_choices.main([str(tmp_path)])
    hours, hit, *_ = re.search(r"(\d\.\d\d) +(\d+)% +(\d\.\d\d) +(\d+)%", capture.get()).groups()
    assert 1 <= float(hours) <= 2 and 0 < int(hit) <= 100

    layout, out = str(tmp_path / "layouts" / "0.png"), tmp_path / "out"

    def synthesized(*options):
        synthesize.main([str(tmp_path), layout, "--out", str(out), *options])
        written = {path.stem: np.asarray(Image.open(path)) for path in out.iterdir()}
        shutil.rmtree(out)
        return written

    both, one = synthesized(), synthesized("--index", "1")
    assert both.keys() == {"0_0", "0_1"} and one.keys() == {"0"}
    np.testing.assert_array_equal(one["0"], both["0_1"])
    np.testing.assert_array_equal(synthesized("--grid")["0"], grid(np.stack([both["0_0"], both["0_1"]])))
    picked = synthesized("--pick", "road=1", "--sheet")
    roads = read_description(tmp_path)[1].read(Path(layout)) == 0
    assert picked.keys() == {"0", "contact_sheet"} and roads.any()
    np.testing.assert_array_equal(picked["0"], np.where(roads[..., None], both["0_1"], both["0_0"]))


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tiny, tmp_path):
    message = refused_run([*tiny, "--optimizer.learning_rate", "1e38", "--run.checkpoint_every", "1"], tmp_path)
    assert "Not a finite number at step 2: input, conv1_2" in message and "step 1, is kept" in message
    assert Checkpoints(tmp_path / "checkpoints").steps() == [1]


def test_a_full_disk_does_not_hang_the_log(tmp_path):
    """tensorboardX's own writer would block for ever here."""
    program = f"""
from launch.training.metrics_log import MetricsLog
import numpy as np, pathlib
log = MetricsLog(pathlib.Path({str(tmp_path)!r}), 0)
for step in range(100):
    log.picture(step, "noise", np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    log.write(step, {{"loss": 1.0}})
"""
    command = ["bash", "-c", 'ulimit -f 40; exec "$@"', "bash", sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert "OSError" in result.stderr and result.returncode == 1


@pytest.mark.parametrize("kilobytes", [4, 100])
def test_a_full_disk_is_reported_and_the_run_goes_on_from_its_last_checkpoint(kilobytes, tiny, uninterrupted, tmp_path):
    """A limit on file sizes makes writes fail as a full disk does: that of anything, and that of a checkpoint only."""
    folder = tmp_path / "full"
    run([*tiny, *LONG, "--epochs", "1"], folder)
    process = start([*tiny, *LONG], folder, before=f"ulimit -f {kilobytes}")
    output, _ = process.communicate()
    assert process.returncode == 2
    assert f"{folder} could not be written" in output and "goes on from step 6, its last good checkpoint" in output
    run([*tiny, *LONG], folder)
    assert_identical(final_state(uninterrupted), final_state(folder))


def test_room_is_looked_for_before_each_save(tiny, tmp_path, monkeypatch):
    usage = shutil.disk_usage

    def less_after_the_first_save(path):
        return usage(path)._replace(free=1000 if (tmp_path / "checkpoints" / "4").exists() else 1 << 30)

    monkeypatch.setattr(shutil, "disk_usage", less_after_the_first_save)
    said = refused_run([*tiny, *LONG], tmp_path)
    assert re.search(rf"{tmp_path} has 0.000 GB free; 0.00[12] GB are needed for 1 checkpoint of this training", said)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [4]


def test_room_is_looked_for_where_the_checkpoints_are(tmp_path, monkeypatch):
    """`checkpoints` may be a link to another disk."""
    (tmp_path / "run").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk")
    usage, free = shutil.disk_usage(tmp_path), {"run": 1 << 30, "disk": 1000}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free[Path(path).resolve().name]))
    with pytest.raises(UserError, match=r"0\.000 GB free; 0\.002 GB are needed for 2 checkpoints"):
        check_room(str(tmp_path / "run"), {"params": np.zeros(10, np.float32)}, copies=2)
    free.update(run=1000, disk=1 << 30)
    check_room(str(tmp_path / "run"), {"params": np.zeros(10, np.float32)}, copies=2)


def test_a_folder_that_cannot_be_written_is_named(tiny, tmp_path):
    (tmp_path / "file").touch()
    assert f"The run folder {tmp_path / 'file' / 'run'} cannot be written" in refused_run(tiny, tmp_path / "file" / "run")


def test_random_vgg_weights_are_announced_everywhere(tiny, tmp_path, monkeypatch):
    def offline(**_):
        raise UserError("no network")

    monkeypatch.setattr(vgg_weights, "download_vgg19", offline)
    at = tiny.index("--vgg.weights")
    without_vgg = tiny[:at] + tiny[at + 2 :]
    with console.capture() as capture:
        run([*without_vgg, "--epochs", "1"], tmp_path / "demo")
    assert "seeded RANDOM weights" in capture.get() and "no network" in capture.get()
    assert json.loads((tmp_path / "demo" / "run.json").read_text())["vgg19"]["weights"] == "random"
    with Image.open(tmp_path / "demo" / "contact_sheets" / "step_0000006.png") as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    assert (sheet[:60, :, 0] - sheet[:60, :, 1:].max(-1) > 150).sum() > 100  # the warning is red
    assert "no network" in refused_run([*without_vgg, "--vgg.no_allow_random"], tmp_path / "real")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), ""),
        (
            ("--lambdas.rescale_epoch", "None", "--lambdas.conv5_2_factor", "2"),
            "--lambdas.conv5_2_factor has no effect, because λ is never rescaled.",
        ),
        (
            ("--optimizer.schedule", "authors_fallback", "--init_moments", "kept"),
            "--optimizer.schedule authors_fallback has rates of its own, so --optimizer.learning_rate 0.0001 is not used. "
            "--init_moments kept has no effect without --init_from: there is no run whose moments to keep.",
        ),
    ],
)
def test_settings_without_effect_are_told(arguments, told):
    experiment = parse(["demo", "--optimizer.learning_rate", "1e-4", *arguments]).experiment
    mesh = sharding.make_mesh(experiment.sharding, experiment.batch_size, experiment.size[0])
    state = TrainState(*({} for _ in TrainState._fields))
    with console.capture() as capture:
        announce(experiment, mesh, state, 0, 1000, {"weights": "file"})
    screen = " ".join(capture.get().split())
    assert told in screen and ("no effect" in screen) == bool(told) and ("not used" in screen) == ("not used" in told)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["camvid_96x182"], "There is no experiment 'camvid_96x182'. Did you mean 'camvid_96x128'?"),
        (["camvid_96x128"], "needs its folder: --data.root DIR"),
        (["demo", "--vgg.weights", "none.h5"], "none.h5: there is no such file"),
    ],
)
def test_a_wrong_command_says_what_is_right(arguments, message, tmp_path):
    assert message in refused_run(arguments, tmp_path)


def test_a_misspelt_field_gets_a_suggestion(capsys):
    with pytest.raises(SystemExit):
        parse(["demo", "--data.rot", "x"])
    assert "--data.root" in "".join(capsys.readouterr())


def test_every_experiment_and_recipe_parses_and_is_listed():
    for name in EXPERIMENTS:
        assert parse([name]).experiment.name == name
    for name, recipe in RECIPES.items():
        assert [stage.experiment.name for stage in parse_stages([name])] == [f"{name}_{stage}" for stage in recipe.stages]
    with console.capture() as capture, pytest.raises(SystemExit):
        train.main(["--help"])
    assert all(name in capture.get() for name in [*EXPERIMENTS, *RECIPES])
