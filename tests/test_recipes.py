"""A cascade that grows in stages through the command line: where each stage starts, and what survives an interruption."""

import dataclasses
import itertools
import os
import shlex
import signal

import jax
import numpy as np
import pytest

from configs import RECIPES
from crn_jax.data.pipeline import training_batches
from crn_jax.errors import UserError
from crn_jax.growth import Recipe
from crn_jax.lambdas import LambdaConfig
from crn_jax.run import load_run
from crn_jax.settings import RELEASED_WEIGHTS
from launch import train
from launch.common import command_line
from launch.common.command_line import parse_stages
from launch.common.exit_status import TRY_AGAIN
from launch.common.stop_signals import Stop
from launch.common.terminal import console
from launch.training import session
from tests.support.commands import final_state, refused_run, run
from tests.support.rounding import assert_identical

STAGES = {"small": "--cascade.widths 8 8 8 --steps 4", "large": "--steps 3 --optimizer.freeze module_[01] --init_moments kept"}


def two_stages(tiny: list[str], **changed: str) -> Recipe:
    """24x32, then 48x64, where the first two modules stay as they are."""
    return Recipe("Two stages.", {stage: f"{shlex.join(tiny)} {words}" for stage, words in {**STAGES, **changed}.items()})


@pytest.fixture
def recipe(tiny, monkeypatch):
    """`grown`, as it is here, or with other arguments for a stage."""

    def define(**changed: str) -> None:
        monkeypatch.setitem(RECIPES, "grown", two_stages(tiny, **changed))

    define()
    return define


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grown")
    with pytest.MonkeyPatch.context() as patch, console.capture() as capture:
        patch.setitem(RECIPES, "grown", two_stages(tiny))
        run(["grown"], folder)
    return folder, capture.get()


def test_each_stage_starts_from_the_one_before(uninterrupted):
    folder, said = uninterrupted
    small, large = final_state(folder / "small"), final_state(folder / "large")
    assert (int(small.step), int(large.step)) == (4, 3)
    assert f"Started from {folder / 'small'}, step 4: module_0, module_1, module_2. Fresh: module_3, to_rgb." in said
    assert "Adam's moments kept: module_2." in said
    for part in ("module_0", "module_1"):
        jax.tree.map(np.testing.assert_array_equal, large.params[part], small.params[part])
    assert {part: int(moments.count) for part, moments in large.opt_state.items()} == {
        "module_2": 7,
        "module_3": 3,
        "to_rgb": 3,
    }
    assert load_run(folder / "large").experiment.name == "grown_large"


def test_it_goes_on_in_whichever_stage_it_was(recipe, uninterrupted, tmp_path, monkeypatch):
    small, large = (command.experiment.size for command in parse_stages(["grown"]))

    def cut_off(at: tuple[int, int], steps: int):
        """Batches that end with an error after so many at this size."""

        def batches(source, *arguments):
            yield from itertools.islice(training_batches(source, *arguments), steps if source.size == at else None)
            raise UserError("cut off")

        return batches

    for at, steps in ((small, 2), (large, 0), (large, 1)):  # in the first stage, between the two, in the second
        with monkeypatch.context() as patch:
            patch.setattr(session, "training_batches", cut_off(at, steps))
            assert "cut off" in refused_run(["grown"], tmp_path)
    run(["grown"], tmp_path)
    for stage in STAGES:
        assert_identical(final_state(tmp_path / stage), final_state(uninterrupted[0] / stage))
    run(["grown"], tmp_path)  # nothing is left to do
    assert_identical(final_state(tmp_path / "large"), final_state(uninterrupted[0] / "large"))


def test_a_stage_that_was_asked_to_stop_is_the_last(recipe, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(session, "train", lambda experiment, *_: trained.append(experiment.name))  # None: not done
    with pytest.raises(SystemExit) as exit_:
        run(["grown"], tmp_path)
    assert exit_.value.code == TRY_AGAIN and trained == ["grown_small"]


def test_a_signal_in_the_last_validation_of_a_stage_stops_the_recipe(recipe, tmp_path, monkeypatch):
    trained = []

    def train(experiment, *_) -> bool:
        trained.append(experiment.name)
        with Stop() as stop:
            assert not stop.requested()
            os.kill(os.getpid(), signal.SIGTERM)  # after the last step, all of which are done
        return True

    monkeypatch.setattr(session, "train", train)
    with pytest.raises(SystemExit) as exit_:
        run(["grown"], tmp_path)
    assert exit_.value.code == TRY_AGAIN and trained == ["grown_small"]
    monkeypatch.setitem(
        RECIPES, "grown", dataclasses.replace(RECIPES["grown"], stages={"small": RECIPES["grown"].stages["small"]})
    )
    run(["grown"], tmp_path)  # nothing is left that could be stopped


@pytest.mark.parametrize(
    ("large", "message"),
    [
        (
            "--cascade.widths 8 6 8 8",
            r"grown_large cannot start from grown_small: module_1/conv1/kernel: it has shape \(3, 3, 28, 8\), but",
        ),
        ("--optimizer.freeze module_4", "freeze module_4: there is no such part"),
    ],
)
def test_a_stage_that_does_not_fit_is_refused_before_any_is_trained(recipe, large, message, tmp_path):
    recipe(large=large)
    with pytest.raises(UserError, match=message):
        parse_stages(["grown", "--run.folder", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_what_is_set_is_set_for_each_stage_and_the_first_may_start_elsewhere(recipe):
    stages = [command.experiment for command in parse_stages(["grown", "--seed", "7", "--init_from", "runs/begun"])]
    assert [stage.seed for stage in stages] == [7, 7]
    assert [stage.init_from for stage in stages] == ["runs/begun", "runs/grown/small"]
    assert [stage.folder for stage in stages] == ["runs/grown/small", "runs/grown/large"]
    named = [command.experiment for command in parse_stages(["grown", "--name", "mine"])]
    assert [stage.folder for stage in named] == ["runs/mine/small", "runs/mine/large"]
    assert [stage.name for stage in named] == ["mine_small", "mine_large"]
    assert command_line.parse(["demo"]).experiment.init_from is None


def test_all_stages_are_estimated(recipe, monkeypatch):
    estimated = []
    monkeypatch.setattr("launch.cost.dry_run.dry_run", lambda experiment, topology: estimated.append(experiment.size))
    train.main(["grown", "--dry_run"])
    assert estimated == [(24, 32), (48, 64)]


def test_the_released_recipe_has_the_weights_of_the_released_programs():
    weights = [RELEASED_WEIGHTS[program] for program in ("cityscapes_256p", "cityscapes_512p", "cityscapes_512p")]
    stages = [command.experiment.lambdas for command in parse_stages(["cityscapes_grow_released"])]
    assert stages == [LambdaConfig(initial=each, rescale_epoch=None) for each in weights]
