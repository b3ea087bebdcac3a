"""Kills a training again and again, and prints what was seen of it besides its ledger, to compare the two.

    python -m tests.support.ledger_kills FOLDER KILLS

Each start is forked from this process, which has imported everything and must not start JAX's devices itself. Before each
step, a start waits `PAUSE` seconds for its data while its devices are idle. SIGKILL ends it when it has trained past its first
save. What was seen (`Seen`) is printed as JSON.
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax

from crn_jax.data.pipeline import training_batches
from launch import train
from launch.training import session
from launch.training.ledger import FILE, Ledger, read_ledger, starts_of
from launch.training.metrics_log import read_metrics
from tests.support.commands import PATIENCE
from tests.support.narrow import narrow_vgg19, write_random_vgg19

PAUSE = 0.25
SAVED_EVERY = 3

ARGUMENTS = (
    f"demo --steps 1000 --cascade.base 8 16 --cascade.widths 4 4 --data.num_scenes 6 --run.validation_examples 2 "
    f"--run.sheet_examples 1 --run.checkpoint_every {SAVED_EVERY} --run.log_every 1"
).split()


class Seen(NamedTuple):
    """What was seen of a start. Times are seconds since 1970."""

    forked: tuple[float, float]
    """Before and after its process was forked."""
    newest: int
    """The step of its last checkpoint."""
    saved: tuple[float, float]
    """Before and after its ledger was told of that checkpoint."""
    killed: float


def start(folder: Path, weights: Path) -> int:
    """Starts a training, and returns its process."""
    if pid := os.fork():
        return pid
    try:
        log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        jax.config.update("jax_num_cpu_devices", 1)

        def slow_batches(*given):
            for batch in training_batches(*given):
                jax.block_until_ready([array for array in jax.live_arrays() if not array.is_deleted()])  # the step before
                time.sleep(PAUSE)
                yield batch

        def saved(ledger: Ledger) -> None:
            before = time.time()
            told(ledger)
            with open(_saves(folder), "a") as file:
                file.write(json.dumps([ledger.step, before, time.time()]) + "\n")

        told = Ledger.saved
        sys.argv = ["launch.train", *ARGUMENTS, "--vgg.weights", str(weights), "--run.folder", str(folder)]
        with (
            narrow_vgg19(),
            mock.patch.object(session, "training_batches", slow_batches),
            mock.patch.object(Ledger, "saved", saved),
        ):
            train.main()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)  # none of them comes to its end


def _saves(folder: Path) -> Path:
    return folder.with_suffix(".saves")


def killed(folder: Path, weights: Path, saves: int) -> Seen:
    """Starts a training, kills it when it has saved `saves` times and is two steps further, and returns what was seen.

    It is stopped before it is killed, and goes on for a while if its ledger does not tell 99.5% of its time or not yet of its
    last checkpoint.
    """
    lines, asked = folder / "metrics.jsonl", time.monotonic()
    step = _last_step(lines) // SAVED_EVERY * SAVED_EVERY + saves * SAVED_EVERY
    before = time.time()
    pid = start(folder, weights)
    forked = before, time.time()

    def wait() -> None:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), Path(f"{folder}.log").read_text()
        assert time.monotonic() < asked + PATIENCE, "its ledger does not tell 99.5% of its time"
        time.sleep(0.005)

    while not (folder / "checkpoints" / str(step)).exists() or _last_step(lines) < step + 2:
        wait()
    while True:
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        now, own = time.time(), starts_of(read_ledger(folder / FILE))[-1]
        newest = max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
        times = {number: moments for number, *moments in map(json.loads, _saves(folder).read_text().splitlines())}
        told = own[-1].step >= newest + 2 and any(each.kind == "saved" and each.step == newest for each in own)
        if told and own[-1].at - own[-1].began >= 0.995 * (now - own[-1].began):
            break
        os.kill(pid, signal.SIGCONT)
        wait()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return Seen(forked, newest, times[newest], now)


def _last_step(lines: Path) -> int:
    return max([line["step"] for line in read_metrics(lines)], default=0)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    with narrow_vgg19():
        vgg19 = write_random_vgg19(place.with_suffix(".h5"))
    print(json.dumps([killed(place, vgg19, 1 + i % 2)._asdict() for i in range(int(sys.argv[2]))]))
