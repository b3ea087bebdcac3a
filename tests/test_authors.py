"""The numbers that the authors' own TensorFlow graph computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crn_jax.authors import cascade_from_variables
from crn_jax.cascade import Cascade
from crn_jax.lambdas import LambdaConfig, init_lambdas
from crn_jax.losses import RELEASED_WEIGHTS, LossConfig
from crn_jax.objective import Objective, one_hot
from crn_jax.train import OptimizerConfig, TrainState, make_train_step


def synthesized(config, params, labels):
    return np.asarray(jax.jit(Cascade(config).apply)({"params": params}, one_hot(config, labels)))


@pytest.mark.parametrize("which", ["simple", "diversity"])
def test_outputs(which, request):
    run = request.getfixturevalue(f"{which}_run")
    assert run.config.widths == (32, 32, 24, 16) and run.config.num_classes == 20 and run.config.base == (4, 8)
    assert run.config.num_images == {"simple": 1, "diversity": 9}[which] and run.config.variant == "authors"
    images = synthesized(run.config, run.params, run.labels)
    assert np.abs(images - run.output_init).max() < 0.005


def thirty_steps(run, imagenet_vgg19, weights: str, loss: LossConfig):
    """The authors' training, and the images after it: the metrics of every step, and the difference in the images."""
    lambdas = LambdaConfig(initial=RELEASED_WEIGHTS[weights], rescale_epoch=None)
    objective = Objective(run.config, lambdas, OptimizerConfig(), "average", steps_per_epoch=4, loss=loss)
    params = jax.tree.map(jnp.array, run.params)
    opt_state = objective.optimizer.init(params)
    state = TrainState(jnp.zeros((), jnp.int32), params, opt_state, init_lambdas(lambdas), None)
    step, history = make_train_step(objective), []
    for i in range(30):
        one = slice(i % 4, i % 4 + 1)
        state, metrics = step(state, imagenet_vgg19, {"layout": run.labels[one], "photograph": run.images[one]})
        history.append(jax.tree.map(np.asarray, metrics))
    return history, np.abs(synthesized(run.config, state.params, run.labels) - run.output_final)


def test_trajectory_of_thirty_steps(simple_run, imagenet_vgg19):
    """Objective and all six terms, divisors included, of 30 Adam steps; then the outputs after them."""
    history, difference = thirty_steps(simple_run, imagenet_vgg19, "cityscapes_512p", LossConfig())
    got = [[metrics["loss"], *metrics["terms"] * metrics["weights"]] for metrics in history]
    np.testing.assert_allclose(got, simple_run.trajectory, rtol=2e-3)
    first = [simple_run.arrays[f"first_p{i}"] for i in range(6)]
    np.testing.assert_allclose(got[0][1:], first, rtol=1e-4)
    assert difference.mean() < 0.5


def test_trajectory_of_a_diverse_collection(diversity_run, imagenet_vgg19):
    """Likewise with nine images, the best of each class: every [image, class] term of the first step, then the means."""
    loss = LossConfig(best_per="class", mean_share=0.001)
    history, difference = thirty_steps(diversity_run, imagenet_vgg19, "cityscapes_256p", loss)
    terms = [metrics["all_terms"] * metrics["weights"] for metrics in history]  # [9, 20, 6]
    first = np.stack([diversity_run.arrays[f"first_p{i}"] for i in range(6)], -1)
    np.testing.assert_allclose(terms[0], first, rtol=1e-4)
    got = [[metrics["loss"], *each.mean((0, 1))] for metrics, each in zip(history, terms)]
    np.testing.assert_allclose(got, diversity_run.trajectory, rtol=2e-3)
    assert difference.mean() < 1  # Adam magnifies the rounding of images that are seldom the best


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
