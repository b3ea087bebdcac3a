"""Outputs follow no links, count as done only if they are whole, and are refused in words where they cannot be written."""

import os
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crn_jax.errors import UserError
from crn_jax.formats.safetensors_file import load_run_file, save_run
from launch.ablation.workers import claimed
from launch.common import output
from launch.common.output import made_by, write_png
from launch.common.page import write_page
from launch.synthesis.stream import image_note, is_foreign, sheet_note
from tests.support.commands import PATIENCE, ROOT

pytestmark = pytest.mark.quick

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_png(Image.fromarray(IMAGE), path, "x"),
        lambda path: output.write_json(path, {"a": 1}),
        lambda path: write_page("report.html", {}, path),
        lambda path: save_run(path, {"a": np.zeros(2, np.float32)}, {"step": 1}),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_what_a_link_points_to_is_left_as_it_is(tmp_path, write, there):
    victim, path = tmp_path / "victim", tmp_path / "out"
    if there:
        victim.write_text("precious")
    path.symlink_to(victim)
    write(path)
    assert not path.is_symlink() and path.stat().st_size > 8
    assert victim.read_text() == "precious" if there else not victim.exists()
    assert len(list(tmp_path.iterdir())) == 1 + there


def test_what_a_killed_command_has_left_is_removed_and_what_another_writes_is_not(tmp_path):
    (tmp_path / ".unfinished.killed" / "images").mkdir(parents=True)
    (tmp_path / "kept").write_text("kept")
    for name, hours in ((f".{'0' * 16}.tmp", 2), (f".{'1' * 16}.tmp", 0), (".own.tmp", 2)):  # the second is being written
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - 3600 * hours,) * 2)
    with output.staged(tmp_path) as one:
        (one / "a").write_text("a")
        with output.staged(tmp_path) as other:  # a command that runs at the same time
            (other / "b").write_text("b")
        assert one.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "a", "b", f".{'1' * 16}.tmp", ".own.tmp"}


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="cannot be written"), claimed(tmp_path):
        pass
    assert not (tmp_path / "victim").exists()


def test_an_image_is_done_only_if_its_file_is_whole(tmp_path):
    path = tmp_path / "0.png"
    write_png(Image.fromarray(IMAGE), path, "demo, step 7; 0123")
    assert made_by(path) == ("demo, step 7; 0123", True) and not is_foreign(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert not made_by(path)[1]
        assert is_foreign(path) == (length < whole.index(b"0123") + 8)  # behind it lies its checksum
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert not made_by(path)[1]
    path.write_bytes(whole + b"x")
    assert made_by(path) == ("demo, step 7; 0123", False)


def test_how_an_image_was_made_may_be_told_in_any_script(tmp_path):
    for made in ("улицы, step 7; 0123", "100% %41 \\x41 é", "日本"):
        write_png(Image.new("RGB", (2, 2)), tmp_path / "0.png", made)
        assert made_by(tmp_path / "0.png") == (made, True)


@pytest.mark.parametrize(
    "made, foreign",
    [
        (image_note("улицы, step\n", 7, "0123"), False),
        (sheet_note("contact_sheet.png"), False),
        ("segmented, 0123456789abcdef01234567", True),  # a layout of launch.segment
        ("for a test", True),
    ],
)
def test_what_another_command_made_is_foreign(tmp_path, made, foreign):
    write_png(Image.new("RGB", (2, 2)), tmp_path / "0.png", made)
    assert is_foreign(tmp_path / "0.png") == foreign


def test_what_others_made_is_foreign_however_large_it_says_it_is(tmp_path):
    size = struct.pack(">II", 60_000, 60_000) + b"\x08\2\0\0\0"
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + size + struct.pack(">I", zlib.crc32(b"IHDR" + size))
    others = [header, header + struct.pack(">I", 1 << 31) + b"IDAT", b"", b"text", Path(__file__).read_bytes()]
    for content in others:
        (tmp_path / "0.png").write_bytes(content)
        assert is_foreign(tmp_path / "0.png") and made_by(tmp_path / "0.png") == (None, False)
    assert not is_foreign(tmp_path / "none.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    assert is_foreign(tmp_path / "link.png")
    (tmp_path / "folder.png").mkdir()
    for name in "folder.png", f"{'x' * 300}.png":
        with pytest.raises(UserError, match=f"{name}: the file cannot be read"):
            made_by(tmp_path / name)


def test_a_run_file_is_read_as_it_was_written(tmp_path):
    save_run(tmp_path / "run.safetensors", {"a": {"b": np.float32([1, 2])}}, {"step": 3})
    params, description = load_run_file(tmp_path / "run.safetensors")
    assert params["a"]["b"].tolist() == [1, 2] and description == {"step": 3}


@pytest.mark.parametrize(
    ("params", "description", "message"),
    [
        ({"a": np.zeros(2)}, {"step": 1}, "the parameter a is float64, not float32"),
        ({"a": np.zeros(2, np.int32)}, {"step": 1}, "the parameter a is int32, not float32"),
        ({"a": np.float32([1, np.nan])}, {"step": 1}, "the parameter a has numbers that are not finite"),
        ({"a": np.zeros(2, np.float32)}, [1], "an object in braces is needed, got"),
        ({"a": np.zeros(2, np.float32)}, {"step": "1"}, 'step: a whole number is needed, got "1"'),
        (
            {"a": np.zeros(2, np.float32)},
            {"step": 1 << 40},
            "step: a number of steps is from 0 to 2,147,483,647, got 1099511627776",
        ),
        ({"a": np.zeros(2, np.float32)}, {"step": -5}, "step: a number of steps is from 0"),
        ({"a": np.zeros(2, np.float32), "a/b": np.zeros(2, np.float32)}, {"step": 1}, "names of its tensors are no tree"),
    ],
)
def test_a_run_file_of_something_else_is_refused(tmp_path, params, description, message):
    save_run(tmp_path / "odd.safetensors", params, description)
    with pytest.raises(UserError, match=rf"odd\.safetensors: .*{re.escape(message)}"):
        load_run_file(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("arguments", [["synthesize", "RUN", "x" * 300 + ".png"], ["convert", "run", "y" * 300, "out"]])
def test_names_that_are_too_long_are_refused_in_words(tmp_path, arguments):
    command = [sys.executable, "-m", "crn_jax", *arguments]
    result = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert result.returncode == 2 and "Traceback" not in result.stdout + result.stderr and "error: " in result.stdout
