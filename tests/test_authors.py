"""The numbers that the authors' own TensorFlow graph computed."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crn_jax import authors
from crn_jax.authors import cascade_from_variables, config_from_shapes, load_released
from crn_jax.cascade import Cascade
from crn_jax.errors import UserError
from crn_jax.generator import count_parameters, init_params, one_hot
from crn_jax.lambdas import LambdaConfig, init_lambdas
from crn_jax.objective import Objective
from crn_jax.settings import PAPER_WIDTHS, RELEASED_WEIGHTS, LossConfig
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
    """Nine images, the best of each class: every [image, class] term of the first step is compared, then the means."""
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
        "unknown: d_conv1/weights": {**good, "d_conv1/weights": np.zeros(3)},
        r"g_16_conv2/LayerNorm/beta has \(25,\), expected \(24,\)": {**good, "g_16_conv2/LayerNorm/beta": np.zeros(25)},
        "No variable of a released cascade": {"weights": np.zeros(3)},
        r"g_8_conv1/weights has \(3,\), expected 4 sizes": {**good, "g_8_conv1/weights": np.zeros(3)},
        r"g_8_conv1/LayerNorm/beta has \(0,\), expected 1 size": {**good, "g_8_conv1/LayerNorm/beta": np.zeros(0)},
        "heights from 0 to 32": {**good, "g_0_conv1/weights": np.zeros(3)},
        "heights from 4 to 999999": {**good, "g_999999_conv1/weights": np.zeros(3)},
    }
    for message, variables in cases.items():
        with pytest.raises(ValueError, match=message):
            cascade_from_variables(variables)


@pytest.mark.parametrize("release", ["256p", "GTA", "512p", "1024p"])
def test_every_variable_of_the_releases_is_mapped(shared_data, release):
    """Names and shapes as they stand in the released files; one that is missing, extra or misshapen is named."""
    shapes = json.loads((shared_data / "authors" / "variables" / f"{release}.json").read_text())
    config = config_from_shapes(shapes)
    modules, count = {"512p": (8, 98_622_851), "1024p": (9, 98_674_531)}.get(release, (7, 97_875_483))
    assert (config.widths, config.num_classes, config.num_images) == (PAPER_WIDTHS[:modules], 20, 9 if modules == 7 else 1)
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    assert count_parameters(params) == count == sum(int(np.prod(shape)) for shape in shapes.values())
    name = "g_64_conv1/LayerNorm/gamma"
    for wrong in (
        {k: v for k, v in shapes.items() if k != name},
        {**shapes, name: [512]},
        {**shapes, f"{name}/more": [3]},
    ):
        with pytest.raises(ValueError, match=name):
            config_from_shapes(wrong)


RECORDED = Path(__file__).parent / "data" / "released.ckpt"


@pytest.mark.quick
def test_moments_go_on_as_tensorflows():
    """TensorFlow trained two parts towards 0 for five steps. Three more steps are the same there and here."""
    with np.load(RECORDED.with_suffix(".npz")) as arrays:
        expected = {name: arrays[name] for name in arrays if not name.startswith("further/") and name.startswith("g_")}
        further = {name.removeprefix("further/"): arrays[name] for name in arrays if name.startswith("further/")}
    config, params, moments = load_released(RECORDED)
    assert (config.widths, config.num_images, config.num_classes) == ((3, 2), 2, 4)
    variables = {name: value for name, value in expected.items() if "Adam" not in name}
    jax.tree.map(np.testing.assert_array_equal, params, cascade_from_variables(variables)[1])
    assert {part: int(adam.count) for part, adam in moments.items()} == {"module_1": 5, "to_rgb": 5}
    optimizer = OptimizerConfig(learning_rate=1e-2)
    trained = {part: params[part] for part in moments}
    for _ in range(3):
        trained, moments = optimizer.update(trained, trained, moments, optimizer.rate(jnp.zeros((), jnp.int32), 1))
    wanted = {part: cascade_from_variables(further)[1][part] for part in trained}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), trained, wanted)


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        ("g_4_conv1/weights", "d_4_conv1/weights", "missing: g_4_conv1/weights"),
        ("beta2_power", "global_step", "unknown: global_step"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(name, other, message, monkeypatch):
    """Without a variable of a cascade's, or with one that is neither its nor its optimizer's."""
    index = {other if key == name else key: variable for key, variable in authors.read_index(RECORDED).items()}
    monkeypatch.setattr(authors, "read_index", lambda prefix: index)
    with pytest.raises(UserError, match=rf"released\.ckpt: this is not a checkpoint of a released cascade\..*{message}"):
        load_released(RECORDED)
