"""The differences that rounding allows between programs that sum in other orders: on more devices, in batches, elsewhere."""

import jax
import numpy as np

from crn_jax.train import TrainState


def assert_identical(got: TrainState, expected: TrainState) -> None:
    """Checks that two states are equal bit for bit, as those of one program on the same numbers are."""
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def assert_same_images(got: np.ndarray, expected: np.ndarray) -> None:
    """Images of 8 bits may differ by one level, where the number before rounding lies between two levels.

    The numbers before rounding differ by some 1e-4 levels: float32 keeps 24 bits, 255 takes 8, and a network of a dozen layers
    loses some of the rest. So a number in a few thousand lies that near to a half.
    """
    assert got.shape == expected.shape and got.dtype == expected.dtype == np.uint8
    off = np.abs(got.astype(int) - expected)
    assert off.max() <= 1 and np.count_nonzero(off) <= -(-off.size // 1000)


def assert_same_training(got: TrainState, expected: TrainState, learning_rate: float) -> None:
    """The states of two trainings in float32, on the same batches, that sum in different orders.

    Adam divides a gradient by its own size, so a gradient that is smaller than its rounding makes a whole step, of either sign.
    There is no bound on a single number, then, but that of all steps; but few gradients are that small. So nearly all numbers
    agree to a tenth of *one* step, and each array does in most of its numbers. A batch, a step or a device's share that is
    missing moves nearly all numbers of an array by about a step.
    """
    assert int(got.step) == int(expected.step)
    # λ follows from means of the terms over an epoch, which follow from all parameters together.
    np.testing.assert_allclose(got.lambdas.weights, expected.lambdas.weights, rtol=1e-3)
    pairs = zip(*(map(np.asarray, jax.tree.leaves((state.params, state.ema))) for state in (got, expected)), strict=True)
    off = [np.abs(a - b).ravel() / learning_rate for a, b in pairs]
    assert max(np.median(each) for each in off) < 0.1
    every = np.concatenate(off)
    assert np.mean(every > 0.1) < 0.01 and every.mean() < 0.02
