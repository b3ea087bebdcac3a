"""Verifies what runs have stored: `python -m launch.check RUN [RUN ...] [--repair]`.

It reads every checkpoint, run.json, metrics.jsonl, ledger.jsonl, evaluation, exported artifact and .safetensors file in each
folder, and the data cache that run.json names, and compares them with their checksums. The exit status is 0 if all of them are
whole, and 1 if something is damaged. The folders of ablations, artifacts and segmenters can be checked, too. For a training's
folder it also prints where the time has gone, over all starts.
"""

import dataclasses
import datetime
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import numpy as np
import rich.table
import rich.text
import tyro

from crn_jax.buckets import BucketFolder, address_of, copied, copy_of, is_bucket
from crn_jax.checkpoint import Checkpoints, DamagedCheckpoint, ForeignCheckpoint, UnreachableCheckpoint
from crn_jax.checksums import KEY, unsealed
from crn_jax.data.cache import is_intact, open_arrays, open_checksums
from crn_jax.errors import UserError
from crn_jax.experiment import AnyExperiment, from_json
from crn_jax.files import expanded, set_aside, sha256_of
from crn_jax.formats.json_file import parse_json
from crn_jax.formats.safetensors_file import load_run_file
from crn_jax.run import read_description
from crn_jax.storage import UNFINISHED
from crn_jax.train import abstract_state
from launch.ablation.record import FILE as RECORD
from launch.ablation.record import read_record
from launch.common.exit_status import FAILED, USER_ERROR
from launch.common.jax_setup import set_up_jax
from launch.common.names import as_typed
from launch.common.options import BucketPath, read_options
from launch.common.output import read_json
from launch.common.terminal import command, console, progress_bar, show_error
from launch.training.ledger import FILE, Account, account_of, read_ledger
from launch.training.lock import OWNER, is_in_use, owned
from launch.training.metrics_log import read_metrics

Verdict = Literal["whole", "unverified", "damaged"]

LEDGER_ROWS = {
    "starting": "starting",
    "compiling": "compiling",
    "waiting": "waiting for data",
    "steps": "steps",
    "validation": "validation",
    "saving": "saving",
    "lost": "lost: work that a crash undid",
}
"""What the phases of the ledger are called in its table."""


class Finding(NamedTuple):
    """A row of the table: what was looked at, what it is, and why."""

    what: str
    verdict: Verdict
    note: str = ""
    repair: Callable[[], str] | None = None
    """Moves out of the way what is damaged, and says what it has done."""


class Folder(NamedTuple):
    """A folder to check, and what its run.json says; None if it has none, or a damaged one."""

    place: str
    """The folder, or its address in a bucket."""
    path: Path
    """Where its files are read besides its checkpoints: of a folder in a bucket, a copy."""
    description: dict[str, Any] | None
    experiment: AnyExperiment | None


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Verifies what runs have stored, by checksums."""

    runs: Annotated[tuple[BucketPath, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folders to check."""
    repair: bool = False
    """Moves what is damaged into a folder `damaged` beside it, so that nothing stumbles over it. Nothing is deleted. Damaged
    examples of a cache are marked, so that the next training decodes them anew."""


def main(arguments: list[str] | None = None) -> None:
    """Prints a table for each folder. Ends with status 1 if something is damaged, also if it was repaired."""
    with command():
        asked: Arguments = read_options(Arguments, "check", arguments, description=as_typed(__doc__ or ""))
        set_up_jax()
        if not asked.runs:
            raise UserError("Name at least one run folder.")
        sys.exit(check_all(asked.runs, asked.repair))


