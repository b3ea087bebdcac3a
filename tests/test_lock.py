"""One training a folder: who holds it, who is refused, and who follows an owner that has ended."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from crn_jax.errors import UserError
from launch.common.terminal import console
from launch.training import lock
from launch.training.lock import KEPT_RECORDS, FolderRecords, Owner, Ownership, is_running, owned


class Bucket:
    """A bucket's objects: each has a generation, and a write may ask for the one that it replaces (0: none)."""

    def __init__(self):
        self._objects: dict[int, tuple[int, str]] = {}
        self._mutex = threading.Lock()

    def _put(self, number: int, text: str, if_generation: int | None) -> bool:
        with self._mutex:
            generation = self._objects.get(number, (0, ""))[0]
            if if_generation is not None and if_generation != generation:
                return False  # 412 Precondition Failed
            self._objects[number] = (generation + 1, text)
            return True

    def numbers(self) -> list[int]:
        with self._mutex:
            return list(self._objects)

    def read(self, number: int) -> str | None:
        return self._objects.get(number, (0, None))[1]

    def add(self, number: int, text: str) -> bool:
        return self._put(number, text, if_generation=0)

    def replace(self, number: int, text: str) -> None:
        self._put(number, text, if_generation=None)

    def remove(self, number: int) -> None:
        with self._mutex:
            self._objects.pop(number, None)


class WithoutLinks(FolderRecords):
    """A mounted bucket has no links."""

    def add(self, number: int, text: str) -> bool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lock.os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")))
            return super().add(number, text)


@pytest.fixture(params=["folder", "without links", "bucket"])
def records(request, tmp_path):
    made = {"folder": FolderRecords, "without links": WithoutLinks}
    return made[request.param](tmp_path / "owner") if request.param in made else Bucket()


@pytest.fixture
def me(tmp_path) -> Owner:
    return Owner.here(tmp_path, {})


def training(records, me: Owner, sleep=lambda _: None) -> Ownership:
    return Ownership(records, me, "runs/x", sleep)


def newest(records) -> Owner:
    return Owner.parse(records.read(max(records.numbers())))


def elsewhere(me: Owner, **changes) -> Owner:
    """An owner on another machine, as far as can be told from here."""
    return dataclasses.replace(me, host="elsewhere", machine="another boot", **changes)


@pytest.fixture(scope="module")
def ended() -> tuple[int, int]:
    """The number of a process that has ended, and when it had started."""
    with subprocess.Popen(["sleep", "60"]) as process:
        started = lock.start_of(process.pid)
        process.kill()
    return process.pid, started


def test_the_second_is_refused_and_told_who_trains_since_when(records, me):
    first = training(records, me)
    first.acquire()
    with pytest.raises(UserError) as error:
        training(records, me).acquire()
    assert f"runs/x is in use: process {os.getpid()} on {me.host}, since {me.since}, trains there" in str(error.value)
    assert "--run.folder" in str(error.value)
    first.release()
    with console.capture() as capture:
        training(records, me).acquire()
    assert not capture.get()


def test_an_owner_that_has_ended_is_followed_at_once(records, me, ended):
    pid, started = ended
    training(records, dataclasses.replace(me, pid=pid, started=started)).acquire()
    with console.capture() as capture:
        training(records, me, sleep=pytest.fail).acquire()
    assert f"process {pid} on {me.host}, since {me.since}. This training goes on there: that process has ended" in capture.get()
    assert newest(records) == me


def test_another_process_of_the_same_number_is_not_the_owner(records, me):
    """Numbers of processes are used again, such as after a restart in a container."""
    training(records, dataclasses.replace(me, started=me.started + 1)).acquire()
    training(records, me, sleep=pytest.fail).acquire()


def test_a_job_that_is_started_again_on_another_machine_follows_at_once(records, me, tmp_path):
    slurm = {"SLURM_JOB_ID": "17", "SLURM_CLUSTER_NAME": "c"}
    before = elsewhere(Owner.here(tmp_path, slurm))
    training(records, before).acquire()
    now = Owner.here(tmp_path, {**slurm, "SLURM_RESTART_COUNT": "1"})
    training(records, now, sleep=pytest.fail).acquire()
    assert newest(records) == now


def test_an_owner_elsewhere_is_watched_for_two_minutes(records, me):
    slept = []
    training(records, elsewhere(me, seen=time.time())).acquire()
    with console.capture() as capture:
        training(records, me, sleep=slept.append).acquire()
    assert sum(slept) == pytest.approx(120, abs=1)
    assert "Waiting 120 s for a sign of life" in capture.get() and "no sign of life for 120 s" in capture.get()


def test_an_owner_elsewhere_that_is_long_silent_is_watched_shortly(records, me):
    """Its clock may be wrong, so that two heartbeats are waited for."""
    slept = []
    training(records, elsewhere(me, seen=time.time() - 86400)).acquire()
    training(records, me, sleep=slept.append).acquire()
    assert sum(slept) == pytest.approx(2.5 * lock.BEAT_SECONDS)


@pytest.mark.parametrize("wrong", [-86400.0, 0.0, 86400.0])
def test_an_owner_elsewhere_that_lives_is_left_alone_whatever_its_clock_says(records, me, wrong):
    first, slept = training(records, elsewhere(me, seen=time.time() + wrong)), []
    first.acquire()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if sum(slept) >= lock.BEAT_SECONDS:
            first.beat()

    with pytest.raises(UserError, match="process .* on elsewhere"):
        training(records, me, sleep).acquire()
    assert sum(slept) < 2 * lock.BEAT_SECONDS


