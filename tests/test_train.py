import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import plain
import pytest

from crn_jax import vgg_weights
from crn_jax.cascade import CascadeConfig
from crn_jax.errors import UserError
from crn_jax.evaluation import make_eval_step
from crn_jax.generator import init_params
from crn_jax.kernels import convolution, cpu_convolution
from crn_jax.lambdas import LambdaConfig
from crn_jax.objective import Objective
from crn_jax.train import OptimizerConfig, abstract_state, init_state, make_train_step
from tests.support.compiling import compiled

CASCADE = CascadeConfig(num_classes=4, widths=(6, 6, 6), base=(4, 6), num_images=2)


def objective(**optimizer) -> Objective:
    return Objective(CASCADE, LambdaConfig(rescale_epoch=1), OptimizerConfig(**optimizer), "average", steps_per_epoch=2)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    batch = {
        "layout": rng.integers(0, 4, (2, *CASCADE.size)).astype(np.uint8),
        "photograph": rng.integers(0, 256, (2, *CASCADE.size, 3)).astype(np.uint8),
    }
    return jax.device_put(vgg_weights.random_vgg19(0)), batch


@pytest.fixture(scope="module")
def four_steps(problem):
    """States (as NumPy arrays) before and after each of four steps with a moving average, the metrics, what was compiled."""
    train_objective = objective(learning_rate=1e-2, ema_decay=0.75)
    step, state = make_train_step(train_objective), init_state(train_objective, 0)
    states, history = [jax.tree.map(np.array, state)], []
    with compiled() as programs:
        for _ in range(4):
            state, metrics = step(state, *problem)
            states.append(jax.tree.map(np.array, state))
            history.append(jax.tree.map(np.array, metrics))
    return states, history, programs


def test_a_step_lowers_the_loss_and_counts(four_steps):
    states, history, _ = four_steps
    terms = [h["terms"] @ history[0]["weights"] for h in history]
    assert terms[3] < terms[0]
    assert [int(s.step) for s in states] == [0, 1, 2, 3, 4]
    assert all(np.isfinite(h["grad_norm"]) and h["grad_norm"] > 0 for h in history)


def test_the_loss_is_that_of_the_best_images(four_steps, problem):
    states, history, _ = four_steps
    terms, images, _ = make_eval_step(CASCADE, objective().perception)(states[0].params, *problem)
    assert images.shape == (2, 2, *CASCADE.size, 3)
    totals = np.asarray(terms).sum(-1)
    assert {*totals.argmin(1)} == {0, 1}  # each of them is the best once
    assert history[0]["loss"] == pytest.approx(totals.min(1).mean(), rel=1e-5)
    best = np.asarray(terms)[np.arange(2), totals.argmin(1)].mean(0)
    np.testing.assert_allclose(history[0]["terms"], best, rtol=1e-5)
    np.testing.assert_allclose(history[0]["all_terms"][:, 0], np.asarray(terms).mean(0), rtol=1e-5)


def test_lambda_is_rescaled_inside_the_step_without_a_recompilation(four_steps):
    states, history, programs = four_steps
    assert (history[1]["weights"] == 1).all()
    means = (history[0]["terms"] + history[1]["terms"]) / 2
    np.testing.assert_allclose(history[2]["weights"] * means, means.mean(), rtol=1e-5)
    assert (history[3]["weights"] == history[2]["weights"]).all()
    assert programs.count("step") == 1


def test_the_moving_average(four_steps):
    states, _, _ = four_steps
    kernels = [s.params["to_rgb"]["kernel"] for s in states]
    ema = kernels[0]
    for kernel in kernels[1:]:
        ema = 0.75 * ema + 0.25 * kernel
    np.testing.assert_allclose(states[4].ema["to_rgb"]["kernel"], ema, rtol=1e-5, atol=1e-7)
    assert abstract_state(objective()).ema is None


def test_the_first_adam_step_moves_by_the_learning_rate(four_steps):
    states, _, _ = four_steps
    moved = np.abs(states[1].params["to_rgb"]["bias"] - states[0].params["to_rgb"]["bias"])
    np.testing.assert_allclose(moved, 1e-2, rtol=1e-4)


@pytest.fixture(scope="module")
def plain_step():
    """A problem, and the plain implementation's step on it."""
    cascade = CascadeConfig(num_classes=4, widths=(20, 24, 16), base=(8, 8))
    wanted = Objective(cascade, LambdaConfig(rescale_epoch=None), OptimizerConfig(), "average", 2)
    rng = np.random.default_rng(1)
    batch = {
        "layout": rng.integers(0, 4, (1, *cascade.size)).astype(np.uint8),
        "photograph": rng.integers(0, 256, (1, *cascade.size, 3)).astype(np.uint8),
    }
    arguments = jax.tree.map(np.asarray, init_state(wanted, 0)), jax.device_put(vgg_weights.random_vgg19(0)), batch
    return wanted, arguments, plain.make_train_step(wanted)(*arguments)


