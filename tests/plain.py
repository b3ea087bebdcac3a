"""The training step as one would first write it: XLA's convolution, resizing as matrix products, nothing else than Eq. 1.

An oracle for the optimized one, gradients included, and what `launch.benchmark --against tests.plain` compares with.
"""

import jax
import jax.numpy as jnp
import numpy as np

from crn_jax.errors import UserError
from crn_jax.objective import Objective
from crn_jax.train import TrainState

VGG_CONVOLUTIONS = (2, 2, 4, 4, 2)


def conv(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def doubling(n):
    """The matrix of linear interpolation from n to 2n samples whose corners coincide."""
    position = np.arange(2 * n) * (n - 1) / (2 * n - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(n))).astype(np.float32)


def double(x):
    return jnp.einsum("ih,jw,bhwc->bijc", doubling(x.shape[1]), doubling(x.shape[2]), x)


def halve(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def norm(x, scale, bias):
    mean, variance = x.mean((1, 2, 3), keepdims=True), x.var((1, 2, 3), keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-12) * scale[None, None, None] + bias[None, None, None]


def synthesize(params, layout):
    modules = sum(name.startswith("module_") for name in params)
    layouts = [layout]
    for _ in range(modules - 1):
        layouts.insert(0, halve(layouts[0]))
    x = layouts[0]
    for i in range(modules):
        module = params[f"module_{i}"]
        for n in "12":
            x = conv(x, module[f"conv{n}"]["kernel"])
            x = jax.nn.leaky_relu(norm(x, **module[f"norm{n}"]), 0.2)
        if i + 1 < modules:
            x = jnp.concatenate([double(x), layouts[i + 1]], -1)
    rgb = conv(x, params["to_rgb"]["kernel"]) + params["to_rgb"]["bias"][None, None, None]
    return (rgb + 1) / 2 * 255


def vgg19(params, image):
    x = image - params["mean"][None, None, None]
    taps = [x]
    for block, count in enumerate(VGG_CONVOLUTIONS, 1):
        x = x if block == 1 else halve(x)
        for n in range(1, count + 1):
            layer = params[f"conv{block}_{n}"]
            x = jax.nn.relu(conv(x, layer["kernel"]) + layer["bias"][None, None, None])
            if n == 2:
                taps.append(x)
    return taps


def loss(params, weights, vgg_params, batch, num_classes):
    image = synthesize(params, jax.nn.one_hot(batch["layout"], num_classes))
    pairs = zip(vgg19(vgg_params, image), vgg19(vgg_params, batch["photograph"].astype(jnp.float32)))
    terms = jnp.stack([jnp.abs(a - b).mean() for a, b in pairs])
    return terms @ weights, terms


def make_train_step(objective: Objective):
    """Makes the step that `crn_jax.train.make_train_step` makes, for k = 1, float32, average pooling and fixed λ."""
    config = objective.generator
    if (config.num_images, config.dtype, config.variant, objective.pooling) != (1, "float32", "authors", "average"):
        raise UserError("The plain implementation is for one image in float32, as the authors' program with average pooling.")

    def step(state: TrainState, vgg_params, batch):
        arguments = state.params, state.lambdas.weights, vgg_params, batch, objective.generator.num_classes
        (value, terms), gradient = jax.value_and_grad(loss, has_aux=True)(*arguments)
        rate = objective.optimizer.rate(state.step, objective.steps_per_epoch)
        params, opt_state = objective.optimizer.update(state.params, gradient, state.opt_state, rate)
        return state._replace(step=state.step + 1, params=params, opt_state=opt_state), {"loss": value, "terms": terms}

    return jax.jit(step, donate_argnums=0)
