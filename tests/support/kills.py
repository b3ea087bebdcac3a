"""Kills trainings at random moments, resumes them, and compares their ends bit for bit with those of undisturbed ones.

    python -m tests.support.kills --count 200

A training of a few steps saves every second step. SIGKILL ends it: in turn at any moment after its start, and while a
checkpoint is being written; in turn as a single process, and one of two. It is then resumed to its end. The trainings are
forked from this process, which has imported everything. It must not start JAX's devices itself.
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # as conftest.py has them, so that little is compiled, and once
    flags = ["--xla_backend_optimization_level=0"]
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
    _COMPILED = tempfile.TemporaryDirectory(prefix="crn_jax_compiled_", ignore_cleanup_errors=True)
    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags), "JAX_COMPILATION_CACHE_DIR": _COMPILED.name}
    os.environ |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}

import jax  # noqa: E402

from launch import train  # noqa: E402
from launch.common.exit_status import LOST  # noqa: E402
from tests.support.commands import PATIENCE, final_state  # noqa: E402
from tests.support.narrow import narrow_vgg19, write_random_vgg19  # noqa: E402

ARGUMENTS = (
    "demo --steps 8 --cascade.base 2 4 --cascade.widths 8 8 8 8 --data.num_scenes 6 --run.validation_examples 2 "
    "--run.sheet_examples 1 --run.checkpoint_every 2 --run.validate_every 8 --run.log_every 1 --batch_size 2"
).split()
KINDS = ("any moment", "saving")


class End(NamedTuple):
    """How a training has ended."""

    statuses: list[int]
    sums: dict[str, str] | None
    """The SHA-256 of each array of its last state; None if it has not come to its end."""
    seconds: float


@dataclasses.dataclass
class Training:
    """The processes of a training in a folder."""

    folder: Path
    weights: Path
    processes: int

    def start(self) -> None:
        """Starts the processes."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = f"--coordinator 127.0.0.1:{free.getsockname()[1]} --num_processes {self.processes} --process_id".split()
        arguments = [*ARGUMENTS, "--vgg.weights", str(self.weights), "--run.folder", str(self.folder)]
        arguments += ["--sharding.mesh", "1", str(self.processes)]
        self.began, self.pids = time.monotonic(), list[int]()
        for i in range(self.processes):
            pid = os.fork()
            if pid == 0:
                self._train([*arguments, *meeting, str(i)] if self.processes > 1 else arguments, first=i == 0)
            self.pids.append(pid)

    def _train(self, arguments: list[str], first: bool) -> None:
        """Trains in a forked process, which ends here. The first one then takes the sums of what it has saved last."""
        status = 1
        try:
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            jax.config.update("jax_num_cpu_devices", 1)
            with narrow_vgg19():
                train.main(arguments)
                if first:
                    named = jax.tree_util.tree_leaves_with_path(final_state(self.folder))
                    sums = {jax.tree_util.keystr(path): hashlib.sha256(leaf.tobytes()).hexdigest() for path, leaf in named}
                    self.result.write_text(json.dumps(sums))
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    @property
    def log(self) -> Path:
        """The file of what the processes print."""
        return Path(f"{self.folder}.log")

    @property
    def result(self) -> Path:
        """The file of the sums."""
        return Path(f"{self.folder}.json")

    def wait(self, patience: float = PATIENCE) -> End:
        """Waits for the end of the processes, and kills what is left after some seconds, as a launcher does."""
        statuses, deadline = [], time.monotonic() + patience
        for pid in self.pids:
            while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
                if time.monotonic() > deadline:
                    self.kill([pid])
                time.sleep(0.02)
            statuses.append(os.waitstatus_to_exitcode(ended[1]))
        sums = json.loads(self.result.read_text()) if self.result.exists() else None
        return End(statuses, sums, time.monotonic() - self.began)

    @staticmethod
    def kill(pids: Sequence[int]) -> None:
        """Kills processes."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def saves(self) -> tuple[int, bool]:
        """Returns how many checkpoints there are, and whether another one is being written."""
        names = []
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(self.folder / "checkpoints")
        return max((int(name) // 2 for name in names if name.isdecimal()), default=0), any("tmp" in name for name in names)

    def runs(self) -> bool:
        """Returns whether all processes run. `wait` learns their statuses later."""
        return all(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None for pid in self.pids)


class Campaign:
    """Kills and compares. `seconds` has the time of an undisturbed training, by its number of processes."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.random = folder, random.Random(seed)
        with narrow_vgg19():
            self.weights = write_random_vgg19(folder / "vgg19.h5")
        self.expected: dict[int, dict[str, str]] = {}
        self.seconds: dict[int, float] = {}

    def undisturbed(self, processes: int) -> None:
        """Trains without a disturbance: once to compile, and once more to compare and to measure the time."""
        for name in ("compiling", "undisturbed"):
            training = Training(self.folder / f"{name}_{processes}", self.weights, processes)
            training.start()
            end = training.wait()
            assert end.statuses == [0] * processes and end.sums, training.log.read_text()
            assert self.expected.setdefault(processes, end.sums) == end.sums, "two undisturbed trainings differ"
            self.seconds[processes] = end.seconds

    def kill_once(self, name: str, kind: str, processes: int) -> str:
        """Kills a training and resumes it. Returns what came of it; `late` if it had ended before it could be killed."""
        training = Training(self.folder / name, self.weights, processes)
        training.start()
        if kind == "saving":
            self.wait_for_a_save(training)
        else:
            time.sleep(self.random.uniform(0, self.seconds[processes]))
        killed = self.random.randrange(processes)
        training.kill(training.pids[killed : killed + 1])
        end = training.wait(patience=30)  # one that has not met the other yet would wait for five minutes
        if end.statuses[killed] != -signal.SIGKILL:
            result = "late"
        elif not set(end.statuses) <= {0, LOST, -signal.SIGABRT, -signal.SIGKILL}:
            result = f"the other process ended with {end.statuses}"
        else:
            training.start()
            end = training.wait()
            if end.statuses != [0] * processes:
                result = f"the resumed training ended with {end.statuses}"
            else:
                result = "identical" if end.sums == self.expected[processes] else "DIFFERS"
        if result in ("identical", "late"):
            shutil.rmtree(training.folder, ignore_errors=True)
            training.log.unlink(missing_ok=True)
            training.result.unlink(missing_ok=True)
        return result

    def wait_for_a_save(self, training: Training) -> None:
        """Returns at a random moment of a random save, or when the training has ended."""
        nth = self.random.randrange(4)
        while training.runs():
            if training.saves()[0] >= nth and training.saves()[1]:
                time.sleep(self.random.uniform(0, 0.03))
                if training.saves()[1]:  # else it was over before; the next one will do
                    return
            time.sleep(0.0005)


