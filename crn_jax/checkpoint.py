"""Checkpoints of a run: Orbax writes them in the background and atomically; their manifests tell whether they are intact."""

import asyncio
import concurrent.futures
import contextlib
import gc
import json
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from crn_jax.errors import UserError, some
from crn_jax.manifest import FOLDER, LaterVersion, Manifest, ManifestWriter, differing, named_leaves, read_manifest
from crn_jax.resuming import description_changes
from crn_jax.storage import storage_of
from crn_jax.train import TrainState

WAIT_SECONDS = 60.0
"""How long a run that ends because of a failed write waits for a save in the background, which may never end."""


class DamagedCheckpoint(UserError):
    """The error that a checkpoint is not what was saved: it is incomplete, changed, or that of another step."""


class ForeignCheckpoint(DamagedCheckpoint):
    """The error that another run, or a later version of crn_jax, has saved a checkpoint. It may be whole."""


class UnreachableCheckpoint(UserError):
    """The error that a checkpoint cannot be fetched, so that it is not known whether it is damaged."""


class Checkpoints:
    """The checkpoints of one run, named by the number of steps done.

    Args:
      folder: the folder that contains the checkpoints, perhaps in a bucket.
      keep_last: how many checkpoints to keep besides the best one. None: the folder is only read, which does not disturb a
        training that writes to it at the same time.

    Raises:
      UserError: if the folder cannot be read, or no checkpoints can be written into it.
    """

    def __init__(self, folder: str | Path, keep_last: int | None = None):
        self._storage = storage_of(folder)
        self.folder = self._storage.folder
        self._keep_last = keep_last
        try:
            if keep_last is not None:
                self._storage.prepare()
            self._steps = self._storage.steps()
        except OSError as error:
            what = "read from" if keep_last is None else "kept in"
            raise UserError(
                f"{self.folder}: checkpoints cannot be {what} this folder ({error}). Check its permissions."
            ) from error
        self._unread = set[int]()
        self._distances = {step: self._read_distance(step) for step in self._steps}
        self._background = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future | None = None
        self._cleared = self._failed = False

    def latest_step(self) -> int | None:
        """Returns the steps done at the newest checkpoint, None if there is no checkpoint."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """Returns the steps done at the checkpoint with the smallest held-out distance, None if none was validated."""
        return _best({step: self._distances[step] for step in self.steps()})

    def steps(self) -> list[int]:
        """Returns the steps done at every checkpoint, in ascending order."""
        return sorted(self._steps)

    def is_validated(self, step: int) -> bool:
        """Returns whether the held-out distance of a checkpoint is known."""
        return self._distances.get(step) is not None

    def _read_distance(self, step: int) -> float | None:
        """Returns the held-out distance of a checkpoint; None if it was not validated, is damaged, or cannot be read now.

        A checkpoint that a disk does not read now, such as a disk in a network, may be the best. It is therefore kept.

        Raises:
          UnreachableCheckpoint: if the network fails that leads to a bucket. The checkpoint may be the best there, too.
        """
        try:
            with self._but_unreachable(step):
                manifest = self._manifest(step)
                return _distance_beside(self.folder / str(step)) if manifest is None else manifest.distance
        except DamagedCheckpoint as error:
            if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
                self._unread.add(step)
            return None

    def save(self, step: int, state: TrainState, distance: float | None, description: dict[str, Any]) -> None:
        """Starts to save a state with its manifest; the writing goes on in the background.

        Args:
          step: the number of steps done.
          state: the training state, which may be donated as soon as this function returns.
          distance: the held-out distance at this step, which decides about the best checkpoint.
          description: plain JSON that identifies the run (experiment, label space), stored beside the state.

        Raises:
          UserError: if this state, or the one saved before it, could not be written.
        """
        self.wait()
        items = {"state": state, FOLDER: ManifestWriter(state, step, distance, description)}
        try:
            self._clear_unfinished()
            writing = ocp.save_checkpointables_async(self.folder / str(step), items, custom_metadata=description)
        except Exception as error:  # Orbax, TensorStore and the file system raise errors of many classes
            raise self.write_error(error) from error
        self._steps.append(step)
        self._distances[step] = distance
        self._saving = self._background.submit(self._finish, writing)

    def _clear_unfinished(self) -> None:
        """Deletes the remains of a save, or of a deletion, that was killed."""
        if not self._cleared and jax.process_index() == 0:
            self._storage.clear_unfinished()
        self._cleared = True

    def _finish(self, writing: Any) -> None:
        """Waits until a checkpoint is complete, and then deletes those that are no longer needed."""
        writing.result()
        kept = {*sorted(self._steps)[-(self._keep_last or 1) :], self.best_step(), *self._unread}
        for step in self._steps.copy():
            if step not in kept:
                self._steps.remove(step)
                if jax.process_index() == 0:
                    self._storage.delete(step)

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: if the last state could not be written.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            try:
                saving.result()
            except Exception as error:
                self._steps.pop()
                raise self.write_error(error) from error

    def check(self) -> None:
        """Notices whether the save in the background has failed; it does not wait for its end.

        Raises:
          UserError: if the last state could not be written.
        """
        if self._saving is not None and self._saving.done():
            self.wait()

    def manifest(self, step: int) -> Manifest | None:
        """Returns the manifest of a checkpoint; None if it was saved by an older version of crn_jax, which wrote none.

        Raises:
          DamagedCheckpoint: if the checkpoint has a manifest that is incomplete or damaged, or it is that of another step.
          UnreachableCheckpoint: if the network fails.
        """
        with self._but_unreachable(step):
            return self._manifest(step)

    def _manifest(self, step: int) -> Manifest | None:
        checkpoint = self.folder / str(step)
        if self._storage.is_link(step):
            raise _damaged(checkpoint, "its folder is a link to another one")
        try:
            if not (checkpoint / FOLDER).exists() and FOLDER not in _items(checkpoint):
                return None
            return read_manifest(checkpoint, step)
        except LaterVersion as error:
            raise ForeignCheckpoint(f"{checkpoint}: {error}.") from error
        except Exception as error:  # the clients of buckets raise errors of many classes
            raise _damaged(checkpoint, str(error)) from error

    def load(self, step: int, abstract: TrainState, description: dict[str, Any] | None = None) -> TrainState:
        """Reads the state at `step`, on whatever mesh it was saved, and verifies every array that it reads by its checksum.

        If `abstract` lies on the devices of several processes, every process has to call this, and all raise an error if one
        of them does.

        Args:
          step: the number of steps done.
          abstract: the result of `abstract_state`. Leaves without a sharding are put on the first device, and leaves that are
            `ocp.PLACEHOLDER` are not read.
          description: the description of the run, which the checkpoint has to belong to. None: of whatever run.

        Raises:
          DamagedCheckpoint: if something is missing or is not what was saved.
          UnreachableCheckpoint: if the network fails.
          UserError: if the state has other arrays than `abstract`, or belongs to another run.
        """
        checkpoint, several = self.folder / str(step), _spans_processes(abstract)
        with _together(several), self._but_unreachable(step):
            manifest = self._manifest(step)
            if manifest is not None:
                _require_arrays(checkpoint, manifest, abstract)
                if description is not None and (changes := description_changes(manifest.description, description)):
                    raise ForeignCheckpoint(f"{checkpoint}: the checkpoint belongs to another run: {'; '.join(changes)}.")
            state = _read(checkpoint, self._place_to_read(step), abstract)
        if manifest is not None and (wrong := differing(manifest, state)):
            raise _damaged(checkpoint, f"these arrays are not what was saved, by their checksums: {some(wrong)}")
        if isinstance(state.step, jax.Array) and int(np.asarray(state.step)) != step:
            raise _damaged(
                checkpoint, f"it holds the state of step {int(np.asarray(state.step))}, but its folder is named {step}"
            )
        return state

    def _place_to_read(self, step: int) -> Path:
        """Returns where a checkpoint is read. Each process of a training reads its own part where it is stored."""
        return self._copy(step) if self._keep_last is None else self.folder / str(step)

    def _copy(self, step: int) -> Path:
        with self._fetching(step):
            return self._storage.copy_to_read(step)

    @contextlib.contextmanager
    def _fetching(self, step: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnreachableCheckpoint(f"{self.folder / str(step)}: the checkpoint cannot be fetched ({error}).") from error

    @contextlib.contextmanager
    def _but_unreachable(self, step: int) -> Iterator[None]:
        """Raises `UnreachableCheckpoint` in place of `DamagedCheckpoint` if the network is at fault."""
        try:
            yield
        except DamagedCheckpoint:
            with self._fetching(step):
                if step in self._storage.steps():  # else its training is deleting it
                    self._storage.copy_to_read(step)
            raise

    def load_newest(self, abstract: TrainState, description: dict[str, Any]) -> tuple[int, TrainState, dict[int, str]]:
        """Reads the newest checkpoint that verifies, as `load` does.

        Returns:
          the number of its steps, its state, and what is wrong with each newer checkpoint, by its step.

        Raises:
          UserError: if no checkpoint verifies, or a checkpoint has other arrays than `abstract`.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                return step, self.load(step, abstract, description), damaged
            except DamagedCheckpoint as error:
                damaged[step] = str(error)  # the error itself would hold on to the arrays
        raise UserError(
            "\n".join(damaged.values()) + f"\nNo checkpoint in {self.folder} is whole. Fetch them again, or train anew "
            f"with another --run.folder."
        )

    def set_aside(self, step: int) -> Path | str:
        """Moves a checkpoint out of the way, into the folder `damaged` beside the checkpoints, and returns its new place."""
        place = self._storage.set_aside(step)
        self.forget(step)
        return place

    def forget(self, step: int) -> None:
        """Leaves out a checkpoint that another process has moved away."""
        self._steps.remove(step)
        del self._distances[step]

    def load_params(self, step: int, abstract: TrainState, description: dict[str, Any] | None = None) -> dict:
        """Reads only the parameters for synthesis: the moving average if the run keeps one, else the parameters themselves.

        Raises:
          DamagedCheckpoint: if they are missing, or not what was saved.
          UserError: if they have other shapes than in `abstract`, or are not finite.
        """
        wanted = "params" if abstract.ema is None else "ema"
        return getattr(self.load_fields(step, abstract, wanted, description=description), wanted)

    def load_fields(
        self, step: int, abstract: TrainState, *fields: str, description: dict[str, Any] | None = None
    ) -> TrainState:
        """Reads and verifies only these fields of the state, and the step.

        Raises:
          DamagedCheckpoint: if they are missing, or not what was saved.
          UserError: if they have other shapes than in `abstract`, or are not finite.
        """
        skipped = {
            field: jax.tree.map(lambda _: ocp.PLACEHOLDER, getattr(abstract, field))
            for field in TrainState._fields
            if field not in ("step", *fields)
        }
        state = self.load(step, abstract._replace(**skipped), description)
        wanted = {field: getattr(state, field) for field in fields}
        if wrong := [name for name, leaf in named_leaves(wanted) if not np.isfinite(leaf).all()]:
            raise UserError(
                f"{self.folder}/{step}: the checkpoint has numbers that are not finite in {some(wrong)}. Use another "
                f"checkpoint, or fetch this one again."
            )
        return state

    def close(self) -> None:
        """Waits for the last save. If a write has failed before, it waits for some time only, and its end raises no error."""
        if self._failed:
            concurrent.futures.wait([self._saving] if self._saving else [], WAIT_SECONDS)
            return
        self.wait()
        self._background.shutdown()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_) -> None:
        """Closes, except after an error in a run of several processes: the others may not share it, and waiting would hang."""
        if kind is None or jax.process_count() == 1:
            self.close()

    def write_error(self, error: Exception) -> UserError:
        """Returns the error for a user whose disk refused a write; from here on, nothing is saved."""
        self._failed = True
        unfinished = self._steps[-1:] if self._saving is not None and not self._saving.done() else []
        kept = [step for step in self.steps() if step not in unfinished]
        good = f"step {kept[-1]}, its last good checkpoint" if kept else "the start, because nothing was saved yet"
        return UserError(
            f"{self.folder.parent} could not be written: {_cause(error)}\nMake room there or make it writable, then give "
            f"the same command again; the run goes on from {good}."
        )


