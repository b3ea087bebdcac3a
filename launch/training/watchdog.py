"""Ends a run that is stuck: a thread notices a step, a validation or a save that takes far longer than it did before.

JAX notices a process that has died. It does not notice one that is alive and waits for ever, and then all others wait for that
one. The watchdog of each process measures how long the main thread has been in one phase. Time counts only while the watchdog
itself runs, so that a suspended machine or a stopped process raises no alarm. Neither does time in which JAX compiles.

With several processes, each writes to JAX's coordinator how far it has come. A process that waits for another one raises no
alarm while the other shows signs of life and is within its own bound. The alarm prints the stacks of all threads and how far
each process has come, and names those that hold up the others. Then all processes end, and the launcher starts them again.
"""

import dataclasses
import json
import os
import statistics
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import jax

from launch.common import ending
from launch.common.exit_status import LOST
from launch.training.async_steps import AsyncSteps
from launch.training.compiling import compiling

Phase = Literal["start", "step", "validation", "save", "wait"]

FACTOR = 10
"""How many times the median of its kind a phase may take."""

FIRST = 30
"""How many times the smallest bound the first phase of its kind may take, whose usual length is not known yet."""

SILENT_TICKS = 20
"""The number of ticks after which a process that has written nothing counts as silent. Each writes every fifth tick."""

COORDINATOR = -1
"""Stands for JAX's coordinator among the numbers of processes."""

_PROGRESS = "crn_jax/progress/"


