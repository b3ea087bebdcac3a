import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from crn_jax.authors import variable_names
from crn_jax.cascade import Cascade, CascadeConfig
from crn_jax.generator import count_parameters, init_params
from crn_jax.layers import LayerNorm
from crn_jax.settings import PAPER_WIDTHS
from tests.support import reference

TINY = CascadeConfig(num_classes=4, widths=(6, 5, 3), base=(2, 3), num_images=2)


def moved(params, seed=0):
    """Norms and biases moved off their initial values, so that a swapped pair shows; float64."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: np.asarray(p, np.float64) + 0.1 * rng.normal(size=p.shape), params)


@functools.partial(jax.jit, static_argnums=0)
def apply(config, params, layout):
    return Cascade(config).apply({"params": params}, layout)


@pytest.mark.parametrize("variant", ["authors", "paper"])
def test_cascade_equals_numpy(variant):
    config = dataclasses.replace(TINY, variant=variant)
    params = moved(init_params(config, jax.random.key(0)))
    layout = np.eye(4)[np.random.default_rng(1).integers(0, 4, (2, *config.size))]
    expected = reference.cascade(params, layout, config.num_images, final_norm=variant == "authors")
    images = apply(config, jax.tree.map(np.float32, params), layout.astype(np.float32))
    assert images.shape == (2, 2, *config.size, 3) and images.dtype == np.float32
    np.testing.assert_allclose(images, expected, atol=2e-3)


@pytest.mark.parametrize("change", [{"norm": False}, {"layout_at": "first"}])
def test_ablations_equal_numpy(change):
    config = dataclasses.replace(TINY, **change)
    params = moved(init_params(config, jax.random.key(0)))
    layout = np.eye(4)[np.random.default_rng(1).integers(0, 4, (1, *config.size))]
    expected = reference.cascade(params, layout, config.num_images, final_norm=True, **change)
    np.testing.assert_allclose(apply(config, jax.tree.map(np.float32, params), layout.astype(np.float32)), expected, atol=2e-3)


def test_paper_variant_has_no_norm_behind_the_last_convolution():
    params = init_params(dataclasses.replace(TINY, variant="paper"), jax.random.key(0))
    assert set(params["module_2"]) == {"conv1", "norm1", "conv2"}
    assert set(params["module_1"]) == {"conv1", "norm1", "conv2", "norm2"}


@pytest.mark.parametrize(
    ("release", "modules", "num_images", "count"),
    [("256p", 7, 1, 97_863_171), ("256p", 7, 9, 97_875_483), ("512p", 8, 1, 98_622_851), ("1024p", 9, 1, 98_674_531)],
)
def test_released_sizes(shared_data, release, modules, num_images, count):
    config = CascadeConfig(num_classes=20, widths=PAPER_WIDTHS[:modules], num_images=num_images)
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    assert count_parameters(params) == count
    assert config.size == (4 * 2 ** (modules - 1), 8 * 2 ** (modules - 1))
    released = json.loads((shared_data / "authors" / "variables" / f"{release}.json").read_text())
    names = variable_names([4 * 2**i for i in range(modules)])
    assert names.keys() == released.keys()
    for name, path in names.items():
        leaf = params
        for key in path:
            leaf = leaf[key]
        if path[0] != "to_rgb" or num_images == released[f"g_{config.size[0]}_conv100/biases"][0] // 3:
            assert list(leaf.shape) == released[name], name


@pytest.mark.parametrize(("base", "size"), [((3, 4), (96, 128)), ((4, 4), (128, 128)), ((5, 3), (160, 96))])
def test_any_base_grid(base, size):
    config = CascadeConfig(num_classes=3, widths=(2,) * 6, base=base)
    assert config.size == size
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    layout = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    images = jax.eval_shape(lambda p, x: Cascade(config).apply({"params": p}, x), params, layout)
    assert images.shape == (1, 1, *size, 3)


def test_samples_of_a_batch_do_not_touch():
    """The images are in float64, where rounding has no say."""
    config, params = dataclasses.replace(TINY, dtype="float64"), moved(init_params(TINY, jax.random.key(0)))
    layouts = np.eye(4)[np.random.default_rng(2).integers(0, 4, (2, *TINY.size))]
    with jax.enable_x64(True):
        together, alone = apply(config, params, layouts), apply(config, params, layouts[1:])
        np.testing.assert_allclose(alone, together[1:], rtol=0, atol=1e-9)


def test_bfloat16_keeps_parameters_statistics_and_colours_in_float32():
    config = dataclasses.replace(TINY, dtype="bfloat16")
    params = init_params(config, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    layout = np.eye(4, dtype=np.float32)[np.zeros((1, *config.size), int)]
    lowered = jax.jit(lambda p, x: Cascade(config).apply({"params": p}, x)).lower(params, layout).as_text()
    for operation, dtype, number in (("convolution", "bf16", 6), ("dot_general", "f32", 1)):
        lines = [line for line in lowered.splitlines() if f"stablehlo.{operation}" in line]
        assert len(lines) == number and all(f"x{dtype}>" in line.rsplit("->")[-1] for line in lines)
    assert all("f32" in line for line in lowered.splitlines() if "stablehlo.rsqrt" in line)
    images = apply(config, params, layout)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, apply(TINY, params, layout), atol=10)


def test_statistics_survive_a_large_mean():
    """bfloat16 holds 8 bits: statistics taken in it would lose the deviations altogether."""
    x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 16, 16, 8)) + 100, jnp.bfloat16)
    y = np.asarray(LayerNorm().apply({"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}, x), np.float32)
    expected = reference.layer_norm(np.asarray(x, np.float64), 1, 0)
    np.testing.assert_allclose(y, expected, atol=0.02)


@pytest.mark.parametrize("shape", [(1, 5, 7, 3), (3, 4, 6, 5), (2, 1, 1, 8), (1, 3, 2, 1)])
def test_the_norm_equals_numpys_and_its_gradient_its_differences(shape):
    rng = np.random.default_rng(4)
    x, scale, bias = rng.normal(size=shape) + 2, rng.normal(size=shape[-1]), rng.normal(size=shape[-1])

    @jax.jit
    def norm(x, scale, bias):
        return LayerNorm().apply({"params": {"scale": scale, "bias": bias}}, x)

    with jax.enable_x64(True):
        np.testing.assert_allclose(norm(x, scale, bias), reference.layer_norm(x, scale, bias), atol=1e-12)
        check_grads(norm, (x, scale, bias), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", [(9, 12), (8, 13), (9, 11)])
def test_a_size_that_does_not_fit_names_those_that_do(size):
    params = init_params(TINY, jax.random.key(0))
    with pytest.raises(ValueError, match=r"multiples of 2\^2 = 4.*Nearest sizes: .*8x12"):
        apply(TINY, params, np.zeros((1, *size, 4), np.float32))


def test_a_layout_with_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"\[B, H, W, 4\]"):
        apply(TINY, init_params(TINY, jax.random.key(0)), np.zeros((1, 8, 12, 5), np.float32))


@pytest.mark.parametrize("fields", [{"widths": ()}, {"widths": (4, 0)}, {"base": (0, 8)}, {"num_images": 0}])
def test_impossible_configs_are_refused(fields):
    with pytest.raises(ValueError, match="positive"):
        dataclasses.replace(TINY, **fields)