def test_an_owner_elsewhere_that_ends_meanwhile_is_followed(records, me):
    first = training(records, elsewhere(me, seen=time.time()))
    first.acquire()
    training(records, me, sleep=lambda _: first.release()).acquire()
    assert newest(records) == me


def test_a_suspended_owner_on_this_machine_is_not_followed(records, me):
    """Its heartbeat is old, but its process is there."""
    training(records, dataclasses.replace(me, seen=time.time() - 86400)).acquire()
    with pytest.raises(UserError, match="is in use"):
        training(records, me, sleep=pytest.fail).acquire()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 3}', "[" * 100_000, "null"])
def test_a_record_that_cannot_be_read_is_of_an_unknown_owner(records, me, text):
    assert records.add(1, text)
    slept = []
    training(records, me, sleep=slept.append).acquire()
    assert sum(slept) == pytest.approx(120) and newest(records) == me


def test_an_owner_that_was_followed_notices_and_writes_nothing_more(records, me):
    """A laptop was suspended, and a training on another machine went on with its run."""
    first, second = training(records, elsewhere(me, seen=0.0)), training(records, me)
    first.acquire()
    first.check()
    second.acquire()
    first.beat()
    with pytest.raises(UserError, match=rf"runs/x belongs to process {me.pid} on {me.host}"):
        first.check()
    first.release()
    assert newest(records) == me and not newest(records).released


def test_a_folder_that_cannot_be_written_for_a_minute_ends_the_training(me, tmp_path, monkeypatch):
    records, broken = FolderRecords(tmp_path / "owner"), threading.Event()
    ownership = training(records, me)
    ownership.acquire()

    def fail(*_):
        broken.set()
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(records, "replace", fail)
    ownership.keep()
    assert broken.wait(60)
    ownership.check()  # it may be a passing trouble
    monkeypatch.setattr(lock, "UNWRITABLE_SECONDS", 0.0)
    with pytest.raises(OSError, match="Read-only file system"):
        while True:
            ownership.check()
    ownership.release()


def test_a_record_that_is_gone_is_noticed_at_the_next_heartbeat(records, me):
    """The disk was unmounted, say, and what is written now would come to the disk below."""
    ownership = training(records, me)
    ownership.acquire()
    ownership.beat()
    records.remove(1)
    with pytest.raises(FileNotFoundError, match="is gone"):
        ownership.beat()


def test_a_copy_of_a_folder_in_which_a_training_runs_is_free(tmp_path):
    (tmp_path / "run").mkdir()
    with owned(tmp_path / "run"):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        with owned(tmp_path / "copy"):
            pass
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(UserError, match="is in use"), owned(tmp_path / "moved"):
            pass


def test_a_folder_that_is_used_often_keeps_few_records(tmp_path):
    for _ in range(3 * KEPT_RECORDS):
        with owned(tmp_path):
            assert len(list((tmp_path / "owner").iterdir())) <= KEPT_RECORDS + 1
    assert json.loads((tmp_path / "owner" / f"{3 * KEPT_RECORDS}.json").read_text())["released"]
    assert not list((tmp_path / "owner").glob(".*"))


def test_a_number_that_became_free_again_makes_no_owner(records, me):
    """One that had looked long ago adds a record that was removed meanwhile."""
    for _ in range(2 * KEPT_RECORDS):
        last = training(records, me)
        last.acquire()
        last.release()

    class Slow(type(records)):
        first_look = [1]

        def __init__(self):
            self.__dict__ = records.__dict__

        def numbers(self):
            return self.first_look.pop() and [1] if self.first_look else super().numbers()

        def read(self, number):
            return None if number == 1 else super().read(number)

    slow = training(Slow(), me)
    slow.acquire()
    assert slow.number == 2 * KEPT_RECORDS + 1 == max(records.numbers()) and 2 not in records.numbers()


def contend(folder: Path, go, winners) -> None:
    go.wait()
    try:
        with owned(folder):
            winners.put(os.getpid())
            go.wait()  # until all have tried
    except UserError:
        go.wait()


@pytest.mark.filterwarnings("ignore:.*fork", "ignore:.*multi-threaded")
@pytest.mark.parametrize("before", ["nothing", "ended"])
def test_of_several_that_start_at_the_same_moment_one_trains(tmp_path, before, ended, me):
    context, count, rounds = multiprocessing.get_context("fork"), 4, 15
    for i in range(rounds):
        folder = tmp_path / str(i)
        folder.mkdir()
        if before == "ended":
            training(FolderRecords(folder / "owner"), dataclasses.replace(me, pid=ended[0], started=ended[1])).acquire()
        go, winners = context.Barrier(count), context.SimpleQueue()
        together = [context.Process(target=contend, args=(folder, go, winners)) for _ in range(count)]
        for process in together:
            process.start()
        for process in together:
            process.join(600)
            assert process.exitcode == 0
        winners.get()
        assert winners.empty()


def test_of_several_in_a_bucket_one_trains(me):
    for _ in range(100):
        bucket, go, refused = Bucket(), threading.Barrier(4), []

        def contend(bucket=bucket, go=go, refused=refused) -> None:
            go.wait()
            try:
                training(bucket, me).acquire()
            except UserError as error:
                refused.append(error)

        threads = [threading.Thread(target=contend) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 3


def test_processes_that_run_and_that_do_not(ended):
    assert is_running(os.getpid(), lock.start_of(os.getpid()))
    assert not is_running(*ended)
    assert not is_running(2**40, 1) and not is_running(2**70, 1)
    with subprocess.Popen([sys.executable, "-c", "pass"], stdin=subprocess.DEVNULL) as process:
        started = lock.start_of(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked for its status
        assert not is_running(process.pid, started)