def check_all(runs: Sequence[Path], is_repaired: bool) -> int:
    """Checks folders in turn, and repairs each one if asked to. Returns the exit status.

    A folder that cannot be checked does not keep the others from being checked.
    """
    status, is_damaged = 0, False
    for run in runs:
        try:
            damaged = [finding for finding in check(run) if finding.verdict == "damaged"]
            is_damaged |= bool(damaged)
            if is_repaired:
                repair(run, damaged)
        except UserError as error:
            show_error(str(error))
            status = USER_ERROR
    if is_damaged and not is_repaired:
        console.print("To move what is damaged out of the way, give the same command with --repair.")
    return status or (FAILED if is_damaged else 0)


def repair(run: Path, damaged: list[Finding]) -> None:
    """Moves what is damaged in a folder out of the way, and says so.

    Raises:
      UserError: if a training is running in the folder.
    """
    if damaged:
        with owned(run):
            for finding in damaged:
                if finding.repair:
                    console.print(f"{finding.what}: {finding.repair()}")


def check(path: Path) -> list[Finding]:
    """Checks everything in a folder, with a progress bar, and prints a table.

    Raises:
      UserError: if there is no such folder.
    """
    place, here = (address_of(path), copied(path, _is_checked)) if is_bucket(path) else (str(path), path)
    if not here.is_dir():
        raise UserError(f"{place}: there is no such folder.")
    try:
        experiment, _, description = read_description(here)
        folder = Folder(place, here, description, experiment)
    except UserError:
        folder = Folder(place, here, None, None)
    findings = []
    with progress_bar() as progress:
        task = progress.add_task(place, total=None)
        for look in CHECKS:
            for finding in look(folder):
                progress.update(task, description=finding.what)
                findings.append(finding)
    table = rich.table.Table("what", "verdict", "note", title=place, title_justify="left", box=None)
    for finding in findings:
        style = {"whole": "green", "unverified": "yellow", "damaged": "bold red"}[finding.verdict]
        table.add_row(finding.what, rich.text.Text(finding.verdict, style), finding.note)
    if findings:
        console.print(table)
        if not any(finding.what == FILE and finding.verdict == "damaged" for finding in findings):
            show_ledger(folder)
    else:
        console.print(f"{place}: there is nothing to check in this folder.")
    return findings


def _is_checked(name: str) -> bool:
    """Returns whether a file of this name is read in a folder. Checkpoints of a bucket have copies of their own."""
    return name.partition("/")[0] not in ("checkpoints", "compiled", "damaged", OWNER, "tensorboard", "contact_sheets")


def _looked_at(folder: Folder, file: Path, look: Callable[[], str | None]) -> Finding:
    """Returns the finding about a file that `look` reads; it raises UserError if the file is damaged."""
    what = str(file.relative_to(folder.path))

    def repair() -> str:
        in_bucket = is_bucket(folder.place)
        return f"moved to {BucketFolder(folder.place).set_aside(what) if in_bucket else set_aside(file, folder.path)}"

    try:
        note = look() or ""
        if not file.suffix.startswith(".json") or _has_its_checksum(file):
            return Finding(what, "whole", note)
        return Finding(what, "unverified", note or "it can be read, but it has no checksum")
    except (OSError, UserError, ValueError, LookupError, TypeError, RecursionError) as error:
        return Finding(what, "damaged", str(error), repair)


def _has_its_checksum(file: Path) -> bool:
    """Whether a JSON file holds the checksum of its values. Files of lines, and those of older versions, have none."""
    try:
        fields = parse_json(file.read_bytes(), file, "")
        return KEY in fields and bool(unsealed(fields))
    except (OSError, UserError, ValueError):
        return False


def run_json(folder: Folder) -> Iterator[Finding]:
    """Checks run.json, which describes the run."""
    file = folder.path / "run.json"
    if file.exists():
        found = _looked_at(folder, file, lambda: None if read_description(folder.path) else "")
        if found.verdict == "damaged" and _has_its_checksum(file):
            found = Finding(found.what, "unverified", found.note)  # another version of crn_jax wrote it
        yield found


