"""Profiles: which steps are recorded, and that kernels have the paper's names, at no cost."""

import contextlib
import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from configs import EXPERIMENTS
from crn_jax.baselines.gan import GANConfig
from crn_jax.errors import UserError
from crn_jax.formats.protobuf import fields
from crn_jax.train import abstract_state, make_train_step
from launch import synthesize, train
from launch.benchmark import random_batch
from launch.common.profiler import Profiler
from launch.common.terminal import console
from tests.support.commands import refused
from tests.support.profiles import events, steps_of

TAPS = ("conv1_2", "conv2_2", "conv3_2", "conv4_2", "conv5_2")


@pytest.mark.quick
@pytest.mark.parametrize("steps", ["100", "", "a:b", "5:3", "0:3", "1:2:3", "-1:4", "1.5:2", " 1:2"])
def test_a_wrong_range_is_refused(tmp_path, steps):
    with pytest.raises(UserError, match=f"--profile {re.escape(steps)}: FIRST:LAST is needed"):
        Profiler(steps, tmp_path)


def traced(name: str, **changes):
    """The training step of an experiment, narrow and small, not compiled."""
    experiment = dataclasses.replace(EXPERIMENTS[name], **changes)
    objective = experiment.objective(6)
    batch = jax.eval_shape(lambda: random_batch(experiment))
    return make_train_step(objective).lower(abstract_state(objective), objective.abstract_frozen(), batch)


def small(name: str, **more) -> dict:
    cascade = dataclasses.replace(EXPERIMENTS[name].cascade, base=(6, 8), widths=(4, 4, 4))
    return {"cascade": cascade, **more}


def scopes(lowered) -> set[str]:
    """The parts of the names of all operations, as they come to the compiler."""
    return set(re.findall(r"[\w.]+", " ".join(re.findall(r'loc\("(jit[^"]*)"', lowered.as_text(debug_info=True)))))


@pytest.mark.quick
@pytest.mark.parametrize("remat", ["none", "full"])
def test_operations_have_the_papers_names_and_are_the_same_as_without(narrow_vgg19, remat, monkeypatch):
    adam = dataclasses.replace(EXPERIMENTS["demo"].optimizer, ema_decay=0.9)
    changes = small("demo", remat=remat, optimizer=adam)
    lowered = traced("demo", **changes)
    expected = {f"module_{i}" for i in range(3)} | {f"{kind}{i}" for kind in ("conv", "norm") for i in (1, 2)}
    expected |= {"upsampling", "halved_layouts", "to_rgb", "loss", "adam", "lambdas", "moving_average", "gradient_norm"}
    expected |= {"photograph", "term_input", *(f"{kind}_{tap}" for kind in ("vgg19", "term") for tap in TAPS)}
    assert expected <= scopes(lowered)
    monkeypatch.setattr(jax, "named_scope", lambda name: contextlib.nullcontext())
    unnamed = traced("demo", **changes)
    assert not {"adam", "module_1", "vgg19_conv1_2"} & scopes(unnamed)
    assert unnamed.as_text() == lowered.as_text()


def test_compiled_kernels_have_them_too(narrow_vgg19):
    """Forward and backward."""
    program = traced("demo", **small("demo")).compile().as_text()
    names = set(re.findall(r'op_name="([^"]*)"', program))
    for part in (*(f"module_{i}/conv{j}" for i in range(3) for j in (1, 2)), *(f"jvp(vgg19_{tap})" for tap in TAPS)):
        convolutions = [name for name in names if part in name and name.endswith("conv_general_dilated")]
        assert {name.startswith("jit(step)/transpose(jvp(") for name in convolutions} == {False, True}, part


def compiled_step(scope: str, size: int):
    """A program that is called "step", whose operations are in a scope."""

    def step(x):
        with jax.named_scope(scope):
            return jnp.sort(x @ x)

    return jax.jit(step).lower(jnp.ones((size, size))).compile()