def same_gradient(got, wanted) -> None:
    """Compares gradients by Adam's first moments after one step, a tenth of the gradient.

    The sign of L1's gradient may differ where its argument crosses 0. Adam makes a whole step of any gradient, so parameters
    may differ where the gradient is nothing but rounding.
    """
    assert np.linalg.norm(got - wanted) < 1e-3 * np.linalg.norm(wanted)


def test_loss_and_gradient_equal_the_plain_implementations(plain_step, monkeypatch):
    """The step uses every form of the convolution, bands, and all rematerialization, which test_authors.py does not."""
    monkeypatch.setattr(convolution, "NARROW", 10)
    monkeypatch.setattr(cpu_convolution, "BAND", 1 << 13)
    wanted, arguments, (expected_state, expected) = plain_step
    state, metrics = make_train_step(dataclasses.replace(wanted, remat="full"))(*arguments)
    np.testing.assert_allclose(metrics["terms"], expected["terms"], rtol=1e-5)
    assert metrics["loss"] == pytest.approx(float(expected["loss"]), rel=1e-5)

    for part in state.opt_state:
        jax.tree.map(same_gradient, state.opt_state[part].mu, expected_state.opt_state[part].mu)


def test_the_authors_fallback_schedule():
    config = OptimizerConfig(schedule="authors_fallback")
    epochs = np.array([1, 2, 50, 100, 101, 200])
    expected = [min(1e-6 * 1.1 ** (e - 1), 1e-4 if e > 100 else 1e-3) for e in epochs]
    got = [float(config.rate(jnp.asarray((e - 1) * 2 + last), 2)) for e in epochs for last in (0, 1)]
    np.testing.assert_allclose(got, np.repeat(expected, 2), rtol=1e-4)
    assert OptimizerConfig(0.5).rate(jnp.asarray(7), 2) == 0.5


def test_initial_parameters_follow_from_the_seed():
    a, b, c = (init_state(objective(), seed).params for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert (np.asarray(a["to_rgb"]["kernel"]) != np.asarray(c["to_rgb"]["kernel"])).any()


def test_kernels_are_xavier_uniform():
    config = CascadeConfig(num_classes=20, widths=(64,), base=(4, 8))
    kernel = np.asarray(init_params(config, jax.random.key(0))["module_0"]["conv2"]["kernel"])
    limit = np.sqrt(6 / (9 * 64 + 9 * 64))
    assert np.abs(kernel).max() <= limit and kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="ema_decay"):
        OptimizerConfig(ema_decay=1.0)


def test_adam_is_optaxs():
    """Three steps at a constant rate, on any parts."""
    rng = np.random.default_rng(0)
    params = {part: {"kernel": jnp.asarray(rng.standard_normal((3, 4), np.float32))} for part in ("a", "b")}
    config, expected = OptimizerConfig(learning_rate=0.1, b1=0.5), optax.adam(0.1, b1=0.5)
    ours, moments, theirs, state = params, config.init(params), params, expected.init(params)
    for _ in range(3):
        gradient = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape, np.float32)), params)
        ours, moments = config.update(ours, gradient, moments, config.rate(jnp.zeros((), jnp.int32), 1))
        updates, state = expected.update(gradient, state)
        theirs = optax.apply_updates(theirs, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), ours, theirs)


def test_frozen_parts_stay_bit_identical_and_take_no_memory(problem, four_steps):
    """A hundred steps of the last module and the head alone; the first of them as if nothing were frozen."""
    frozen = objective(learning_rate=1e-2, ema_decay=0.75, freeze=("module_[01]",))
    step, state = make_train_step(frozen), init_state(frozen, 0)
    assert state.opt_state.keys() == {"module_2", "to_rgb"}
    before = jax.tree.map(np.array, state)
    with compiled() as programs:
        for i in range(100):
            state, metrics = step(state, *problem)
            if i == 0:
                free = four_steps[0][1]
                for part in ("module_2", "to_rgb"):
                    jax.tree.map(same_gradient, state.opt_state[part].mu, free.opt_state[part].mu)
                    off = jax.tree.map(lambda a, b: np.abs(a - b).ravel(), state.params[part], free.params[part])
                    assert np.mean(np.concatenate(jax.tree.leaves(off)) > 1e-6) < 0.01  # where the gradient is not rounding
    assert programs.count("step") == 1
    for part in ("module_0", "module_1"):
        for tree in (state.params, state.ema):
            jax.tree.map(np.testing.assert_array_equal, tree[part], before.params[part])
    assert metrics["loss"] < 0.9 * four_steps[1][0]["loss"]


def test_what_cannot_be_frozen_is_named():
    with pytest.raises(UserError, match=r"freeze module_7: there is no such part. Parts: module_0, module_1, module_2, to_rgb"):
        init_state(objective(freeze=("module_7",)), 0)
    with pytest.raises(UserError, match="leaves nothing to train"):
        init_state(objective(freeze=("module_*", "to_rgb")), 0)
