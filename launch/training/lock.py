"""One training a folder: numbered records of owners, with a heartbeat, which need no lock of the file system.

Locks of the operating system do not reach across machines everywhere, and mounted buckets have none. The folder RUN/owner
holds records instead, and the newest one says who trains there. To follow an owner that has ended, a training adds the record
with the next number. The file system creates a file once, so of several trainings one alone succeeds. The owner writes its
record anew every `BEAT_SECONDS`. By this heartbeat, machines that cannot look at its process see that it lives.
"""

import contextlib
import dataclasses
import datetime
import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from crn_jax.buckets import BucketFolder, address_of, is_bucket
from crn_jax.errors import UserError
from crn_jax.files import replace_text
from launch.common.terminal import console

BEAT_SECONDS = 10.0
"""Seconds between two heartbeats of an owner."""

SILENT_SECONDS = 120.0
"""Seconds without a heartbeat after which the owner on another machine counts as ended."""

UNWRITABLE_SECONDS = 45.0
"""Seconds during which no heartbeat can be written, after which the training ends: its folder is lost, full or read-only."""

OWNER = "owner"
"""The name of the records' folder in the run folder."""

KEPT_RECORDS = 8
"""Records of former owners that stay. A training that read an old number long ago must not find the next one free again."""


class Records(Protocol):
    """Numbered texts in a place that several machines reach: a folder, or a bucket."""

    def numbers(self) -> list[int]:
        """Returns the numbers of all records."""

    def read(self, number: int) -> str | None:
        """Returns a record; None if there is none of this number."""

    def add(self, number: int, text: str) -> bool:
        """Adds a record if the number is free, and returns whether it was. If several call it at a time, one succeeds."""

    def replace(self, number: int, text: str) -> None:
        """Writes a record of one's own anew."""

    def remove(self, number: int) -> None:
        """Removes a record, if it is there."""


class FolderRecords:
    """Records as files of a folder, on a local disk, on NFS or on a mounted bucket."""

    def __init__(self, folder: Path):
        self.folder = folder

    def numbers(self) -> list[int]:
        """Returns the numbers of all records."""
        with contextlib.suppress(FileNotFoundError):
            return [int(name[:-5]) for name in os.listdir(self.folder) if name.endswith(".json") and name[:-5].isdecimal()]
        return []

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.json"

    def read(self, number: int) -> str | None:
        """Returns a record; None if there is none of this number."""
        try:
            return self._path(number).read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def add(self, number: int, text: str) -> bool:
        """Adds a record if the number is free, and returns whether it was.

        A link appears with its content, and NFS makes it once. File systems without links create the file, which is read as
        the record of an unknown owner until its content has come.
        """
        self.folder.mkdir(exist_ok=True)
        path, temporary = self._path(number), self.folder / f".{secrets.token_hex(8)}.tmp"
        try:
            temporary.write_text(text, "utf-8")
            try:
                os.link(temporary, path)
                return True
            except FileExistsError:
                return temporary.stat().st_nlink == 2  # NFS may have lost its first answer, and asked again
            except OSError:
                return self._created(path, text)
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def _created(path: Path, text: str) -> bool:
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return False
        return True

    def replace(self, number: int, text: str) -> None:
        """Writes a record of one's own anew."""
        replace_text(self._path(number), text)

    def remove(self, number: int) -> None:
        """Removes a record, if it is there."""
        self._path(number).unlink(missing_ok=True)


class BucketRecords:
    """Records as objects of a bucket, which makes an object once if it is asked to."""

    def __init__(self, run: BucketFolder):
        self._run = run

    def numbers(self) -> list[int]:
        """Returns the numbers of all records."""
        names = [name.removeprefix(f"{OWNER}/") for name in self._run.objects(OWNER)]
        return [int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdecimal()]

    @staticmethod
    def _name(number: int) -> str:
        return f"{OWNER}/{number}.json"

    def read(self, number: int) -> str | None:
        """Returns a record; None if there is none of this number."""
        content = self._run.read(self._name(number))
        return None if content is None else content.decode(errors="replace")

    def add(self, number: int, text: str) -> bool:
        """Adds a record if the number is free, and returns whether it was."""
        return self._run.create(self._name(number), text.encode())

    def replace(self, number: int, text: str) -> None:
        """Writes a record of one's own anew."""
        self._run.write(self._name(number), text.encode())

    def remove(self, number: int) -> None:
        """Removes a record, if it is there."""
        self._run.remove([self._name(number)])


