"""The numbers that the authors' own TensorFlow graph computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crn_jax.authors import cascade_from_variables
from crn_jax.cascade import Cascade
from crn_jax.lambdas import LambdaConfig, init_lambdas
from crn_jax.losses import RELEASED_WEIGHTS
from crn_jax.train import Objective, OptimizerConfig, TrainState, make_train_step, one_hot


def synthesized(config, params, labels):
    return np.asarray(jax.jit(Cascade(config).apply)({"params": params}, one_hot(config, labels)))


@pytest.mark.parametrize("which", ["simple", "diversity"])
def test_outputs(which, request):
    run = request.getfixturevalue(f"{which}_run")
    assert run.config.widths == (32, 32, 24, 16) and run.config.num_classes == 20 and run.config.base == (4, 8)
    assert run.config.num_images == {"simple": 1, "diversity": 9}[which] and run.config.variant == "authors"
    images = synthesized(run.config, run.params, run.labels)
    assert np.abs(images - run.output_init).max() < 0.005


def test_trajectory_of_thirty_steps(simple_run, imagenet_vgg19):
    """Objective and all six terms, divisors included, of 30 Adam steps; then the outputs after them."""
    run = simple_run
    lambdas = LambdaConfig(initial=RELEASED_WEIGHTS["cityscapes_512p"], rescale_epoch=None)
    objective = Objective(run.config, lambdas, OptimizerConfig(), "average", steps_per_epoch=4)
    params = jax.tree.map(jnp.array, run.params)
    opt_state = objective.transformation().init(params)
    state = TrainState(jnp.zeros((), jnp.int32), params, opt_state, init_lambdas(lambdas), None)
    step, got = make_train_step(objective), []
    for i in range(30):
        one = slice(i % 4, i % 4 + 1)
        state, metrics = step(state, imagenet_vgg19, {"layout": run.labels[one], "photograph": run.images[one]})
        got.append(np.concatenate([[metrics["loss"]], metrics["terms"] * metrics["weights"]]))
    np.testing.assert_allclose(got, run.trajectory, rtol=2e-3)
    first = [run.arrays[f"first_p{i}"] for i in range(6)]
    np.testing.assert_allclose(got[0][1:], first, rtol=1e-4)
    final = synthesized(run.config, state.params, run.labels)
    assert np.abs(final - run.output_final).mean() < 0.5


def test_variables_that_do_not_fit_are_named(simple_run):
    good = simple_run.variables
    cases = {
        "missing: g_8_conv2/weights": {k: v for k, v in good.items() if k != "g_8_conv2/weights"},
        "not a cascade's: d_conv1/weights": {**good, "d_conv1/weights": np.zeros(3)},
        r"g_16_conv2/LayerNorm/beta \(25,\), expected \(24,\)": {**good, "g_16_conv2/LayerNorm/beta": np.zeros(25)},
        "No variable of a released cascade": {"weights": np.zeros(3)},
    }
    for message, variables in cases.items():
        with pytest.raises(ValueError, match=message):
            cascade_from_variables(variables)
