import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crn_jax.cascade import CascadeConfig
from crn_jax.generator import init_params
from crn_jax.growth import grow, grow_state
from crn_jax.kernels.resize import halve_area
from crn_jax.lambdas import LambdaConfig
from crn_jax.objective import Objective
from crn_jax.train import OptimizerConfig, TrainState, init_state

SMALL = CascadeConfig(num_classes=3, widths=(4, 5), base=(2, 2))


def params_of(seed: int, config: CascadeConfig = SMALL, **fields) -> dict:
    """Distinct values everywhere, norms and biases included."""
    config = dataclasses.replace(config, **fields)
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def assert_same(a: dict, b: dict) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.quick
@pytest.mark.parametrize("fields", [{"widths": (4, 5, 6)}, {"num_images": 3}, {"widths": (4, 5, 6), "num_images": 3}])
def test_modules_are_taken_over_and_what_is_new_stays_fresh(fields):
    trained, fresh = params_of(0), params_of(1, **fields)
    grown, parts = grow(fresh, trained)
    assert parts == (["module_2"] if "widths" in fields else []) + ["to_rgb"]
    for name in grown:
        assert_same(grown[name], fresh[name] if name in parts else trained[name])


def test_a_cascade_of_the_same_shape_keeps_its_head():
    trained = params_of(0)
    grown, parts = grow(params_of(1), trained)
    assert parts == []
    assert_same(grown, trained)


def test_the_papers_last_module_gets_the_norm_that_it_lacked():
    trained, fresh = params_of(0, variant="paper"), params_of(1, widths=(4, 5, 6), variant="paper")
    grown, parts = grow(fresh, trained)
    assert parts == ["module_1/norm2", "module_2", "to_rgb"]  # its convolutions and its first norm are taken over
    assert_same(grown["module_1"]["conv2"], trained["module_1"]["conv2"])
    assert_same(grown["module_1"]["norm2"], fresh["module_1"]["norm2"])


def test_what_does_not_fit_is_named():
    shapes = r"module_1/conv1/kernel: it has shape \(3, 3, 7, 5\), but this cascade needs \(3, 3, 7, 6\)"
    with pytest.raises(ValueError, match=rf"{shapes}; .*module_1/norm2/scale"):
        grow(params_of(1, widths=(4, 6)), params_of(0))
    with pytest.raises(ValueError, match="module_1/conv1/kernel: this cascade has no such parameter"):
        grow(params_of(1, widths=(4,)), params_of(0))


@pytest.mark.parametrize("fields", [{"widths": (4, 5, 6)}, {"num_images": 3}])
def test_shared_modules_compute_the_same_bits(fields):
    """Behind a run of two modules: the larger cascade's activations up to there, on the layout's smaller versions.

    Operation by operation: compiled as a whole, two programs may round the same sums differently.
    """
    small = dataclasses.replace(SMALL, base=(4, 6))
    large = dataclasses.replace(small, **fields)
    grown, _ = grow(params_of(1, large), params_of(0, small))
    ids = np.random.default_rng(2).integers(0, 3, (2, *large.size))
    layout = jnp.asarray(np.eye(3, dtype=np.float32)[ids])

    def modules(config, params, layout):
        params = jax.tree.map(jnp.asarray, params)
        _, kept = config.network().apply({"params": params}, layout, capture_intermediates=True)
        return {name: value["__call__"][0] for name, value in kept["intermediates"].items() if name.startswith("module")}

    halved = halve_area(layout) if "widths" in fields else layout
    expected, got = modules(small, params_of(0, small), halved), modules(large, grown, layout)
    for name in ("module_0", "module_1"):
        np.testing.assert_array_equal(got[name], expected[name])


def state_of(config: CascadeConfig, seed: int, **optimizer) -> TrainState:
    """A state whose moments have distinct values, after 7 steps."""
    objective = Objective(config, LambdaConfig(), OptimizerConfig(**optimizer), "average", 1)
    state = jax.eval_shape(lambda: init_state(objective, 0))
    rng = np.random.default_rng(seed)
    moments = jax.tree.map(lambda leaf: np.asarray(rng.uniform(size=leaf.shape) * 9, leaf.dtype), state.opt_state)
    return state._replace(params=params_of(seed, config), opt_state=moments)


def test_moments_are_kept_of_what_is_taken_over():
    trained = state_of(SMALL, 0, freeze=("module_0",))
    fresh = state_of(dataclasses.replace(SMALL, widths=(4, 5, 6)), 1, ema_decay=0.9)
    grown, parts, kept = grow_state(fresh, trained)
    assert (parts, kept) == (["module_2", "to_rgb"], ["module_1"])  # that run had not trained module_0
    for part, moments in grown.opt_state.items():
        assert_same(moments, trained.opt_state[part] if part == "module_1" else fresh.opt_state[part])
    assert_same(grown.ema, grown.params)
    assert grow_state(fresh, trained._replace(opt_state=None))[2] == []


def test_moments_are_not_kept_where_a_layer_is_new():
    """The paper's last module, whose second convolution gets a norm when it is no longer the last."""
    paper = dataclasses.replace(SMALL, variant="paper")
    _, _, kept = grow_state(state_of(dataclasses.replace(paper, widths=(4, 5, 6)), 1), state_of(paper, 0))
    assert kept == ["module_0"]
