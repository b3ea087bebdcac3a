import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from configs import EXPERIMENTS, camvid_96x128, cityscapes_256p, cityscapes_1024p, demo
from crn_jax.data.sources import DataConfig, label_space_of
from crn_jax.errors import UserError
from crn_jax.experiment import RunConfig, Start, from_json, to_json
from crn_jax.growth import Recipe
from crn_jax.losses import Perception
from crn_jax.resuming import differences
from crn_jax.settings import (
    PAPER_WIDTHS,
    CascadeConfig,
    EncoderDecoderConfig,
    FullResolutionConfig,
    GANConfig,
    GANLossConfig,
    LambdaConfig,
    OptimizerConfig,
)
from crn_jax.vgg_weights import VGGConfig, random_vgg19
from launch.common import command_line
from launch.training.frozen import objective_and_frozen
from launch.training.loop import VALIDATORS

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_json_round_trip(name):
    experiment = EXPERIMENTS[name]
    assert experiment.name == name
    stored = from_json(json.loads(json.dumps(to_json(experiment))))
    assert stored == experiment and type(stored) is type(experiment)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_runs_stored_before_json_named_the_kind(name):
    """Nor had they a description."""
    experiment = EXPERIMENTS[name]
    fields = json.loads(json.dumps(to_json(experiment)))
    assert fields.pop("kind") == experiment.trains and fields.pop("about") == experiment.about
    stored = from_json(fields)
    assert stored == dataclasses.replace(experiment, about="") and type(stored) is type(experiment)
    assert "kind" not in fields  # the caller's dict is left alone
    assert differences(stored, experiment) == []


def test_a_kind_that_is_not_known_is_named():
    with pytest.raises(UserError, match="of a kind that this version of crn_jax does not know: 'video'"):
        from_json(to_json(demo) | {"kind": "video"})


def test_a_run_of_another_kind_differs():
    asked = dataclasses.replace(EXPERIMENTS["camvid_encoder_decoder"], name=camvid_96x128.name)
    assert "kind: cascade, now baseline" in differences(camvid_96x128, asked)


def test_every_experiment_has_a_description_of_its_own():
    descriptions = [experiment.about for experiment in EXPERIMENTS.values()]
    assert len(set(descriptions)) == len(EXPERIMENTS)
    for about in descriptions:
        assert len(about.split()) > 5 and about.endswith(".") and "\n" not in about


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_a_kind_needs(name):
    experiment = EXPERIMENTS[name]
    assert (experiment.generator is None) == (experiment.vgg is None) == (experiment.trains == "segmenter")
    assert (experiment.segmenter_run is not None) == name.endswith("gan_segmentation")
    assert experiment.measured_by in VALIDATORS and experiment.start is None
    vgg, segmenter = {"conv1_1": 1}, {"level_0": 2} if experiment.segmenter_run else None
    adversarial = {"segmenter": segmenter} if segmenter else {}
    expected = {"cascade": vgg, "baseline": vgg, "gan": adversarial, "segmenter": {}}
    assert experiment.frozen(vgg, segmenter) == expected[experiment.trains]
    both = {"generator": 1, "discriminator": 2}
    assert experiment.inference_params(both) == (1 if experiment.trains == "gan" else both)


def test_where_a_training_starts():
    from_run = dataclasses.replace(demo, init_from="runs/a")
    assert from_run.start == Start("runs/a", keeps_moments=False)
    assert dataclasses.replace(from_run, init_moments="kept").start == Start("runs/a", keeps_moments=True)


def test_stored_experiments_that_do_not_fit_name_the_field():
    fields = to_json(demo)
    fields["cascade"]["depth"] = 3
    with pytest.raises(UserError, match=r"depth"):
        from_json(fields)
    fields = to_json(demo)
    del fields["cascade"]["num_classes"]
    with pytest.raises(UserError, match="num_classes"):
        from_json(fields)


def test_runs_stored_before_there_were_these_fields():
    fields = to_json(demo)
    del fields["remat"], fields["loss"]
    assert from_json(fields) == demo


def test_stored_values_that_are_refused_say_why():
    fields = to_json(demo)
    fields["lambdas"]["rescale_epoch"] = 0
    with pytest.raises(UserError, match="rescale_epoch counts from 1"):
        from_json(fields)


