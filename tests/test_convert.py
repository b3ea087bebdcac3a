"""The authors' TensorFlow checkpoints as runs, through the command line."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from crn_jax.authors import load_released
from crn_jax.cascade import Cascade
from crn_jax.data.labels.published import CITYSCAPES
from crn_jax.data.sources import DataConfig, label_space_of
from crn_jax.errors import UserError
from crn_jax.experiment import Experiment
from crn_jax.generator import one_hot
from crn_jax.growth import grow_state
from crn_jax.run import describe_run, load_run
from crn_jax.train import init_state
from launch import convert, synthesize
from launch.common.terminal import console
from launch.training.start import started_from
from tests.support import commands

RECORDED = Path(__file__).parent / "data" / "released.ckpt"
refused = functools.partial(commands.refused, convert.main)


@pytest.mark.parametrize("which", ["simple", "diversity"])
def test_both_reference_runs(which, shared_data, tmp_path):
    """From TensorFlow's own files to the images that TensorFlow made, before and after its training."""
    source = shared_data / "authors" / f"graph_{which}"
    with np.load(source / "reference.npz") as reference:
        for when in ("init", "final"):
            convert.main(["authors", str(source / f"{when}.ckpt"), str(tmp_path / when)])
            run = load_run(tmp_path / when)
            cascade = run.experiment.cascade
            images = jax.jit(Cascade(cascade).apply)({"params": run.params}, one_hot(cascade, reference["labels"]))
            assert np.abs(np.asarray(images) - reference[f"output_{when}"]).max() < 0.01
    assert cascade.num_images == {"simple": 1, "diversity": 9}[which] and run.step == 0


@pytest.fixture(scope="module")
def converted(shared_data, tmp_path_factory) -> Path:
    """A run folder of the authors' trained graph of 32x64."""
    folder = tmp_path_factory.mktemp("converted") / "authors"
    convert.main(["authors", str(shared_data / "authors" / "graph_simple" / "final.ckpt"), str(folder)])
    return folder


def test_a_converted_run_is_synthesized_from_and_exported_like_any(converted, shared_data, tmp_path):
    with np.load(shared_data / "authors" / "graph_simple" / "reference.npz") as reference:
        labels, expected = reference["labels"], reference["output_final"]
    for i, layout in enumerate(labels):
        Image.fromarray(CITYSCAPES.draw(layout)).save(tmp_path / f"{i}.png")
    synthesize.main([str(converted), str(tmp_path), "--out", str(tmp_path / "out")])
    for i, images in enumerate(expected):
        written = np.asarray(Image.open(tmp_path / "out" / f"{i}.png")).astype(int)
        assert np.abs(written - np.clip(np.round(images[0]), 0, 255)).max() <= 1
    convert.main(["export", str(converted), str(tmp_path / "artifact")])
    card = (tmp_path / "artifact" / "README.md").read_text()
    assert "Converted from another program, so the number of steps is unknown." in card and "No scores were measured." in card
    assert "Cityscapes: for research and other non-commercial purposes." in card and "imagenet-vgg-verydeep-19.mat" in card


def test_a_training_starts_from_a_converted_run(converted):
    """One more module and twice the size, as the released models grew."""
    run = load_run(converted)
    cascade = dataclasses.replace(run.experiment.cascade, widths=(*run.experiment.cascade.widths, 8))
    experiment = dataclasses.replace(run.experiment, cascade=cascade, init_from=str(converted))
    with console.capture() as capture:
        state = started_from(experiment.start, run.label_space, init_state(experiment.objective(1), 0))
    taken_over = "module_0, module_1, module_2, module_3. Fresh: module_4, to_rgb."
    assert f"Started from {converted}, step 0: {taken_over}" in capture.get()
    jax.tree.map(np.testing.assert_array_equal, state.params["module_3"], run.params["module_3"])


def test_moments_are_kept_in_the_run(tmp_path):
    """The two parts that TensorFlow trained keep its moments. The moments of other parts are fresh."""
    config, params, moments = load_released(RECORDED)
    (tmp_path / "labels.json").write_text(json.dumps({"classes": ["a", "b", "c"]}))
    data = DataConfig("folder", labels=str(tmp_path / "labels.json"))
    experiment = Experiment(name="moments", data=data, cascade=dataclasses.replace(config, base=(8, 16)))
    label_space = label_space_of(data)
    description = describe_run(experiment, label_space, {"weights": "file"}, {})
    convert.write_run(tmp_path / "run", experiment, description, params, 0, moments)
    run = load_run(tmp_path / "run", moments=True)
    jax.tree.map(np.testing.assert_array_equal, run.params, params)
    jax.tree.map(np.testing.assert_array_equal, {part: run.opt_state[part] for part in moments}, moments)
    state = init_state(experiment.objective(1), 1)
    _, _, kept = grow_state(state, state._replace(params=run.params, opt_state=run.opt_state))
    assert set(kept) == set(moments)  # not those that were never there
    assert {part: int(adam.count) for part, adam in run.opt_state.items()} == {"module_0": 0, "module_1": 5, "to_rgb": 5}
    with pytest.raises(UserError, match=r"not those of the experiment.*module_0.*kernel"):
        wrong = {**params, "module_0": params["module_1"]}
        convert.write_run(tmp_path / "wrong", experiment, description, wrong, 0)
    assert not (tmp_path / "wrong").exists()


def test_what_cannot_be_converted_is_named(shared_data, tmp_path):
    source, out = shared_data / "authors" / "graph_simple", tmp_path / "out"
    assert "cityscapes has 20 classes, void included, but --cascade.num_classes is 4" in refused("authors", RECORDED, out)
    assert "none.ckpt.index: there is no such file" in refused("authors", source / "none.ckpt", out)
    copy = tmp_path / "final.ckpt"
    for suffix in (".index", ".data-00000-of-00001"):
        shutil.copyfile(f"{source / 'final.ckpt'}{suffix}", f"{copy}{suffix}")
    with open(f"{copy}.data-00000-of-00001", "r+b") as file:
        file.truncate(100_000)
    assert "is cut short. Fetch the file again" in refused("authors", copy, out)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert "taken exists already. Give another name." in refused("authors", source / "final.ckpt", tmp_path / "taken")
    assert not out.exists()
    (tmp_path / "file").touch()
    told = refused("export", "streets", tmp_path / "file" / "x")
    assert "cannot be written" in told and "Give another place as OUT, the last argument." in told
