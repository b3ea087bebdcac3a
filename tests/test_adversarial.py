"""The adversarial networks that the cascade is compared with: against their definition in NumPy, float64, and by hand.

How they are trained has tests of its own (test_gan.py).
"""

import functools

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crn_jax.baselines.adversarial import (
    BatchNorm,
    Conv4x4,
    DCGANDiscriminator,
    DCGANGenerator,
    PatchDiscriminator,
    Pix2PixGenerator,
    TransposedConv4x4,
    transposed_conv4x4,
)
from crn_jax.baselines.shapes import fitting
from crn_jax.generator import count_parameters
from crn_jax.sharding import ShardingConfig, make_mesh, put, put_batch
from tests.support import reference
from tests.support.networks import check, params_of, random, sensitivity, shapes_of

NOISE = {"dropout": jax.random.key(7)}


def conv4x4(x, kernel, stride=2):
    """Zero padding by one pixel."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = ((side - 4) // stride + 1 for side in x.shape[1:3])
    y = np.zeros((len(x), h, w, kernel.shape[3]))
    for i, j, u, v in np.ndindex(h, w, 4, 4):
        y[:, i, j] += x[:, stride * i + u, stride * j + v] @ kernel[u, v]
    return y


def transposed4x4(x, kernel):
    """Row i of the input reaches rows 2i - 1 to 2i + 2, the last by the kernel's first."""
    b, h, w, _ = x.shape
    y = np.zeros((b, 2 * h + 2, 2 * w + 2, kernel.shape[3]))  # with a margin of one pixel
    for i, j, u, v in np.ndindex(h, w, 4, 4):
        y[:, 2 * i + 3 - u, 2 * j + 3 - v] += x[:, i, j] @ kernel[u, v]
    return y[:, 1:-1, 1:-1]


def batch_norm(x, p):
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * p["scale"] + p["bias"]


def layer(x, p, stride=2):
    x = conv4x4(x, p["conv"]["kernel"], stride) + p["conv"].get("bias", 0)
    return reference.leaky_relu(batch_norm(x, p["norm"]) if "norm" in p else x)


def generator(params, layout, skips, dropped):
    """Isola et al., appendix 6.1.1; `dropped` says for each layer of the way up which numbers are zeroed."""
    depth = sum(name.startswith("encoder_") for name in params)
    down = [layout]
    for i in range(depth):
        assert ("norm" in params[f"encoder_{i}"]) == (0 < i < depth - 1)
        down.append(layer(down[-1], params[f"encoder_{i}"]))
    x = np.maximum(down[depth], 0)
    for i in reversed(range(1, depth)):
        x = batch_norm(transposed4x4(x, params[f"decoder_{i}"]["kernel"]), params[f"decoder_{i}"]["norm"])
        if i in dropped:
            x = np.where(dropped[i], 0, 2 * x)
        x = np.maximum(np.concatenate([down[i], x], -1) if skips else x, 0)
    x = transposed4x4(x, params["decoder_0"]["kernel"]) + params["decoder_0"]["bias"]
    return (np.tanh(x) + 1) / 2 * 255


def layout_of(*shape):
    classes = np.random.default_rng(0).integers(0, shape[-1], shape[:-1])
    return np.eye(shape[-1], dtype=np.float32)[classes]


@pytest.fixture
def without_norms(monkeypatch):
    """A norm makes every pixel depend on all; without them, a gradient shows what the convolutions reach."""
    monkeypatch.setattr(BatchNorm, "__call__", lambda self, x: x)


# pix2pix.


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 1, 2)])
def test_the_transposed_convolution_and_its_gradients(shape):
    x, kernel = random(*shape), random(4, 4, shape[-1], 3)
    y, gradients = jax.vjp(transposed_conv4x4, x, kernel)
    check(y, transposed4x4(np.float64(x), kernel))
    cotangent = random(*y.shape)
    by_x, by_kernel = gradients(cotangent)
    # It is linear in both, so a gradient is what the cotangent pairs with when one number is 1 and the others are 0.
    for place in [(0, 0, 0, 1), tuple(n - 1 for n in shape)]:
        unit = np.zeros(shape)
        unit[place] = 1
        assert by_x[place] == pytest.approx((transposed4x4(unit, kernel) * cotangent).sum(), abs=1e-5)
    for place in [(0, 3, 1, 2), (2, 1, 0, 0)]:
        unit = np.zeros(kernel.shape)
        unit[place] = 1
        assert by_kernel[place] == pytest.approx((transposed4x4(np.float64(x), unit) * cotangent).sum(), abs=1e-5)