def _distance_beside(checkpoint: Path) -> float:
    """Returns the held-out distance that older versions of crn_jax saved beside the state, in place of a manifest."""
    try:
        return float(json.loads((checkpoint / "metrics" / "metrics").read_bytes())["distance"])
    except Exception as error:  # the clients of buckets raise errors of many classes
        raise _damaged(checkpoint, f"its distance cannot be read ({error})") from error


def _items(checkpoint: Path) -> list[str]:
    """Returns the names of what Orbax saved in a checkpoint."""
    items = json.loads((checkpoint / "_CHECKPOINT_METADATA").read_bytes())["item_handlers"]
    return list(items)


def _best(distances: dict[int, float | None]) -> int | None:
    """Returns the step with the smallest distance, None if no distance is known."""
    known = {step: distance for step, distance in distances.items() if distance is not None}
    return min(known, key=lambda step: (known[step], step), default=None)


def _read(checkpoint: Path, place: Path, abstract: TrainState) -> TrainState:
    """Reads a state with Orbax, in this process alone: a file that only one of several processes cannot read hangs no other.

    Args:
      checkpoint: what messages call the checkpoint.
      place: where it is read.
      abstract: as in `Checkpoints.load`.

    Raises:
      DamagedCheckpoint: if something is missing or cannot be read.
    """
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def placed(leaf):
        if not hasattr(leaf, "shape") or leaf.sharding is not None:
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)

    problem = ""
    with _told_once():
        try:
            with _in_this_process_alone():
                state = ocp.load(place, jax.tree.map(placed, abstract), checkpointable_name="state")
        except Exception as error:  # Orbax, TensorStore and the file system raise errors of many classes
            problem = _cause(error)
        if problem:
            gc.collect()  # the reads that were given up are reported when they are collected, so that has to be now
    if problem:
        raise DamagedCheckpoint(f"{checkpoint}: the checkpoint cannot be read: {problem}")
    # Orbax raises no error if a key is missing, but leaves the ShapeDtypeStruct in its place.
    if missing := [name for name, leaf in named_leaves(state) if isinstance(leaf, jax.ShapeDtypeStruct)]:
        raise DamagedCheckpoint(f"{checkpoint}: the checkpoint lacks {some(missing)}.")
    return state


