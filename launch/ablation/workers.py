"""Runs the tasks of an ablation by workers. Each has an accelerator, and its commands run in processes of their own."""

import contextlib
import dataclasses
import fcntl
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal

import rich.progress
from rich.text import Text

import crn_jax.__main__
from crn_jax.errors import UserError
from launch.ablation.tasks import Task, shown
from launch.common.exit_status import TRY_AGAIN
from launch.common.output import explained_writing
from launch.common.terminal import console, progress_bar

POLL_SECONDS = 1.0

Outcome = Literal["finished", "failed", "stopped"]


@contextlib.contextmanager
def claimed(folder: Path, wait: bool = False) -> Iterator[int | None]:
    """Holds a folder's lock, and yields its file descriptor, or None if another process holds the lock.

    With `wait`, it waits until nobody else holds the lock.

    Commands that inherit the descriptor keep the lock. The operating system frees it when the last of them ends, however it
    ends.

    Raises:
      UserError: if the folder cannot be written, or its file system has no locks.
    """
    with explained_writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            lock: int | None = file
        except BlockingIOError:
            lock = None
        except OSError as error:
            raise UserError(
                f"{folder} cannot be locked ({error}). Choose a folder on another file system with --out."
            ) from error
        yield lock
    finally:
        os.close(file)


def _no_link(path: str, flags: int) -> int:
    """Opens a file, but does not follow a link to another."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def accelerator(slot: int, jobs: int) -> dict[str, str]:
    """Returns environment variables that show a process only the accelerator `slot`, if several jobs run at a time."""
    if jobs == 1:
        return {}
    visible = visible_gpus()
    gpu = str(slot) if visible is None else visible[slot] if visible else f"-1,{slot}"  # CUDA shows none from -1 on
    tpu = {"TPU_VISIBLE_CHIPS": str(slot), "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
    return {"CUDA_VISIBLE_DEVICES": gpu, **tpu}


def visible_gpus() -> list[str] | None:
    """Returns the GPUs that CUDA_VISIBLE_DEVICES shows, none if it hides all; None if it is not set."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if listed is None else list(itertools.takewhile(lambda gpu: gpu not in ("", "-1"), listed.split(",")))