def test_the_papers_numbers():
    for experiment, modules, size in ((cityscapes_256p, 7, (256, 512)), (cityscapes_1024p, 9, (1024, 2048))):
        assert experiment.cascade.widths == PAPER_WIDTHS[:modules] and experiment.cascade.size == size
        assert experiment.optimizer.learning_rate == 1e-4 and experiment.batch_size == 1
    assert cityscapes_256p.lambdas.rescale_epoch == 100 and cityscapes_256p.epochs == 200


def test_what_may_change_between_restarts():
    moved = dataclasses.replace(
        camvid_96x128,
        epochs=99,
        remat="full",
        run=RunConfig(folder="elsewhere"),
        data=dataclasses.replace(camvid_96x128.data, root="/data", threads=7),
    )
    assert differences(camvid_96x128, moved) == []
    assert differences(camvid_96x128, dataclasses.replace(camvid_96x128, about="Another description.")) == []
    assert differences(camvid_96x128, dataclasses.replace(camvid_96x128, batch_size=2)) == ["batch_size: 1, now 2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cascade": dataclasses.replace(demo.cascade, num_classes=12)}, "streets has 20 classes.*is 12"),
        ({"data": dataclasses.replace(demo.data, source="cityscapes")}, "--vgg.allow_random is for streets only"),
        ({"cascade": dataclasses.replace(demo.cascade, widths=(4,))}, "at least 16x16; the cascade makes 4x8"),
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"batch_size": -2}, "--batch_size must be at least 1, got -2"),
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"seed": -1}, r"--seed must be at least 0 and less than 2\^31, got -1"),
        ({"seed": 2**31}, r"less than 2\^31, got 2147483648"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(demo, **change)


def test_images_are_compared_alike_whatever_they_are_trained_by():
    by_max = dataclasses.replace(demo, vgg=VGGConfig(pooling="max", allow_random=True))
    assert by_max.objective(1).perception == Perception("max")
    assert by_max.perception == demo.perception == demo.objective(1).perception == Perception("average")


def test_an_untrained_vgg_is_trained_with_but_does_not_judge():
    judge = {"the": "judge"}
    untrained = dataclasses.replace(demo, vgg=VGGConfig(untrained=True))
    _, frozen = objective_and_frozen(untrained, 1, judge)
    jax.tree.map(np.testing.assert_array_equal, frozen, random_vgg19(seed=0))
    assert objective_and_frozen(demo, 1, judge)[1] is judge


def test_steps_in_place_of_epochs():
    assert demo.last_step(steps_per_epoch=250) == 500
    assert dataclasses.replace(demo, steps=7).last_step(250) == 7
    assert differences(demo, dataclasses.replace(demo, steps=7)) == []


@pytest.mark.parametrize(
    ("words", "steps"), [("--steps 4", 4), ("--epochs 3", None), ("--epochs=3", None), ("--epochs 3 --steps 5", 5)]
)
def test_epochs_take_the_place_of_steps(monkeypatch, words, steps):
    """Those of the experiment, or of the run folder, that is trained further; and of a recipe's stages."""
    fixed = dataclasses.replace(demo, steps=250)
    monkeypatch.setattr(command_line, "named_experiment", lambda name: fixed)
    assert command_line.parse(["it", *words.split()]).experiment.steps == steps
    recipe = Recipe("It.", {"one": "it --steps 9", "two": "it --cascade.widths 8 8 8 8 8 8"})
    monkeypatch.setattr(command_line, "recipes", lambda: {"grown": recipe})
    with monkeypatch.context() as context:
        context.setattr(command_line, "check_growth", lambda before, experiment: None)
        stages = command_line.parse_stages(["grown", *words.split()])
        assert [stage.experiment.steps for stage in stages] == [steps, steps]
        assert [stage.experiment.steps for stage in command_line.parse_stages(["grown"])] == [9, 250]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo", "--init_from", ""], "--init_from is empty. Perhaps a variable of the shell is not set. Leave it out."),
        (["camvid_gan_segmentation", "--data.root", "D", "--segmenter", ""], "--segmenter is empty."),
        (["camvid_96x128", "--data.root", "", "--epochs", "3"], "--data.root is empty."),
        (["demo", "--profile", ""], "--profile is empty."),
        (["demo", "--optimizer.freeze", ""], "--optimizer.freeze is empty."),
        (["demo", "--data.root", "D"], "--data.root D is not for streets, which are drawn. Leave it out, or choose another"),
        (["demo", "--data.fit", "crop"], "--data.fit crop is not for streets"),
        (["packaged_streets", "--data.clear_days"], "--data.clear_days True is not for detailed_streets"),
        (["camvid_96x128", "--data.root", "D", "--data.num_scenes", "3"], "--data.num_scenes 3 is not for camvid. Leave"),
    ],
)
def test_options_that_would_change_nothing_are_refused(words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        command_line.parse_stages(words)


def test_what_a_run_has_stored_is_not_refused(monkeypatch):
    """An older version took an empty text, and options that a data set does not read. Defaults may be given, too."""
    stored = dataclasses.replace(demo, init_from="", data=dataclasses.replace(demo.data, root="D", fit="crop"))
    monkeypatch.setattr(command_line, "named_experiment", lambda name: stored)
    asked = command_line.parse(["runs/old", "--data.root", "None", "--steps", "9"]).experiment
    assert asked == dataclasses.replace(stored, steps=9, data=dataclasses.replace(stored.data, root=None))


def test_a_run_outlives_its_label_file(tmp_path):
    """Whatever has become of the file: run.json has the classes. Training checks the file itself."""
    own = dataclasses.replace(demo.data, source="folder", labels=str(tmp_path / "own.json"))
    experiment = dataclasses.replace(demo, data=own, vgg=VGGConfig())
    assert from_json(to_json(experiment)) == experiment
    (tmp_path / "own.json").write_text('{"classes": ["lawn", "path"]}')
    with pytest.raises(UserError, match=r"own.json has 3 classes, void included, but --cascade.num_classes is 20"):
        experiment.check_classes(label_space_of(own))


def test_intervals_must_be_positive():
    with pytest.raises(UserError, match="--run.log_every must be at least 1, got 0"):
        RunConfig(log_every=0)


def test_the_hub_is_no_place_to_train():
    with pytest.raises(UserError, match=r"--run\.folder hf://a/b: nothing is trained on the Hub"):
        RunConfig(folder="hf://a/b")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EncoderDecoderConfig(20, (72, 96), (4,) * 5), r"multiples of 2\^\(levels - 1\) = 16, got 72 96"),
        (lambda: EncoderDecoderConfig(20, (64, 96), ()), "one or more positive numbers, got ()"),
        (lambda: FullResolutionConfig(20, (96, 128), 4, layers=4), "see the whole of 16 pixels, not of 96x128"),
        (lambda: FullResolutionConfig(20, (96, 128), 0), "maps must be positive, got 0"),
        (lambda: GANConfig(20, (98, 128), "pix2pix"), "Sides of 98x128 can be halved 1 time"),
        (lambda: GANConfig(20, (16, 16), "pix2pix"), "16x16 is too small for a single patch of 4 levels"),
        (lambda: GANConfig(20, (8, 8), "dcgan"), r"can be halved 1 time \(to no less than 3\)"),
        (lambda: GANConfig(20, (64, 64), "dcgan", widths=(8, 0)), r"one or more positive numbers, got \(8, 0\)"),
        (lambda: GANConfig(20, (64, 64), "pix2pix", discriminator_widths=()), "one or more positive numbers"),
        (lambda: FullResolutionConfig(20, (64, 64), maps=8, num_images=0), "num_images must be positive, got 0"),
        (lambda: CascadeConfig(20, (8, 0)), r"one or more positive numbers, got \(8, 0\)"),
        (lambda: OptimizerConfig(learning_rate=-1), "learning_rate must be finite and not negative, got -1"),
        (lambda: OptimizerConfig(learning_rate=float("nan")), "learning_rate must be finite and not negative, got nan"),
        (lambda: OptimizerConfig(b1=1.0), "b1 must be at least 0 and less than 1, got 1.0"),
        (lambda: LambdaConfig(initial=(float("inf"),) * 6), "must not be negative, infinite or NaN, nor all 0"),
        (lambda: LambdaConfig(conv5_2_factor=-10), "conv5_2_factor must be finite and not negative, got -10"),
        (lambda: GANLossConfig(l1_weight=-1), "l1_weight must be finite and not negative, got -1"),
        (lambda: DataConfig("streets", num_scenes=0), "num_scenes must be at least 1"),
        (lambda: DataConfig("streets", threads=-1), "threads must not be negative, got 2000 and -1"),
    ],
)
def test_settings_that_no_training_can_have(make, message):
    """They are refused before anything is read or compiled, and not by a traceback in the first step."""
    with pytest.raises(ValueError, match=message):
        make()
