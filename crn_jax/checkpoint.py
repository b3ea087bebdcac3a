"""Checkpoints of a run: Orbax writes them in the background and atomically, and keeps the last few and the best one."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from crn_jax.errors import UserError
from crn_jax.train import TrainState


class Checkpoints:
    """The checkpoints of one run, named by the number of steps done.

    Args:
      folder: the folder that contains the checkpoints.
      keep_last: how many checkpoints to keep besides the best one. None: the folder is only read, which does not disturb a
        training that writes to it at the same time.

    Raises:
      UserError: if no checkpoints can be written into the folder.
    """

    def __init__(self, folder: str | Path, keep_last: int | None = None):
        self.folder = Path(folder).absolute()
        policies = ocp.training.preservation_policies
        keep = [
            policies.LatestN(n=keep_last),
            # BestN keeps the last one, which in descending order has the smallest distance.
            policies.BestN(
                get_metric_fn=lambda metrics: metrics["distance"],
                reverse=True,
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        try:
            self._orbax = ocp.training.Checkpointer(
                self.folder,
                preservation_policy=policies.AnyPreservationPolicy(keep),
                cleanup_tmp_directories=keep_last is not None,  # what a killed save left behind
            )
        except OSError as error:
            raise UserError(f"{self.folder}: checkpoints cannot be kept in this folder ({error}).") from error
        self._saving: Any = None
        self._failed = False

    def latest_step(self) -> int | None:
        """Returns the steps done at the newest checkpoint, None if there is no checkpoint."""
        return self._orbax.latest.step if self._orbax.latest else None

    def best_step(self) -> int | None:
        """Returns the steps done at the checkpoint with the smallest held-out distance, None if none was validated."""
        validated = [c for c in self._orbax.checkpoints if c.metrics]
        return min(validated, key=lambda c: c.metrics["distance"]).step if validated else None

    def steps(self) -> list[int]:
        """Returns the steps done at every checkpoint, in ascending order."""
        return [c.step for c in self._orbax.checkpoints]

    def save(self, step: int, state: TrainState, distance: float | None, description: dict[str, Any]) -> None:
        """Starts to save a state; the writing goes on in the background.

        Args:
          step: the number of steps done.
          state: the training state, which may be donated as soon as this function returns.
          distance: the held-out distance at this step, which decides about the best checkpoint.
          description: plain JSON to store beside the state (experiment, label space).

        Raises:
          UserError: if this state, or the one saved before it, could not be written.
        """
        self.wait()
        metrics = None if distance is None else {"distance": distance}
        try:
            self._saving = self._orbax.save_async(step, state, force=True, metrics=metrics, custom_metadata=description)
        except Exception as error:  # Orbax, TensorStore and the file system raise errors of many classes
            raise self.write_error(error) from error

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
                raise self.write_error(error) from error

    def check(self) -> None:
        """Notices whether the save in the background has failed; it does not wait for its end.

        Raises:
          UserError: if the last state could not be written.
        """
        if self._saving is not None:
            try:
                self._saving.result(timeout=0)
            except TimeoutError:  # it goes on; `wait` raises a TimeoutError of its own
                return
            except Exception as error:
                self._saving = None
                raise self.write_error(error) from error
            self._saving = None

    def load(self, step: int, abstract: TrainState) -> TrainState:
        """Reads the state at `step`, on whatever mesh it was saved.

        Args:
          step: the number of steps done.
          abstract: the result of `abstract_state`. Leaves without a sharding are put on the first device, and leaves that are
            `ocp.PLACEHOLDER` are not read.

        Raises:
          UserError: if something is missing, damaged, or has another shape than in `abstract`.
        """
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def placed(leaf):
            if not hasattr(leaf, "shape") or leaf.sharding is not None:
                return leaf
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)

        try:
            state = self._orbax.load(step, jax.tree.map(placed, abstract))
        except Exception as error:
            raise UserError(f"{self.folder}/{step}: the checkpoint cannot be read: {_cause(error)}") from error
        # Orbax raises no error if a key is missing, but leaves the ShapeDtypeStruct in its place.
        missing = [
            jax.tree_util.keystr(path)
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
            if isinstance(leaf, jax.ShapeDtypeStruct)
        ]
        if missing:
            raise UserError(f"{self.folder}/{step}: the checkpoint lacks {', '.join(missing[:5])}.")
        return state

    def load_params(self, step: int, abstract: TrainState) -> dict:
        """Reads only the parameters for synthesis: the moving average if the run keeps one, else the parameters themselves.

        Raises:
          UserError: if they are missing, damaged, of another shape than in `abstract`, or not finite.
        """
        wanted = "params" if abstract.ema is None else "ema"
        return getattr(self.load_fields(step, abstract, wanted), wanted)

    def load_fields(self, step: int, abstract: TrainState, *fields: str) -> TrainState:
        """Reads only these fields of the state.

        Raises:
          UserError: if they are missing, damaged or of another shape than in `abstract`, or not finite. Checkpoints have no
            checksums, so the last check is the only one that finds wrong numbers.
        """
        skipped = {
            field: jax.tree.map(lambda _: ocp.PLACEHOLDER, getattr(abstract, field))
            for field in TrainState._fields
            if field not in fields
        }
        state = self.load(step, abstract._replace(**skipped))
        wanted = {field: getattr(state, field) for field in fields}
        leaves = jax.tree_util.tree_leaves_with_path(wanted)
        if wrong := [jax.tree_util.keystr(path) for path, leaf in leaves if not np.isfinite(leaf).all()]:
            raise UserError(
                f"{self.folder}/{step}: the checkpoint has numbers that are not finite in {', '.join(wrong[:5])}. Use another "
                f"checkpoint, or fetch this one again."
            )
        return state

    def close(self) -> None:
        """Waits for the last save, unless a save has failed already: Orbax would raise its error a second time."""
        if self._failed:
            return
        self.wait()
        self._orbax.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_) -> None:
        """Closes, except after an error in a run of several processes: the others may not share it, and waiting would hang."""
        if kind is None or jax.process_count() == 1:
            self.close()

    def write_error(self, error: Exception) -> UserError:
        """Returns the error for a user whose disk refused a write; from here on, nothing is saved."""
        self._failed = True
        kept = self.steps()
        good = f"step {kept[-1]}, its last good checkpoint" if kept else "the start, because nothing was saved yet"
        return UserError(
            f"{self.folder.parent} could not be written: {_cause(error)}\nMake room there or make it writable, then give "
            f"the same command again; the run goes on from {good}."
        )


def _cause(error: BaseException) -> str:
    """Returns the text of the first error in Orbax's chain; the texts of the later ones repeat the whole state."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    return text if len(text) < 500 else f"{text[:500]} ..."
