"""How the adversarial baselines are trained; the networks have tests of their own (test_adversarial.py)."""

import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

from configs import camvid_gan_segmentation
from crn_jax.baselines.gan import GANConfig, GANLossConfig, GANObjective
from crn_jax.errors import UserError
from crn_jax.experiment import GANExperiment
from crn_jax.run import load_run, read_description
from crn_jax.scores.segmenter import SegmenterConfig, SegmenterObjective, scaled
from crn_jax.synthesize import synthesize
from crn_jax.train import OptimizerConfig, init_state, make_train_step
from launch import evaluate, train
from launch.common.command_line import parse
from launch.common.terminal import console
from launch.training.frozen import load_segmenter
from launch.training.metrics_log import read_metrics
from launch.training.origins import origins_of
from tests.support.commands import redescribe

SIZE, CLASSES = (24, 32), 4
SEGMENTER = SegmenterConfig(CLASSES, SIZE, widths=(4, 5))
GAN = GANConfig(CLASSES, SIZE, "pix2pix", widths=(4, 5, 8), discriminator_widths=(4, 5))
OBJECTIVE = GANObjective(GAN, GANLossConfig(3.0, 0.5), OptimizerConfig(1e-3, b1=0.5), 5, SEGMENTER)


@pytest.fixture(scope="module")
def problem() -> tuple[dict, dict, dict]:
    """Parameters of both networks, the segmenter, and a batch with some void."""
    rng = np.random.default_rng(0)
    batch = {
        "layout": rng.integers(0, CLASSES, (1, *SIZE)).astype(np.uint8),
        "photograph": rng.integers(0, 256, (1, *SIZE, 3)).astype(np.uint8),
    }
    segmenter = init_state(SegmenterObjective(SEGMENTER, OptimizerConfig(), 1), 0).params
    return init_state(OBJECTIVE, 0).params, {"segmenter": segmenter}, batch


def parts(generator, discriminator, frozen, batch, step):
    """Both networks' losses, as pix2pix defines them, written one after the other."""
    layout = np.eye(CLASSES, dtype=np.float32)[batch["layout"]]
    photograph = batch["photograph"].astype(np.float32)
    rngs = {"dropout": jax.random.fold_in(jax.random.key(0), step)}
    image = GAN.network().apply({"params": generator}, layout, rngs=rngs)[:, 0]

    def logits(image):
        return GAN.discriminator().apply({"params": discriminator}, layout, image)

    scores = SEGMENTER.network().apply({"params": frozen["segmenter"]}, scaled(image))
    log = jax.nn.log_softmax(scores)
    known = batch["layout"] < CLASSES - 1
    right = jax.numpy.take_along_axis(log, np.where(known, batch["layout"], 0)[..., None].astype(int), -1)[..., 0]
    of_generator = -jax.nn.log_sigmoid(logits(image)).mean()
    of_generator += 3 * jax.numpy.abs(image - photograph).mean() / 127.5 - 0.5 * (right * known).sum() / known.sum()
    real, false = jax.nn.log_sigmoid(logits(photograph)), jax.nn.log_sigmoid(-logits(image))
    return of_generator, -(real.mean() + false.mean()) / 2


def test_each_gradient_is_that_of_its_own_networks_loss(problem):
    params, frozen, batch = problem
    differentiated = jax.jit(jax.value_and_grad(OBJECTIVE.loss_of, has_aux=True), static_argnums=1)
    (loss, metrics), gradient = differentiated(params, None, frozen, batch, 2)
    total = 0
    for which, name in enumerate(("generator", "discriminator")):

        def alone(generator, discriminator, which=which):
            return parts(generator, discriminator, frozen, batch, 2)[which]

        value, expected = jax.jit(jax.value_and_grad(alone, which))(params["generator"], params["discriminator"])
        total += value
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6), gradient[name], expected)
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 1e-3
    assert loss == pytest.approx(float(total), rel=1e-5)
    assert metrics.keys() == {"deceived", "l1", "segmentation", "discriminator"}


