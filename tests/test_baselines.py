"""The networks that are trained by the cascade's loss: against their definition in NumPy, float64, and by hand.

The encoder-decoder's definition is tested where it segments (test_segmenter.py).
"""

import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import EXPERIMENTS
from crn_jax.baselines.full_resolution import (
    FullResolution,
    FullResolutionConfig,
    dilated_by_kernel,
    dilated_conv3x3,
)
from crn_jax.baselines.shapes import dilations
from crn_jax.experiment import BaselineExperiment
from crn_jax.generator import count_parameters, init_params
from crn_jax.layers import LayerNorm
from crn_jax.run import load_run
from crn_jax.sharding import ShardingConfig, make_mesh, put, put_batch
from crn_jax.unet import EncoderDecoder, EncoderDecoderConfig
from launch import synthesize, train
from launch.common.terminal import console
from tests.support import reference
from tests.support.networks import check, params_of, random, sensitivity, shapes_of


def dilated3x3(x, kernel, dilation):
    b, h, w, _ = x.shape
    y = np.zeros((b, h, w, kernel.shape[3]))
    for i, j, u, v in np.ndindex(h, w, 3, 3):
        row, column = i + (u - 1) * dilation, j + (v - 1) * dilation
        if 0 <= row < h and 0 <= column < w:
            y[:, i, j] += x[:, row, column] @ kernel[u, v]
    return y


@pytest.fixture
def without_norms(monkeypatch):
    """A norm makes every pixel depend on all; without them, a gradient shows what the convolutions reach."""
    monkeypatch.setattr(LayerNorm, "__call__", lambda self, x: x)


# The full-resolution network.


def test_the_full_resolution_network_equals_its_definition():
    network, x = FullResolution(channels=2, width=5, layers=5), random(2, 6, 10, 3)
    params = params_of(network, x)
    expected = np.float64(x)
    for i, dilation in enumerate((8, 4, 2, 1, 1)):
        expected = dilated3x3(expected, params[f"conv_{i}"]["kernel"], dilation)
        expected = reference.leaky_relu(reference.layer_norm(expected, **params[f"norm_{i}"]))
    expected = expected @ params["to_output"]["kernel"][0, 0] + params["to_output"]["bias"]
    check(jax.jit(network.apply)({"params": params}, x), expected)


