"""The ledger of a run: what it adds up to, what survives a kill, and what a start writes down."""

import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from launch import check
from launch.common.terminal import console
from launch.training import ledger as ledger_file
from launch.training.compiling import compiling
from launch.training.ledger import FILE, PHASES, SHARE, Ledger, Snapshot, account_of, read_ledger, starts_of
from tests.support.clock import Clock
from tests.support.commands import PATIENCE, ROOT, refused_run
from tests.support.ledger_kills import PAUSE, Seen

quick = pytest.mark.quick

TICK = 0.011
"""Seconds: the system counts in hundredths when a process began."""
LEAST_SECONDS, MOST_SECONDS = ledger_file.LEAST_SECONDS, ledger_file.MOST_SECONDS


def snapshot(start: int, at: float, kind: str = "running", first_step: int | None = 0, step: int = 0, **seconds) -> Snapshot:
    began = {1: 1000.0, 2: 1100.0, 3: 1200.0}[start]
    return Snapshot(start, began, at, first_step, step, kind, {**dict.fromkeys(PHASES, 0.0), **seconds})


HISTORY = [
    snapshot(1, 1020, first_step=None, starting=20),
    snapshot(1, 1050, "saved", step=5, starting=20, compiling=10, steps=15, waiting=5),
    snapshot(1, 1062, "saved", step=10, starting=20, compiling=10, steps=24, waiting=6, validation=2),
    snapshot(1, 1080, step=14, starting=20, compiling=10, steps=36, waiting=9, validation=2, saving=3),
    snapshot(2, 1110, first_step=None, starting=8, compiling=2),
    snapshot(3, 1210, first_step=None, starting=10),
    snapshot(3, 1260, "saved", first_step=10, step=20, starting=10, steps=40),
    snapshot(3, 1270, "ended", first_step=10, step=20, starting=10, steps=40, saving=20),
]
"""Killed four steps after a save, killed before it had found the checkpoint, and stopped."""


@quick
def test_work_that_was_done_again_is_lost():
    account = account_of(HISTORY)
    expected = {"starting": 38, "compiling": 12, "waiting": 6, "steps": 64, "validation": 2, "saving": 20}
    assert account.seconds == {**expected, "lost": 12 + 3 + 3}
    assert (account.running, account.idle) == (80 + 10 + 70, 20 + 90)
    assert account.goodput == pytest.approx(64 / 160) and (account.starts, account.killed) == (3, 2)


@quick
@pytest.mark.parametrize(
    ("snapshots", "goes_on_from", "steps", "lost", "killed"),
    [
        (HISTORY[:4], None, 36, 0, 0),  # it still runs
        (HISTORY[:4], 10, 24, 18, 1),  # it has been killed
        (HISTORY[:4], 5, 15, 30, 1),  # and its last checkpoint is damaged
        (HISTORY[:4], 0, 0, 50, 1),  # all are
        (HISTORY[:1] + HISTORY[3:4], 10, 0, 50, 1),  # no snapshot tells what was done until step 10
        (HISTORY, 20, 64, 18, 2),
        (HISTORY, 10, 24, 78, 2),  # start 3 has done nothing that remains
        (HISTORY, 5, 15, 90, 2),  # and start 1 has lost more
        ([], 7, 0, 0, 0),
    ],
)
def test_the_next_start_decides_what_is_kept(snapshots, goes_on_from, steps, lost, killed):
    account = account_of(snapshots, goes_on_from)
    assert (account.seconds["steps"], account.seconds["lost"], account.killed) == (steps, lost, killed)
    assert account.running == sum(sum(own[-1].seconds.values()) for own in starts_of(snapshots))


@quick
def test_time_of_a_suspended_machine_is_idle():
    assert account_of([snapshot(1, 1500, starting=20, steps=30)]).idle == 450


@pytest.fixture
def clock(monkeypatch):
    """Nothing is written as this time goes by, but what is saved or ended."""
    clock = Clock(500.0)
    monkeypatch.setattr(ledger_file, "time", clock)
    monkeypatch.setattr(ledger_file, "LEAST_SECONDS", 1e6)
    monkeypatch.setattr(ledger_file, "MOST_SECONDS", 1e6)
    return clock


