import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crn_jax.lambdas import LambdaConfig, init_lambdas, rescale, update_lambdas
from tests.support.compiling import compiled

pytestmark = pytest.mark.quick

MEANS = np.array([40, 60, 80, 70, 110, 3], np.float32)


def rescaled(config, weights, means=MEANS):
    return np.asarray(rescale(config, jnp.float32(weights), jnp.float32(means)))


def run_epochs(config, terms_of_step, steps, steps_per_epoch):
    """Weights in force before each step."""
    update = jax.jit(lambda state, terms, step: update_lambdas(config, state, terms, step, steps_per_epoch))
    state, history = init_lambdas(config), []
    with compiled() as programs:
        for step in range(steps):
            history.append(np.asarray(state.weights))
            state = update(state, terms_of_step(step).astype(np.float32), step)
    assert len(programs) == 1  # rescaling recompiled nothing
    return np.array([*history, state.weights]), state


def test_weights_change_once_at_the_end_of_the_epoch_by_the_means_over_it():
    rng = np.random.default_rng(0)
    terms = rng.uniform(0.5, 1.5, (20, 6)) * MEANS
    history, _ = run_epochs(LambdaConfig(rescale_epoch=3), lambda s: terms[s], 20, steps_per_epoch=5)
    assert (history[:15] == 1).all() and (history[15:] == history[15]).all()
    means = terms[10:15].mean(0)
    np.testing.assert_allclose(history[15] * means, means.sum() / 6, rtol=1e-5)


def test_no_epoch_no_rescaling():
    config = LambdaConfig(initial=(1, 2, 3, 4, 5, 6), rescale_epoch=None)
    history, _ = run_epochs(config, lambda _: MEANS, 12, steps_per_epoch=3)
    assert (history == np.arange(1, 7)).all()


def test_an_epoch_that_never_comes_is_no_overflow():
    """Somebody may write a million for never; Cityscapes has 2,975 steps in an epoch."""
    config = LambdaConfig(rescale_epoch=1_000_000)
    state = jax.eval_shape(lambda: update_lambdas(config, init_lambdas(config), jnp.ones(6), jnp.int32(7), 2975))
    assert state.weights.shape == (6,)


positive = st.lists(st.floats(1e-3, 1e3), min_size=6, max_size=6).map(lambda v: np.array(v, np.float32))


@settings(deadline=None, max_examples=50)
@given(weights=positive, means=positive)
def test_rescaling_equalizes_contributions(weights, means):
    total = rescaled(LambdaConfig(keep="total"), weights, means) * means
    np.testing.assert_allclose(total, np.dot(weights, means) / 6, rtol=1e-4)
    image = rescaled(LambdaConfig(keep="image"), weights, means)
    np.testing.assert_allclose(image * means, weights[0] * means[0], rtol=1e-4)
    np.testing.assert_allclose(image[0], weights[0], rtol=1e-4)


def test_conv5_2_is_multiplied_after_rescaling():
    plain, tenfold = (rescaled(LambdaConfig(conv5_2_factor=f), np.ones(6)) for f in (1, 10))
    np.testing.assert_allclose(tenfold / plain, [1, 1, 1, 1, 1, 10], rtol=1e-6)


def test_a_term_that_is_zero_keeps_its_weight():
    weights = rescaled(LambdaConfig(), [1, 2, 3, 4, 5, 6], [0, 1, 1, 1, 1, 1])
    assert weights[0] == 1 and np.isfinite(weights).all()


@pytest.mark.parametrize("fields", [{"initial": (1, 1)}, {"rescale_epoch": 0}])
def test_impossible_settings_are_refused(fields):
    with pytest.raises(ValueError):
        LambdaConfig(**fields)


def test_a_layer_of_weight_zero_stays_out():
    config = LambdaConfig(initial=(1, 1, 0, 1, 0, 1), rescale_epoch=1, conv5_2_factor=10)
    weights = rescaled(config, config.initial)
    taking_part = [0, 1, 3, 5]
    np.testing.assert_array_equal(weights[[2, 4]], 0)
    expected = np.full(4, MEANS[taking_part].mean()) * [1, 1, 1, 10]
    np.testing.assert_allclose(weights[taking_part] * MEANS[taking_part], expected, rtol=1e-5)
    alone = LambdaConfig(initial=(1, 0, 0, 0, 0, 0))
    np.testing.assert_allclose(rescaled(alone, alone.initial), alone.initial, rtol=1e-6)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"initial": (0,) * 6}, "nor all 0"),
        ({"initial": (1, -1, 1, 1, 1, 1)}, "must not be negative"),
        ({"initial": (0, 1, 1, 1, 1, 1), "keep": "image"}, "needs an image term"),
    ],
)
def test_weights_that_make_no_loss_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LambdaConfig(**settings)