def take_cores(slot: int, jobs: int) -> None:
    """Confines this thread, and the processes that it starts, to an equal share of the cores, or to one if there are fewer.

    Small steps do not fill many cores: two trainings with a core each take fewer seconds than one after the other with two.
    """
    if jobs == 1 or not hasattr(os, "sched_setaffinity"):  # macOS has no such call
        return
    cores = sorted(os.sched_getaffinity(0))
    first, last = (len(cores) * n // jobs for n in (slot, slot + 1))
    os.sched_setaffinity(0, cores[first:last] or [cores[slot % len(cores)]])


def check_jobs(jobs: int) -> None:
    """Raises UserError if there are more jobs than GPUs in CUDA_VISIBLE_DEVICES."""
    if (visible := visible_gpus()) and jobs > len(visible):
        raise UserError(f"--jobs {jobs}, but CUDA_VISIBLE_DEVICES lists fewer GPUs: {','.join(visible)}.")


@dataclasses.dataclass
class Workers:
    """Runs tasks, `jobs` at a time. Each job has an accelerator and a share of the processor's cores.

    Within this context, SIGTERM and SIGINT set `stopped`, and ask the running commands to save and end. `outcomes` has the
    outcome of each task that was run, by its folder.
    """

    jobs: int
    devices: Path
    """The folder of the accelerators' locks. By these, workers wait for commands that a killed ablation left running."""

    def __post_init__(self):
        self.stopped = threading.Event()
        self.outcomes: dict[Path, Outcome] = {}
        self._tasks: set[Task] = set()
        self._processes: set[subprocess.Popen] = set()
        self._mutex = threading.RLock()  # a second signal may come while the first is handled
        self._reporting = threading.Lock()

    def __enter__(self):
        numbers = signal.SIGTERM, signal.SIGINT
        self._before = {number: signal.signal(number, lambda *_: self.stop()) for number in numbers}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop(self) -> None:
        """Asks all running commands to save and end."""
        with self._mutex:
            self.stopped.set()
            for process in self._processes:
                process.send_signal(signal.SIGTERM)

    def work(self, tasks: Sequence[Task], report: Callable[[], object]) -> None:
        """Runs the outstanding commands of the tasks, and calls `report` after each task."""
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._worker, slot, tasks, report) for slot in range(self.jobs)]
            self._watch(tasks, futures)
        for future in futures:
            future.result()

    def _worker(self, slot: int, tasks: Sequence[Task], report: Callable[[], object]) -> None:
        environment = accelerator(slot, self.jobs)
        take_cores(slot, self.jobs)
        try:
            with self.device(environment) as device:
                remaining = list(tasks)
                while remaining and not self.stopped.is_set():
                    remaining = [task for task in remaining if not self._dealt_with(task, device, environment, report)]
                    self.stopped.wait(POLL_SECONDS if remaining else 0)
        except BaseException:
            self.stop()
            raise

    @contextlib.contextmanager
    def device(self, environment: dict[str, str]) -> Iterator[int | None]:
        """Waits for the lock of a worker's accelerator. It yields None if the ablation is stopped before."""
        name = lock_name(environment.get("CUDA_VISIBLE_DEVICES", "all"))
        for attempt in range(sys.maxsize):
            with claimed(self.devices / name) as lock:
                if lock is not None or self.stopped.is_set():
                    yield lock
                    return
            if attempt == 0:
                console.print("Waiting for what an ablation that was killed, or another ablation, is still running here.")
            self.stopped.wait(POLL_SECONDS)

    def _dealt_with(self, task: Task, device: int | None, environment: dict[str, str], report: Callable[[], object]) -> bool:
        """Runs a task, unless this ablation has. Returns whether it is dealt with; it is not while another process runs it."""
        if device is None or self.stopped.is_set() or task.folder in self.outcomes:
            return True
        with claimed(task.folder) as lock:
            if lock is None:
                return False
            self._tasks.add(task)
            self.outcomes[task.folder] = outcome = self.run(task, (lock, device), environment)
            self._tasks.discard(task)
        with self._reporting:
            report()
            say(task, outcome)
        return True

    def run(self, task: Task, locks: Sequence[int], environment: dict[str, str]) -> Outcome:
        """Runs the outstanding commands of a task, until one fails or is stopped."""
        before = None
        while (command := task.outstanding()) is not None:
            if command == before:
                return "failed"  # it ended well, but left no results
            before = command
            status = self.run_command(command, task.log, locks, environment)
            if status == 0:
                task.done(command)
            elif status == TRY_AGAIN or self.stopped.is_set():
                return "stopped"
            else:
                return "failed"
        return "finished"

    def run_command(self, command: list[str], log: Path, locks: Sequence[int], environment: dict[str, str]) -> int:
        """Runs a command and returns its exit status. It has its own session, so that Ctrl-C reaches it once, by `stop`."""
        with open(log, "a", encoding="utf-8", opener=_no_link) as output:
            with self._mutex:
                if self.stopped.is_set():
                    return TRY_AGAIN
                output.write(f"\n$ {shown(command)}\n")
                output.flush()
                process = subprocess.Popen(
                    # By its path: a folder called crn_jax may lie where one stands.
                    [sys.executable, "-P", crn_jax.__main__.__file__, command[0].removeprefix("launch."), *command[1:]],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env=own(environment),
                    pass_fds=locks,
                    start_new_session=True,
                )
                self._processes.add(process)
            status = process.wait()
            with self._mutex:
                self._processes.discard(process)
            if status not in (0, TRY_AGAIN):
                output.write(f"(exit status {status})\n")
            return status

    def _watch(self, tasks: Sequence[Task], futures: Sequence[Future]) -> None:
        """Shows the progress of the trainings, until all workers are done."""
        with progress_bar(rich.progress.MofNCompleteColumn()) as progress:
            whole = progress.add_task("trainings", total=len(tasks))
            bars: dict[Task, rich.progress.TaskID] = {}
            while wait(futures, POLL_SECONDS).not_done:
                progress.update(whole, completed=sum(task.folder in self.outcomes for task in tasks))
                running = set(self._tasks)
                bars |= {task: progress.add_task(task.name) for task in running - bars.keys()}
                for task, bar in bars.items():
                    done, total = task.progress() if task in running else (0, None)
                    progress.update(bar, completed=done, total=total, visible=task in running)


def lock_name(device: str) -> str:
    """Returns the name of an accelerator's lock: the host, what SLURM has given to this job, and the device in it.

    SLURM gives a device to one job at a time, and ends all processes of a job before. Jobs on one host never wait for each
    other, therefore. Within a job, steps may share devices. The numbers of GPUs alone would not do: with cgroups, every job's
    GPUs are numbered from 0.
    """
    given = (f"{key}{os.environ[variable]}" for key, variable in _OF_SLURM.items() if variable in os.environ)
    return "_".join([socket.gethostname(), *given, device])


_OF_SLURM = {"job": "SLURM_JOB_ID", "gpus": "SLURM_STEP_GPUS"}


def own(environment: dict[str, str]) -> dict[str, str]:
    """Returns a command's environment, without the variable by which it would join the processes of a SLURM step."""
    inherited = {key: value for key, value in os.environ.items() if key != "SLURM_STEP_NODELIST"}
    return inherited | environment


def say(task: Task, outcome: Outcome) -> None:
    """Prints the outcome of a task."""
    if outcome == "failed":
        console.print(Text.assemble((f"{task.name}: failed", "bold red"), f", see {task.log}"))
        console.print(task.problem())
    else:
        console.print(f"{task.name}: {outcome}")
