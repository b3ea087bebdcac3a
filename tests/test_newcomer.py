"""Twenty photographs and layouts of one's own, by the commands of the README, as they stand on the screen."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from crn_jax.run import read_description
from launch import evaluate, inspect, synthesize, train
from launch.common.command_line import parse
from launch.common.terminal import console

COLORS = np.array([(90, 160, 60), (200, 180, 120), (40, 90, 200)], np.uint8)


@pytest.fixture(scope="module")
def garden(tmp_path_factory):
    """Lawn, path and pond, 48x64, in colours that no label space knows."""
    root, rng = tmp_path_factory.mktemp("own") / "garden", np.random.default_rng(0)
    for part in ("photographs", "layouts"):
        (root / part).mkdir(parents=True)
    for i in range(20):
        layout = COLORS[rng.integers(0, 3, (3, 4)).repeat(16, 0).repeat(16, 1)]
        noise = rng.integers(-20, 20, layout.shape)
        Image.fromarray(layout).save(root / "layouts" / f"{i}.png")
        Image.fromarray((layout + noise).clip(0, 255).astype(np.uint8)).save(root / "photographs" / f"{i}.png")
    return root


def test_from_a_folder_to_images(garden, tiny, random_vgg_file, tmp_path):
    with console.capture() as capture:
        inspect.main([str(garden), "--size", "48", "64", "--out", str(tmp_path / "inspection")])
    (printed,) = [line for line in capture.get().splitlines() if line.startswith("python -m launch.train ")]
    arguments = shlex.split(printed)[3:]
    modules = len(parse(arguments).experiment.cascade.widths)
    narrow = [
        "--cascade.widths",
        *["8"] * modules,
        "--steps",
        "2",
        "--vgg.weights",
        str(random_vgg_file),
        "--sharding.mesh",
        "1",
        "1",
    ]
    folder, cache = tmp_path / "run", tmp_path / "cache"
    train.main([*arguments, *narrow, "--sharding.mesh", "1", "1", "--data.cache", str(cache), "--run.folder", str(folder)])
    assert len(read_description(folder)[1].classes) == 4 and len(list(cache.iterdir())) == 2

    synthesize.main([str(folder), str(garden / "layouts"), "--out", str(tmp_path / "images")])
    assert len(list((tmp_path / "images").iterdir())) == 20
    with Image.open(tmp_path / "images" / "7.png") as image:
        assert image.size == (64, 48)

    cache.rename(tmp_path / "elsewhere")  # as where a run was moved to another machine, without its label file
    (tmp_path / "inspection" / "labels.json").unlink()
    evaluate.main([str(folder), "--out", str(tmp_path / "evaluation"), "--vgg.weights", str(random_vgg_file)])
    scores = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert len(scores["candidates"]) >= 2
    assert not cache.exists()
