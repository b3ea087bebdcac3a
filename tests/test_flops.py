"""Counts of operations: against closed forms, and by hand. All of it is tracing; nothing is computed."""

import dataclasses
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from configs import EXPERIMENTS
from crn_jax.baselines.adversarial import transposed_conv4x4
from crn_jax.baselines.full_resolution import FullResolutionConfig
from crn_jax.baselines.gan import GANConfig, GANLossConfig, GANObjective
from crn_jax.cascade import CascadeConfig
from crn_jax.kernels.convolution import conv3x3, input_gradient, kernel_gradient
from crn_jax.lambdas import LambdaConfig
from crn_jax.objective import Objective
from crn_jax.scores.segmenter import SegmenterConfig, SegmenterObjective
from crn_jax.settings import LossConfig
from crn_jax.train import OptimizerConfig, abstract_state, make_train_step
from crn_jax.unet import EncoderDecoderConfig
from crn_jax.vgg_layers import LAYERS
from launch.cost.flops import forward_flops, operations, step_flops

C, BATCH = 5, 3  # classes, examples


def shape(*dimensions, dtype="float32"):
    return jax.ShapeDtypeStruct(dimensions, dtype)


def objective_of(generator, remat="none", **loss) -> Objective:
    return Objective(generator, LambdaConfig(), OptimizerConfig(), "average", 1, remat, LossConfig(**loss))


# The cascade and its loss, in closed form.


def cascade_layers(config) -> list[int]:
    """Multiplications of each convolution, in order."""
    counts, features = [], 0
    for i, maps in enumerate(config.widths):
        pixels = config.base[0] * config.base[1] * 4**i
        classes = config.num_classes if i == 0 or config.layout_at == "every" else 0
        counts += [9 * pixels * (features + classes) * maps, 9 * pixels * maps * maps]
        features = maps
    return counts + [config.size[0] * config.size[1] * features * 3 * config.num_images]


def by_layouts(config) -> int:
    """Returns the operations of the derivatives by the layout, which no step needs."""
    seen = range(len(config.widths)) if config.layout_at == "every" else range(1)
    return sum(9 * config.base[0] * config.base[1] * 4**i * config.num_classes * config.widths[i] for i in seen)