def records_of(folder: str | Path) -> Records:
    """Returns the records of a run folder's owners."""
    return BucketRecords(BucketFolder(folder)) if is_bucket(folder) else FolderRecords(Path(folder) / OWNER)


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who trains in a folder, as its record says."""

    host: str
    pid: int
    started: int
    """When the process started, in ticks since the machine was booted. Numbers of processes are used again."""
    machine: str
    """Where `pid` means the same: the boot of the machine, and the namespace of its processes (containers have their own)."""
    folder: str
    since: str
    job: str = ""
    """The job of a scheduler that starts the training again, such as one of SLURM; empty outside such a job."""
    attempt: int = 0
    """How often the scheduler has started this job before."""
    beat: int = 0
    seen: float = 0.0
    """The time of the last heartbeat by the owner's clock, in seconds since 1970."""
    released: bool = False

    @staticmethod
    def here(folder: str | Path, environment: Mapping[str, str] = os.environ) -> "Owner":
        """Returns the record of this process."""
        now = datetime.datetime.now(datetime.UTC)
        job, attempt = "", 0
        if environment.get("SLURM_JOB_ID"):
            job = f"SLURM {environment.get('SLURM_CLUSTER_NAME', '')} {environment['SLURM_JOB_ID']}"
            restarts = environment.get("SLURM_RESTART_COUNT", "")
            attempt = int(restarts) if restarts.isdecimal() else 0
        since, pid = f"{now:%Y-%m-%d %H:%M:%S} UTC", os.getpid()
        return Owner(
            host=socket.gethostname(),
            pid=pid,
            started=start_of(pid) or 0,
            machine=_machine(),
            folder=address_of(folder) if is_bucket(folder) else str(Path(folder).resolve()),
            since=since,
            job=job,
            attempt=attempt,
            seen=time.time(),
        )

    @staticmethod
    def parse(text: str) -> "Owner | None":
        """Reads a record; returns None if it is damaged, or not yet written."""
        try:
            owner = Owner(**json.loads(text))
        except (ValueError, TypeError, RecursionError):
            return None
        good = all(type(getattr(owner, field.name)) is field.type for field in dataclasses.fields(owner))
        return owner if good else None

    def text(self) -> str:
        """Returns the record."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def __str__(self):
        return f"process {self.pid} on {self.host}, since {self.since}"

    def ended(self, me: "Owner") -> str | None:
        """Returns how it is known here that this owner trains no more in the folder; None if it is not known."""
        if self.job and self.job == me.job and self.attempt < me.attempt:
            return "that was an earlier start of this job"
        if self.machine == me.machine and not is_running(self.pid, self.started):
            return "that process has ended"
        if self.machine == me.machine and self._trains_elsewhere(me):
            return f"its record was copied from {self.folder}, and it trains there"
        return None

    def _trains_elsewhere(self, me: "Owner") -> bool:
        """Returns whether this record came here when a folder was copied while a training ran in it."""
        with contextlib.suppress(OSError, UserError):
            in_bucket = is_bucket(self.folder) or is_bucket(me.folder)
            if self.folder != me.folder and (in_bucket or not os.path.samefile(self.folder, me.folder)):
                there = records_of(self.folder)
                owner = Owner.parse(there.read(max(there.numbers(), default=0)) or "")
                return owner is not None and (owner.pid, owner.started) == (self.pid, self.started)
        return False


def is_running(pid: int, started: int) -> bool:
    """Returns whether the process `pid` of this machine runs that had started at `started`."""
    if (found := start_of(pid)) is not None:
        return found == started
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's process, which /proc may hide
        pass
    return True


def start_of(pid: int) -> int | None:
    """Returns when a process started; 0 if it has ended and its parent has not noticed, None if it may not be looked at."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return 0 if fields[0] in "ZX" else int(fields[19])