@contextlib.contextmanager
def _told_once() -> Iterator[None]:
    """Makes a load that fails raise its error, and print nothing.

    Orbax reads all arrays at once, on an event loop of uvloop, and raises the first error. It then closes the loop, while the
    other reads go on. Each of them would print a traceback when it ends, and when its result is collected.
    """
    uvloop: Any = sys.modules.get("uvloop")  # Orbax has imported it, except on Windows
    if uvloop is None:
        yield
        return
    make, patient = uvloop.new_event_loop, _patient(uvloop.Loop)
    uvloop.new_event_loop = patient
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)  # reads that had not begun
            yield
    finally:
        uvloop.new_event_loop = make


def _patient(kind: Any) -> Any:
    """Returns a class of event loops like `kind` that wait for their tasks before they close, and report none that failed."""

    class Patient(kind):
        def __init__(self) -> None:
            super().__init__()
            self.set_exception_handler(lambda loop, context: None)

        def close(self) -> None:
            if not self.is_closed() and (tasks := asyncio.all_tasks(self)):
                self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            super().close()

    return Patient


def _in_this_process_alone() -> contextlib.AbstractContextManager:
    """Returns a context in which Orbax does not wait for other processes."""
    if jax.process_count() == 1:
        return contextlib.nullcontext()
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
    )
    return ocp.Context(multiprocessing_options=options)