def test_programs_of_one_name_lend_each_other_no_names(tmp_path):
    """An event does not tell from which of them it is."""
    jax.clear_caches()  # the steps of other tests have the same name
    first = compiled_step("first", 5)

    def kernels(session: str) -> list[str]:
        with Profiler("1:1", tmp_path / session) as profiler, profiler.step(1):
            jax.block_until_ready(first(jnp.ones((5, 5))))
        return [event["name"] for event in events(tmp_path / session, "steps_1_1") if "hlo_op" in event.get("args", {})]

    alone = kernels("alone")
    second = compiled_step("second", 6)
    beside = kernels("beside")
    assert any("first" in name for name in alone) and len(alone) == len(beside)
    assert not any("first" in name or "second" in name for name in beside)
    del second


def test_a_training_records_the_steps_that_are_asked_for(tiny, tmp_path):
    jax.clear_caches()  # the steps of other tests have the same name
    arguments = [*tiny, "--cascade.base", "2", "4", "--run.folder", str(tmp_path / "run"), "--run.checkpoint_every", "3"]
    with console.capture() as capture:
        train.main([*arguments, "--steps", "6", "--profile", "2:4"])
    assert f"Profile of steps 2 to 4: xprof --logdir {tmp_path / 'run' / 'tensorboard'}" in " ".join(capture.get().split())
    recorded = events(tmp_path / "run" / "tensorboard", "steps_2_4")
    assert steps_of(recorded) == [2, 3, 4]
    kernels = [event["name"] for event in recorded if "hlo_op" in event.get("args", {})]
    for part in ("module_0/conv1", "module_3/conv2", "vgg19_conv3_2", "adam"):
        assert sum(part in kernel for kernel in kernels) >= 3, part
    assert not any(kernel.startswith("jit(step)") for kernel in kernels)  # the program's name is left out

    with console.capture():  # it goes on at step 7, and ends within the range
        train.main([*arguments, "--steps", "8", "--profile", "1:9"])
    assert steps_of(events(tmp_path / "run" / "tensorboard", "steps_1_9")) == [7, 8]
    assert refused(train.main, *arguments, "--profile", "4:2").startswith("error: --profile 4:2: FIRST:LAST")


def test_synthesis_records_batches(trained_streets, tmp_path):
    arguments = [str(trained_streets), str(trained_streets / "layouts"), "--out", str(tmp_path)]
    synthesize.main([*arguments, "--batch_size", "1", "--profile", "1:3"])  # one batch, of which each device has a layout
    recorded = events(tmp_path / "profile", "batches_1_3")
    assert steps_of(recorded) == [1] and any("module_3/conv2" in event["name"] for event in recorded)
    assert "--profile x: FIRST:LAST" in refused(synthesize.main, *arguments, "--profile", "x")
    with console.capture() as capture:
        synthesize.main([*arguments, "--profile", "1:2"])  # all images are there already
    assert "none of these batches was computed" in capture.get()


def test_gans_have_names(tmp_path):
    gan = GANConfig(num_classes=12, size=(32, 32), networks="pix2pix", widths=(4, 4, 4), discriminator_widths=(4, 4))
    assert {"deceived", "discriminator", "l1", "adam"} <= scopes(traced_gan(gan))


def traced_gan(gan: GANConfig):
    experiment = dataclasses.replace(EXPERIMENTS["camvid_pix2pix"], gan=gan)
    objective = experiment.objective(6)
    batch = {
        "layout": jax.ShapeDtypeStruct((1, *gan.size), "uint8"), "photograph": jax.ShapeDtypeStruct((1, *gan.size, 3), "uint8")
    }  # fmt: skip
    return make_train_step(objective).lower(abstract_state(objective), {}, batch)


@pytest.mark.quick
def test_a_message_is_read_by_the_numbers_of_its_fields():
    """A varint, a fixed64, a fixed32, two texts and an empty one, as the encoding's documentation describes them."""
    message = b"\x08\x96\x01" + b"\x11" + bytes(range(8)) + b"\x1d\x07\x00\x00\x00" + b"\x22\x02hi\x22\x03you\x2a\x00"
    numbers = {1: 150, 2: int.from_bytes(bytes(range(8)), "little"), 3: 7}
    assert fields(message) == (numbers, {4: [b"hi", b"you"], 5: [b""]})
    early = (b"\x22\x05hi", b"\x08\x96", b"\x80", b"\x08", b"\x22", b"\x11" + bytes(7))  # within a text, and within numbers
    for wrong in (*early, b"\x0b", b"\x08" + b"\xff" * 10):  # a group, and a number without an end
        with pytest.raises(ValueError):
            fields(wrong)
