"""What devices compute of their own rows equals what one computes of the whole image. CPU devices stand for accelerators."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from crn_jax.kernels.convolution import trained_conv3x3
from crn_jax.kernels.halo import haloed, with_halo, without_outside
from crn_jax.kernels.resize import double_bilinear, upsampled
from crn_jax.sharding import ShardingConfig, activation_spec, by_device, make_mesh, rows_are_split
from crn_jax.vgg import vgg19_stage
from tests.plain import conv as plain_conv

MESHES = [(2, 4), (1, 8), (4, 2)]  # of two images each; by the last one's first axis they do not divide
HEIGHT = 64


def mesh_of(data: int, spatial: int) -> jax.sharding.Mesh:
    return make_mesh(ShardingConfig((data, spatial)), data, HEIGHT)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def value_and_gradients(function, *arguments):
    """Returns a function's gradients for a cotangent that lets no two mistakes cancel."""
    value, gradients = jax.vjp(function, *map(jnp.asarray, arguments))
    cotangent = np.sin(np.arange(value.size)).reshape(value.shape)
    return value, *gradients(jnp.asarray(cotangent, value.dtype))


def on_mesh(mesh: jax.sharding.Mesh, function, *arguments):
    """Compiled soon rather than well; images lie split, all else on every device."""
    with jax.set_mesh(mesh):
        specs = [activation_spec(mesh, a.shape) if a.shape[0] == 2 else PartitionSpec() for a in arguments]
        placed = [jax.device_put(a, jax.NamedSharding(mesh, spec)) for a, spec in zip(arguments, specs)]
        return jax.jit(function).lower(*placed).compile({"xla_backend_optimization_level": 0})(*placed)


def assert_equal(got, expected) -> None:
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("rows", [1, 2])
def test_rows_of_both_neighbours(mesh, rows):
    x = np.float32(random(2, HEIGHT, 3, 4))
    blocks = on_mesh(mesh_of(*mesh), lambda x: by_device(functools.partial(with_halo, rows=rows), x), x)
    outside = np.pad(x, ((0, 0), (rows, rows), (0, 0), (0, 0)))
    h = HEIGHT // mesh[1]
    expected = [outside[:, i * h : (i + 1) * h + 2 * rows] for i in range(mesh[1])]
    np.testing.assert_array_equal(blocks, np.concatenate(expected, 1))


@pytest.mark.quick
def test_rows_outside_the_image_become_zero():
    x = np.float32(random(2, HEIGHT, 3, 4))
    got = on_mesh(mesh_of(2, 4), lambda x: by_device(without_outside, x), x)
    expected = x.copy()
    expected[:, [0, -1]] = 0  # the first device's first row, the last one's last; those between keep theirs
    np.testing.assert_array_equal(got, expected)


def test_sums_over_the_devices_that_share_an_image():
    x, factor = random(2, HEIGHT, 3, 4), random(1, 1, 1, 4)
    with jax.enable_x64(True):
        got = on_mesh(mesh_of(2, 4), lambda x, k: by_device(lambda x, k: (x * k).sum(), x, whole=(k,), summed=True), x, factor)
        np.testing.assert_allclose(got, (x * factor).sum(), rtol=1e-12)


def as_on_a_gpu(*arguments, cuda, default, cpu=None):
    """Chooses the GPU's form, in place of `jax.lax.platform_dependent`."""
    return cuda(*jax.tree.map(jnp.asarray, arguments))


@pytest.mark.parametrize("mesh, gpu", [*((mesh, False) for mesh in MESHES), (MESHES[0], True)])
@pytest.mark.parametrize("upsampling", ["align_corners", "half_pixel"])
def test_upsampled_rows(mesh, gpu, upsampling, monkeypatch):
    """Their halos are the neighbours' upsampled rows, zero outside the image; the derivative gives each row its own."""
    if gpu:
        monkeypatch.setattr(jax.lax, "platform_dependent", as_on_a_gpu)

    def doubled(x):
        return upsampled(x, upsampling).rows

    def reference(x):
        return haloed(double_bilinear(x, upsampling)).rows

    with jax.enable_x64(True):
        x = random(2, HEIGHT, 3, 4)
        got, expected = (on_mesh(mesh_of(*mesh), functools.partial(value_and_gradients, f), x) for f in (doubled, reference))
        assert_equal(got, expected)
        whole = np.pad(double_bilinear(jnp.asarray(x), upsampling), ((0, 0), (1, 1), (0, 0), (0, 0)))
        np.testing.assert_allclose(got[0][:, :3], whole[:, :3], rtol=1e-12)
        np.testing.assert_allclose(got[0][:, -3:], whole[:, -3:], rtol=1e-12)


