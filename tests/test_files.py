"""Files are replaced as a whole or not at all."""

import hashlib
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from crn_jax.files import free_name, replace_text, replacing, sha256_of


@pytest.mark.parametrize("before", [None, "old"])
def test_a_text_takes_the_place_of_a_file(tmp_path, before):
    path = tmp_path / "größe.json"
    if before is not None:
        path.write_text(before)
    replace_text(path, "λ\n")
    assert path.read_bytes() == "λ\n".encode() and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_file_of_before_and_nothing_else(tmp_path, error):
    path = tmp_path / "run.json"
    path.write_text("old")
    with pytest.raises(type(error)), replacing(path) as file:
        file.write(b"new")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["run.json"]


@pytest.mark.quick
def test_the_first_free_name():
    assert free_name("12", {"1"}.__contains__) == "12" and free_name("12", {"12", "12.1", "12.3"}.__contains__) == "12.2"


KILLED = """
import os, pathlib, signal, sys
from crn_jax.files import replacing
with replacing(pathlib.Path(sys.argv[1])) as file:
    file.write(b"new" * 100_000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_leaves_the_file_of_before(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("old")
    result = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=Path(__file__).parents[1])
    assert result.returncode == -9 and path.read_text() == "old"
    replace_text(path, "new")  # what the killed process has left is in nobody's way
    assert path.read_text() == "new"


def test_the_new_file_is_on_the_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    path, calls = tmp_path / "run.json", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: calls.append(("fsync", os.fstat(file).st_size)) or fsync(file))
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append(("replace", path.exists())) or replace(*paths))
    replace_text(path, "12345")
    assert calls == [("fsync", 5), ("replace", False)]


def test_no_link_is_followed(tmp_path, monkeypatch):
    """Even where someone has guessed the temporary name."""
    victim, path = tmp_path / "victim", tmp_path / "run.json"
    victim.write_text("precious")
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    (tmp_path / ".guessed.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        replace_text(path, "new")
    assert victim.read_text() == "precious" and not path.exists() and (tmp_path / ".guessed.tmp").is_symlink()


def test_who_may_read_it_is_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        replace_text(tmp_path / "run.json", "")
    finally:
        os.umask(before)
    assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("content", [b"", b"abc", bytes(3_000_000)])
def test_the_sha256_of_a_file(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
