"""The ledger of a run: what its time was spent on, over all its starts, in the file ledger.jsonl of the run folder.

Each start appends *snapshots*: the seconds that it has spent on each phase so far, and the step that it has come to. A thread
writes them, more and more rarely: a start that is killed leaves 99.8% of its time in the ledger, and a day's training some
1.3 MB, of which the next start keeps little. After each save there is a snapshot, too. The start that goes on from that save
thereby tells how much work was lost: all that came later. Time between two starts, or in which the machine was suspended, is
idle.
"""

import dataclasses
import itertools
import json
import os
import queue
import threading
import time
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from crn_jax.files import replace_text
from crn_jax.formats.json_file import read_sound_lines
from launch.common.terminal import console
from launch.training.compiling import compiling

Phase = Literal["starting", "compiling", "waiting", "steps", "validation", "saving"]

WORK: tuple[Phase, ...] = ("waiting", "steps", "validation", "saving")
"""The phases whose time is lost if a later start has to do the work again."""

PHASES: tuple[Phase, ...] = ("starting", "compiling", *WORK)
"""What a start spends its time on. starting: all that comes before the first step and fits nowhere else."""

SHARE = 0.002
"""The time between two snapshots, as a share of the time since the start."""

LEAST_SECONDS, MOST_SECONDS = 0.01, 60.0
"""The least and the greatest time between two snapshots."""

FILE = "ledger.jsonl"

