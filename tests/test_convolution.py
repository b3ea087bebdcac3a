"""The convolution written for CPUs against XLA's, and against NumPy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from crn_jax.kernels import convolution, cpu_convolution
from crn_jax.kernels.convolution import conv3x3, trained_conv3x3
from crn_jax.kernels.tpu_convolution import banded_conv3x3, banded_input_gradient, banded_kernel_gradient, bands
from crn_jax.sharding import DATA, SPATIAL, ShardingConfig, make_mesh
from tests.support.reference import conv_same

SHAPES = [  # B, H, W, C, D
    (1, 1, 1, 1, 1),
    (2, 1, 5, 3, 2),
    (3, 5, 7, 20, 6),  # one matrix product
    (1, 37, 29, 9, 70),  # wide enough for Winograd by the kernel only
    (2, 33, 35, 170, 160),  # Winograd, in bands
    (2, 3, 400, 170, 160),  # bands of two rows, three in all
]


def random(shape: tuple[int, ...], dtype: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    b, h, w, c, d = shape
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(s).astype(dtype) for s in [(b, h, w, c), (3, 3, c, d), (b, h, w, d)])


def relative(got, expected) -> float:
    return float(np.abs(np.asarray(got) - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max())


def plain(x, k):
    return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def value_and_gradients(conv, x, k, y):
    value, gradients = jax.vjp(conv, x, k)
    return value, *gradients(y)


def run(function, *arguments):
    """Compiled soon rather than well."""
    return jax.jit(function).lower(*arguments).compile({"xla_backend_optimization_level": 0})(*arguments)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradients_equal_xlas(shape, monkeypatch):
    monkeypatch.setattr(cpu_convolution, "BAND", 1 << 15)
    single = random(shape, "float32")
    double = [np.float64(a) for a in single]
    with jax.enable_x64(True):
        expected = run(functools.partial(value_and_gradients, plain), *double)
        for arrays, tolerance in [(double, 1e-12), (single, 1e-5)]:
            for a, b in zip(run(functools.partial(value_and_gradients, conv3x3), *arrays), expected):
                assert a.dtype == arrays[0].dtype and relative(a, b) < tolerance


@pytest.mark.quick
def test_it_is_a_cross_correlation():
    x, k, _ = random((2, 32, 34, 90, 800), "float32")
    assert relative(run(conv3x3, x, k), conv_same(np.float64(x), np.float64(k))) < 1e-5


@pytest.mark.parametrize("shape", [(2, 5, 6, 4, 3), (2, 22, 24, 124, 122)], ids=str)  # the second: Winograd, just so
def test_transformations(shape):
    """Twice differentiated, over a further axis, and with its inside computed again."""

    def slope(conv):
        def value(x, k):
            return jnp.sum(jnp.sin(jax.checkpoint(conv)(jnp.sin(x), k) / 10))

        def length(x, k):
            return sum(jnp.sum(g**2) for g in jax.grad(value, (0, 1))(x[None], k))

        return jax.vmap(jax.grad(length, (0, 1)), in_axes=(0, None))

    ours = (lambda x, k: trained_conv3x3((x,), k)) if shape[1] > 5 else conv3x3
    with jax.enable_x64(True):
        x, k, _ = random(shape, "float64")
        for got, expected in zip(run(slope(ours), x, k), run(slope(plain), x, k)):
            assert relative(got, expected) < 1e-12


@pytest.mark.parametrize("h, band", [(1, 1 << 15), (5, 600_000)])
def test_the_last_band(h, band, monkeypatch):
    """However many rows are left for it; each image has its own."""
    monkeypatch.setattr(cpu_convolution, "BAND", band)
    x, k, _ = random((2, h, 1040, 90, 800), "float32")
    assert relative(run(conv3x3, x, k), run(plain, x, k)) < 1e-5


@pytest.mark.parametrize("n", [1, 2, 6])
def test_bands_of_rows(n):
    x, k, y = random((2, 6, 5, 4, 3), "float64")
    with jax.enable_x64(True):
        value, by_x, by_k = run(functools.partial(value_and_gradients, plain), x, k, y)
        assert relative(run(functools.partial(banded_conv3x3, n=n), x, k), value) < 1e-12
        assert relative(run(functools.partial(banded_input_gradient, n=n), y, k), by_x) < 1e-12
        assert relative(run(functools.partial(banded_kernel_gradient, n=n), x, y), by_k) < 1e-12


@pytest.mark.parametrize("shape, n", [((1, 1024, 2048, 160), 32), ((2, 64, 128, 1024), 1), ((1, 999, 2048, 160), 1)])
def test_a_tpu_convolves_large_images_in_bands(shape, n):
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    assert bands(x, (shape[3], 32)) == n
    for function, other in (
        (conv3x3, (3, 3, shape[3], 32)),
        (convolution.kernel_gradient, (*shape[:3], 32)),
        (convolution.input_gradient, (3, 3, 32, shape[3])),
    ):
        traced = jax.jit(function).trace(x, jax.ShapeDtypeStruct(other, jnp.bfloat16))
        for platform in ("tpu", "cuda"):
            loops = "stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()
            assert loops == (platform == "tpu" and n > 1)


def test_a_frozen_kernel_beside_a_trained_one():
    """They share a compiled function, but not a rule."""
    for shared in (jax.jit(conv3x3), jax.checkpoint(lambda x, k: trained_conv3x3((x,), k))):

        def chain(conv, trained, x, frozen):
            return jnp.sum(jnp.sin(conv(conv(x, trained), frozen)))

        x, k, _ = random((1, 6, 5, 4, 4), "float32")
        got, expected = (jax.grad(chain, 1)(conv, k, x, k[::-1]) for conv in (shared, plain))
        assert relative(got, expected) < 1e-5


@pytest.mark.parametrize("mesh_shape", [(2, 4), (1, 1)])
def test_split_over_devices(mesh_shape):
    mesh = make_mesh(ShardingConfig(mesh_shape), 2, 32)
    x, k, y = random((2, 32, 17, 124, 122), "float64")
    with jax.enable_x64(True), jax.set_mesh(mesh):
        expected = run(functools.partial(value_and_gradients, plain), x, k, y)
        rows = PartitionSpec(DATA, SPATIAL)
        placed = [jax.device_put(a, jax.NamedSharding(mesh, s)) for a, s in [(x, rows), (k, PartitionSpec()), (y, rows)]]
        got = run(functools.partial(value_and_gradients, conv3x3), *placed)
    for a, b in zip(got, expected):
        assert relative(a, b) < 1e-12


def test_frozen_kernels_cost_nothing():
    """The derivative by the kernel is computed only where somebody asks for it: VGG-19 is not trained."""
    x, k, _ = random((1, 32, 32, 8, 8), "float32")

    def flops(argnums) -> float:
        gradient = jax.grad(lambda x, k: jnp.sum(jnp.sin(conv3x3(x, k))), argnums)
        return jax.jit(gradient).lower(x, k).compile().cost_analysis()["flops"]

    assert flops(0) < 0.75 * flops((0, 1))


def test_arrays_beside_each_other():
    """Equal to the convolution of their concatenation; the gradient by an array that nobody asks for costs nothing."""
    x, k, y = random((1, 6, 5, 12, 4), "float32")

    def value(features, layout, k):
        return jnp.vdot(jnp.sin(trained_conv3x3((features, layout), k)), y)

    def gradient(argnums):
        return jax.jit(jax.grad(value, argnums)).lower(x[..., :8], x[..., 8:], k).compile()

    expected = jax.jit(jax.grad(lambda x, k: jnp.vdot(jnp.sin(plain(x, k)), y), (0, 1)))(x, k)
    by_features, by_layout, by_k = gradient((0, 1, 2))(x[..., :8], x[..., 8:], k)
    for got, wanted in ((jnp.concatenate([by_features, by_layout], -1), expected[0]), (by_k, expected[1])):
        assert relative(got, wanted) < 1e-5
    assert gradient((0, 2)).cost_analysis()["flops"] < 0.95 * gradient((0, 1, 2)).cost_analysis()["flops"]


# x `[b, h, w, c]` and d channels out: several pixels of a row at once for few channels out, if they divide the row.
TENSOR_CORES = {(1, 4, 5, 20, 8): 1, (1, 8, 16, 20, 32): 2, (2, 5, 8, 12, 3): 8, (2, 4, 12, 64, 16): 4, (1, 6, 8, 3, 64): 1}


@pytest.mark.parametrize("margin", [1, 0])
@pytest.mark.parametrize("shape", TENSOR_CORES)
def test_convolutions_for_tensor_cores(shape, margin):
    """A GPU pads channels and takes several pixels at once in bfloat16. Small integers make all sums exact."""
    rng, (b, h, w, c, d) = np.random.default_rng(0), shape
    shapes = (b, h, w, c), (3, 3, c, d), (b, h - 2 * (1 - margin), w, d)
    x, k, y = (jnp.asarray(rng.integers(-2, 3, s), "bfloat16") for s in shapes)
    assert convolution.pixels_at_once(d, y) == TENSOR_CORES[shape]
    maps = {"conv3x3": (x, k), "input_gradient": (y, k), "kernel_gradient": (x, y)}
    for name, arguments in maps.items():
        got, expected = (getattr(convolution, f"{form}_{name}")(*arguments, margin=margin) for form in ("cuda", "xla"))
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_in_bfloat16_gpus_get_several_pixels_at_once():
    """Eight of 8 channels, of images whose 20 channels become 24."""
    x, k, _ = (jnp.asarray(a, "bfloat16") for a in random((1, 4, 8, 20, 8), "float32"))
    gradients = jax.grad(lambda x, k: jnp.sum(conv3x3(x, k) ** 2), (0, 1))
    text = jax.jit(gradients).trace(x, k).lower(lowering_platforms=("cuda",)).as_text()
    assert "tensor<1x4x8x24xbf16>, tensor<3x10x24x64xbf16>" in text and "rhs_dilate = [1, 8]" in text


@pytest.mark.parametrize("function", [conv3x3, lambda x, k: trained_conv3x3((x,), k)], ids=["fixed", "trained"])
def test_in_float32_gpus_get_convolutions_as_they_are(function):
    x, k, _ = (jnp.asarray(a, "float32") for a in random((1, 4, 8, 20, 8), "float32"))
    gradients = jax.grad(lambda x, k: jnp.sum(function(x, k)), (0, 1))
    text = jax.jit(gradients).trace(x, k).lower(lowering_platforms=("cuda",)).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    channels = {int(n) for line in convolutions for n in re.findall(r"tensor<1x\d+x\d+x(\d+)x", line)}
    assert channels == {8, 20}


def test_padding_lies_within_the_last_part():
    """Behind all parts it would keep GPUs from writing them several channels at once; their gradients have none."""
    parts = tuple(jnp.ones((1, 4, 8, c), "bfloat16") for c in (16, 20))
    k = jnp.ones((3, 3, 36, 8), "bfloat16")
    by_parts, by_kernel = jax.grad(lambda parts, k: jnp.sum(trained_conv3x3(parts, k)), (0, 1))(parts, k)
    assert [part.shape[-1] for part in by_parts] == [16, 20] and by_kernel.shape == k.shape
    text = jax.jit(trained_conv3x3).trace(parts, k).lower(lowering_platforms=("cuda",)).as_text()
    (joined,) = [line for line in text.splitlines() if "stablehlo.concatenate" in line and "x16xbf16>" in line]
    assert "1x4x8x48xbf16" in joined and "1x4x8x64xbf16" in joined


def test_which_program_is_chosen():
    """Winograd on one CPU; XLA's convolution on several devices, in bfloat16, and for other platforms."""

    def text(dtype=jnp.float32, platform="cpu") -> str:
        x, k = jnp.zeros((1, 32, 32, 256), dtype), jnp.zeros((3, 3, 256, 256), dtype)
        return jax.jit(conv3x3).trace(x, k).lower(lowering_platforms=(platform,)).as_text()

    assert "stablehlo.convolution" not in text()
    assert "stablehlo.convolution" in text(jnp.bfloat16)
    assert "stablehlo.convolution" in text(platform="cuda") and "while" not in text(platform="tpu")
    with jax.set_mesh(make_mesh(ShardingConfig((1, 8)), 1, 64)):
        assert "stablehlo.convolution" in text()
