import jax
import numpy as np

from crn_jax import vgg_weights
from crn_jax.losses import RELEASED_WEIGHTS, layer_terms, perceptual_loss
from crn_jax.vgg import TAPS
from tests import reference


def test_terms_are_mean_absolute_differences_of_each_layer():
    params = vgg_weights.random_vgg19(2)
    rng = np.random.default_rng(0)
    photograph, images = rng.uniform(0, 255, (2, 16, 16, 3)), rng.uniform(0, 255, (2, 3, 16, 16, 3))
    terms = jax.jit(layer_terms)(params, photograph.astype(np.float32), images.astype(np.float32))
    assert terms.shape == (2, 3, 6) and terms.dtype == np.float32
    real = reference.vgg19(params, photograph)
    for u in range(3):
        fake = reference.vgg19(params, images[:, u])
        expected = np.stack([np.abs(real[name] - fake[name]).mean((1, 2, 3)) for name in TAPS], -1)
        np.testing.assert_allclose(terms[:, u], expected, rtol=1e-4)


def test_equation_1_is_the_weighted_sum_and_equation_2_the_best_of_k():
    terms = np.array([[[1, 2, 3, 4, 5, 6]], [[0, 0, 0, 0, 0, 3]]], np.float32)
    weights = np.array([1, 1, 1, 1, 1, 10], np.float32)
    loss, chosen = perceptual_loss(terms, weights)
    assert loss == (75 + 30) / 2 and chosen.tolist() == [0.5, 1, 1.5, 2, 2.5, 4.5]
    collection = np.array([[[1, 2, 3, 4, 5, 6], [8, 0, 0, 0, 0, 1]]], np.float32)
    loss, chosen = perceptual_loss(collection, weights)
    assert loss == 18 and chosen.tolist() == [8, 0, 0, 0, 0, 1]


def test_identical_images_cost_nothing():
    params = vgg_weights.random_vgg19(2)
    photograph = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    terms = jax.jit(layer_terms)(params, photograph, photograph[:, None].repeat(3, 1))
    np.testing.assert_allclose(terms, 0, atol=1e-4)


def test_released_weights_are_the_programs_divisors():
    assert RELEASED_WEIGHTS["cityscapes_256p"] == (1, 1 / 1.6, 1 / 2.3, 1 / 1.8, 1 / 2.8, 10 / 0.8)