@pytest.mark.parametrize(("size", "batch"), [((32, 32), 1), ((48, 16), 2)])
def test_the_generator_of_pix2pix_equals_its_definition(size, batch):
    network, x = Pix2PixGenerator((3, 4, 5, 4, 6)), layout_of(batch, *size, 3)
    params = params_of(network, x)
    apply = functools.partial(network.apply, rngs=NOISE, capture_intermediates=lambda module, _: isinstance(module, nn.Dropout))
    got, state = jax.jit(apply)({"params": params}, x)
    noise = {name: np.asarray(value["__call__"][0]) for name, value in state["intermediates"].items()}
    depth = {32: 5, 48: 4}[size[0]]
    assert sorted(noise) == [f"dropout_{i}" for i in range(depth - 3, depth)]
    dropped = {int(name[-1]): value == 0 for name, value in noise.items()}
    check(got, generator(params, np.float64(x), True, dropped), scale=255)
    everything = np.concatenate([zeros.ravel() for zeros in dropped.values()])
    assert abs(everything.mean() - 0.5) < 3 * 0.5 / np.sqrt(everything.size)


def test_its_noise_is_its_key():
    network, x = Pix2PixGenerator((3, 4, 5)), layout_of(1, 16, 24, 3)
    params = params_of(network, x)
    image = jax.jit(lambda key: network.apply({"params": params}, x, rngs={"dropout": key}))
    one, again, other = (np.asarray(image(jax.random.key(key))) for key in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1


def by_hand(convolutions, norms, biases) -> int:
    """Parameters of 4x4 kernels (maps in, maps out), of norms and of biases."""
    return sum(16 * c * d for c, d in convolutions) + 2 * sum(norms) + sum(biases)


@pytest.mark.parametrize(("channels", "published"), [(3, 54_413_955), (20, None)])
def test_parameters_of_pix2pix_by_hand(channels, published):
    """54.414 M and 2.769 M are what the authors' PyTorch program prints."""
    down = [(channels, 64), (64, 128), (128, 256), (256, 512)] + 4 * [(512, 512)]
    up = [(512, 512)] + 3 * [(1024, 512)] + [(1024, 256), (512, 128), (256, 64), (128, 3)]
    expected = by_hand(down + up, [128, 256] + 4 * [512] + 4 * [512] + [256, 128, 64], [3])
    assert count_parameters(shapes_of(Pix2PixGenerator(), (1, 256, 512, channels))) == expected
    assert published in (None, expected)


def test_parameters_of_the_other_networks_by_hand():
    layout, image = (1, 256, 512, 20), (1, 256, 512, 3)
    patch = by_hand([(6, 64), (64, 128), (128, 256), (256, 512), (512, 1)], [128, 256, 512], [64, 1])
    assert count_parameters(shapes_of(PatchDiscriminator(), (1, 256, 256, 3), (1, 256, 256, 3))) == patch == 2_768_705
    down = [(64, 128), (128, 256), (256, 512), (512, 512), (512, 512)]
    up = [(512, 512), (512, 512), (512, 256), (256, 128), (128, 64), (64, 3)]
    norms = [128, 256, 512, 512]
    dcgan = by_hand([(20, 64), *down, *up], norms + [512, 512, 256, 128, 64], [3])
    assert count_parameters(shapes_of(DCGANGenerator(), layout)) == dcgan
    judge = by_hand([(23, 64), *down], [*norms, 512], [64, 4 * 8 * 512, 1])
    assert count_parameters(shapes_of(DCGANDiscriminator(), layout, image)) == judge


def test_parameters_of_the_generators_at_96x128_by_hand():
    """Five layers down to 3x4. Beside what is skipped to, a layer of the way up has twice the maps."""
    layout, norms = (1, 96, 128, 12), [128, 256, 512, 512, 256, 128, 64]
    down = [(12, 64), (64, 128), (128, 256), (256, 512), (512, 512)]
    beside = by_hand([*down, (512, 512), (1024, 256), (512, 128), (256, 64), (128, 3)], norms, [3])
    assert count_parameters(shapes_of(Pix2PixGenerator(), layout)) == beside
    alone = by_hand([*down, (512, 512), (512, 256), (256, 128), (128, 64), (64, 3)], norms, [3])
    assert count_parameters(shapes_of(DCGANGenerator(), layout)) == alone


@pytest.mark.parametrize(
    ("size", "bottleneck", "patches", "left"),
    [((256, 512), (1, 2), (30, 62), (4, 8)), ((96, 128), (3, 4), (10, 14), (3, 4)), ((48, 64), (3, 4), (4, 6), (3, 4)),
     ((512, 1024), (2, 4), (62, 126), (8, 16)), ((64, 64), (1, 1), (6, 6), (4, 4))],
)  # fmt: skip
def test_sizes_follow_from_the_images(size, bottleneck, patches, left):
    h, w = size
    layout, image = jnp.zeros((2, h, w, 5)), jnp.zeros((2, h, w, 3))

    def shape_of(network, *inputs):
        return jax.eval_shape(lambda *x: network.init_with_output(jax.random.key(0), *x)[0], *inputs).shape

    depth = sum("encoder" in name for name in shapes_of(Pix2PixGenerator(), layout.shape)["params"])
    assert (h >> depth, w >> depth) == bottleneck
    for network in (Pix2PixGenerator(), DCGANGenerator()):
        assert shape_of(network, layout) == (2, h, w, 3)
        assert set(shapes_of(network, layout.shape)) == {"params"}  # no running statistics: nothing but the batch counts
    assert shape_of(PatchDiscriminator(), layout, image) == (2, *patches)
    assert shape_of(DCGANDiscriminator(), layout, image) == (2,)
    logit = shapes_of(DCGANDiscriminator(6 * (1,)), layout.shape, image.shape)["params"]["to_logit"]["kernel"]
    assert logit.shape == (left[0] * left[1], 1)
    depth = sum("encoder" in name for name in shapes_of(DCGANGenerator(), layout.shape)["params"])
    assert (h >> depth, w >> depth) == left


@pytest.mark.quick
@hypothesis.given(st.integers(0, 4), st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.integers(2, 6))
def test_layers_are_as_many_as_sides_can_be_halved(power, height, width, smallest, most):
    height, width, widths = height << power, width << power, tuple(range(most))
    can = [n for n in range(most + 1) if all(side % 2**n == 0 and side // 2**n >= smallest for side in (height, width))]
    if not can or max(can) < 2:
        with pytest.raises(ValueError, match=rf"Sides of {height}x{width} can be halved {max(can, default=0)} time"):
            fitting(widths, height, width, smallest)
    else:
        assert fitting(widths, height, width, smallest) == widths[: max(can)]


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match=r"Sides of 8x12 can be halved 1 time \(to no less than 3\)"):
        shapes_of(DCGANGenerator(), (1, 8, 12, 3))
    with pytest.raises(ValueError, match="16x64 is too small for a single patch"):
        shapes_of(PatchDiscriminator(), (1, 16, 64, 3), (1, 16, 64, 3))


# Discriminators.


def judged(layout, images):
    return np.concatenate([layout, np.float64(images) / 127.5 - 1], -1)


def test_the_patch_discriminator_equals_its_definition():
    network, layout, images = PatchDiscriminator((3, 4, 5, 6)), layout_of(2, 24, 40, 4), 128 + 127 * random(2, 24, 40, 3)
    params = params_of(network, layout, images)
    x = judged(layout, images)
    for i, stride in enumerate((2, 2, 2, 1)):
        assert ("norm" in params[f"conv_{i}"]) == (i > 0)
        x = layer(x, params[f"conv_{i}"], stride)
    expected = conv4x4(x, params["to_logits"]["kernel"], 1) + params["to_logits"]["bias"]
    got = jax.jit(network.apply)({"params": params}, layout, images)
    check(got, expected[..., 0])
    assert got.shape == (2, 1, 3)


def test_a_patch_is_of_70x70_pixels(without_norms):
    sees = sensitivity(PatchDiscriminator((1, 1, 1, 1)), np.ones((1, 120, 136, 1), np.float32), np.ones((1, 120, 136, 3)))
    for row, column in [(3, 3), (4, 3), (4, 6)]:
        expected = np.zeros((120, 136), bool)
        expected[8 * row - 23 : 8 * row + 47, 8 * column - 23 : 8 * column + 47] = True
        assert expected.sum() == 70 * 70
        np.testing.assert_array_equal(sees(0, row, column), expected)


@pytest.mark.quick
def test_a_patch_by_the_sizes_of_its_kernels():
    field = 1
    for stride in (1, 1, 2, 2, 2):
        field = (field - 1) * stride + 4
    assert field == 70


def test_the_generator_of_dcgan_equals_its_definition():
    network, x = DCGANGenerator((3, 4, 5, 6)), layout_of(2, 24, 32, 3)
    params = params_of(network, x)
    check(jax.jit(network.apply)({"params": params}, x), generator(params, np.float64(x), False, {}), scale=255)
    assert sum("encoder" in name for name in params) == 3


def test_the_discriminator_of_dcgan_equals_its_definition():
    network, layout, images = DCGANDiscriminator((3, 4, 5)), layout_of(2, 24, 32, 4), 128 + 127 * random(2, 24, 32, 3)
    params = params_of(network, layout, images)
    x = judged(layout, images)
    for i in range(3):
        assert ("norm" in params[f"conv_{i}"]) == (i > 0)
        x = layer(x, params[f"conv_{i}"])
    expected = x.reshape(2, -1) @ params["to_logit"]["kernel"] + params["to_logit"]["bias"]
    check(jax.jit(network.apply)({"params": params}, layout, images), expected[:, 0])


def test_the_discriminator_of_dcgan_sees_the_whole_image(without_norms):
    sees = sensitivity(DCGANDiscriminator((1, 1, 1)), np.ones((1, 24, 32, 1), np.float32), np.ones((1, 24, 32, 3)))
    assert sees(0).all()


# All of them.


@pytest.mark.quick
def test_initial_values():
    down = Conv4x4(64, jnp.float32).init(jax.random.key(0), jnp.zeros((1, 4, 4, 32)))["params"]
    up = TransposedConv4x4(32, jnp.float32, norm=False).init(jax.random.key(0), jnp.zeros((1, 2, 2, 64)))["params"]
    for values, mean in [(down["conv"]["kernel"], 0), (up["kernel"], 0), (down["norm"]["scale"], 1)]:
        values = np.asarray(values)
        assert abs(values.mean() - mean) < 4 * 0.02 / np.sqrt(values.size)
        assert values.std() == pytest.approx(0.02, rel=4 / np.sqrt(2 * values.size))
    for zero in (down["norm"]["bias"], up["bias"]):
        np.testing.assert_array_equal(zero, 0)


NETWORKS = {
    "pix2pix": (Pix2PixGenerator((4, 5)), PatchDiscriminator((3, 4))),
    "dcgan": (DCGANGenerator((4, 5)), DCGANDiscriminator((3, 4))),
}


def loss_and_gradients(networks, params, layout):
    """Computes the loss and the gradients of a generator and a discriminator together."""
    generator, discriminator = networks

    def loss(params):
        images = generator.apply({"params": params[0]}, layout, rngs=NOISE)
        return jnp.square(discriminator.apply({"params": params[1]}, layout, images) - 1).mean()

    return jax.value_and_grad(loss)(params)


def both_params(networks, layout):
    return tuple(params_of(n, *inputs) for n, inputs in zip(networks, ([layout], [layout, np.zeros((*layout.shape[:3], 3))])))


@pytest.mark.parametrize("name", ["pix2pix", "dcgan"])
def test_gradients_reach_every_parameter_of_one_image(name):
    """The image may be reduced to one pixel, of which a batch norm would leave nothing."""
    layout = layout_of(1, 12, 12, 3) if name == "dcgan" else layout_of(1, 8, 8, 3)
    networks = NETWORKS[name][0].clone(widths=(8, 16, 32)), PatchDiscriminator((3,))
    loss, gradients = jax.jit(functools.partial(loss_and_gradients, networks))(both_params(networks, layout), layout)
    assert np.isfinite(loss)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.abs(gradient).max() > 1e-6, path


@pytest.mark.parametrize("name", NETWORKS)
def test_on_a_mesh_they_equal_those_on_one_device(name):
    networks, layout = NETWORKS[name], layout_of(2, 32, 24, 3)
    with jax.enable_x64(True):
        networks = tuple(network.clone(dtype=jnp.float64) for network in networks)
        params, results = jax.tree.map(np.float64, both_params(networks, layout)), []
        for shape in ((1, 1), (2, 2)):
            mesh = make_mesh(ShardingConfig(shape), 2, 32)
            with jax.set_mesh(mesh):
                batch = put_batch(mesh, 2, {"layout": np.float64(layout)})
                result = jax.jit(functools.partial(loss_and_gradients, networks))(put(mesh, params), batch["layout"])
                results.append(jax.tree.map(np.asarray, result))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10), *results)


def test_half_precision_is_of_the_convolutions_only():
    networks, layout = NETWORKS["dcgan"], layout_of(1, 16, 16, 3)
    params = both_params(networks, layout)
    exact = jax.jit(networks[0].apply)({"params": params[0]}, layout)
    image = jax.jit(networks[0].clone(dtype=jnp.bfloat16).apply)({"params": params[0]}, layout)
    assert image.dtype == jnp.float32
    assert 0 < np.abs(image - exact).max() < 10
    for networks in NETWORKS.values():
        networks = tuple(network.clone(dtype=jnp.bfloat16) for network in networks)
        result = jax.eval_shape(functools.partial(loss_and_gradients, networks), both_params(networks, layout), layout)
        assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype(jnp.float32)}
