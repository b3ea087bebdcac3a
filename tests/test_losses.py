import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis.extra.numpy import arrays

from crn_jax import vgg_weights
from crn_jax.lambdas import LambdaConfig
from crn_jax.losses import Perception, layer_terms, perceptual_loss
from crn_jax.settings import RELEASED_WEIGHTS, LossConfig
from crn_jax.vgg_layers import TAPS
from tests.support import reference

pytestmark = pytest.mark.usefixtures("narrow_vgg19")


def test_terms_are_mean_absolute_differences_of_each_layer():
    params = vgg_weights.random_vgg19(2)
    rng = np.random.default_rng(0)
    photograph, images = rng.uniform(0, 255, (2, 16, 16, 3)), rng.uniform(0, 255, (2, 3, 16, 16, 3))
    terms = jax.jit(layer_terms)(params, photograph.astype(np.float32), images.astype(np.float32))
    assert terms.shape == (2, 3, 1, 6) and terms.dtype == np.float32
    real = reference.vgg19(params, photograph)
    for u in range(3):
        fake = reference.vgg19(params, images[:, u])
        expected = np.stack([np.abs(real[name] - fake[name]).mean((1, 2, 3)) for name in TAPS], -1)
        np.testing.assert_allclose(terms[:, u, 0], expected, rtol=1e-4)


def test_terms_by_class_and_their_gradient_whatever_is_kept():
    """Against the equation; and image by image, as remat has it, against all at once."""
    params = vgg_weights.random_vgg19(2)
    rng = np.random.default_rng(0)
    photograph, images = rng.uniform(0, 255, (2, 16, 32, 3)), rng.uniform(0, 255, (2, 3, 16, 32, 3))
    layout = np.eye(5)[rng.integers(0, 4, (2, 16, 32))]  # the last class is absent
    arguments = [jnp.float32(a) for a in (photograph, images, layout)]
    cotangent = rng.uniform(0, 1, (2, 3, 5, 6)).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def terms_and_gradient(remat, params, photograph, images, layout):
        terms, pull = jax.vjp(lambda images: layer_terms(params, photograph, images, layout, Perception(remat=remat)), images)
        return terms, pull(cotangent)[0]

    terms, gradient = terms_and_gradient("none", params, *arguments)
    for b in range(2):
        real = reference.vgg19(params, photograph[b : b + 1])
        fake = reference.vgg19(params, images[b])
        expected = reference.collection_terms([fake[name] for name in TAPS], [real[name][0] for name in TAPS], layout[b])
        np.testing.assert_allclose(terms[b], expected, rtol=1e-4)
    assert (np.asarray(terms)[:, :, 4] == 0).all()
    for remat in ("images", "full"):
        for got, wanted in zip(terms_and_gradient(remat, params, *arguments), (terms, gradient)):
            assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("depth", [1, 3])
def test_layers_behind_the_last_weight_are_not_computed(depth):
    """The terms of the others, and the gradient, are those of the whole network with the same weights."""
    params = vgg_weights.random_vgg19(2)
    rng = np.random.default_rng(0)
    photograph, images = (rng.uniform(0, 255, shape).astype(np.float32) for shape in ((1, 16, 16, 3), (1, 2, 16, 16, 3)))
    weights = np.array([1, 0, 0.5, 0, 0, 0]) * (np.arange(6) < depth)
    assert LambdaConfig(tuple(weights)).depth == depth

    def terms_and_gradient(params, photograph, images, perception):
        terms, pull = jax.vjp(lambda images: layer_terms(params, photograph, images, None, perception), images)
        return terms, pull(jnp.broadcast_to(jnp.float32(weights), terms.shape))[0]

    compiled = jax.jit(terms_and_gradient, static_argnums=3)
    (all_terms, expected), (terms, gradient) = (
        compiled(params, photograph, images, Perception(depth=count)) for count in (len(TAPS), depth)
    )
    np.testing.assert_allclose(terms[..., :depth], all_terms[..., :depth], rtol=1e-6)
    assert (np.asarray(terms)[..., depth:] == 0).all() and (np.asarray(all_terms) > 0).all()
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    assert ("conv" in compiled.lower(params, photograph, images, Perception(depth=depth)).as_text()) == (depth > 1)


