"""What a bug report should say, on a machine where all is well, and where something is not."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from crn_jax.vgg_weights import ENVIRONMENT_VARIABLE, PUBLISHED_NAME
from launch import doctor
from launch.common.exit_status import FAILED, USER_ERROR
from launch.common.terminal import console, missing_platform

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def downloads(tmp_path, monkeypatch):
    """An empty folder of downloads; the cache of compiled programs as it was, afterwards."""
    monkeypatch.setattr(doctor, "cache_folder", lambda: tmp_path / "downloads")
    before = jax.config.jax_compilation_cache_dir
    yield tmp_path / "downloads"
    jax.config.update("jax_compilation_cache_dir", before)


def told() -> dict[str, str]:
    """What the doctor prints, by the word before the colon."""
    with console.capture() as capture:
        doctor.main([])
    return dict(line.split(": ", 1) for line in capture.get().splitlines() if ": " in line)


def test_a_report_of_a_machine_where_all_is_well(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    lines = told()
    assert lines["jax"] == jax.__version__ and lines["Python"] and lines["platform"] and lines["crn_jax"]
    assert all(lines[package][0].isdigit() for package in doctor.PACKAGES)
    assert "8 x" in lines["devices"] and "cpu" in lines["devices"] and "GiB" in lines["memory"]
    assert lines["compilation cache"].startswith(str(tmp_path / "compiled"))
    assert lines["VGG-19"].startswith("not found")
    assert lines["training step"].startswith("16x32, ") and "loss" in lines["training step"]


def test_weights_that_are_named_wrongly_are_part_of_the_report(monkeypatch):
    monkeypatch.delenv("NOPE", raising=False)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "$NOPE/x.h5")
    assert doctor.vgg19_state(None).startswith(f"not usable ({ENVIRONMENT_VARIABLE}): ")


def test_a_step_that_fails_is_reported_and_ends_with_status_1(monkeypatch):
    def fail(objective):
        raise RuntimeError("no cuDNN [here]")

    monkeypatch.setattr(doctor, "make_train_step", fail)
    with console.capture() as capture, pytest.raises(SystemExit) as ended:
        doctor.main([])
    assert ended.value.code == 1
    assert "training step: failed, RuntimeError: no cuDNN [here]" in capture.get() and "Traceback" in capture.get()


@pytest.mark.parametrize(("words", "status"), [("doctor", FAILED), ("train demo --dry_run", USER_ERROR)])
def test_a_platform_that_is_not_there_is_told_in_a_sentence(words, status):
    environment = {**os.environ, "JAX_PLATFORMS": "none_such"}
    line = [sys.executable, "-m", *f"launch.{words}".split()]
    ended = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True)
    output = ended.stdout + ended.stderr
    assert ended.returncode == status, output
    assert "JAX finds no devices of the platform 'none_such'" in output and "Traceback" not in output


def test_so_is_one_whose_plug_in_is_not_installed(monkeypatch):
    """For a platform that it knows, JAX only fails an assertion."""

    def fail():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", fail)
    assert str(missing_platform()).startswith("JAX finds no devices of the platform 'cpu'")
    monkeypatch.undo()
    assert missing_platform() is None and missing_platform(RuntimeError("of another kind")) is None
    second = missing_platform(RuntimeError("Unable to initialize backend 'tpu'"))  # JAX raises it once, and then has a CPU
    assert "JAX says: Unable to initialize backend 'tpu'" in str(second)


def test_vgg19_is_found_by_flag_variable_and_download(random_vgg_file, downloads, tmp_path, monkeypatch):
    assert doctor.vgg19_state(None) == f"not found, and would be downloaded to {downloads / PUBLISHED_NAME}"
    ours = f"{random_vgg_file} ({{}}), read, not the published Keras file"
    assert doctor.vgg19_state(str(random_vgg_file)) == ours.format("--vgg.weights")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(random_vgg_file))
    assert doctor.vgg19_state(None) == ours.format(ENVIRONMENT_VARIABLE)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "none.h5"))
    assert doctor.vgg19_state(None).startswith(f"not usable ({ENVIRONMENT_VARIABLE}): {tmp_path / 'none.h5'}: there is no such")
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    downloads.mkdir()
    shutil.copy(random_vgg_file, downloads / PUBLISHED_NAME)
    assert "(downloaded), read, not the published Keras file" in doctor.vgg19_state(None)


def test_the_published_weights_are_verified(random_vgg_file, monkeypatch):
    monkeypatch.setattr(doctor, "PUBLISHED_HASH", f"md5:{hashlib.md5(random_vgg_file.read_bytes()).hexdigest()}")
    assert doctor.vgg19_state(str(random_vgg_file)).endswith("read, verified: the published file")


@pytest.mark.quick
def test_a_folder_is_writable_to_be_made_or_not(tmp_path):
    (tmp_path / "file").write_text("")
    assert doctor.writable(tmp_path) == "writable"
    assert doctor.writable(tmp_path / "a" / "b") == "to be made, writable"
    assert doctor.writable(tmp_path / "file" / "folder").startswith("not writable (")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
