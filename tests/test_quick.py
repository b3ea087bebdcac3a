"""One pass through the commands, for `pytest -m quick`, and that the quick tests leave no module out."""

import ast
import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crn_jax.load_artifact import load
from launch import convert, evaluate, inspect, synthesize, train
from launch.common.command_line import parse
from tests.support.commands import ROOT

MODULES = {file for package in ("crn_jax", "launch") for file in (ROOT / package).rglob("*.py") if file.stem != "__init__"}


@pytest.fixture
def called():
    """The files of all functions that are called meanwhile, in any thread; modules that are imported do not count."""
    files = set()

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_name != "<module>":
            files.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    yield files
    sys.setprofile(None)
    threading.setprofile(None)


def imported_by_quick_tests() -> set[Path]:
    """Modules that a file with quick tests imports by name, and so is about."""
    files = set()
    for test_file in Path(__file__).parent.glob("test_*.py"):
        text = test_file.read_text()
        if "pytest.mark.quick" not in text or test_file == Path(__file__):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                files |= {ROOT / f"{name.replace('.', '/')}.py" for name in names}
    return files & MODULES


@pytest.mark.quick
def test_one_pass_through_every_module(tiny, tmp_path, called, monkeypatch):
    """Each module has a function that is called here, or is imported by name in a file with quick tests."""
    small = [*tiny, *"--cascade.base 8 16 --cascade.widths 8 8 --data.num_scenes 3 --epochs 1".split()]
    first, second, segmenter = tmp_path / "first", tmp_path / "second", tmp_path / "segmenter"
    train.main([*small, "--data.cache", str(tmp_path / "cache"), "--run.folder", str(first)])
    collection = "--cascade.num_images 2 --loss.best_per class --lambdas.rescale_epoch 1 --init_from".split()
    train.main([*small, *collection, str(first), "--run.folder", str(second)])
    train.main(
        "segmenter_camvid --data.source streets --data.num_scenes 3 --data.clear_days --segmenter.num_classes 20 --epochs 1 "
        "--segmenter.size 16 32 --segmenter.widths 4 6 --batch_size 2 --run.validation_examples 2 --run.sheet_examples 2 "
        f"--sharding.mesh 1 1 --run.folder {segmenter}".split()
    )
    evaluate.main([str(second), "--segmenter", str(segmenter), "--examples", "2"])
    evaluation = json.loads((second / "evaluation" / "evaluation.json").read_text())
    assert [candidate["name"] for candidate in evaluation["candidates"]][1:] == [
        "second",
        "second, best of 2",
        "second, assembled",
    ]
    synthesize.main([str(second), str(second / "layouts"), "--out", str(tmp_path / "images"), "--sheet"])
    with Image.open(tmp_path / "images" / "0_1.png") as image:
        assert image.size == (32, 16)
    convert.main(["export", str(first), str(tmp_path / "exported")])
    monkeypatch.setattr(sys, "path", sys.path.copy())  # load adds to it
    exported, _ = load(tmp_path / "exported")
    assert exported(np.zeros((1, 16, 32), np.uint8)).shape == (1, 1, 16, 32, 3)
    convert.main(["safetensors", str(first), str(tmp_path / "first.safetensors")])

    for part, value in (("photographs", 90), ("layouts", 3)):
        (tmp_path / "own" / part).mkdir(parents=True)
        for i in range(3):
            pixels = np.full((16, 32, 3) if part == "photographs" else (16, 32), value + i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "own" / part / f"{i}.png")
    inspect.main([str(tmp_path / "own"), "--labels", "camvid", "--out", str(tmp_path / "inspection")])
    assert parse(small).experiment.size == (16, 32)

    left_out = MODULES - {Path(file) for file in called} - imported_by_quick_tests()
    assert not left_out, sorted(str(file.relative_to(ROOT)) for file in left_out)