def checkpoints(folder: Folder) -> Iterator[Finding]:
    """Checks every array of every checkpoint."""
    stored = Checkpoints(f"{folder.place}/checkpoints")
    for step in stored.steps():
        found = _checkpoint(folder, stored, step)
        if found.verdict == "whole" or step in Checkpoints(stored.folder).steps():  # else a training has deleted it meanwhile
            yield found
    for unfinished in sorted((folder.path / "checkpoints").glob(f"*{UNFINISHED}*")):
        yield Finding(
            f"checkpoints/{unfinished.name}", "unverified", "a save that is going on or was killed; the next one deletes it"
        )


def _checkpoint(folder: Folder, stored: Checkpoints, step: int) -> Finding:
    what = f"checkpoints/{step}"
    try:
        manifest = stored.manifest(step)
        experiment = folder.experiment
        if experiment is None and manifest is not None:
            experiment = from_json(manifest.description["experiment"])
        if experiment is None:
            return Finding(what, "unverified", "it has no checksums, and run.json cannot be read")
        stored.load(step, abstract_state(experiment.objective(steps_per_epoch=1)), folder.description)
    except UnreachableCheckpoint:
        raise  # --repair must not move a checkpoint that may be whole
    except ForeignCheckpoint as error:
        return Finding(what, "unverified", str(error))
    except DamagedCheckpoint as error:
        return Finding(what, "damaged", str(error), lambda: f"moved to {stored.set_aside(step)}")
    except UserError as error:  # it may be whole, but another version of crn_jax, or another experiment, has saved it
        return Finding(what, "unverified", str(error))
    if manifest is None:
        return Finding(what, "unverified", "it can be read, but it has no checksums, because an older version saved it")
    size = sum(np.prod(array.shape, dtype=np.int64) * np.dtype(array.dtype).itemsize for array in manifest.arrays.values())
    return Finding(what, "whole", f"{len(manifest.arrays)} arrays, {size / 1e6:.1f} MB")


def metrics(folder: Folder) -> Iterator[Finding]:
    """Checks that each line of metrics.jsonl can be read."""
    file = folder.path / "metrics.jsonl"

    def look() -> str:
        lines = read_metrics(file, _refuse)
        return f"{len(lines)} lines, which have no checksums"

    if file.exists():
        yield _looked_at(folder, file, look)


def ledger(folder: Folder) -> Iterator[Finding]:
    """Checks that each line of ledger.jsonl can be read."""
    file = folder.path / FILE

    def look() -> str:
        return f"{len(read_ledger(file, _refuse))} lines, which have no checksums"

    if file.exists():
        yield _looked_at(folder, file, look)


def show_ledger(folder: Folder) -> None:
    """Prints where the time of a run has gone, if it has a ledger."""
    if snapshots := read_ledger(folder.path / FILE):
        in_use = is_in_use(folder.place)
        newest = None if in_use else Checkpoints(f"{folder.place}/checkpoints").latest_step() or 0
        console.print(ledger_table(account_of(snapshots, newest), in_use))


def ledger_table(account: Account, in_use: bool) -> rich.table.Table:
    """Returns a table of where the time of a run has gone."""
    title = f"Where the time has gone (starts: {account.starts}, killed: {account.killed}, running: {int(in_use)})"
    table = rich.table.Table("", "h:min:s", "share", title=title, title_justify="left", box=None)
    for phase, seconds in account.seconds.items():
        share = f"{seconds / account.running:.1%}" if account.running else ""
        table.add_row(LEDGER_ROWS[phase], _clock(seconds), share)
    table.add_row("the run's time", _clock(account.running), f"goodput {account.goodput:.1%}", style="bold")
    table.add_row("idle: between two starts, or suspended", _clock(account.idle), "")
    return table


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def _refuse(problem: str) -> NoReturn:
    raise UserError(problem)


