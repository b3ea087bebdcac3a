"""The jitted function, and the command around it."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from crn_jax.cascade import Cascade, CascadeConfig, init_params
from crn_jax.data.label_space import CITYSCAPES
from crn_jax.data.streets import render_street
from crn_jax.errors import UserError
from crn_jax.synthesize import _synthesize, load_run, synthesize
from launch import synthesize as command
from launch import train
from launch.terminal import console

CONFIG = CascadeConfig(num_classes=5, widths=(6, 4), base=(2, 3), num_images=3)


def test_images_are_rounded_and_clipped():
    params = init_params(CONFIG, jax.random.key(0))
    params["to_rgb"]["bias"] += np.repeat(np.array([0, 5, -5], np.float32), 3)  # greens too large, blues too small
    layout_ids = np.random.default_rng(0).integers(0, 5, (2, *CONFIG.size)).astype(np.uint8)
    images = np.asarray(synthesize(CONFIG, params, layout_ids))
    assert images.shape == (2, 3, *CONFIG.size, 3) and images.dtype == np.uint8
    linear = np.asarray(jax.jit(Cascade(CONFIG).apply)({"params": params}, np.eye(5, dtype=np.float32)[layout_ids]))
    assert linear.max() > 256 and linear.min() < -1
    np.testing.assert_array_equal(images, np.clip(np.round(linear), 0, 255))


def test_it_compiles_once_per_shape():
    params = init_params(CONFIG, jax.random.key(0))
    before = _synthesize._cache_size()
    for fill in (0, 1, 2):
        synthesize(CONFIG, params, np.full((1, *CONFIG.size), fill, np.uint8))
    assert _synthesize._cache_size() == before + 1


def test_an_index_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"index 255 is out of range: this generator knows 0\.\.4"):
        synthesize(CONFIG, {}, np.full((1, *CONFIG.size), 255, np.uint8))


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A run folder, and a folder with layouts of ids, of colours, and at twice the size."""
    folder = tmp_path_factory.mktemp("run")
    train.main([*tiny, "--epochs", "2", "--run.checkpoint_every", "4", "--run.folder", str(folder)])
    layouts = tmp_path_factory.mktemp("layouts")
    ids = render_street(3, (48, 64)).layout
    raw = np.array([0, 7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33])
    label_ids = raw[(ids + 1) % 20].astype(np.uint8)  # class n has labelId raw[n + 1], void has 0
    Image.fromarray(label_ids).save(layouts / "ids.png")
    Image.fromarray(CITYSCAPES.draw(ids)).save(layouts / "colours.png")
    Image.fromarray(label_ids.repeat(2, 0).repeat(2, 1)).save(layouts / "large.png")
    return folder, layouts


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_command_takes_a_run_and_layouts_and_nothing_else(trained):
    folder, layouts = trained
    with console.capture() as capture:
        command.main([str(folder), str(layouts)])
    out = folder / "synthesized"
    assert sorted(p.name for p in out.iterdir()) == ["colours.png", "ids.png", "large.png"]
    assert f"3 images in {out}" in capture.get()
    run = load_run(folder)
    expected = np.asarray(synthesize(run.experiment.cascade, run.params, render_street(3, (48, 64)).layout[None]))[0, 0]
    for name in ("ids", "colours", "large"):
        np.testing.assert_array_equal(read(out / f"{name}.png"), expected)


def test_a_run_brings_layouts_to_try(trained, tmp_path):
    folder, _ = trained
    command.main([str(folder), str(folder / "layouts"), "--out", str(tmp_path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.png", "1.png"]


def test_a_run_is_loaded_with_its_average_at_any_checkpoint(trained):
    folder, _ = trained
    assert [load_run(folder, c).step for c in ("latest", "best", "8")] == [12, 12, 8]
    run = load_run(folder)
    assert run.label_space == CITYSCAPES and run.experiment.cascade.widths == (8, 8, 8, 8)
    with pytest.raises(UserError, match=r"no checkpoint '5'. Steps saved: 8, 12"):
        load_run(folder, "5")


def test_a_sheet_beside_the_images(trained, tmp_path):
    folder, layouts = trained
    command.main([str(folder), str(layouts / "ids.png"), "--out", str(tmp_path), "--sheet"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["contact_sheet.png", "ids.png"]
    assert read(tmp_path / "contact_sheet.png").shape[1] == 2 * 256 + 3 * 4


def test_wrong_input_is_named_before_anything_is_written(trained, tmp_path):
    folder, layouts = trained
    Image.fromarray(np.full((48, 64), 77, np.uint8)).save(tmp_path / "bad.png")
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(tmp_path / "square.png")
    (tmp_path / "ids.png").write_bytes((layouts / "ids.png").read_bytes())
    (tmp_path / "empty").mkdir()
    cases = {
        (folder, layouts, tmp_path / "bad.png"): "bad.png: label id 77 (3,072 pixels)",
        (folder, tmp_path / "square.png"): "48x48 has another aspect ratio than the cascade's 48x64",
        (folder, layouts / "ids.png", tmp_path / "ids.png"): "Several layouts are called ids",
        (folder, tmp_path / "empty"): "there is no PNG in this folder",
        (folder, tmp_path / "none.png"): "there is no such file or folder",
        (folder,): "at least one layout",
        (layouts, layouts): "not a run folder",
    }
    before = (layouts / "ids.png").read_bytes()
    with console.capture() as capture, pytest.raises(SystemExit):
        command.main([str(folder), str(layouts), "--out", str(layouts)])
    assert "would overwrite this layout" in capture.get() and (layouts / "ids.png").read_bytes() == before
    for arguments, message in cases.items():
        with console.capture() as capture, pytest.raises(SystemExit):
            command.main([*map(str, arguments), "--out", str(tmp_path / "out")])
        assert message in capture.get()
    assert not (tmp_path / "out").exists()


def test_damaged_runs_are_refused(trained, tmp_path):
    description = json.loads((trained[0] / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="Steps saved: none yet"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(description)[:-100])
    with pytest.raises(UserError, match=r"run\.json: the file is damaged"):
        load_run(tmp_path)