def _machine() -> str:
    """Returns what tells this boot of this machine, and this namespace of processes, from all others."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return secrets.token_hex(16)


class Ownership:
    """A training's hold on its folder, from `acquire` to `release`.

    Args:
      records: the records of the folder's owners.
      me: the record of this process.
      name: what messages call the folder.
      sleep: the function that waits while another owner may be alive.
    """

    def __init__(self, records: Records, me: Owner, name: str, sleep: Callable[[float], object] = time.sleep):
        self._records, self._me, self._name, self._sleep = records, me, name, sleep
        self.number = 0
        """The number of this owner's record; 0 before `acquire`."""
        self._ending, self._writing = threading.Event(), threading.Lock()
        self._successor: Owner | str | None = None
        self._trouble: OSError | None = None
        self._written = time.monotonic()
        self.beating = 0
        """Odd while a heartbeat is being written, and greater each time: a folder that does not answer holds it."""

    def acquire(self) -> None:
        """Becomes the owner.

        Raises:
          UserError: if another training is.
        """
        known = 0
        while True:
            known = max([known, *self._records.numbers()])
            text = self._records.read(known) if known else None
            if text is not None:
                self._follow(known, text)
            if self._records.add(known + 1, self._me.text()):
                if max([known + 1, *self._records.numbers()]) == known + 1:
                    break
                self._records.remove(known + 1)  # it was free because it is long past
            known += 1
        self.number = known + 1
        for number in self._records.numbers():
            if number < self.number - KEPT_RECORDS:
                self._records.remove(number)

    def _follow(self, number: int, text: str) -> None:
        """Returns if the owner that a record names has ended, and says how that is known; raises UserError if it lives."""
        owner = Owner.parse(text)
        if owner is not None and owner.released:
            return
        who = str(owner) if owner else "a training whose record cannot be read"
        if owner is None or ((how := owner.ended(self._me)) is None and owner.machine != self._me.machine):
            how = self._watched(number, text, owner, who)
        if how is None:
            raise UserError(
                f"{self._name} is in use: {who}, trains there. Wait until that training ends, or stop it; or choose another "
                f"folder with --run.folder. Reading is possible meanwhile: launch.synthesize and launch.evaluate."
            )
        console.print(f"{self._name} was in use: {who}. This training goes on there: {how}.")

    def _watched(self, number: int, text: str, owner: Owner | None, who: str) -> str | None:
        """Watches the heartbeat of an owner on another machine. Returns how it is known that it has ended; None if it lives.

        The clocks of the two machines may differ, so the heartbeat is watched for some time in any case.
        """
        age = max(0.0, time.time() - owner.seen) if owner else 0.0
        patience = max(2.5 * BEAT_SECONDS, SILENT_SECONDS - age)
        console.print(f"{self._name} is in use: {who}. Waiting {patience:.0f} s for a sign of life of that training.")
        for _ in range(20):
            self._sleep(patience / 20)
            now = self._records.read(number)
            if now != text and now is not None:
                after = Owner.parse(now)
                return "that training has ended" if after and after.released else None
        return f"it has shown no sign of life for {patience + age:.0f} s"

    def keep(self) -> None:
        """Shows a sign of life from now on, until `release`, by a thread."""
        threading.Thread(target=self._keep, name="heartbeat of the run folder", daemon=True).start()

    def _keep(self) -> None:
        while not self._ending.wait(BEAT_SECONDS):
            self.beating += 1
            try:
                self.beat()
            except OSError as error:
                self._trouble = error
            else:
                self._trouble, self._written = None, time.monotonic()
            self.beating += 1

    def beat(self) -> None:
        """Shows a sign of life, or notices that another training has followed this one, which it took for ended.

        Raises:
          OSError: if the record cannot be written or is gone, such as with the disk on which the folder was.
        """
        with self._writing:
            if self._ending.is_set():
                return
            if (newest := max([self.number, *self._records.numbers()])) > self.number:
                self._successor = Owner.parse(self._records.read(newest) or "") or "another training"
                return
            if self._records.read(self.number) is None:
                raise FileNotFoundError(errno.ENOENT, "The training's record of its folder is gone", self._name)
            self._me = dataclasses.replace(self._me, beat=self._me.beat + 1, seen=time.time())
            self._records.replace(self.number, self._me.text())

    def check(self) -> None:
        """Checks that this training may go on writing.

        Raises:
          UserError: if another training has followed it.
          OSError: if its folder could not be written for some time.
        """
        if self._successor:
            raise UserError(
                f"{self._name} belongs to {self._successor}. That training took this one for ended, because it had shown no "
                f"sign of life, such as while its machine was suspended. This one ends and writes nothing more."
            )
        trouble = self._trouble  # the thread that writes may clear it meanwhile
        if trouble and time.monotonic() - self._written > UNWRITABLE_SECONDS:
            raise trouble

    def release(self) -> None:
        """Gives the folder free."""
        self._ending.set()
        if self._writing.acquire(timeout=BEAT_SECONDS):  # a folder that does not answer needs no owner
            try:
                if self._successor is None:
                    self._records.replace(self.number, dataclasses.replace(self._me, released=True).text())
            except OSError:
                pass  # nor does a folder that cannot be written
            finally:
                self._writing.release()


def is_in_use(folder: str | Path) -> bool:
    """Returns whether a training seems to run in a folder. It only reads, and does not wait for a sign of life."""
    records, me = records_of(folder), Owner.here(folder)
    owner = Owner.parse(records.read(max(records.numbers(), default=0)) or "")
    if owner is None or owner.released or owner.ended(me):
        return False
    return owner.machine == me.machine or time.time() - owner.seen < SILENT_SECONDS


@contextlib.contextmanager
def owned(folder: str | Path) -> Iterator[Ownership]:
    """Owns a run folder, which exists or is in a bucket, until the block ends.

    Raises:
      UserError: if another training owns it.
    """
    ownership = Ownership(records_of(folder), Owner.here(folder), str(folder))
    ownership.acquire()
    ownership.keep()
    try:
        yield ownership
    finally:
        ownership.release()