def trained(folder: Path, clock, first_step: int, saves: bool) -> Ledger:
    """A start of two steps, which began four seconds ago."""
    with Ledger(folder, clock.now - 4) as ledger:
        clock.now += 2
        ledger.go_on_from(first_step)
        ledger.begin("validation")
        clock.now += 3
        for step in (first_step + 1, first_step + 2):
            ledger.begin("steps")
            clock.now += 5
            ledger.waited(1)
            ledger.step = step
        assert 0 < ledger.goodput() < 1
        if saves:
            ledger.begin("saving")
            clock.now += 7
            ledger.saved()
    return ledger


@quick
def test_a_start_writes_down_what_the_main_thread_does(tmp_path, clock):
    trained(tmp_path, clock, 0, saves=True)
    saved, ended = read_ledger(tmp_path / FILE, pytest.fail)
    assert (saved.kind, ended.kind) == ("saved", "ended") and saved.seconds == ended.seconds
    assert ended.seconds == {"starting": 6, "compiling": 0, "waiting": 2, "steps": 8, "validation": 3, "saving": 7}
    assert (ended.began, ended.at, ended.first_step, ended.step) == (1_000_496, 1_000_522, 0, 2)


@quick
def test_goodput_counts_earlier_starts_and_leaves_out_what_was_lost(tmp_path, clock):
    trained(tmp_path, clock, 0, saves=True)
    trained(tmp_path, clock, 2, saves=False)
    clock.now += 100  # idle
    ledger = trained(tmp_path, clock, 2, saves=True)
    assert ledger.goodput() == pytest.approx((8 + 8) / (26 + 19 + 26))
    account = account_of(read_ledger(tmp_path / FILE))
    assert account.goodput == pytest.approx(16 / 71) and account.seconds["lost"] == 2 + 8 + 3
    assert account.idle == 100 - 4 and account.starts == 3


@quick
def test_other_processes_write_nothing(clock):
    with Ledger(None, clock.now - 6) as ledger:
        ledger.begin("steps")
        clock.now += 2
        ledger.saved()
        assert ledger.goodput() == pytest.approx(2 / 8)


@quick
def test_compiling_is_no_step(tmp_path):
    """Whatever the main thread compiles; another thread's compiling is not its time."""
    told, me = compiling(), threading.get_ident()
    before = told.seconds(me)
    with Ledger(tmp_path, time.monotonic()) as ledger:
        ledger.begin("steps")

        @jax.jit
        def slow(x):
            time.sleep(0.2)
            assert told.seconds(threading.get_ident()) >= 0.2
            return x + 1

        slow(jnp.zeros(()))
        other = threading.Thread(target=slow, args=(jnp.zeros((3,)),))
        other.start()
        other.join()
    seconds = read_ledger(tmp_path / FILE)[-1].seconds
    assert seconds["compiling"] >= 0.2 and seconds["steps"] >= 0.2
    assert seconds["compiling"] <= told.seconds(me) - before + 0.01


@quick
def test_a_ledger_is_read_however_it_was_cut_or_damaged(tmp_path):
    file = tmp_path / FILE
    whole = "".join(map(Snapshot.line, HISTORY)).encode()
    for length in range(0, len(whole), 37):
        file.write_bytes(whole[:length])
        assert read_ledger(file, pytest.fail) == HISTORY[: whole[:length].count(b"\n")]
    for at in range(0, len(whole), 211):
        file.write_bytes(whole[:at] + bytes(40) + whole[at + 40 :])
        notes: list[str] = []
        assert set(map(repr, read_ledger(file, notes.append))) < set(map(repr, HISTORY)) and len(notes) == 1
    file.write_bytes(b'[1]\n{"start": "x"}\n{"start": 1}\n\n' + whole)
    assert read_ledger(file) == HISTORY