def test_noise_follows_from_the_step_and_synthesis_has_always_the_same(problem):
    params, frozen, batch = problem
    loss = jax.jit(OBJECTIVE.loss_of, static_argnums=1)
    losses = [float(loss(params, None, frozen, batch, step)[0]) for step in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    a, b = (np.asarray(synthesize(GAN, params["generator"], batch["layout"])) for _ in range(2))
    assert a.shape == (1, 1, *SIZE, 3)
    np.testing.assert_array_equal(a, b)


def test_a_step_moves_both_networks(problem):
    params, frozen, batch = problem
    state = init_state(OBJECTIVE, 0)
    state, metrics = make_train_step(OBJECTIVE)(state, frozen, batch)
    for name in ("generator", "discriminator"):
        moved = [np.abs(np.asarray(a) - b).max() for a, b in zip(*map(jax.tree.leaves, (state.params[name], params[name])))]
        assert max(moved) == pytest.approx(1e-3, rel=0.01)  # Adam's first step
    assert state.lambdas is None and np.isfinite(metrics["loss"])


@pytest.mark.quick
def test_a_segmenter_and_its_weight_belong_together():
    with pytest.raises(UserError, match="belong together; got None and 1"):
        GANExperiment(name="x", data=camvid_gan_segmentation.data, gan=camvid_gan_segmentation.gan, loss=GANLossConfig(0, 1))


def test_a_segmenter_of_other_classes_is_refused(tiny_segmenter, tmp_path):
    """Their number is the same."""
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"classes": [f"thing {n}" for n in range(19)]}))
    words = "camvid_gan_segmentation --data.source folder --data.root D --gan.num_classes 20 --gan.size 48 64 --data.labels"
    experiment = parse([*words.split(), str(file)]).experiment
    with pytest.raises(UserError, match="is for the classes road, .* The classes of this training are thing 0, thing 1"):
        load_segmenter({"folder": str(tiny_segmenter[1])}, experiment)


@pytest.mark.parametrize("name", ["pix2pix", "gan_segmentation"])
def test_they_are_trained_resumed_and_scored_like_a_cascade(name, random_vgg_file, tiny_segmenter, tmp_path):
    arguments = (
        f"camvid_{name} --data.source streets --data.num_scenes 4 --data.clear_days --gan.num_classes 20 --gan.size 48 64 "
        f"--gan.widths 4 6 32 --gan.discriminator_widths 4 6 --run.validation_examples 2 --vgg.weights {random_vgg_file} "
        "--sharding.mesh 1 1 --run.folder"
    ).split()
    if name == "gan_segmentation":
        with console.capture() as capture, pytest.raises(SystemExit):
            train.main([*arguments, str(tmp_path / "none"), "--segmenter", str(tmp_path)])
        assert "not a run folder" in capture.get()
        arguments = ["camvid_gan_segmentation", "--segmenter", str(tiny_segmenter[1]), *arguments[1:]]
    for folder, epochs in (("whole", ["2"]), ("halves", ["1", "2"])):
        for count in epochs:
            train.main([*arguments, str(tmp_path / folder), "--epochs", count])
    runs = [load_run(tmp_path / folder) for folder in ("whole", "halves")]
    jax.tree.map(np.testing.assert_array_equal, *(run.params for run in runs))
    if name == "gan_segmentation":  # the segmenter may have a better checkpoint by now
        known = {"step": 60, "sha256": "that of step 60"}
        redescribe(tmp_path / "halves", lambda description: description["origins"]["segmenter"].update(known))
        origins = origins_of(read_description(tmp_path / "halves")[0])
        assert origins["segmenter"] == {"folder": str(tiny_segmenter[1]), **known}
    line = next(line for line in read_metrics(tmp_path / "whole" / "metrics.jsonl") if "loss" in line)
    assert line["deceived"] > 0 and (line["segmentation"] > 0) == (name == "gan_segmentation")

    with console.capture() as capture:
        evaluate.main([str(tmp_path / "whole"), "--examples", "2", "--save_images"])
    assert "perceptual" in capture.get()
    (image, _) = sorted((tmp_path / "whole" / "evaluation" / "images" / "whole").iterdir())
    with Image.open(image) as image:
        assert image.size == (64, 48)
