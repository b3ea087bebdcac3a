"""Checkpoints of a run, through Orbax: asynchronous, atomic, the last few and the best kept."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from crn_jax.errors import UserError
from crn_jax.train import TrainState


class Checkpoints:
    """The checkpoints of one run folder, named by the number of steps done.

    Args:
      folder: where they lie.
      keep_last: how many to keep besides the best one. None: the folder is only read, which a training that writes to
        it at the same time does not notice.
    """

    def __init__(self, folder: str | Path, keep_last: int | None = None):
        self.folder = Path(folder).absolute()
        policies = ocp.training.preservation_policies
        keep = [
            policies.LatestN(n=keep_last),
            # In descending order the last one, which BestN keeps, has the smallest distance.
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
            raise UserError(f"{self.folder}: checkpoints cannot be kept here ({error}).") from error
        self._saving = None
        self._failed = False

    def latest_step(self) -> int | None:
        """Steps done at the newest checkpoint, None if there is none."""
        return self._orbax.latest.step if self._orbax.latest else None

    def best_step(self) -> int | None:
        """Steps done at the checkpoint with the smallest held-out distance, None if none was validated."""
        validated = [c for c in self._orbax.checkpoints if c.metrics]
        return min(validated, key=lambda c: c.metrics["distance"]).step if validated else None

    def steps(self) -> list[int]:
        """Steps done at every checkpoint there is, ascending."""
        return [c.step for c in self._orbax.checkpoints]

    def save(self, step: int, state: TrainState, distance: float | None, description: dict[str, Any]) -> None:
        """Starts saving; the disk is written in the background.

        Args:
          step: the number of steps done.
          state: the training state; it may be donated as soon as this returns.
          distance: the held-out distance at this step, by which the best is chosen.
          description: plain JSON stored beside the state (config, label space).

        Raises:
          UserError: if this save, or the one before it, could not be written.
        """
        self.wait()
        metrics = None if distance is None else {"distance": distance}
        try:
            self._saving = self._orbax.save_async(step, state, force=True, metrics=metrics, custom_metadata=description)
        except Exception as error:  # Orbax, TensorStore and the file system each raise their own.
            raise self.write_error(error) from error

    def wait(self) -> None:
        """Returns once everything is on disk."""
        saving, self._saving = self._saving, None
        if saving is not None:
            try:
                saving.result()
            except Exception as error:
                raise self.write_error(error) from error

    def load(self, step: int, abstract: TrainState) -> TrainState:
        """Reads the state at `step`, on whatever mesh it was saved; leaves that are `ocp.PLACEHOLDER` are left out.

        Args:
          step: the number of steps done.
          abstract: from `abstract_state`; without a mesh there, the state comes to the first device.

        Raises:
          UserError: if something is missing, damaged or of another shape than in `abstract`.
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
        # Where a key is missing Orbax leaves the ShapeDtypeStruct, without an error.
        missing = [
            jax.tree_util.keystr(path)
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
            if isinstance(leaf, jax.ShapeDtypeStruct)
        ]
        if missing:
            raise UserError(f"{self.folder}/{step}: the checkpoint lacks {', '.join(missing[:5])}.")
        return state

    def load_params(self, step: int, abstract: TrainState) -> dict:
        """Reads only the parameters to synthesize with: the moving average if the run keeps one."""
        wanted = "params" if abstract.ema is None else "ema"
        return getattr(self.load_fields(step, abstract, wanted), wanted)

    def load_fields(self, step: int, abstract: TrainState, *fields: str) -> TrainState:
        """Reads only these fields of the state.

        Raises:
          UserError: as `load`; and if what is read is not finite throughout: there are no checksums of it.
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
                f"{self.folder}/{step}: the checkpoint holds numbers that are not finite in {', '.join(wrong[:5])}; take "
                f"another checkpoint, or fetch this one again."
            )
        return state

    def close(self) -> None:
        """Waits for the last save, unless one has failed already: Orbax would raise that error once more."""
        if self._failed:
            return
        self.wait()
        self._orbax.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_) -> None:
        """Closes, but does not wait behind an error that the other processes of the run may not share."""
        if kind is None or jax.process_count() == 1:
            self.close()

    def write_error(self, error: Exception) -> UserError:
        """What to tell a user whose disk refused a write; nothing more is saved from here on."""
        self._failed = True
        kept = self.steps()
        good = f"step {kept[-1]}, its last good checkpoint" if kept else "the start: nothing was saved yet"
        return UserError(
            f"{self.folder.parent} could not be written: {_cause(error)}\nMake room there or make it writable, then give "
            f"the same command again; the run goes on from {good}."
        )


def _cause(error: BaseException) -> str:
    """What Orbax's chain of errors began with; their own texts repeat the whole state."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    return text if len(text) < 500 else f"{text[:500]} ..."
