import dataclasses

import jax
import numpy as np
import pytest

from crn_jax.cascade import CascadeConfig, init_params
from crn_jax.growth import grow

SMALL = CascadeConfig(num_classes=3, widths=(4, 5), base=(2, 2))


def params_of(seed: int, config: CascadeConfig = SMALL, **fields) -> dict:
    """Distinct values everywhere, norms and biases included."""
    config = dataclasses.replace(config, **fields)
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def assert_same(a: dict, b: dict) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


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
    assert parts == ["module_1", "module_2", "to_rgb"]
    assert_same(grown["module_1"]["conv2"], trained["module_1"]["conv2"])
    assert_same(grown["module_1"]["norm2"], fresh["module_1"]["norm2"])


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"module_1/conv1/kernel: \(3, 3, 7, 5\), here \(3, 3, 7, 6\); .*module_1/norm2/scale"):
        grow(params_of(1, widths=(4, 6)), params_of(0))
    with pytest.raises(ValueError, match="module_1/conv1/kernel: not in this cascade"):
        grow(params_of(1, widths=(4,)), params_of(0))
