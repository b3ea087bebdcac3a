"""One pass through the commands, for `pytest -m quick`, and that the quick tests leave no module out."""

import ast
import cProfile
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crn_jax.load_artifact import load
from launch import convert, evaluate, inspect, segment, synthesize, train
from launch.common.command_line import parse
from launch.evaluation.evaluation_file import read_evaluation
from tests.support.commands import ROOT

MODULES = {file for package in ("crn_jax", "launch") for file in (ROOT / package).rglob("*.py") if file.stem != "__init__"}


def imported_by_quick_tests() -> set[Path]:
    """Modules that a file with quick tests imports by name, and so is about."""
    files = set()
    for test_file in Path(__file__).parent.glob("test_*.py"):
        text = test_file.read_text()
        if "pytest.mark.quick" not in text or test_file == Path(__file__):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                files |= {ROOT / f"{alias.name.replace('.', '/')}.py" for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                files |= {ROOT / f"{name.replace('.', '/')}.py" for name in names}
    return files & MODULES


def pass_through(tiny, trained_streets, tmp_path, monkeypatch) -> None:
    """Trains, evaluates, synthesizes, converts and inspects, of all of it a little."""
    collection, segmenter = tmp_path / "collection", tmp_path / "segmenter"
    arguments = [
        *tiny,
        *"--cascade.base 2 4 --cascade.num_images 2 --loss.best_per class --data.num_scenes 3 --epochs 1".split(),
    ]
    arguments += ["--init_from", str(trained_streets), "--data.cache", str(tmp_path / "cache")]
    train.main([*arguments, "--lambdas.rescale_epoch", "1", "--run.folder", str(collection)])
    train.main(
        "segmenter_camvid --data.source streets --data.num_scenes 3 --data.clear_days --segmenter.num_classes 20 --epochs 1 "
        "--segmenter.size 16 32 --segmenter.widths 4 6 --batch_size 2 --run.validation_examples 2 --run.sheet_examples 2 "
        f"--sharding.mesh 1 1 --run.folder {segmenter}".split()
    )
    evaluate.main([str(collection), "--segmenter", str(segmenter), "--examples", "2"])
    evaluation = read_evaluation(collection / "evaluation" / "evaluation.json")
    names = [candidate["name"] for candidate in evaluation["candidates"]]
    assert names[1:] == ["collection", "collection, best of 2", "collection, assembled"]
    street = Image.fromarray(np.zeros((20, 32, 3), np.uint8))
    street.save(tmp_path / "street.png")
    segment.main([str(segmenter), str(tmp_path / "street.png"), "--out", str(tmp_path / "segmented")])
    synthesize.main([str(collection), str(collection / "layouts"), "--out", str(tmp_path / "images"), "--sheet"])
    with Image.open(tmp_path / "images" / "0_1.png") as image:
        assert image.size == (32, 16)
    convert.main(["export", str(trained_streets), str(tmp_path / "exported")])
    monkeypatch.setattr(sys, "path", sys.path.copy())  # load adds to it
    exported, _ = load(tmp_path / "exported")
    assert exported(np.zeros((1, 48, 64), np.uint8)).shape == (1, 1, 48, 64, 3)
    convert.main(["safetensors", str(trained_streets), str(tmp_path / "run.safetensors")])
    convert.main(["onnx", str(trained_streets), str(tmp_path / "run.onnx")])

    for part, value in (("photographs", 90), ("layouts", 3)):
        (tmp_path / "own" / part).mkdir(parents=True)
        for i in range(3):
            pixels = np.full((16, 32, 3) if part == "photographs" else (16, 32), value + i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "own" / part / f"{i}.png")
    inspect.main([str(tmp_path / "own"), "--labels", "camvid", "--out", str(tmp_path / "inspection")])
    assert parse(arguments).experiment.size == (16, 32)


@pytest.mark.quick
def test_one_pass_through_every_module(tiny, trained_streets, tmp_path, monkeypatch):
    """Each module has a function that is called here, or is imported by name in a file with quick tests."""
    with cProfile.Profile(builtins=False) as profile:
        pass_through(tiny, trained_streets, tmp_path, monkeypatch)
    called = {entry.code.co_filename for entry in profile.getstats() if entry.code.co_name != "<module>"}
    left_out = MODULES - {Path(file) for file in called} - imported_by_quick_tests()
    assert not left_out, sorted(str(file.relative_to(ROOT)) for file in left_out)
