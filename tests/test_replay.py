"""Steps that are computed twice: nothing changes, unless a bit differs the second time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.common.exit_status import UNREPEATABLE
from launch.common.terminal import console
from launch.training import replay, session
from tests.support.commands import final_state, run


def test_a_run_with_replays_is_the_run_without(tiny, trained_streets, tmp_path):
    run([*tiny, "--epochs", "2", "--run.checkpoint_every", "4", "--run.replay_every", "5"], tmp_path)
    jax.tree.map(np.testing.assert_array_equal, final_state(tmp_path), final_state(trained_streets))


def test_a_bit_that_differs_stops_the_run_before_it_is_saved(tiny, tmp_path, monkeypatch):
    calls = []

    def once_wrong(make, *arguments):
        step = make(*arguments)

        def compute(*arguments):
            calls.append(1)
            state, metrics = step(*arguments)
            bias = jnp.zeros_like(state.params["to_rgb"]["bias"])
            if len(calls) == 6:  # after steps 1, 2, 2, 3 and 4: the second time of step 4
                bias = bias.at[1].set(-0.0)  # which no comparison of numbers would see
            params = {**state.params, "to_rgb": {**state.params["to_rgb"], "bias": bias}}
            return state._replace(params=params), metrics

        compute.lower = step.lower
        return compute

    monkeypatch.setattr(session, "make_train_step", functools.partial(once_wrong, session.make_train_step))
    flags = ["--run.replay_every", "2", "--run.checkpoint_every", "2", "--steps", "6"]
    with console.capture() as capture, pytest.raises(SystemExit) as exit_:
        run([*tiny, *flags], tmp_path)
    assert exit_.value.code == UNREPEATABLE
    printed = capture.get()
    assert "Step 4 was computed twice" in printed and "bits in state/params/to_rgb/bias." in printed
    assert "step 2, is kept" in printed
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2"]


@pytest.mark.quick
def test_replays_compare_every_bit():
    """NaN equals itself, and 0 differs from -0."""
    same = replay.same_bits(
        {"a": jnp.array([np.nan, 0.0]), "b": jnp.int32(3)}, {"a": jnp.array([np.nan, -0.0]), "b": jnp.int32(3)}
    )
    assert {name: bool(flag) for name, flag in same.items()} == {"a": False, "b": True}
    assert replay.same_bits(jnp.array([np.nan]), jnp.array([np.nan])).all()
