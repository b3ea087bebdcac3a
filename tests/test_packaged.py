"""The runs that come with crn_jax."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors
from PIL import Image

from crn_jax.data.detailed_streets import MOODS
from crn_jax.errors import UserError
from crn_jax.packaged import FOLDER, packaged, packaged_names
from crn_jax.run import is_run, load_run
from crn_jax.synthesize import synthesize
from launch import evaluate, paint
from launch.common.options import read_options
from tests.support.commands import ROOT

NAMES = packaged_names()
assert "streets" in NAMES


@pytest.mark.quick
@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_run_is_small_whole_and_says_nothing_of_where_it_was_trained(name):
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if name in str(file)) <= 5e6
    with safetensors.safe_open(FOLDER / f"{name}.safetensors", "numpy") as file:
        text = file.metadata()["run"]
    assert json.loads(text)["vgg19"]["weights"] == "file"  # trained with VGG-19's ImageNet weights
    assert '"/' not in text and '"~' not in text  # no path of a machine


def test_the_streets_make_an_image_of_each_mood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = load_run("streets")
    layouts = np.stack([run.read_layout(path) for path in run.layouts])
    assert layouts.shape == (6, 128, 256) == (6, *run.generator.size)
    assert set(np.unique(layouts)) <= set(range(run.label_space.num_classes))
    images = np.asarray(synthesize(run.generator, run.params, layouts[:1]))[0].astype(float)
    assert images.shape == (len(MOODS), 128, 256, 3)
    pairs = [abs(a - b).mean() for i, a in enumerate(images) for b in images[:i]]
    assert min(pairs) > 5, "two of the moods look the same"
    assert images.mean((1, 2, 3)).min() < 0.6 * images.mean((1, 2, 3)).max(), "there is no night"


def test_the_readmes_example_makes_an_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    with Image.open("street.png") as image:
        assert image.size == (256, 128)


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert packaged("streets") == FOLDER / "streets.safetensors" and is_run(packaged("streets"))
    (tmp_path / "streets").mkdir()
    assert packaged("streets") == "streets"
    with pytest.raises(UserError, match="streets: this is not a run folder") as raised:
        load_run("streets")
    assert "Did you mean" not in str(raised.value)
    with pytest.raises(UserError, match=r"this is not a run folder .* Did you mean 'streets'\?"):
        load_run("street")


@pytest.mark.quick
def test_other_names_are_no_packaged_runs():
    assert [packaged(name) for name in ("", ".", "nothing", "../packaged_runs/streets")] == [
        "", ".", "nothing", "../packaged_runs/streets"]  # fmt: skip


def test_commands_take_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_options(paint.Arguments, "paint", []).runs == ("streets",)
    assert evaluate.out_folder(read_options(evaluate.Arguments, "evaluate", ["streets"])) == Path("streets_evaluation")
