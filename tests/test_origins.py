"""Runs, label files and folders that are moved between two starts of a training: what they hold counts."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crn_jax.errors import UserError
from crn_jax.run import load_run, read_description
from launch import train
from launch.training.origins import digest_of, load_origin
from tests.support.commands import final_state, refused_run, run
from tests.support.rounding import assert_identical


@pytest.fixture
def first(trained_streets, tmp_path, monkeypatch) -> Path:
    """A run to start from, at the relative path `first`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_streets, "first")
    return tmp_path / "first"


def steps_of(folder: Path) -> int:
    return int(final_state(folder).step)


def test_a_start_that_was_moved_or_is_left_out_resumes(tiny, first, tmp_path):
    second = tmp_path / "second"
    run([*tiny, "--init_from", "first", "--steps", "1"], second)
    origin = read_description(second)[2]["origins"]["init_from"]
    assert (origin["folder"], origin["step"]) == ("first", 12)
    assert origin["sha256"] == digest_of(load_run(first).params)
    shutil.copytree(second, tmp_path / "older")

    run([*tiny, "--init_from", str(first), "--steps", "2"], second)  # another path to the same place
    first.rename(tmp_path / "moved")
    run([*tiny, "--init_from", "moved", "--steps", "3"], second)
    run([*tiny, "--steps", "4"], second)
    assert read_description(second)[0].init_from == "moved"
    shutil.rmtree(tmp_path / "moved")
    run([*tiny, "--init_from", "moved", "--steps", "5"], second)  # it is not needed any more
    assert steps_of(second) == 5
    told = refused_run([*tiny, "--init_from", "elsewhere", "--steps", "6"], second)
    assert "elsewhere: this is not a run folder" in told and "goes on without --init_from" in told
    assert "init_moments: fresh, now kept" in refused_run([*tiny, "--init_from", "moved", "--init_moments", "kept"], second)

    # A run of a version that did not record what the other run held.
    file = tmp_path / "older" / "run.json"
    description = json.loads(file.read_text())
    del description["origins"], description["crc32c"]
    file.write_text(json.dumps(description))
    shutil.copytree(second, tmp_path / "moved")
    assert "not recorded what the former held" in refused_run([*tiny, "--init_from", "moved"], tmp_path / "older")
    run([*tiny, "--steps", "2"], tmp_path / "older")


def test_another_start_is_refused_and_told_by_what_it_holds(tiny, first, tmp_path):
    second = tmp_path / "second"
    run([*tiny, "--init_from", "first", "--steps", "1"], second)
    shutil.copytree(first, "shorter")
    shutil.rmtree("shorter/checkpoints/12")
    told = refused_run([*tiny, "--init_from", "shorter", "--steps", "2"], second)
    assert "init_from: shorter (step 8) holds other parameters than first (step 12) did" in told
    assert "init_from: None, now first" in refused_run([*tiny, "--init_from", "first", "--steps", "13"], first)


def test_a_start_that_is_left_out_before_the_first_save_still_counts(tiny, first, tmp_path):
    run([*tiny, "--init_from", "first", "--steps", "2"], tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoints")
    run([*tiny, "--steps", "2"], tmp_path / "killed")
    assert_identical(final_state(tmp_path / "killed"), final_state(tmp_path / "whole"))


def test_before_the_first_step_a_start_may_be_left_out_or_changed(tiny, first, tmp_path):
    """The start is that of the command alone, and the newest checkpoint of the other run counts."""
    second = tmp_path / "second"
    told = refused_run([*tiny, "--cascade.widths", "4", *["8"] * 3, "--init_from", "first", "--steps", "1"], second)
    assert "does not fit into this one" in told and read_description(second)[0].init_from == "first"
    shutil.copytree(second, tmp_path / "third")
    run([*tiny, "--steps", "1"], second)
    assert read_description(second)[0].init_from is None and "init_from" not in read_description(second)[2]["origins"]

    train.main([str(first), "--steps", "14"])
    run([*tiny, "--init_from", "first", "--steps", "1"], tmp_path / "third")
    assert read_description(tmp_path / "third")[2]["origins"]["init_from"]["step"] == 14


def test_a_start_that_was_trained_further_counts_as_it_was(tiny, first, tmp_path):
    """A training that is killed before its first save begins again with the checkpoint that run.json names, or not at all."""
    run([*tiny, "--init_from", "first", "--steps", "2"], tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoints")
    train.main([str(first), "--steps", "14"])
    assert steps_of(first) == 14 and (first / "checkpoints" / "12").is_dir()
    run([*tiny, "--init_from", "first", "--steps", "2"], tmp_path / "killed")
    assert_identical(final_state(tmp_path / "killed"), final_state(tmp_path / "whole"))

    shutil.rmtree(tmp_path / "killed" / "checkpoints")
    shutil.rmtree(first / "checkpoints" / "12")
    told = refused_run([*tiny, "--init_from", "first", "--steps", "2"], tmp_path / "killed")
    assert "this training began with step 12 of first" in told and "another --run.folder" in told


def test_a_start_that_was_replaced_is_noticed(first):
    run = load_origin({"folder": "first"}, "init_from")
    origin = {"folder": "first", "step": run.step, "sha256": digest_of(run.params)}
    assert load_origin(origin, "init_from").step == run.step
    with pytest.raises(UserError, match="step 12 of first holds other parameters than when this training began"):
        load_origin(origin | {"sha256": "0" * 64}, "init_from")


def test_a_label_file_and_a_data_set_that_were_moved_resume(tmp_path, monkeypatch):
    """The label space is stored, and a file that says something else is refused."""
    monkeypatch.chdir(tmp_path)
    for part, shape in (("photographs", (16, 32, 3)), ("layouts", (16, 32))):
        os.makedirs(f"data/{part}")
        for i in range(4):
            Image.fromarray(np.full(shape, i % 2 + 3 * (part == "layouts"), np.uint8)).save(f"data/{part}/{i}.png")
    fields = {"classes": ["lawn", "path"], "ids": [3, 4], "void_colors": [[9, 9, 9]]}
    Path("a.json").write_text(json.dumps(fields))
    arguments = (
        "segmenter_camvid --data.source folder --segmenter.num_classes 3 --segmenter.size 16 32 --segmenter.widths 4 6 "
        "--batch_size 1 --run.validation_examples 1 --run.sheet_examples 1 --sharding.mesh 1 1 --run.folder run"
    ).split()
    train.main([*arguments, "--data.root", "data", "--data.labels", "a.json", "--steps", "1"])
    os.rename("a.json", "b.json")
    os.rename("data", "moved")
    train.main([*arguments, "--data.root", "moved", "--data.labels", str(tmp_path / "b.json"), "--steps", "2"])
    os.symlink("b.json", "c.JSON")
    train.main([*arguments, "--data.root", "moved", "--data.labels", "c.JSON", "--steps", "3"])
    assert steps_of(tmp_path / "run") == 3
    for change, told in (({"void_colors": []}, "void_colors"), ({"ids": [4, 3]}, "ids")):
        Path("b.json").write_text(json.dumps(fields | change))
        told_now = refused_run([*arguments, "--data.root", "moved", "--data.labels", "b.json", "--steps", "4"], Path("run"))
        assert f"label_space.{told}: the layouts are read differently now" in told_now
