"""A SLURM cluster of two nodes on this machine, whose jobs a test submits and waits for (slurm_lab.sh brings it up)."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.commands import PATIENCE

SCRIPT = Path(__file__).with_name("slurm_lab.sh")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun")


class Lab:
    """The cluster in a folder. Its jobs run in `work`, where `python` is the test's choice."""

    def __init__(self, folder: Path, work: Path):
        self.folder, self.work = folder, work
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{work}:{os.environ['PATH']}"}

    def ask(self, *command: object, **more: str) -> str:
        """Returns what a command prints."""
        environment = self.environment | more
        result = subprocess.run(
            [*map(str, command)], cwd=self.work, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def python(self, program: str) -> None:
        """Makes a shell program the `python` of the jobs."""
        (self.work / "python").write_text(f"#!/usr/bin/env bash\n{program}\n")
        (self.work / "python").chmod(0o755)

    def submit(self, *arguments: object, **more: str) -> str:
        """Submits a job, and returns its number."""
        return self.ask("sbatch", "--parsable", *arguments, **more).strip()

    def facts(self, job: str) -> dict[str, str]:
        """Returns what SLURM says of a job, such as its JobState."""
        return dict(re.findall(r"(\w+)=(\S+)", self.ask("scontrol", "show", "job", "--oneliner", job)))

    def wait(self, condition: Callable[[], object], *jobs: str) -> None:
        """Waits until the condition holds, while none of the jobs fails."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            failed = [job for job in jobs if self.facts(job)["JobState"] in ("FAILED", "TIMEOUT")]
            assert not failed and time.monotonic() < deadline, self.ask("squeue") + self.outputs()
            time.sleep(0.1)

    def wait_for(self, job: str, **facts: str) -> None:
        """Waits until SLURM says this of a job, which must not end in another state."""

        def holds() -> bool:
            found = self.facts(job)
            ended = found["JobState"] in ("CANCELLED", "COMPLETED", "FAILED", "TIMEOUT")
            assert not ended or found["JobState"] == facts.get("JobState"), f"{found['JobState']}\n{self.outputs()}"
            return facts.items() <= found.items()

        self.wait(holds)

    def preempt(self, *nodes: str) -> None:
        """Submits a job that takes these nodes from all others for a moment."""
        self.submit("-p", "high", f"--nodes={len(nodes)}", "-w", ",".join(nodes), "--gpus-per-node=8", "--wrap", "true")

    def end_soon(self, job: str) -> None:
        """Gives a running job a time limit that is reached one to two minutes from now."""
        hours, minutes, seconds = map(int, self.facts(job)["RunTime"].split(":"))
        self.ask("scontrol", "update", f"JobId={job}", f"TimeLimit={60 * hours + minutes + (2 if seconds else 1)}")

    def outputs(self) -> str:
        """Returns what all jobs have printed."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.work.glob("slurm-*.out")))


def missing() -> str | None:
    """Returns why there can be no cluster here, if so."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"needs SLURM (apt install slurm-wlm munge): there is no {', '.join(absent)}"
    return None if os.geteuid() == 0 else "only root can start the daemons of SLURM"


@contextlib.contextmanager
def laboratory(work: Path) -> Iterator[Lab]:
    """Brings the cluster up, and takes it down. It skips the test where there can be none."""
    if reason := missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm_", ignore_cleanup_errors=True) as folder:  # short, for a socket's name
        subprocess.run(["bash", SCRIPT, "start", folder, str(free_ports(20))], check=True, timeout=PATIENCE)
        try:
            yield Lab(Path(folder), work)
        finally:
            subprocess.run(["bash", SCRIPT, "stop", folder], check=True, timeout=PATIENCE)


def free_ports(count: int) -> int:
    """Returns the first of so many ports that are free, below those that the system gives away."""
    for base in range(20000, 32000, count):
        with contextlib.ExitStack() as taken, contextlib.suppress(OSError):
            for port in range(base, base + count):
                taken.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return base
    raise RuntimeError("no free ports")