@quick
@pytest.mark.parametrize(
    "change",
    [
        {"at": 1760000005e123},
        {"at": 999.0},
        {"began": -5.0, "at": -1.0},
        {"began": 0.0, "at": 1e11},
        {"seconds": {"steps": 1e300}},
        {"seconds": {"steps": -1e300}},
        {"start": 10**19},
        {"step": 10**19},
        {"first_step": -(10**19)},
        {"kind": "endef"},
    ],
)
def test_a_line_that_is_json_but_cannot_be_is_damaged(tmp_path, change):
    lines = [json.loads(each.line()) for each in HISTORY]
    lines[3] |= change
    (tmp_path / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    notes: list[str] = []
    assert read_ledger(tmp_path / FILE, notes.append) == HISTORY[:3] + HISTORY[4:]
    assert notes == [f"{tmp_path / FILE}: 1 line is damaged and left out: 4."]


@quick
def test_a_clock_that_is_set_back_damages_no_line(tmp_path, clock):
    with Ledger(tmp_path, clock.now) as ledger:
        clock.now += 3
        clock.time = lambda: 10.0
        ledger.saved()
    assert [each.kind for each in read_ledger(tmp_path / FILE, pytest.fail)] == ["saved", "ended"]


@quick
def test_a_start_says_which_lines_it_leaves_out(tmp_path, clock):
    (tmp_path / FILE).write_bytes(HISTORY[0].line().encode() + bytes(20) + b"\n" + HISTORY[1].line().encode())
    with console.capture() as shown:
        trained(tmp_path, clock, 0, saves=False)
    assert shown.get() == f"{tmp_path / FILE}: 1 line is damaged and left out: 2.\n"


@quick
def test_a_day_of_snapshots(tmp_path, clock, monkeypatch):
    """A kill, whenever it comes, leaves 99.8% of the time in the ledger, or all but 10 ms. A day takes some 1.3 MB."""
    began, over = clock.now, threading.Event()

    class Day(queue.SimpleQueue):
        def get(self, timeout):
            clock.now += timeout
            if clock.now > began + 24 * 3600:
                return over.set()  # None, which ends the thread: here it is killed
            raise queue.Empty

    monkeypatch.setattr(ledger_file, "queue", types.SimpleNamespace(SimpleQueue=Day, Empty=queue.Empty))
    monkeypatch.setattr(ledger_file, "LEAST_SECONDS", LEAST_SECONDS)
    monkeypatch.setattr(ledger_file, "MOST_SECONDS", MOST_SECONDS)
    monkeypatch.setattr(os, "fsync", lambda file: None)
    with Ledger(tmp_path, began):
        assert over.wait(PATIENCE)
    lines = read_ledger(tmp_path / FILE, pytest.fail)
    assert all(each.kind == "running" for each in lines) and lines[-1].at > lines[0].began + 24 * 3600 - 2 * MOST_SECONDS
    rounding = 0.001
    for each, later in itertools.pairwise(lines):
        assert sum(each.seconds.values()) >= min((1 - SHARE) * (later.at - each.began), later.at - each.began - 0.01) - rounding
    assert 1.2e6 < (tmp_path / FILE).stat().st_size < 1.4e6


@quick
def test_a_disk_that_takes_nothing_for_some_time_costs_one_line(tmp_path, clock, monkeypatch):
    """The line that was being written is cut short. Nothing else is lost, and the training goes on."""

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[:20])
            raise OSError(28, "No space left on device")

    opened, original = [], open

    def full_at_first(path, mode, **options):
        opened.append(path)
        file = original(path, mode, **options)
        return Full(file) if len(opened) == 1 else file

    monkeypatch.setattr(ledger_file, "open", full_at_first, raising=False)
    trained(tmp_path, clock, 0, saves=True)
    notes: list[str] = []
    assert [each.kind for each in read_ledger(tmp_path / FILE, notes.append)] == ["ended"] and len(notes) == 1


@quick
def test_what_the_next_start_needs_not_is_left_out(tmp_path, clock):
    (tmp_path / FILE).write_text("".join(map(Snapshot.line, HISTORY)) + '{"start": 3, "beg')
    before = account_of(HISTORY, 20)
    trained(tmp_path, clock, 20, saves=False)
    lines = read_ledger(tmp_path / FILE, pytest.fail)
    assert [(each.start, each.kind) for each in lines[:-1]] == [
        (1, "saved"), (1, "saved"), (1, "running"), (2, "running"), (3, "saved"), (3, "ended")
    ]  # fmt: skip
    assert lines[-1].start == 4 and account_of(lines[:-1], 20) == before