def _require_arrays(checkpoint: Path, manifest: Manifest, abstract: TrainState) -> None:
    """Raises UserError if a checkpoint was saved with other arrays than those that are asked for."""
    problems = []
    for name, leaf in named_leaves(abstract):
        if not hasattr(leaf, "shape"):
            continue  # it is not asked for
        recorded = manifest.arrays.get(name)
        if recorded is None:
            problems.append(f"{name} is not in it")
        elif (recorded.shape, recorded.dtype) != (leaf.shape, leaf.dtype.name):
            problems.append(f"{name} has dtype {recorded.dtype} and shape {recorded.shape}, not {leaf.dtype.name} {leaf.shape}")
    if problems:
        raise UserError(f"{checkpoint}: the checkpoint does not fit this experiment: {some(problems)}.")


def _spans_processes(abstract: TrainState) -> bool:
    """Returns whether the arrays lie on devices of other processes, too."""
    shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(abstract)]
    return any(sharding is not None and not sharding.is_fully_addressable for sharding in shardings)


@contextlib.contextmanager
def _together(several: bool) -> Iterator[None]:
    """Makes all processes raise an error if one of them raises a UserError within the block."""
    own: UserError | None = None
    try:
        yield
    except UserError as error:
        own = error
    kinds = np.array([own is not None, isinstance(own, DamagedCheckpoint)])
    everywhere = np.asarray(multihost_utils.process_allgather(kinds)) if several else kinds[None]
    failed = np.flatnonzero(everywhere[:, 0])
    if own is None and not len(failed):
        return
    if everywhere[failed, 1].all():
        raise own or DamagedCheckpoint(f"Process {failed[0]} finds the checkpoint damaged, and says how.")
    raise (
        own if own and not isinstance(own, DamagedCheckpoint) else UserError(f"Process {failed[0]} cannot use the checkpoint.")
    )


def _damaged(checkpoint: Path, how: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(f"{checkpoint}: the checkpoint is damaged: {how}.")


def _cause(error: BaseException) -> str:
    """Returns the text of the first error in Orbax's chain; the texts of the later ones repeat the whole state."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error) or type(error).__name__
    return text if len(text) < 500 else f"{text[:500]} ..."
