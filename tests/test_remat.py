"""What is computed again changes nothing but memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crn_jax.kernels.convolution import trained_conv3x3
from crn_jax.kernels.remat import added, convolved, rematerialized

STAGES, LAYERS, WIDTH = 6, 4, 4


def stage(kernels: jax.Array, x: jax.Array) -> jax.Array:
    for kernel in kernels:
        x = jnp.tanh(convolved(trained_conv3x3((x,), kernel)))
    return x


@pytest.fixture(scope="module")
def compiled():
    """The gradient of a chain of stages by its kernels, as the train step compiles it, for each of the policies."""
    random = np.random.default_rng(0)
    kernels = jnp.asarray(random.normal(0, 0.2, (STAGES, LAYERS, 3, 3, WIDTH, WIDTH)), jnp.float32)
    x = jnp.asarray(random.normal(size=(1, 64, 64, WIDTH)), jnp.float32)

    def program(remat):
        def loss(kernels, x):
            for of_stage in kernels:
                x = rematerialized(stage, remat)(of_stage, x)
            return jnp.square(x).mean()

        lowered = jax.jit(jax.value_and_grad(loss)).lower(kernels, x)
        return lowered.compile({"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"})

    return {remat: program(remat) for remat in ("none", "conv", "full")}, (kernels, x)


@pytest.mark.parametrize("remat", ["conv", "full"])
def test_gradients_stay_what_they_are(compiled, remat):
    programs, arguments = compiled
    for got, wanted in zip(programs[remat](*arguments), programs["none"](*arguments)):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())


def test_cpus_compute_again_what_full_does_not_keep(compiled):
    """XLA's compiler for CPUs merges what `jax.checkpoint` computes again with what was computed before."""
    programs, (kernels, x) = compiled
    kept = {remat: program.memory_analysis().temp_size_in_bytes / x.nbytes for remat, program in programs.items()}
    assert kept["none"] > STAGES * LAYERS > 1.5 * kept["full"]


def test_what_is_added_is_nothing():
    x = jnp.array([1.5, -2.0])
    for y in (3.0, -3.0, 0.0, np.inf):
        np.testing.assert_array_equal(added(x, jnp.array([[y, 1.0]])), x)
    np.testing.assert_array_equal(jax.grad(lambda y: added(x, y).sum())(jnp.ones(2)), 0)
