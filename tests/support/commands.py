"""The commands as a test calls them, in this process or in one of their own, and what their runs leave behind."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from crn_jax.checkpoint import Checkpoints
from crn_jax.checksums import unsealed
from crn_jax.run import read_description
from crn_jax.train import TrainState, abstract_state
from launch import train
from launch.common.terminal import console
from launch.training.metrics_log import read_metrics

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600
"""Seconds after which a test gives up a process. It is no measure of speed: a busy machine may need minutes."""


def run(arguments: list[str], folder: Path) -> None:
    """Trains into a folder."""
    train.main([*arguments, "--run.folder", str(folder)])


def refused(main: Callable[[list[str]], None], *arguments: object) -> str:
    """Returns what a command says that must fail."""
    with console.capture() as capture, pytest.raises(SystemExit) as exit_:
        main([*map(str, arguments)])
    assert exit_.value.code == 2
    return capture.get()


def refused_run(arguments: list[str], folder: Path) -> str:
    """Returns what a training says that must fail."""
    return refused(train.main, *arguments, "--run.folder", folder)


def start(arguments: list[str], folder: Path, before: str = "true", pause: float = 0.0) -> subprocess.Popen:
    """Starts a training against the narrow VGG-19, in a process of its own.

    `before` is a shell command that sets the process up. The training pauses so many seconds before each step: then it is not
    over before a test can disturb it, however fast the machine is.
    """
    command = [sys.executable, "-m", "tests.support.narrow", str(pause), *arguments, "--run.folder", str(folder)]
    command = ["bash", "-c", f'{before}; exec "$@"', "bash", *command]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen, condition: Callable[[], bool], poll: float = 0.02) -> None:
    """Waits until the condition holds or the process ends."""
    deadline = time.monotonic() + PATIENCE
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, f"nothing has come of it in {PATIENCE} seconds"
        time.sleep(poll)


def free_port() -> int:
    """Returns a port of this machine that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def trained_lines(folder: Path) -> int:
    """Returns how many lines a training has logged."""
    return sum("loss" in line for line in read_metrics(folder / "metrics.jsonl"))


def redescribe(folder: Path, change: Callable[[dict], None]) -> dict:
    """Changes what the run.json of a run folder says, and returns it. It has no checksum then, as in runs of older code."""
    file = folder / "run.json"
    description = unsealed(json.loads(file.read_text()))
    change(description)
    file.write_text(json.dumps(description))
    return description


def final_state(folder: Path | str) -> TrainState:
    """Returns the last state that a run has saved, as NumPy arrays."""
    experiment, *_ = read_description(folder)
    checkpoints = Checkpoints(f"{folder}/checkpoints")
    state = checkpoints.load(checkpoints.latest_step(), abstract_state(experiment.objective(6)))
    checkpoints.close()
    return jax.tree.map(np.asarray, state)


def copy_described_otherwise(run: Path, folder: Path, change: Callable[[dict], None]) -> None:
    """Copies a run as if it had been trained by another description; only the last checkpoint is there."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints"))
    state, description = jax.device_put(final_state(run)), redescribe(folder, change)
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(int(state.step), state, None, description)
    checkpoints.close()