def results(folder: Folder) -> Iterator[Finding]:
    """Checks the results of evaluations and ablations."""
    for name in ("evaluation.json", "study.json", "ablation.json", "task.json"):
        for file in sorted({*folder.path.glob(name), *folder.path.glob(f"*/{name}"), *folder.path.glob(f"*/*/{name}")}):
            if file.parent.name != "damaged":
                yield _looked_at(folder, file, lambda file=file: None if read_json(file) else "")  # type: ignore[misc]
    for file in sorted(folder.path.glob(RECORD)):
        yield _looked_at(folder, file, lambda file=file: None if read_record(file) else "")  # type: ignore[misc]


def exports(folder: Folder) -> Iterator[Finding]:
    """Checks exported artifacts and .safetensors files by the SHA-256 that they have."""

    def artifact(file: Path) -> None:
        for name, digest in read_json(file, {"sha256": {"*": str}})["sha256"].items():
            if sha256_of(file.parent / name) != digest:
                raise UserError(f"{file.parent / name} is not the file that was exported, by its SHA-256.")

    for file in sorted({*folder.path.glob("artifact.json"), *folder.path.glob("*/artifact.json")}):
        if file.parent.name != "damaged":
            yield _looked_at(folder, file, lambda file=file: artifact(file))  # type: ignore[misc]
    parts = {"weights.safetensors"} if (folder.path / "artifact.json").exists() else set()  # artifact.json has its SHA-256
    for file in sorted(file for file in folder.path.glob("*.safetensors") if file.name not in parts):
        yield _looked_at(folder, file, lambda file=file: f"step {load_run_file(file)[1].get('step')}")  # type: ignore[misc]


def caches(folder: Folder) -> Iterator[Finding]:
    """Checks every example in the caches of the run's size and classes, if run.json names a folder of caches."""
    if folder.experiment is None or folder.description is None or folder.experiment.data.cache is None:
        return
    cache, (height, width) = folder.experiment.data.cache, folder.experiment.size
    root = copy_of(cache) if is_bucket(cache) else Path(expanded(cache))
    classes, name = folder.experiment.num_classes, folder.description["label_space"]["name"]
    for file in sorted(root.glob(f"{height}x{width}-*/cache.json")):
        try:
            about = file.read_text("utf-8", errors="replace")
        except OSError as error:
            yield _unusable(file.parent, error)
        else:
            if re.search(f'"label_space": "{re.escape(name)}"', about):
                yield _cache(file.parent, (height, width), classes)


def _unusable(place: Path, error: Exception) -> Finding:
    """Returns the finding about a cache that cannot be read at all."""
    return Finding(str(place), "damaged", str(error), lambda: f"moved to {set_aside(place, place.parent)}")


def _cache(place: Path, size: tuple[int, int], classes: int) -> Finding:
    try:
        done = np.fromfile(place / "done", np.uint8)
        instances = (place / "instances.npy").exists()
        arrays = open_arrays(place, len(done), size, np.uint8 if classes <= 256 else np.uint16, instances)
        checksums = open_checksums(place, len(done))
    except (OSError, UserError) as error:
        return _unusable(place, error)
    present = np.flatnonzero(done == 1).tolist()
    bad = [i for i in present if not is_intact({key: array[i] for key, array in arrays.items()}, i, checksums, classes)]

    def repair() -> str:
        done[bad] = 0
        done.tofile(place / "done")
        return f"{len(bad)} examples are marked; the next training decodes them anew"

    if bad:
        return Finding(str(place), "damaged", f"{len(bad)} of {len(present)} examples, such as number {bad[0]}", repair)
    if checksums is None:
        return Finding(str(place), "unverified", f"{len(present)} examples; an older version built it, without checksums")
    return Finding(str(place), "whole", f"{len(present)} examples")


CHECKS: tuple[Callable[[Folder], Iterator[Finding]], ...] = (run_json, checkpoints, metrics, ledger, results, exports, caches)
"""What is looked at in each folder, in this order. A check yields a finding for each thing that it looks at."""


if __name__ == "__main__":
    main()