Kind = Literal["running", "saved", "ended"]


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a start had spent its time on at a moment."""

    start: int
    """The number of the start, counted from 1."""
    began: float
    """When it began, in seconds since 1970."""
    at: float
    """The moment, in seconds since 1970."""
    first_step: int | None
    """The step from which it went on; None if it had not got so far."""
    step: int
    """The step that it had come to."""
    kind: Kind
    """Why it was written: as time went by, because a save of this step had begun, or because the training ended."""
    seconds: dict[str, float]
    """The seconds of each phase since the start began."""

    def line(self) -> str:
        """Returns the line of ledger.jsonl."""
        return json.dumps(vars(self)) + "\n"


_FORMS: dict[Any, Any] = {int: int, float: float, int | None: (int, None), Kind: str, dict[str, float]: {"*": float}}
_LINE = {name: _FORMS[kind] for name, kind in typing.get_type_hints(Snapshot).items()}
_LARGEST = 1e10
"""No sound line has a larger number: neither a count nor seconds, which since 1970 end in the year 2286."""


def read_ledger(path: Path, note: Callable[[str], None] = lambda text: None) -> list[Snapshot]:
    """Returns the snapshots of a ledger, as `read_sound_lines` does."""
    return [Snapshot(**{name: line[name] for name in _LINE}) for line in read_sound_lines(path, _LINE, note, _possible)]


def _possible(line: dict[str, Any]) -> bool:
    """Returns whether a line of the ledger can be one that was written: its times are in order, and no number is too large."""
    numbers = (line["start"], line["first_step"] or 0, line["step"], line["began"], line["at"], *line["seconds"].values())
    in_order = 0 <= line["began"] <= line["at"]
    return in_order and all(abs(number) <= _LARGEST for number in numbers) and line["kind"] in typing.get_args(Kind)


def starts_of(snapshots: Sequence[Snapshot]) -> list[list[Snapshot]]:
    """Returns the snapshots of each start, in order."""
    return [list(own) for _, own in itertools.groupby(snapshots, lambda snapshot: snapshot.start)]


class Account(NamedTuple):
    """Where the time of a run has gone."""

    seconds: dict[str, float]
    """The seconds of each phase whose work was kept. The key `lost` holds the seconds of work that was done again."""
    idle: float
    """Seconds between two starts, or during which the machine was suspended."""
    starts: int
    killed: int
    """The number of starts that did not come to an end of their own."""

    @property
    def running(self) -> float:
        """The seconds of all starts together: the run's time."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """The share of the run's time that went into steps that count."""
        return self.seconds["steps"] / self.running if self.running else 0.0


def account_of(snapshots: Sequence[Snapshot], goes_on_from: int | None = None) -> Account:
    """Adds up where the time of a run has gone.

    Args:
      snapshots: the run's ledger.
      goes_on_from: the step from which the next start goes on. None: the last start still runs, and has lost nothing.
    """
    seconds: dict[str, float] = {phase: 0.0 for phase in (*PHASES, "lost")}
    idle = 0.0
    starts = starts_of(snapshots)
    over = starts[:-1] if goes_on_from is None else starts
    for own in reversed(starts):
        spent, kept = own[-1].seconds, _kept(own, goes_on_from).seconds
        for phase in PHASES:
            counted = (kept if phase in WORK else spent).get(phase, 0.0)
            seconds[phase] += counted
            seconds["lost"] += spent.get(phase, 0.0) - counted
        idle += max(0.0, own[-1].at - own[-1].began - sum(spent.values()))
        if own[-1].first_step is not None:
            goes_on_from = min(own[-1].first_step, own[-1].first_step if goes_on_from is None else goes_on_from)
    idle += sum(max(0.0, later[0].began - own[-1].at) for own, later in itertools.pairwise(starts))
    return Account(seconds, idle, len(starts), sum(own[-1].kind != "ended" for own in over))


def _kept(own: list[Snapshot], goes_on_from: int | None) -> Snapshot:
    """Returns the last snapshot of a start whose work was kept. A later start went on from the step `goes_on_from`."""
    if goes_on_from is None:
        return own[-1]
    if own[-1].first_step is None or goes_on_from <= own[-1].first_step:
        return dataclasses.replace(own[0], seconds={})
    saved = [each for each in own if each.kind != "running" and each.step == goes_on_from]
    return (saved or [each for each in own if each.step <= goes_on_from] or own[:1])[-1]


class Ledger:
    """The ledger of a training that runs, from `__enter__` to `__exit__`. The main thread tells what it does.

    Time in which it compiles is noticed, and belongs to no other phase.

    Args:
      folder: the run folder. None: nothing is written, as in all processes but the first.
      began: when the training began, by `time.monotonic()`.
    """

    def __init__(self, folder: Path | None, began: float):
        self._path = folder and folder / FILE
        self._began, self._began_at = began, began + _ahead(time.time, time.monotonic)
        self._main, self._compiling, self._mutex = threading.get_ident(), compiling(), threading.Lock()
        self._phase: Phase = "starting"
        self._seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._since, self._compiled = began, self._compiling.seconds(self._main)
        self._first_step: int | None = None
        self.step = 0
        """The step that is done."""
        self._earlier = list[Snapshot]()
        self._number = 1
        self._account = account_of([])
        self._to_write = queue.SimpleQueue[Snapshot | None]()
        self._thread = threading.Thread(target=self._write_all, name="ledger", daemon=True)

    def __enter__(self):
        if self._path:
            earlier = read_ledger(self._path, console.print)
            self._number = 1 + max((snapshot.start for snapshot in earlier), default=0)
            kept = [each for own in starts_of(earlier) for each in own if each.kind != "running" or each is own[-1]]
            replace_text(self._path, "".join(map(Snapshot.line, kept)))
            self._earlier = kept
            self._thread.start()
        return self

    def __exit__(self, *_):
        if self._path:
            self._to_write.put(self._snapshot("ended"))
            self._to_write.put(None)
            self._thread.join(10)  # a folder that does not answer need not be waited for

    def begin(self, phase: Phase) -> None:
        """Notes that the main thread begins a phase, which ends the one before."""
        if phase != self._phase:
            with self._mutex:
                self._settle()
                self._phase = phase

    def waited(self, seconds: float) -> None:
        """Notes that seconds of the current phase, which are past, went into waiting for data."""
        with self._mutex:
            self._seconds[self._phase] -= seconds  # to which `_settle` adds them, now or later
            self._seconds["waiting"] += seconds

    def go_on_from(self, step: int) -> None:
        """Notes from which step the training goes on. Work of earlier starts beyond it is lost."""
        self._first_step = self.step = step
        self._account = account_of(self._earlier, step)

    def saved(self) -> None:
        """Notes that the state of the step that is done is being saved."""
        if self._path:
            self._to_write.put(self._snapshot("saved"))

    def goodput(self) -> float:
        """Returns the share of the run's time so far that went into steps that count."""
        with self._mutex:
            self._settle()
            steps, running = self._seconds["steps"], sum(self._seconds.values())
        return (self._account.seconds["steps"] + steps) / max(self._account.running + running, 1e-9)

    def _settle(self) -> None:
        """Adds the time since the last call to the phase that it was spent on."""
        now, compiled = time.monotonic(), self._compiling.seconds(self._main)
        passed = max(0.0, now - self._since)
        of_it = min(passed, compiled - self._compiled)
        self._seconds["compiling"] += of_it
        self._seconds[self._phase] += passed - of_it
        self._since, self._compiled = now, compiled

    def _snapshot(self, kind: Kind) -> Snapshot:
        with self._mutex:
            self._settle()
            seconds = {phase: round(value, 3) for phase, value in self._seconds.items()}
            at = max(self._began_at, time.time())  # a clock may have been set back
            return Snapshot(self._number, round(self._began_at, 3), round(at, 3), self._first_step, self.step, kind, seconds)

    def _write_all(self) -> None:
        """Writes snapshots until the training ends. A disk that takes none does not end it, which lock.py notices."""
        assert self._path
        broken, synced = False, 0.0
        while True:
            pause = min(max(LEAST_SECONDS, SHARE * (time.monotonic() - self._began)), MOST_SECONDS)
            try:
                snapshot = self._to_write.get(timeout=pause)
            except queue.Empty:
                snapshot = self._snapshot("running")
            if snapshot is None:
                return
            try:
                with open(self._path, "ab", buffering=0) as file:
                    file.write(b"\n" * broken + snapshot.line().encode())  # a line that was cut short ends here
                    if snapshot.kind != "running" or time.monotonic() - synced > 10:
                        os.fsync(file.fileno())
                        synced = time.monotonic()
                broken = False
            except OSError:
                broken = True


def process_began() -> float:
    """Returns when this process began, by `time.monotonic()`; now, if the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        since_boot = ticks / os.sysconf("SC_CLK_TCK")
        began = since_boot - _ahead(lambda: time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic)
    except (OSError, ValueError, LookupError):
        return time.monotonic()
    return began if 0 < since_boot and began < time.monotonic() else time.monotonic()


def _ahead(clock: Callable[[], float], other: Callable[[], float]) -> float:
    """Returns by how many seconds a clock is ahead of another one.

    The thread may be put aside between the readings of the two, so that reading counts which took the least time.
    """
    readings = [(other(), clock(), other()) for _ in range(5)]
    before, there, _ = min(readings, key=lambda reading: reading[2] - reading[0])
    return there - before