def kill_and_compare(folder: Path, count: int, seed: int = 0, processes: Sequence[int] = (1, 2)) -> dict[str, int]:
    """Kills `count` trainings. Returns how often each came of it, by kind of kill, number of processes and result."""
    campaign, results, tries = Campaign(folder, seed), collections.Counter[str](), 0
    for number in processes:
        campaign.undisturbed(number)
    for i in range(count):
        kind, number = KINDS[i % 2], processes[i // 2 % len(processes)]
        while (result := campaign.kill_once(f"{seed}_{tries}", kind, number)) == "late":
            tries += 1
        tries += 1
        results[f"{kind}, {number} process{'es' * (number > 1)}: {result}"] += 1
        print(f"{i + 1}/{count} {kind}, {number}: {result}", flush=True)
    return dict(sorted(results.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs that differ are kept; default: a new one in /tmp")
    asked = parser.parse_args()
    place = asked.folder or Path(tempfile.mkdtemp(prefix="crn_jax_kills_"))
    place.mkdir(parents=True, exist_ok=True)
    counted = kill_and_compare(place, asked.count, asked.seed)
    print("\n".join(f"{number:4d}  {result}" for result, number in counted.items()))
    if failed := sum(number for result, number in counted.items() if not result.endswith("identical")):
        print(f"{failed} failed; their folders are kept in {place}")
        sys.exit(1)
    shutil.rmtree(place)