def test_upsampling_to_rows_that_are_split_sums_nothing(monkeypatch):
    """From a level that all devices have, in the derivative; also on GPUs."""
    monkeypatch.setattr(jax.lax, "platform_dependent", as_on_a_gpu)
    x = jnp.ones((2, HEIGHT // 2, 4, 8), "float32")
    with jax.set_mesh(mesh_of(1, 8)):
        split = jax.jit(jax.vjp(lambda x: upsampled(x, "align_corners"), x)[1])
        text = split.lower(jnp.ones((2, HEIGHT, 8, 8), "float32")).compile().as_text()
    assert "collective-permute" in text or "all-gather" in text
    assert "all-reduce" not in text


def test_a_trained_convolution_as_gpus_compute_it(monkeypatch):
    """GPUs take eight pixels at once, with padding. The numbers are small integers, which bfloat16 holds."""
    monkeypatch.setattr(jax.lax, "platform_dependent", as_on_a_gpu)
    rng = np.random.default_rng(0)
    shapes = (2, HEIGHT, 8, 6), (2, HEIGHT, 8, 3), (3, 3, 9, 5), (2, HEIGHT, 8, 5)
    *arguments, cotangent = (rng.integers(-1, 2, shape).astype(np.float32) for shape in shapes)

    def gradients(conv, dtype):
        def summed(features, layout, k):
            return jnp.sum(conv(*(a.astype(dtype) for a in (features, layout, k))).astype("float32") * cotangent)

        return jax.value_and_grad(summed, (0, 1, 2))

    got = on_mesh(mesh_of(2, 4), gradients(lambda a, b, k: trained_conv3x3((a, b), k), "bfloat16"), *arguments)
    expected = gradients(lambda a, b, k: plain_conv(jnp.concatenate([a, b], -1), k), "float32")(*arguments)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, jnp.asarray(b).astype(jnp.bfloat16).astype("float32") if a.ndim else b)


@pytest.mark.parametrize("mesh", MESHES)
def test_a_trained_convolution_of_arrays_beside_each_other(mesh):
    """The second derivative is compared, too. JAX makes it of the first, which is written out."""

    def beside(features, layout, k):
        return trained_conv3x3((features, layout), k)

    def plain(features, layout, k):
        return plain_conv(jnp.concatenate([features, layout], -1), k)

    def slope(conv):
        return jax.grad(lambda *a: sum(jnp.sum(jnp.sin(g)) for g in value_and_gradients(conv, *a)), (0, 1, 2))

    with jax.enable_x64(True):
        arguments = random(2, HEIGHT, 5, 6), random(2, HEIGHT, 5, 3), random(3, 3, 9, 5)
        assert_equal(on_mesh(mesh_of(*mesh), functools.partial(value_and_gradients, beside), *arguments),
                     value_and_gradients(plain, *arguments))  # fmt: skip
        if mesh == (2, 4):
            assert_equal(on_mesh(mesh_of(*mesh), slope(beside), *arguments), slope(plain)(*arguments))


def test_in_bfloat16_with_channels_for_tensor_cores_and_over_a_further_axis():
    x, k = (jnp.asarray(a, jnp.bfloat16) for a in (random(2, HEIGHT, 5, 9), random(3, 3, 9, 5)))
    conv = jax.vmap(lambda x, k: trained_conv3x3((x,), k), in_axes=(2, None))
    got = on_mesh(mesh_of(2, 4), functools.partial(value_and_gradients, conv), x[:, :, None], k)
    expected = value_and_gradients(lambda x, k: plain_conv(x[:, :, 0], k)[None], x[:, :, None], k)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = (np.asarray(array, np.float32) for array in (a, b))
        assert np.abs(a - b).max() < 0.02 * np.abs(b).max()
    with jax.set_mesh(mesh_of(2, 4)):
        text = jax.jit(lambda x, k: trained_conv3x3((x,), k)).lower(x, k).as_text()
    (line,) = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert "1x18x5x16xbf16" in line and "3x3x16x5xbf16" in line


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("tap", ["conv1_2", "conv4_2"])  # without and with pooling between its convolutions
def test_two_layers_of_vgg19_for_each_exchange(mesh, tap):
    names = {"conv1_2": ["conv1_1", "conv1_2"], "conv4_2": ["conv3_3", "conv3_4", "conv4_1", "conv4_2"]}[tap]
    channels = [3, *range(4, 8)]
    params = {
        name: {"kernel": random(3, 3, c, channels[i + 1]), "bias": 0.5 + random(channels[i + 1])}
        for i, (name, c) in enumerate(zip(names, channels))
    }

    def stage(x):
        return vgg19_stage(jax.tree.map(jnp.asarray, params), x, tap, "average")

    with jax.enable_x64(True):
        x = random(2, HEIGHT, 6, 3)
        assert rows_are_split_on(mesh_of(*mesh), x)
        got = on_mesh(mesh_of(*mesh), functools.partial(value_and_gradients, stage), x)
        assert_equal(got, value_and_gradients(stage, x))


def rows_are_split_on(mesh: jax.sharding.Mesh, x: np.ndarray) -> bool:
    with jax.set_mesh(mesh):
        return rows_are_split(jnp.asarray(x), 2)


def test_without_several_devices_along_the_height_nothing_is_split():
    x = random(2, HEIGHT, 3, 4)
    assert not rows_are_split(jnp.asarray(x), 1)
    assert not rows_are_split_on(mesh_of(2, 1), x)
    assert rows_are_split_on(mesh_of(1, 8), x) and not rows_are_split_on(mesh_of(1, 8), x[:, :60])
