import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crn_jax.kernels import resize
from crn_jax.kernels.resize import double_bilinear, halve_area
from tests.support import reference


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 4, 3), (1, 3, 5, 2), (2, 4, 8, 3), (1, 17, 2, 1)])
def test_double_bilinear_equals_numpy(shape):
    x = np.random.default_rng(0).normal(size=shape)
    with jax.enable_x64(True):
        np.testing.assert_allclose(double_bilinear(jnp.asarray(x)), reference.double_bilinear(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 4, 3), (1, 3, 5, 2), (1, 17, 2, 1)])
def test_half_pixels_are_those_of_jax_image_resize(shape):
    x = np.random.default_rng(0).normal(size=shape)
    with jax.enable_x64(True):
        expected = jax.image.resize(x, (shape[0], 2 * shape[1], 2 * shape[2], shape[3]), "bilinear")
        np.testing.assert_allclose(double_bilinear(jnp.asarray(x), "half_pixel"), expected, rtol=0, atol=1e-12)


def test_double_bilinear_keeps_corners_constants_and_lines():
    x = np.arange(5.0)[None, :, None, None] + np.arange(3.0)[None, None, :, None]
    with jax.enable_x64(True):
        y = np.asarray(double_bilinear(jnp.asarray(x)))
    np.testing.assert_allclose(y[0, :, 0, 0], np.linspace(0, 4, 10), atol=1e-12)  # corners aligned: a line stays one
    np.testing.assert_allclose(y[0, -1, -1, 0], x[0, -1, -1, 0], atol=1e-12)


@pytest.mark.parametrize("upsampling", ["align_corners", "half_pixel"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 2), (1, 5, 1, 3)])
def test_the_derivative_of_double_bilinear_is_its_transpose(shape, upsampling):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=shape), rng.normal(size=(shape[0], 2 * shape[1], 2 * shape[2], shape[3]))
    with jax.enable_x64(True):
        up, down = jax.vjp(lambda x: double_bilinear(x, upsampling), jnp.asarray(x))
        np.testing.assert_allclose(np.vdot(up, y), np.vdot(x, down(jnp.asarray(y))[0]), rtol=1e-12)


@pytest.mark.parametrize("upsampling", ["align_corners", "half_pixel"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 2), (1, 5, 1, 3)])
def test_what_each_platform_computes_is_the_same(shape, upsampling):
    """Upsampling by GPUs, by CPUs and elsewhere, and its derivative, also by TPUs."""
    rng = np.random.default_rng(4)
    b, h, w, c = shape
    with jax.enable_x64(True):
        x, y = (jnp.asarray(rng.normal(size=s)) for s in (shape, (b, 2 * h, 2 * w, c)))
        weights = [resize.bilinear_weights(n, upsampling, jnp.dtype("float64")) for n in (h, w)]
        expected, down = jax.vjp(lambda x: resize.interleaved(x, *weights), x)
        np.testing.assert_allclose(resize.with_indices(x, *weights), expected, rtol=0, atol=1e-14)
        np.testing.assert_allclose(resize.by_input_with_indices(y, *weights), *down(y), rtol=0, atol=1e-14)
        on_cpus, down_on_cpus = jax.vjp(lambda x: resize.one_axis_at_a_time(x, *weights), x)
        np.testing.assert_allclose(on_cpus, expected, rtol=0, atol=1e-14)
        np.testing.assert_allclose(*down_on_cpus(y), *down(y), rtol=0, atol=1e-14)
        np.testing.assert_allclose(resize.by_input_one_axis_at_a_time(y, *weights), *down(y), rtol=0, atol=1e-14)


def test_only_gpus_get_indices():
    x = jnp.ones((1, 4, 4, 8), "bfloat16")
    for function in (double_bilinear, jax.grad(lambda x: (double_bilinear(x) ** 2).sum())):
        cuda, tpu = (jax.jit(function).trace(x).lower(lowering_platforms=(name,)).as_text() for name in ("cuda", "tpu"))
        assert cuda.count("stablehlo.gather") >= 4 and "stablehlo.gather" not in tpu


def test_halving_is_the_same_on_tpus():
    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 4, 6, 3)), "bfloat16")
    (expected, down), (got, down_on_tpus) = (jax.vjp(f, x) for f in (resize.mean_of_blocks, resize.mean_in_windows))
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(*down_on_tpus(expected), *down(expected))
    tpu, cuda = (jax.jit(halve_area).trace(x).lower(lowering_platforms=(name,)).as_text() for name in ("tpu", "cuda"))
    assert "reduce_window" in tpu and "reduce_window" not in cuda


def test_derivatives_of_derivatives():
    """Second derivatives of a sum of cubes equal finite differences."""
    x, direction = (np.random.default_rng(seed).normal(size=(1, 3, 2, 2)) for seed in (5, 6))
    with jax.enable_x64(True):
        x, direction = jnp.asarray(x), jnp.asarray(direction)
        gradient = jax.grad(lambda x: (double_bilinear(x) ** 3).sum())
        second = jax.grad(lambda x: (gradient(x) * direction).sum())(x)
        step = 1e-6
        differences = (gradient(x + step * direction) - gradient(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(second, differences, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("upsampling", ["align_corners", "half_pixel"])
def test_bfloat16_is_rounded_once(upsampling):
    x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 9, 7, 4)), "bfloat16")
    weights = [resize.bilinear_weights(n, upsampling, jnp.dtype("float32")) for n in x.shape[1:3]]
    for function in (resize.one_axis_at_a_time, resize.interleaved, resize.with_indices):
        exact = np.asarray(function(x.astype("float32"), *weights))
        np.testing.assert_array_equal(function(x, *weights), jnp.asarray(exact, "bfloat16"))


@pytest.mark.parametrize("shape", [(1, 2, 2, 1), (2, 4, 6, 3), (1, 8, 2, 20)])
def test_halve_area_equals_numpy(shape):
    x = np.random.default_rng(1).normal(size=shape)
    with jax.enable_x64(True):
        np.testing.assert_allclose(halve_area(jnp.asarray(x)), reference.halve_area(x), rtol=0, atol=1e-15)


def test_halve_area_of_one_hot_gives_exact_fractions():
    layout = np.eye(3, dtype=np.float32)[np.array([[0, 0], [0, 2]])][None]
    assert halve_area(jnp.asarray(layout)).ravel().tolist() == [0.75, 0.0, 0.25]


@pytest.mark.parametrize("shape", [(1, 3, 4, 1), (1, 4, 3, 1)])
def test_halve_area_refuses_odd_sizes(shape):
    with pytest.raises(ValueError, match=f"{shape[1]}x{shape[2]}"):
        halve_area(jnp.zeros(shape, np.float32))


def test_both_keep_the_dtype():
    x = jnp.ones((1, 2, 2, 1), "bfloat16")
    assert double_bilinear(x).dtype == halve_area(x).dtype == x.dtype
