"""Kills a training again and again, and prints what was seen of it from outside, to compare with the run's own ledger.

    python -m tests.support.ledger_kills FOLDER KILLS

Each start is forked from this process, which has imported everything and must not start JAX's devices itself. Before each
step, a start waits `PAUSE` seconds for its data. SIGKILL ends it when it has trained past its first save. What was seen is
printed as JSON: for each start, `began` and `killed` (seconds since 1970), `lost` (the seconds of the steps after the last
save, as metrics.jsonl has them) and `since` (the seconds between the last line of metrics.jsonl and the kill).
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from unittest import mock

import jax

from crn_jax.data.pipeline import training_batches
from launch import train
from launch.training.metrics_log import read_metrics
from tests.support.commands import PATIENCE
from tests.support.narrow import narrow_vgg19, write_random_vgg19

PAUSE = 0.25
SAVED_EVERY = 3

ARGUMENTS = (
    f"demo --steps 1000 --cascade.base 8 16 --cascade.widths 4 4 --data.num_scenes 6 --run.validation_examples 2 "
    f"--run.sheet_examples 1 --run.checkpoint_every {SAVED_EVERY} --run.log_every 1"
).split()


def start(folder: Path, weights: Path) -> int:
    """Starts a training, and returns its process."""
    if pid := os.fork():
        return pid
    try:
        log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        jax.config.update("jax_num_cpu_devices", 1)
        _began(folder).write_text(repr(time.time()))

        def slow_batches(*given):
            for batch in training_batches(*given):
                time.sleep(PAUSE)
                yield batch

        with narrow_vgg19(), mock.patch.object(train, "training_batches", slow_batches):
            train.main([*ARGUMENTS, "--vgg.weights", str(weights), "--run.folder", str(folder)])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)  # none of them comes to its end


def _began(folder: Path) -> Path:
    return folder.with_suffix(".began")


def killed(folder: Path, weights: Path, saves: int) -> dict[str, float]:
    """Starts a training, kills it when it has saved `saves` times and is two steps further, and returns what was seen."""
    lines, asked = folder / "metrics.jsonl", time.monotonic()
    step = max([line["step"] for line in read_metrics(lines)], default=0) // SAVED_EVERY * SAVED_EVERY
    pid = start(folder, weights)
    while not (folder / "checkpoints" / str(step + saves * SAVED_EVERY)).exists() or (
        max(line["step"] for line in read_metrics(lines)) < step + saves * SAVED_EVERY + 2
    ):
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), Path(f"{folder}.log").read_text()
        assert time.monotonic() < asked + PATIENCE
        time.sleep(0.005)
    end = time.time()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    began, trained = float(_began(folder).read_text()), read_metrics(lines)
    newest = max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
    steps = {line["step"]: line["seconds_per_step"] for line in trained if "loss" in line}
    lost = sum(seconds for step, seconds in steps.items() if step > newest)
    return {"began": began, "killed": end, "lost": lost, "since": end - lines.stat().st_mtime, "steps": max(steps)}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    with narrow_vgg19():
        vgg19 = write_random_vgg19(place.with_suffix(".h5"))
    print(json.dumps([killed(place, vgg19, 1 + i % 2) for i in range(int(sys.argv[2]))]))