@functools.partial(jax.jit, static_argnums=2)
def loss_and_gradient(terms, weights, mean_share):
    loss = jax.value_and_grad(lambda terms: perceptual_loss(terms, weights, mean_share)[0])
    return loss(terms), perceptual_loss(terms, weights, mean_share)[1]


def terms_and_weights(k, classes):
    """Draws whole numbers, for exact sums and for ties, as terms of two examples and weights. A class may be absent."""
    term = st.integers(0, 9).map(float)
    terms = arrays(np.float32, (2, k, classes, 6), elements=term)
    absent = arrays(np.bool_, (2, 1, classes, 1))
    weights = arrays(np.float32, 6, elements=st.integers(1, 4).map(float))
    return st.tuples(terms, absent, weights).map(lambda drawn: (np.where(drawn[1], 0, drawn[0]), drawn[2]))


@pytest.mark.parametrize("mean_share", [0.0, 0.125])
@hypothesis.settings(deadline=None)
@hypothesis.given(drawn=terms_and_weights(4, 3), permutation=st.permutations(range(4)))
def test_the_loss_of_a_collection(drawn, permutation, mean_share):
    terms, weights = drawn
    (loss, gradient), counted = loss_and_gradient(terms, weights, mean_share)
    assert loss == pytest.approx(np.mean([reference.equation_3(t, weights, mean_share) for t in terms]), rel=1e-6)
    assert counted @ weights == pytest.approx(float(loss), rel=1e-6)

    permuted, counted_then = loss_and_gradient(terms[:, permutation], weights, mean_share)
    assert permuted[0] == pytest.approx(float(loss), rel=1e-6)

    # The mean's part of the gradient reaches all images alike, the rest the winner of each class, or those that tie.
    losses = (terms * weights).sum(-1)
    share = np.asarray(gradient) / weights * len(terms)  # [B, k, P, 6], the same for all layers
    np.testing.assert_allclose(share, share[..., :1].repeat(6, -1), rtol=1e-5, atol=1e-6)
    of_mean = mean_share / terms.shape[1]
    won = losses == losses.min(1, keepdims=True)
    expected = of_mean + (1 - mean_share) * won / won.sum(1, keepdims=True)
    np.testing.assert_allclose(share[..., 0], expected, rtol=1e-5, atol=1e-6)


@hypothesis.settings(deadline=None)
@hypothesis.given(drawn=terms_and_weights(4, 3))
def test_equation_3_is_at_most_equation_2_and_with_one_image_both_are_equation_1(drawn):
    terms, weights = drawn
    by_class = loss_and_gradient(terms, weights, 0.0)[0][0]
    whole = loss_and_gradient(terms.sum(2, keepdims=True), weights, 0.0)[0][0]
    assert whole == pytest.approx(np.mean([reference.equation_2(t, weights) for t in terms]), rel=1e-6)
    assert by_class <= whole * (1 + 1e-6)
    one = terms[:, :1]
    equation_1 = (one * weights).sum((1, 2, 3)).mean()
    for mean_share in (0.0, 0.125):
        assert loss_and_gradient(one, weights, mean_share)[0][0] == pytest.approx(equation_1, rel=1e-6)
        assert loss_and_gradient(one.sum(2, keepdims=True), weights, mean_share)[0][0] == pytest.approx(equation_1, rel=1e-6)


def test_shares_of_the_mean_that_are_none_are_refused():
    with pytest.raises(ValueError, match="mean_share must lie between 0 and 1, got 1.5"):
        LossConfig(mean_share=1.5)


def test_identical_images_cost_nothing():
    params = vgg_weights.random_vgg19(2)
    photograph = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    terms = jax.jit(layer_terms)(params, photograph, photograph[:, None].repeat(3, 1))
    np.testing.assert_allclose(terms, 0, atol=1e-4)


def test_released_weights_are_the_programs_divisors():
    assert RELEASED_WEIGHTS["cityscapes_256p"] == (1, 1 / 1.6, 1 / 2.3, 1 / 1.8, 1 / 2.8, 10 / 0.8)
