import errno
import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crn_jax import checkpoint
from crn_jax.cascade import CascadeConfig
from crn_jax.checkpoint import Checkpoints
from crn_jax.errors import UserError
from crn_jax.lambdas import LambdaConfig
from crn_jax.manifest import FOLDER, read_manifest
from crn_jax.objective import Objective
from crn_jax.train import OptimizerConfig, abstract_state, init_state


def objective(width=3, **optimizer) -> Objective:
    return Objective(CascadeConfig(2, (width, 2)), LambdaConfig(), OptimizerConfig(**optimizer), "average", 5)


@pytest.fixture
def saved(tmp_path):
    """Steps 1 to 5 of a run that keeps two, with distances; and their state."""
    state = init_state(objective(ema_decay=0.5), 0)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=2)
    for step, distance in enumerate((7.0, 3.0, None, 5.0, None), 1):
        checkpoints.save(step, state._replace(step=jnp.asarray(step, jnp.int32)), distance, {"note": "x"})
    checkpoints.close()
    return tmp_path / "checkpoints", jax.tree.map(np.asarray, state)


def test_last_and_best_are_kept_and_load_bit_exactly(saved):
    folder, state = saved
    checkpoints = Checkpoints(folder)
    assert checkpoints.steps() == [2, 4, 5]
    assert (checkpoints.best_step(), checkpoints.latest_step()) == (2, 5)
    loaded = checkpoints.load(5, abstract_state(objective(ema_decay=0.5)))
    jax.tree.map(np.testing.assert_array_equal, loaded, state._replace(step=np.int32(5)))
    params = checkpoints.load_params(2, abstract_state(objective(ema_decay=0.5)))
    jax.tree.map(np.testing.assert_array_equal, params, state.ema)


def test_a_state_of_other_shapes_or_with_more_in_it_is_refused(saved):
    folder, _ = saved
    with pytest.raises(UserError, match=rf"{folder}/5: .*shape") as error:
        Checkpoints(folder).load(5, abstract_state(objective(width=4, ema_decay=0.5)))
    assert len(str(error.value)) < 1000  # not the whole state
    abstract = abstract_state(objective(ema_decay=0.5))
    more = {**abstract.params, "module_9": jax.ShapeDtypeStruct((2,), jnp.float32)}
    with pytest.raises(UserError, match=rf"{folder}/5"):
        Checkpoints(folder).load(5, abstract._replace(params=more))
    gc.collect()


def test_a_damaged_checkpoint_is_named(saved):
    folder, _ = saved
    shutil.rmtree(folder / "5" / "state" / "d")
    with pytest.raises(UserError, match=rf"{folder}/5: the checkpoint cannot be read"):
        Checkpoints(folder).load(5, abstract_state(objective(ema_decay=0.5)))
    gc.collect()


def test_numbers_that_are_not_finite_are_named(tmp_path):
    state = init_state(objective(ema_decay=0.5), 0)
    state.ema["module_0"]["conv1"]["kernel"] = state.params["module_0"]["conv1"]["kernel"].at[0, 0].set(jnp.nan)
    state = state._replace(step=jnp.int32(3))
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(3, state, None, {})
        checkpoints.wait()
        with pytest.raises(UserError, match=rf"{tmp_path}/3: .* not finite in ema/module_0/conv1/kernel\."):
            checkpoints.load_params(3, abstract_state(objective(ema_decay=0.5)))
        loaded = checkpoints.load_fields(3, abstract_state(objective(ema_decay=0.5)), "params")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, state.params)


def test_half_written_checkpoints_are_cleared_away(saved):
    folder, state = saved
    shutil.copytree(folder / "5", folder / "6.orbax-checkpoint-tmp")
    reading = Checkpoints(folder)
    assert reading.steps() == [2, 4, 5]
    reading.close()
    assert (folder / "6.orbax-checkpoint-tmp").exists()  # it may belong to a training that is saving just now
    writing = Checkpoints(folder, keep_last=2)
    writing.save(7, jax.tree.map(jnp.asarray, state), None, {})
    writing.close()
    assert writing.steps() == [2, 5, 7]
    assert not (folder / "6.orbax-checkpoint-tmp").exists()


def test_what_a_disk_does_not_read_now_is_not_deleted(saved, monkeypatch):
    """Step 2 is the best."""
    folder, state = saved

    def one_fails(checkpoint, step):
        if step == 2:
            raise OSError(errno.ESTALE, "Stale file handle", str(checkpoint))
        return read_manifest(checkpoint, step)

    def goes_on(step: int, distance: float) -> list[int]:
        with Checkpoints(folder, keep_last=1) as checkpoints:
            checkpoints.save(step, jax.tree.map(jnp.asarray, state), distance, {})
        return checkpoints.steps()

    monkeypatch.setattr(checkpoint, "read_manifest", one_fails)
    assert goes_on(7, 6.0) == [2, 4, 7]
    monkeypatch.undo()
    assert goes_on(8, 6.0) == [2, 8]
    (folder / "2" / FOLDER / "process_0.json").unlink()  # damaged
    assert goes_on(9, 8.0) == [8, 9]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"{tmp_path}/file/checkpoints"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep_last=1)