@quick
def test_a_pause_between_the_readings_of_two_clocks_does_not_count(tmp_path, clock):
    pauses = [5.0, 0.0, 3.0]

    def time_and_pause() -> float:
        now = 1_000_000 + clock.now
        clock.now += pauses.pop() if pauses else 0
        return now

    clock.time = time_and_pause
    with Ledger(tmp_path, 490.0):
        pass
    assert not pauses and [each.began for each in read_ledger(tmp_path / FILE)] == [1_000_490]


@quick
def test_the_time_before_the_first_line_of_python_counts():
    program = "from launch.training.ledger import process_began; print(process_began())"
    before = time.monotonic()
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert before - TICK <= float(result.stdout) <= before + (time.monotonic() - before) / 2


def test_the_ledger_of_a_run_is_checked_and_printed(trained_streets, tmp_path):
    (tmp_path / "ledger.jsonl").write_bytes((trained_streets / FILE).read_bytes())
    lines = read_ledger(trained_streets / FILE, pytest.fail)
    assert [each.step for each in lines if each.kind == "saved"] == [4, 8, 12] and lines[-1].kind == "ended"
    assert all(lines[-1].seconds[phase] > 0 for phase in ("starting", "steps", "validation", "saving"))
    metrics = [json.loads(line) for line in (trained_streets / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["goodput"] < 1 for line in metrics if "loss" in line)

    def shown() -> str:
        with console.capture() as capture, pytest.raises(SystemExit):
            check.main([str(tmp_path)])
        return capture.get()

    text = shown()
    assert "ledger.jsonl  unverified" in text and "starts: 1, killed: 0, running: 0" in text and "lost" in text
    (tmp_path / "ledger.jsonl").write_bytes(b"{}\n" + (trained_streets / FILE).read_bytes())
    text = shown()
    assert "1 line is damaged and left out: 1." in text and "starts:" not in text


def test_a_ledger_that_cannot_be_read_stops_neither_the_check_nor_the_repair(trained_streets, tmp_path):
    runs = [tmp_path / "one", tmp_path / "other"]
    for run in runs:
        run.mkdir()
        (run / FILE).write_bytes((trained_streets / FILE).read_bytes())
    (runs[0] / FILE).unlink()
    (runs[0] / FILE).mkdir()
    with console.capture() as capture, pytest.raises(SystemExit) as ended:
        check.main([*map(str, runs), "--repair"])
    text = capture.get()
    assert ended.value.code == 1 and "the file cannot be read (Is a directory)" in text
    assert "starts: 1, killed: 0" in text and f"{FILE}: moved to" in text and not (runs[0] / FILE).exists()


def test_a_ledger_that_cannot_be_written_is_told_with_the_folder(tiny, tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(ledger_file, "replace_text", full)
    text = refused_run(tiny, tmp_path / "run")
    assert f"The run folder {tmp_path / 'run'} cannot be written" in text and "Choose another with --run.folder." in text


def test_five_kills_and_the_ledger_still_adds_up(tmp_path):
    """It is compared with what was seen besides: when each start began, saved and was killed, and how long it waited."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "tests.support.ledger_kills", str(folder), "5"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    seen = [Seen(**each) for each in json.loads(result.stdout)]
    starts = starts_of(lines := read_ledger(folder / FILE))
    newest = seen[-1].newest
    account = account_of(lines, newest)
    assert account.starts == account.killed == len(starts) == 5

    for own, each in zip(starts, seen):
        assert each.forked[0] - TICK <= own[-1].began <= each.forked[1] + TICK
    lived = sum(each.killed - own[-1].began for own, each in zip(starts, seen))
    assert account.running == pytest.approx(lived, rel=0.01)
    assert account.running + account.idle == pytest.approx(seen[-1].killed - starts[0][0].began, rel=0.01)

    saves = [next(line for line in own if (line.kind, line.step) == ("saved", each.newest)) for own, each in zip(starts, seen)]
    compiled = sum(own[-1].seconds["compiling"] - save.seconds["compiling"] for own, save in zip(starts, saves))
    least, most = (sum(own[-1].at - each.saved[i] for own, each in zip(starts, seen)) for i in (1, 0))
    rounding = 0.005 * len(seen)
    assert least - compiled - rounding <= account.seconds["lost"] <= most + rounding
    assert account.seconds["waiting"] >= PAUSE * newest - rounding  # the steps that are kept
    assert account.seconds["waiting"] + account.seconds["lost"] >= PAUSE * (newest + 2 * len(seen)) - rounding
