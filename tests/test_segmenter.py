"""The encoder-decoder and, made of it, the segmenter: their definition, the loss, and training through launch.train."""

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from crn_jax.data.sources import open_source
from crn_jax.errors import UserError
from crn_jax.experiment import SegmenterExperiment
from crn_jax.generator import count_parameters
from crn_jax.run import load_run
from crn_jax.scores.segmenter import SegmenterConfig, SegmenterObjective, scaled, segment
from crn_jax.sharding import ShardingConfig, formats_of, make_mesh, put, put_batch
from crn_jax.train import OptimizerConfig, abstract_state, init_state, make_train_step
from crn_jax.unet import EncoderDecoder
from launch import synthesize, train
from launch.common.command_line import parse
from launch.common.terminal import console
from launch.training.metrics_log import read_metrics
from launch.training.segmenter_validation import SegmenterValidator
from tests.support import reference

CONFIG = SegmenterConfig(num_classes=4, size=(16, 24), widths=(6, 7, 8))
OBJECTIVE = SegmenterObjective(CONFIG, OptimizerConfig(learning_rate=1e-2), steps_per_epoch=5)


@pytest.fixture(scope="module")
def params() -> dict:
    """Moved off their initial values, so that a swapped pair shows."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: np.asarray(leaf + rng.uniform(-0.1, 0.1, leaf.shape), np.float32), init_state(OBJECTIVE, 0).params
    )


@pytest.fixture(scope="module")
def batch() -> dict:
    rng = np.random.default_rng(1)
    return {
        "layout": rng.integers(0, 4, (8, 16, 24)).astype(np.uint8),
        "photograph": rng.integers(0, 256, (8, 16, 24, 3)).astype(np.uint8),
    }


def scores_of(params, batch):
    return reference.encoder_decoder(jax.tree.map(np.float64, params), np.asarray(scaled(batch["photograph"]), np.float64))


def test_the_encoder_decoder_equals_its_definition(params, batch):
    got = jax.jit(CONFIG.network().apply)({"params": params}, scaled(batch["photograph"][:2]))
    assert got.shape == (2, 16, 24, 3) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, scores_of(params, batch)[:2], atol=2e-4)


def test_its_parameters_by_hand():
    widths, channels_in = (6, 7, 8), (3, 6, 7)
    blocks = [(c, d) for c, d in zip(channels_in, widths)] + [(8 + 7, 7), (7 + 6, 6)]
    by_hand = sum(9 * c * d + 9 * d * d + 4 * d for c, d in blocks) + 6 * 3 + 3
    assert count_parameters(abstract_state(OBJECTIVE).params) == by_hand


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match=r"multiples of 2\^2 pixels, got 16x18"):
        EncoderDecoder((4, 4, 4), 3).init(jax.random.key(0), jnp.zeros((1, 16, 18, 3)))
    with pytest.raises(ValueError, match=r"multiples of 2\^\(levels - 1\) = 4, got 16 18"):
        SegmenterConfig(4, (16, 18), (4, 4, 4))
    with pytest.raises(ValueError, match="one or more positive numbers"):
        SegmenterConfig(4, (16, 16), (4, 0))


def test_the_loss_is_the_cross_entropy_of_what_is_not_void(params, batch):
    loss, metrics = jax.jit(OBJECTIVE.loss_of)(params, None, {}, batch, 0)
    scores, layout = scores_of(params, batch), batch["layout"]
    log = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    known = layout < 3
    expected = [-log[place][layout[place]] for place in zip(*np.nonzero(known))]
    assert loss == pytest.approx(np.mean(expected), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx((scores.argmax(-1) == layout)[known].mean(), abs=1e-3)


def test_layouts_that_are_all_void_teach_nothing(params, batch):
    void = batch | {"layout": np.full_like(batch["layout"], 3)}
    (loss, metrics), gradient = jax.jit(jax.value_and_grad(OBJECTIVE.loss_of, has_aux=True), static_argnums=1)(
        params, None, {}, void, 0
    )
    assert loss == 0 and metrics["accuracy"] == 0
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), gradient)


def test_answers_are_the_best_scores_and_never_void(params, batch):
    answers = np.asarray(segment(CONFIG, params, batch["photograph"]))
    assert answers.dtype == np.uint8 and answers.max() < 3
    assert (answers == scores_of(params, batch).argmax(-1)).mean() > 0.999
    with pytest.raises(ValueError, match="for photographs of 16x24"):
        segment(CONFIG, params, batch["photograph"][:, :8])


def two_steps(shape, batch) -> tuple[list, float]:
    """Adam's first moments after two steps on a mesh, and the second step's loss."""
    objective = dataclasses.replace(OBJECTIVE, segmenter=dataclasses.replace(CONFIG, dtype="float64"))
    initial = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64 if leaf.ndim else None), init_state(OBJECTIVE, 0))
    mesh = make_mesh(ShardingConfig(shape), 8, 16)
    abstract = abstract_state(objective, mesh)
    with jax.set_mesh(mesh):
        state = jax.device_put(initial, formats_of(abstract))
        step = make_train_step(objective, abstract)
        for _ in range(2):
            state, metrics = step(state, put(mesh, {}), put_batch(mesh, 8, batch))
    return jax.tree.map(np.asarray, [part.mu for part in state.opt_state.values()]), float(metrics["loss"])


def test_two_steps_on_a_mesh_equal_those_on_one_device(batch):
    """The steps are in float64, because Adam makes a whole step even of a gradient that is nothing but rounding."""
    with jax.enable_x64(True):
        (moments, loss), (expected_moments, expected_loss) = two_steps((2, 2), batch), two_steps((1, 1), batch)
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10), moments, expected_moments)


@pytest.fixture(scope="module")
def trained(tiny_segmenter):
    _, folder = tiny_segmenter
    return folder


def test_it_learns_what_colours_mean(trained):
    """Streets, whose surfaces have colours of their own; what is learned is kept, with its pictures."""
    lines = [line["validation"] for line in read_metrics(trained / "metrics.jsonl") if "validation" in line]
    assert lines[-1]["miou"] > lines[0]["miou"] and lines[-1]["accuracy"] > 0.5
    assert lines[-1].keys() == {"miou", "accuracy"}
    floor = read_metrics(trained / "metrics.jsonl")[0]["most_frequent_class"]
    assert 0.1 < floor["accuracy"] < lines[-1]["accuracy"]
    run = load_run(trained, "best", kind=SegmenterExperiment)
    assert run.experiment.segmenter.size == (48, 64) and run.vgg19 == {"weights": "none"}
    with Image.open(sorted((trained / "contact_sheets").iterdir())[-1]) as sheet:
        assert sheet.width == 3 * 256 + 4 * 4
    assert not (trained / "layouts").exists()


def test_held_out_layouts_of_void_alone_are_refused(tiny_segmenter):
    experiment = parse(tiny_segmenter[0]).experiment
    source = open_source(experiment.data, "val", experiment.size)
    void = [example | {"layout": np.full_like(example["layout"], 19)} for example in (source[0], source[1])]
    mesh = make_mesh(experiment.sharding, experiment.batch_size, experiment.size[0])
    abstract = abstract_state(experiment.objective(1), mesh)
    with pytest.raises(UserError, match="The 2 held-out layouts of the validation have no class but void.* launch.inspect"):
        SegmenterValidator(experiment, void, mesh, abstract, {}, source).floor()


def test_a_segmenter_is_resumed_and_is_no_cascade(tiny_segmenter, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    with console.capture() as capture:
        train.main([*tiny_segmenter[0], "--run.folder", str(tmp_path / "copy"), "--epochs", "41"])
    assert "Resuming" in capture.get() and "Trained to step 123" in capture.get()
    with pytest.raises(UserError, match="trains a segmenter; here one that trains a cascade is needed"):
        load_run(trained)
    with console.capture() as capture, pytest.raises(SystemExit):
        synthesize.main([str(trained), str(tmp_path)])
    assert "trains a segmenter" in capture.get()
    with console.capture() as capture, pytest.raises(SystemExit):
        train.main(["segmenter_camvid", "--dry_run"])
    assert "--dry_run: 'segmenter_camvid' trains a segmenter; here one that trains a cascade is needed" in capture.get()