class Peers:
    """What the processes of a run tell each other about how far they have come. A thread speaks to the coordinator.

    The watchdog itself must not wait for the coordinator, whose process may be the one that is stuck.
    """

    def __init__(self, client: Any, index: int):
        self._client, self._index = client, index
        self._wanted, self._over = threading.Event(), threading.Event()
        self._mine, self._asked = "{}", False
        self.answers = 0
        """How often the coordinator has answered."""
        self.reached: dict[int, dict[str, Any]] = {}
        """What each process has told last, by its number."""
        self._thread = threading.Thread(target=self._speak, name="progress of all processes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, which must not be within JAX's client while Python ends: that would abort the process."""
        self._over.set()
        self._wanted.set()
        self._thread.join(ending.PATIENCE)

    def tell(self, mine: dict[str, Any], ask: bool) -> None:
        """Tells the others how far this process has come, and asks how far they have, if `ask`. It does not wait."""
        self._mine, self._asked = json.dumps(mine), ask
        self._wanted.set()

    def _speak(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._over.is_set():
                return
            try:
                self._client.key_value_set(f"{_PROGRESS}{self._index}", self._mine, allow_overwrite=True)
                if self._asked:
                    told = self._client.key_value_dir_get(_PROGRESS)
                    self.reached = {int(key.rpartition("/")[2]): json.loads(value) for key, value in told}
                self.answers += 1
            except jax.errors.JaxRuntimeError:
                time.sleep(1)  # the coordinator is gone, which JAX notices, or it does not answer


@dataclasses.dataclass
class Current:
    """The phase that the main thread is in, and the seconds that it has taken so far."""

    phase: Phase
    step: int
    spent: float = 0.0


class Watchdog:
    """Watches the main thread of this process, from `__enter__` to `__exit__`.

    Args:
      seconds: the smallest bound.
      say: a function that prints a message of an error.
      writing: a function that returns an odd number while the run folder is being written to, and another one each time.
      folder: the run folder, for a message.
    """

    def __init__(self, seconds: float, say: Callable[[str], None], writing: Callable[[], int] = lambda: 0, folder: str = ""):
        self._smallest, self._say, self._writing, self._folder = seconds, say, writing, folder
        self._tick = min(1.0, seconds / 60)
        self.ticks = 0
        """How often the watchdog has looked."""
        self.took: dict[Phase, deque[float]] = defaultdict(lambda: deque(maxlen=101))
        """The seconds that the last phases of each kind took, at most 101 of a kind."""
        self._begun = False
        """Whether the first step of this start has been given to the devices."""
        self._main, self._closed = threading.get_ident(), threading.Event()
        self.current = Current("start", 0)
        """The phase that the main thread is in."""
        self.compiling = compiling()
        """What tells when JAX compiles, which is no time of a phase."""
        self._held = (0, 0.0)
        client = ending.coordinator()
        self._peers = Peers(client, jax.process_index()) if client is not None else None
        self._asked_since = 0
        self._heard: dict[int, tuple[Any, int]] = {}

    def __enter__(self):
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_):
        self._closed.set()
        if self._peers:
            self._peers.close()

    def begin(self, phase: Phase, step: int) -> None:
        """Notes that the main thread begins a phase, which ends the one before."""
        before, self.current = self.current, Current(phase, step)
        if before.phase == "step" and not self._begun:
            self._begun = True  # JAX has only begun to compute the first step; what waits for it is the second one
        elif before.phase not in ("start", "wait"):
            self.took[before.phase].append(before.spent)

    def bound(self, phase: Phase) -> float:
        """Returns the seconds that a phase may take.

        A checkpoint is written while steps are computed. Most waits for its end are therefore short, and say nothing of others.
        """
        if phase == "start":
            return float("inf")
        took = list(self.took[phase])
        return max(self._smallest, FACTOR * statistics.median(took)) if took else FIRST * self._smallest

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._closed.wait(self._tick):
            now = time.monotonic()
            passed, before = min(now - before, 2 * self._tick), now  # if it was longer, this process was suspended
            self.ticks += 1
            current = self.current
            if not self.compiling.depth:
                current.spent += passed
            self._look_at_folder(passed)
            if self._peers and self.ticks % 5 == 0:
                self._exchange(self._peers, current)
            if current.spent > self.bound(current.phase) and not self._waits_for_others():
                return self._alarm(current)

    def _progress(self) -> dict[str, Any]:
        """Returns what the other processes are told: how far this one is, and whether it is within its own bound."""
        current, frame = self.current, sys._current_frames().get(self._main)
        file, line, name = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name) if frame else ("?", 0, "?")
        return {
            "tick": self.ticks,
            "step": current.step,
            "phase": current.phase,
            "late": current.spent > self.bound(current.phase),
            "waits": f"{os.sep}jax{os.sep}" in file or _settles(frame),
            "where": f"{name} ({Path(file).name}:{line})",
        }

    def _exchange(self, peers: Peers, current: Current) -> None:
        """Tells the others how far this process is. After half of its bound, it notes when each of them has told something."""
        asks = current.spent > self.bound(current.phase) / 2
        peers.tell(self._progress(), asks)
        if not asks:
            self._asked_since = self.ticks
            self._heard.clear()
            return
        for index, told in {**peers.reached, COORDINATOR: peers.answers}.items():
            if index not in self._heard or self._heard[index][0] != told:
                self._heard[index] = told, self.ticks

    def _silent(self, index: int) -> bool:
        return self.ticks - self._heard.get(index, (None, self._asked_since))[1] > SILENT_TICKS

    def _reached(self) -> dict[int, dict[str, Any]]:
        return {**(self._peers.reached if self._peers else {}), jax.process_index(): self._progress()}

    def _behind(self) -> list[int]:
        """Returns the processes that hold up the others: those that are silent, or else those that are least far.

        If several are equally far, those count that do not wait for the devices.
        """
        if self._silent(COORDINATOR):
            return [0]
        reached = self._reached()
        if silent := [index for index in reached if index != jax.process_index() and self._silent(index)]:
            return silent
        least = min(told["step"] for told in reached.values())
        last = [index for index, told in reached.items() if told["step"] == least]
        return [index for index in last if not reached[index]["waits"]] or last

    def _waits_for_others(self) -> bool:
        """Returns whether this process, which is late, waits for another that is no farther, at work, and not late."""
        if not self._peers or self._silent(COORDINATOR):
            return False
        me = self.current.step
        others = {index: told for index, told in self._reached().items() if index != jax.process_index()}
        return any(told["step"] <= me and not told["late"] and not self._silent(index) for index, told in others.items())

    def _look_at_folder(self, passed: float) -> None:
        """Says once that the run folder does not answer, such as on a lost network disk."""
        count, before = self._writing(), self._held
        self._held = (count, before[1] + passed if count == before[0] and count % 2 else 0.0)
        if before[1] < self._smallest / 4 <= self._held[1]:
            message = f"{self._folder} has not answered for {self._held[1]:.0f} s. The training ends if that lasts."
            ending.within(ending.PATIENCE, lambda: self._say(message))

    def _alarm(self, current: Current) -> None:
        """Writes what is known, and ends the run."""
        message = (
            f"The run is stuck: the {current.phase} at step {current.step} has taken {current.spent:.0f} s, and its bound is "
            f"{self.bound(current.phase):.0f} s (see --run.stuck_seconds). {self._describe_processes()}"
            f"The same command goes on from the last checkpoint."
        )
        ending.dump_stacks()
        ending.within(ending.PATIENCE, lambda: self._say(message))
        ending.end_all(LOST, message, stacks=True)

    def _describe_processes(self) -> str:
        """Returns sentences about how far each process has come; empty for a single process."""
        if not self._peers:
            return ""
        behind, reached = self._behind(), self._reached()
        told = "; ".join(f"process {i}: {t['phase']} at step {t['step']}, in {t['where']}" for i, t in sorted(reached.items()))
        who = f"Processes {', '.join(map(str, behind))} hold" if len(behind) > 1 else f"Process {behind[0]} holds"
        return f"{who} up the others. How far they have come: {told}. "


def _settles(frame: FrameType | None) -> bool:
    """Returns whether a thread waits for a step's metrics, in the function itself or in one that is written within it."""
    around = (frame, frame.f_back) if frame else ()
    return any(each is not None and each.f_code is AsyncSteps.settle.__code__ for each in around)