def vgg19(height, width) -> int:
    """Returns VGG-19's operations for one image. Odd sides are halved upwards."""
    halved = {name: 2 ** (int(name[4]) - 1) for name in LAYERS}
    return sum(9 * -(-height // halved[name]) * -(-width // halved[name]) * c * d for name, (c, d) in LAYERS.items())


def comparison(size, k) -> int:
    """Forward on the photograph and on k images, and by the input on the images."""
    return (2 * k + 1) * vgg19(*size)


def shares(size, k, regions) -> int:
    """Each region's share of each pixel, times the differences of six layers; likewise in the backward pass."""
    return 2 * k * regions * sum(math.prod(-(-side // 2**halved) for side in size) for halved in (0, 0, 1, 2, 3, 4))


@pytest.mark.parametrize(
    "batch, change",
    [(1, {}), (4, {}), (2, {"base": (3, 4), "num_images": 3}), (3, {"base": (1, 2), "widths": (7, 6, 5, 4, 3)}),
     (1, {"widths": (96, 96, 96), "base": (8, 8), "num_classes": 20}), (1, {"variant": "paper", "dtype": "bfloat16"}),
     (2, {"layout_at": "first", "norm": False, "upsampling": "half_pixel"})],
    ids=str,
)  # fmt: skip
def test_a_cascade_agrees_with_the_closed_form(batch, change):
    config = dataclasses.replace(CascadeConfig(C, widths=(8, 7, 6, 5)), **change)
    layers = cascade_layers(config)
    assert forward_flops(config, batch) == 2 * batch * sum(layers)
    step = 3 * sum(layers) - by_layouts(config) + comparison(config.size, config.num_images)
    assert step_flops(objective_of(config), batch) == 2 * batch * step


def test_of_the_best_image_of_each_class_the_shares_count_and_what_is_computed_again_does_not():
    config = CascadeConfig(C, widths=(8, 7, 6, 5), base=(3, 4), num_images=2)
    whole = step_flops(objective_of(config), BATCH)
    by_class = step_flops(objective_of(config, "full", best_per="class"), BATCH)
    assert by_class - whole == 2 * BATCH * shares(config.size, 2, C)


@pytest.mark.parametrize(
    "name, forward, step",
    [("demo", "0.00244", "0.0253"), ("cityscapes_256p_diverse", "2.15", "8.26"), ("cityscapes_1024p", "3.16", "14.1")],
)
def test_figures_that_the_documents_give(name, forward, step):
    """TFLOP, in docs/performance.md, docs/performance_log.md and the comments of configs.py."""
    experiment = EXPERIMENTS[name]
    cascade = experiment.cascade
    counts = forward_flops(cascade), step_flops(experiment.objective(1))
    layers = cascade_layers(cascade)
    expected = 3 * sum(layers) - by_layouts(cascade) + comparison(cascade.size, cascade.num_images)
    if experiment.loss.best_per == "class":
        expected += shares(cascade.size, cascade.num_images, cascade.num_classes)
    assert counts == (2 * sum(layers), 2 * expected)
    assert tuple(f"{count / 1e12:.3g}" for count in counts) == (forward, step)


def test_parts_that_are_not_trained_have_no_gradients():
    """Gradients by their inputs are not needed either, because nothing before them is trained."""
    experiment = EXPERIMENTS["demo"]
    frozen = dataclasses.replace(experiment.optimizer, freeze=("module_[0-3]",))
    counts = [step_flops(each.objective(1)) for each in (experiment, dataclasses.replace(experiment, optimizer=frozen))]
    layers = cascade_layers(experiment.cascade)
    frozen_layers, next_layer = layers[:8], layers[8]  # two convolutions in each of four modules
    assert counts[0] - counts[1] == 2 * (2 * sum(frozen_layers) + next_layer - by_layouts(experiment.cascade))


# Single operations, by hand.


def conv(stride=1, padding=0, dilation=1, inserted=1, groups=1, batches=1):
    def function(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (stride,) * 2, ((padding,) * 2,) * 2, (inserted,) * 2, (dilation,) * 2, ("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups, batch_group_count=batches,
        )  # fmt: skip

    return function


def gradient_of(function, by):
    def gradient(y, *arguments):
        return jax.vjp(function, *arguments)[1](y)[by]

    return gradient


@pytest.mark.quick
def test_a_strided_convolution():
    strided, x, k, y = conv(2, padding=1), shape(2, 12, 8, 3), shape(4, 4, 3, 5), shape(2, 6, 4, 5)
    each = 2 * (2 * 6 * 4) * (4 * 4) * 3 * 5
    assert operations(strided, x, k) == each
    for by in (0, 1):  # by x, of the zeros between the pixels of y nothing counts
        assert operations(gradient_of(strided, by), y, x, k) == each
    assert operations(lambda *arguments: jax.vjp(strided, *arguments[1:])[1](arguments[0]), y, x, k) == 2 * each


@pytest.mark.parametrize("transposed", [transposed_conv4x4, conv(padding=2, inserted=2)])
def test_a_transposed_convolution(transposed):
    """Four of the kernel's 16 entries meet a pixel and no zero, whichever of two programs computes the gradients."""
    x, k, y = shape(2, 6, 4, 3), shape(4, 4, 3, 5), shape(2, 12, 8, 5)
    each = 2 * (2 * 12 * 8) * 4 * 3 * 5
    assert operations(transposed, x, k) == each
    for by in (0, 1):
        assert operations(gradient_of(transposed, by), y, x, k) == each


def test_a_dilated_convolution():
    dilated, x, k = conv(padding=4, dilation=4), shape(1, 9, 7, 3), shape(3, 3, 3, 5)
    each = 2 * (9 * 7) * 9 * 3 * 5  # also outside the image
    assert operations(dilated, x, k) == each
    for by in (0, 1):
        assert operations(gradient_of(dilated, by), x.update(shape=(1, 9, 7, 5)), x, k) == each


def test_groups():
    assert operations(conv(groups=3), shape(2, 4, 4, 6), shape(1, 1, 2, 9)) == 2 * (2 * 4 * 4) * 2 * 9
    assert operations(conv(batches=2), shape(4, 4, 4, 6), shape(1, 1, 6, 8)) == 2 * (2 * 4 * 4) * 6 * 8


@pytest.mark.quick
def test_matrix_products():
    assert operations(jnp.matmul, shape(7, 3), shape(3, 5)) == 2 * 7 * 3 * 5
    assert operations(lambda a, b: jnp.einsum("nij,njk->nik", a, b), shape(4, 7, 3), shape(4, 3, 5)) == 2 * 4 * 7 * 3 * 5
    assert operations(jnp.vdot, shape(7), shape(7)) == 2 * 7
    assert operations(lambda a: jnp.sin(a) * a + a.sum(), shape(7, 3)) == 0


@pytest.mark.parametrize("form", [conv3x3, input_gradient, kernel_gradient])
@pytest.mark.parametrize("size", [(8, 16), (32, 64)])
def test_a_convolution_counts_as_the_direct_one_whatever_a_cpu_does(form, size):
    """At these sizes a matrix product, and Winograd's form with its 16 multiplications for 36."""
    x, k = shape(1, *size, 192), shape(3, 3, 192, 192)
    assert operations(form, x, x if form is kernel_gradient else k) == 2 * 9 * math.prod(size) * 192**2


# Programs.

MATRIX, PRODUCT = shape(3, 3), 2 * 27
FLAG = shape(dtype="bool"), MATRIX


def test_only_what_a_result_depends_on_counts():
    @jax.jit
    def both(a):
        return a @ a, a @ a @ a

    assert operations(both, MATRIX) == 3 * PRODUCT
    assert operations(lambda a: both(a)[0], MATRIX) == PRODUCT
    assert operations(lambda a: (both(a), a)[1], MATRIX) == 0
    # The rule of a custom derivative computes both gradients, at two products.
    product = jax.custom_vjp(jnp.matmul)
    product.defvjp(lambda a, b: (a @ b, (a, b)), lambda saved, y: (y @ saved[1].T, saved[0].T @ y))
    assert operations(product, MATRIX, MATRIX) == PRODUCT
    assert operations(jax.value_and_grad(lambda a, b: product(a, b).sum()), MATRIX, MATRIX) == 2 * PRODUCT
    assert operations(jax.grad(lambda a, b: product(a, b).sum(), (0, 1)), MATRIX, MATRIX) == 2 * PRODUCT


def test_of_branches_the_one_with_the_most_counts():
    def either(first, a):
        return jax.lax.cond(first, lambda a: a @ a @ a, lambda a: a @ a, a)

    assert operations(either, *FLAG) == 2 * PRODUCT
    # What either of them takes counts, as it is computed before.
    chosen = operations(lambda first, a: jax.lax.cond(first, lambda b, c: b, lambda b, c: c, a @ a, a @ a @ a), *FLAG)
    assert chosen == 3 * PRODUCT


@pytest.mark.parametrize("products", [1, 4])
def test_platforms_without_a_branch_of_their_own_count(products):
    def power(exponent):
        return lambda a: jnp.linalg.multi_dot([a] * exponent)

    def function(a):
        return jax.lax.platform_dependent(a, cpu=power(3), default=power(1 + products))

    assert operations(function, MATRIX) == products * PRODUCT


def test_loops_count_as_often_as_they_are_run():
    assert operations(lambda a: jax.lax.map(lambda b: b @ b, a), shape(7, 3, 3)) == 7 * PRODUCT
    assert operations(lambda a: jax.lax.fori_loop(0, 5, lambda _, b: b @ b @ b, a), MATRIX) == 10 * PRODUCT

    def chain(which):
        """What is carried leads from the second to the first; the third and what is stacked are nobody's."""

        def body(carry, _):
            a, b, c = carry
            return (a + b, b @ b, c @ c), a @ c

        return lambda a: jax.lax.scan(body, (a, a, a), length=4)[0][which]

    assert operations(chain(0), MATRIX) == operations(chain(1), MATRIX) == operations(chain(2), MATRIX) == 4 * PRODUCT


def test_a_loop_of_unknown_length_has_no_count():
    with pytest.raises(ValueError, match="How often 'while' does the multiplications in it is not known"):
        operations(lambda a: jax.lax.while_loop(lambda a: a.sum() < 9, lambda a: a @ a, a), MATRIX)
    assert operations(lambda a: jax.lax.while_loop(lambda a: a.sum() < 9, lambda a: a + a, a @ a), MATRIX) == PRODUCT


# The other networks, by hand.


def unet(height, width, channels, outputs) -> list[int]:
    """Two levels, of 4 and 6 maps."""
    first, second = 9 * height * width, 9 * (height // 2) * (width // 2)
    encoder = [first * channels * 4, first * 4 * 4, second * 4 * 6, second * 6 * 6]
    return encoder + [first * (6 + 4) * 4, first * 4 * 4, height * width * 4 * outputs]


def test_an_encoder_decoder():
    config = EncoderDecoderConfig(C, (16, 24), (4, 6), num_images=2)
    layers = unet(16, 24, C, 3 * 2)
    assert forward_flops(config, BATCH) == 2 * BATCH * sum(layers)
    expected = 3 * sum(layers) - layers[0] + comparison((16, 24), 2)
    assert step_flops(objective_of(config), BATCH) == 2 * BATCH * expected


def test_the_full_resolution_network():
    config = FullResolutionConfig(C, (16, 24), maps=4, layers=6)
    layers = [16 * 24 * 9 * C * 4, *5 * [16 * 24 * 9 * 4 * 4], 16 * 24 * 4 * 3]
    assert forward_flops(config, BATCH) == 2 * BATCH * sum(layers)
    expected = 3 * sum(layers) - layers[0] + comparison((16, 24), 1)
    assert step_flops(objective_of(config), BATCH) == 2 * BATCH * expected


SEGMENTER = SegmenterConfig(C, (16, 24), (4, 6))


def test_a_segmenter():
    layers = unet(16, 24, 3, C - 1)
    objective = SegmenterObjective(SEGMENTER, OptimizerConfig(), 1)
    assert step_flops(objective, BATCH) == 2 * BATCH * (3 * sum(layers) - layers[0])


PIX2PIX = GANConfig(C, (16, 24), "pix2pix", widths=(4, 5, 6), discriminator_widths=(4, 5))
DCGAN = GANConfig(C, (24, 48), "dcgan", widths=(4, 5, 6), discriminator_widths=(4, 5))

# (layers of the generator; of the discriminator forward and by the kernels; of the discriminator by the input)
BY_HAND = {
    PIX2PIX: (
        [16 * 8 * 12 * C * 4, 16 * 4 * 6 * 4 * 5, 16 * 2 * 3 * 5 * 6,
         4 * 4 * 6 * 6 * 5, 4 * 8 * 12 * (5 + 5) * 4, 4 * 16 * 24 * (4 + 4) * 3],
        [16 * 8 * 12 * (C + 3) * 4, 16 * 7 * 11 * 4 * 5, 16 * 6 * 10 * 5],
        # Without a stride, a convolution that makes an image smaller by a pixel; the gradient is as large as it was.
        [16 * 8 * 12 * (C + 3) * 4, 16 * 8 * 12 * 4 * 5, 16 * 7 * 11 * 5],
    ),
    DCGAN: (
        [16 * 12 * 24 * C * 4, 16 * 6 * 12 * 4 * 5, 16 * 3 * 6 * 5 * 6,
         4 * 6 * 12 * 6 * 5, 4 * 12 * 24 * 5 * 4, 4 * 24 * 48 * 4 * 3],
        [16 * 12 * 24 * (C + 3) * 4, 16 * 6 * 12 * 4 * 5, 6 * 12 * 5],
        [16 * 12 * 24 * (C + 3) * 4, 16 * 6 * 12 * 4 * 5, 6 * 12 * 5],
    ),
}  # fmt: skip


@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("config", BY_HAND, ids=lambda config: config.networks)
def test_a_gan(config, segmented):
    """The discriminator judges three times; for the generator, no gradient by its kernels is needed."""
    generator, discriminator, by_input = BY_HAND[config]
    assert forward_flops(config, BATCH) == 2 * BATCH * sum(generator)
    expected = 3 * sum(generator) - generator[0]
    expected += sum(discriminator) + sum(by_input)  # by the generator's images
    expected += 2 * (2 * sum(discriminator) + sum(by_input[1:]))  # of real and synthesized ones, by the kernels
    segmenter = dataclasses.replace(SEGMENTER, size=config.size) if segmented else None
    if segmented:
        expected += 2 * sum(unet(*config.size, 3, C - 1))
    objective = GANObjective(config, GANLossConfig(3.0, 0.5), OptimizerConfig(), 1, segmenter)
    assert step_flops(objective, BATCH) == 2 * BATCH * expected


def test_the_patch_discriminator_as_published():
    discriminator = GANConfig(3, (256, 256), "pix2pix").discriminator()
    layout = shape(1, 256, 256, 3)
    params = jax.eval_shape(discriminator.init, jax.random.key(0), layout, layout)
    expected = 16 * (128**2 * 6 * 64 + 64**2 * 64 * 128 + 32**2 * 128 * 256 + 31**2 * 256 * 512 + 30**2 * 512)
    assert operations(discriminator.apply, params, layout, layout) == 2 * expected


@pytest.mark.parametrize("name", ["camvid_full_resolution", "camvid_pix2pix"])
def test_the_step_agrees_with_the_compilers_count(name):
    """Before it optimizes. The compiler leaves out the padding, 3% to 8% at this size, and adds what is no convolution."""
    experiment = EXPERIMENTS[name]
    objective, size = experiment.objective(1), experiment.size
    batch = {"layout": shape(1, *size, dtype="uint8"), "photograph": shape(1, *size, 3, dtype="uint8")}
    vgg = {key: {"kernel": shape(3, 3, *maps), "bias": shape(maps[1])} for key, maps in LAYERS.items()} | {"mean": shape(3)}
    frozen = vgg if isinstance(objective, Objective) else {}
    traced = make_train_step(objective).trace(abstract_state(objective), frozen, batch)
    counted = traced.lower(lowering_platforms=("tpu",)).cost_analysis()["flops"]
    assert 1.03 < step_flops(objective) / counted < 1.09


def test_nothing_is_allocated_and_no_device_is_asked_for():
    """JAX is not even started: it would fail, as it is told to use a device that is not there."""
    program = """
from configs import demo
from launch.cost.flops import forward_flops, step_flops
forward_flops(demo.cascade, 10**9), step_flops(demo.objective(1), 10**9)
"""
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "JAX_PLATFORMS": "none_such"}, check=True)


def test_padding_for_bfloat16_does_not_count():
    config = CascadeConfig(C, (8, 8), dtype="bfloat16")
    exact = dataclasses.replace(config, dtype="float32")
    assert forward_flops(config) == forward_flops(exact)
    assert step_flops(objective_of(config)) == step_flops(objective_of(exact))