@pytest.mark.parametrize("dilation", [1, 2, 5, 16])
def test_a_dilated_convolutions_gradients_are_xlas(dilation):
    """The last sees nothing but its middle."""
    with jax.enable_x64(True):
        x, k, y = (np.float64(random(*shape)) for shape in ((2, 6, 9, 3), (3, 3, 3, 4), (2, 6, 9, 4)))

        def xlas(x: jax.Array, k: jax.Array) -> jax.Array:
            return jax.lax.conv_general_dilated(
                x, k, (1, 1), "SAME", rhs_dilation=(dilation, dilation), dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        (got, ours), (wanted, theirs) = (
            jax.vjp(function, x, k) for function in (functools.partial(dilated_conv3x3, dilation=dilation), xlas)
        )
        (by_x, by_k), (expected_x, expected_k) = ours(y), theirs(y)
        of_gpus = dilated_by_kernel(x, y, dilation)
        for one, other in [(got, wanted), (by_x, expected_x), (by_k, expected_k), (of_gpus, expected_k)]:
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.quick
def test_its_dilations_at_the_papers_size():
    assert dilations(256, 512, 10) == (256, 128, 64, 32, 16, 8, 4, 2, 1, 1)


@pytest.mark.quick
@hypothesis.given(height=st.integers(1, 1024), width=st.integers(1, 1024))
def test_dilations_are_halved_and_reach_from_edge_to_edge(height, width):
    got, side = dilations(height, width, 10), max(height, width)
    assert len(got) == 10 and got[-1] == 1
    assert all(b == max(1, a // 2) for a, b in zip(got, got[1:]))
    halved = got[: got.index(1) + 1]
    assert sum(halved) >= side - 1  # what is only of dilation 1 behind them is not needed for that
    assert len(halved) == 1 or sum(halved[1:]) < side - 1


@pytest.mark.parametrize(("height", "width"), [(9, 13), (96, 128), (256, 512)])
def test_every_pixel_sees_the_whole_image(height, width, without_norms):
    sees = sensitivity(FullResolution(channels=1, width=1), np.ones((1, height, width, 1), np.float32))
    for row, column in [(0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1), (height // 3, width // 2)]:
        assert sees(0, row, column, 0).all()


def test_images_that_its_layers_do_not_span_are_refused():
    assert dilations(512, 1024, 10)[0] == 512
    with pytest.raises(ValueError, match="10 layers of halved dilations see the whole of 1024 pixels, not of 1024x2048"):
        FullResolution(3).init(jax.random.key(0), jnp.zeros((1, 1024, 2048, 1)))


def test_its_initial_values():
    params = jax.jit(FullResolution(3, 24, 2).init)(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))["params"]
    bound = np.sqrt(6 / (9 * (24 + 24)))
    assert 0.99 * bound < np.abs(np.asarray(params["conv_1"]["kernel"])).max() <= bound


def loss_and_gradients(network, params, x):
    return jax.value_and_grad(lambda params: jnp.square(network.apply({"params": params}, x) - 1).mean())(params)


def test_on_a_mesh_it_equals_that_on_one_device():
    x = random(2, 32, 24, 3)
    with jax.enable_x64(True):
        network = FullResolution(3, 4, layers=5, dtype=jnp.float64)
        params, results = jax.tree.map(np.float64, params_of(network, x)), []
        for shape in ((1, 1), (2, 2)):
            mesh = make_mesh(ShardingConfig(shape), 2, 32)
            with jax.set_mesh(mesh):
                batch = put_batch(mesh, 2, {"x": np.float64(x)})
                result = jax.jit(functools.partial(loss_and_gradients, network))(put(mesh, params), batch["x"])
                results.append(jax.tree.map(np.asarray, result))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10), *results)


def test_half_precision_is_of_the_convolutions_only():
    network, x = FullResolution(3, 4, layers=5, dtype=jnp.bfloat16), random(1, 16, 16, 3)
    result = jax.eval_shape(functools.partial(loss_and_gradients, network), params_of(network, x), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype(jnp.float32)}
    assert jax.eval_shape(network.apply, {"params": params_of(network, x)}, x).dtype == jnp.float32


# The encoder-decoder.


def interval(place, side, levels):
    """First and last row (or column) of the image that one of the result depends on: down to the last level and up again."""
    sides = [side >> i for i in range(levels)]
    first = last = place

    def through_two_convolutions(level):
        return max(first - 2, 0), min(last + 2, sides[level] - 1)

    for level in range(levels - 1):
        first, last = through_two_convolutions(level)
        first, last = max((first - 1) // 2, 0), min((last + 1) // 2, sides[level + 1] - 1)  # doubled from two neighbours
    for level in reversed(range(levels)):
        first, last = through_two_convolutions(level)
        if level:
            first, last = 2 * first, 2 * last + 1  # halved from two
    return first, last


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_how_far_the_encoder_decoder_sees(levels, without_norms):
    sees = sensitivity(EncoderDecoder((1,) * levels, channels=1), np.ones((1, 48, 80, 1), np.float32))
    for row, column in [(0, 79), (24, 33), (29, 46)]:
        (top, bottom), (left, right) = interval(row, 48, levels), interval(column, 80, levels)
        expected = np.zeros((48, 80), bool)
        expected[top : bottom + 1, left : right + 1] = True
        np.testing.assert_array_equal(sees(0, row, column, 0), expected)
    assert interval(24, 48, 1) == (22, 26) and interval(24, 48, 2) == (14, 33)


# Both of them.


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("size", [(96, 128), (256, 512), (48, 80)])
def test_they_make_k_images_of_the_layouts_size(size, k):
    layout = jax.ShapeDtypeStruct((2, *size, 5), jnp.float32)
    for config in (EncoderDecoderConfig(5, size, (4, 6, 8, 10, 12), k), FullResolutionConfig(5, size, 4, num_images=k)):
        params = jax.eval_shape(init_params, config, jax.random.key(0))  # made with a smaller layout
        images = jax.eval_shape(config.network().apply, {"params": params}, layout)
        assert (images.shape, images.dtype) == ((2, k, *size, 3), jnp.float32)
        assert set(shapes_of(config.network(), layout.shape)) == {"params"}


def parameters(config) -> int:
    return count_parameters(jax.eval_shape(init_params, config, jax.random.key(0)))


@pytest.mark.parametrize("k", [1, 9])
@pytest.mark.parametrize("name", ["camvid", "cityscapes"])
def test_parameters_by_hand(name, k):
    """Kernels; a scale and a bias per map of each norm, two convolutions a block; and the projection to k colours."""
    network = dataclasses.replace(EXPERIMENTS[f"{name}_encoder_decoder"].baseline, num_images=k)
    c, widths = {"camvid": 12, "cityscapes": 20}[name], network.widths
    blocks = [(c, widths[0]), *zip(widths, widths[1:]), *((deep + maps, maps) for maps, deep in zip(widths, widths[1:]))]
    expected = sum(9 * before * maps + 9 * maps * maps + 4 * maps for before, maps in blocks)
    assert parameters(network) == expected + (widths[0] + 1) * 3 * k

    network = dataclasses.replace(EXPERIMENTS[f"{name}_full_resolution"].baseline, num_images=k)
    maps = {"camvid": 64, "cityscapes": 256}[name]
    assert parameters(network) == 9 * (c * maps + 9 * maps * maps) + 10 * 2 * maps + (maps + 1) * 3 * k


@pytest.mark.parametrize(
    ("name", "options"),
    [("encoder_decoder", "--baseline.widths 8 8 8"), ("full_resolution", "--baseline.maps 6 --baseline.layers 6")],
)
def test_regression_baselines_are_trained_and_used_like_a_cascade(name, options, tiny, random_vgg_file, tmp_path):
    folder, layouts = tmp_path / "run", tmp_path / "run" / "layouts"
    arguments = (
        f"camvid_{name} --data.source streets --data.num_scenes 4 --baseline.num_classes 20 --baseline.size 48 64 {options} "
        f"--epochs 1 --run.validation_examples 2 --vgg.weights {random_vgg_file} --sharding.mesh 1 1 --run.folder {folder}"
    ).split()
    train.main(arguments)
    synthesize.main([str(folder), str(layouts), "--out", str(tmp_path / "out")])
    run = load_run(folder)
    assert isinstance(run.experiment, BaselineExperiment) and run.step == 4
    for path in layouts.iterdir():
        ids = run.label_space.read(path)
        layout = jnp.eye(20)[ids][None]
        expected = run.experiment.baseline.network().apply({"params": run.params}, layout)
        with Image.open(tmp_path / "out" / path.name) as image:
            off = np.abs(np.asarray(image) - np.clip(expected[0, 0], 0, 255))
        assert off.max() <= 0.51
    with console.capture() as capture, pytest.raises(SystemExit):
        train.main([*arguments, "--baseline.num_classes", "12"])
    assert "streets has 20 classes, void included, but --baseline.num_classes is 12" in capture.get()
