"""The perceptual loss of the paper (section 3.3), on images of the 0..255 scale.

A *term* is the mean absolute difference of one VGG-19 layer: with λ_l = w_l / (number of elements of layer l), the summand
λ_l ‖Φ_l(I) − Φ_l(g)‖₁ of Eq. 1 is w_l times the term. The code works with the weights w, which do not depend on the
resolution; they start at 1, the paper's λ_l = 1/elements.
"""

import functools

import jax
import jax.numpy as jnp

from crn_jax.remat import Remat, rematerialized
from crn_jax.vgg import TAPS, Pooling, less_mean, vgg19_stage

RELEASED_WEIGHTS = {
    "cityscapes_256p": (1, 1 / 1.6, 1 / 2.3, 1 / 1.8, 1 / 2.8, 10 / 0.8),
    "cityscapes_512p": (1, 1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5),
    "gta_256p": (1, 1 / 1.4, 1 / 1.8, 1 / 1.3, 1 / 2.2, 10 / 0.62),
}
"""The weights w_l that the released programs contain as fixed divisors; 1024p uses those of 512p."""


def layer_terms(
    vgg_params: dict,
    photograph: jax.Array,
    images: jax.Array,
    pooling: Pooling = "average",
    dtype: jnp.dtype = jnp.float32,
    remat: Remat = "none",
) -> jax.Array:
    """Mean absolute difference of every layer in `TAPS`, for each synthesized image.

    Args:
      vgg_params: the perception network's parameters.
      photograph: the reference I, `[B, H, W, 3]`; no gradient flows to it.
      images: g(L), `[B, k, H, W, 3]`.
      pooling: of the perception network.
      dtype: of its convolutions; differences are taken in float32.
      remat: what the backward pass keeps.

    Returns:
      float32 `[B, k, 6]`.
    """
    b, k = images.shape[:2]

    def term(feature: jax.Array, reference: jax.Array) -> jax.Array:
        exact = jnp.promote_types(feature.dtype, jnp.float32)
        difference = feature.reshape(b, k, *feature.shape[1:]).astype(exact) - reference.astype(exact)[:, None]
        return jnp.abs(difference).mean((2, 3, 4))

    # Stage by stage, each with its term, so that no stage's features are kept until the last has been compared.
    def stage(tap: str, x: jax.Array, reference: jax.Array) -> tuple[jax.Array, jax.Array]:
        feature = vgg19_stage(vgg_params, x, tap, pooling)
        return feature, term(feature, reference)

    x = less_mean(vgg_params, images.reshape(b * k, *images.shape[2:]))
    reference = less_mean(vgg_params, jax.lax.stop_gradient(photograph))
    terms = [term(x, reference)]
    x, reference = x.astype(dtype), reference.astype(dtype)
    for tap in TAPS[1:]:
        reference = vgg19_stage(vgg_params, reference, tap, pooling)
        x, value = rematerialized(functools.partial(stage, tap), remat)(x, reference)
        terms.append(value)
    return jnp.stack(terms, axis=-1)


def perceptual_loss(terms: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eq. 1 for k = 1, Eq. 2 (the best of the k images) beyond.

    Args:
      terms: `[B, k, 6]`, from `layer_terms`.
      weights: `[6]`, the w_l.

    Returns:
      the loss [] and the best images' terms [6], both means over the batch.
    """
    totals = jnp.sum(terms * weights[None, None], axis=-1)
    best = jnp.take_along_axis(terms, totals.argmin(axis=1)[:, None, None], axis=1)
    return totals.min(axis=1).mean(), best.mean((0, 1))
