"""Networks as tests look at them: parameters that show a swapped pair, and which pixels an output depends on."""

import jax
import jax.numpy as jnp
import numpy as np


def random(*shape):
    return np.random.default_rng(sum(shape)).uniform(-1, 1, shape).astype(np.float32)


def shapes_of(network, *inputs) -> dict:
    return jax.eval_shape(network.init, jax.random.key(0), *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs))


def params_of(network, *inputs, spread=0.3) -> dict:
    """Random ones, larger than the initial ones, so that every part matters and a swapped pair shows."""
    rng = np.random.default_rng(2)
    shapes = shapes_of(network, *(x.shape for x in inputs))["params"]
    return jax.tree.map(lambda leaf: rng.uniform(-spread, spread, leaf.shape).astype(np.float32), shapes)


def check(got, expected, scale=1.0):
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * scale)


def sensitivity(network, *inputs):
    """Returns which input pixels an output depends on, as a function of the output's place. Kernels of ones add up."""
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes_of(network, *(x.shape for x in inputs)))

    def output(x, place):
        return network.apply(params, *inputs[:-1], x)[place].sum()

    gradient = jax.jit(jax.grad(output))
    return lambda *place: np.asarray(gradient(inputs[-1], place)).sum((0, -1)) > 0
