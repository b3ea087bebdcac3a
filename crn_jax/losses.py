"""The perceptual loss of the paper (sections 3.3 and 3.4), on images of the 0..255 scale.

A *term* is the mean absolute difference of one VGG-19 layer: with λ_l = w_l / (number of elements of layer l), the summand
λ_l ‖Φ_l(I) − Φ_l(g)‖₁ of Eq. 1 is w_l times the term. The code works with the weights w, which do not depend on the
resolution; they start at 1, the paper's λ_l = 1/elements.

With k images a layout, the best counts: of whole images (Eq. 2), or of each class (Eq. 3), whose terms weight each pixel's
difference by that class's share of the pixel. Eq. 2 is Eq. 3 with one region, the image, so all terms here are `[B, k, P, 6]`
with P regions. The shares of a pixel sum to 1; so the regions' terms sum to the image's.
"""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp

from crn_jax.kernels.remat import Remat, rematerialized
from crn_jax.vgg import STAGES, TAPS, Pooling, less_mean, pool, vgg19_stage

RELEASED_WEIGHTS = {
    "cityscapes_256p": (1, 1 / 1.6, 1 / 2.3, 1 / 1.8, 1 / 2.8, 10 / 0.8),
    "cityscapes_512p": (1, 1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5),
    "gta_256p": (1, 1 / 1.4, 1 / 1.8, 1 / 1.3, 1 / 2.2, 10 / 0.62),
}
"""The weights w_l that the released programs contain as fixed divisors; 1024p uses those of 512p."""


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What counts of a collection of k images; with k = 1 all choices are Eq. 1."""

    best_per: Literal["image", "class"] = "image"
    """The best whole image (Eq. 2), or for each class of the layout the image that shows it best (Eq. 3)."""
    mean_share: float = 0.0
    """Of the mean over all k images; the rest is the best's. The released program: 0.001, so that none is ever forgotten."""

    def __post_init__(self):
        if not 0 <= self.mean_share <= 1:
            raise ValueError(f"mean_share must lie between 0 and 1, got {self.mean_share}.")


@dataclasses.dataclass(frozen=True)
class Perception:
    """How images are compared by VGG-19."""

    pooling: Pooling = "average"
    """average as the released program, or max as VGG-19 was trained with."""
    dtype: str = "float32"
    """The dtype of the convolutions; differences are taken in float32."""
    remat: Remat = "none"
    """What the backward pass keeps. But for `none`, the images of a layout are compared one after the other."""


def layer_terms(
    vgg_params: dict,
    photograph: jax.Array,
    images: jax.Array,
    masks: jax.Array | None = None,
    perception: Perception = Perception(),
) -> jax.Array:
    """Mean absolute difference of every layer in `TAPS`, for each synthesized image and region.

    Args:
      vgg_params: VGG-19's parameters.
      photograph: the reference I, `[B, H, W, 3]`; no gradient flows to it.
      images: g(L), `[B, k, H, W, 3]`.
      masks: each region's share of each pixel, `[B, H, W, P]`, such as the one-hot layout; None: one region, the image.
      perception: how they are compared.

    Returns:
      float32 `[B, k, P, 6]`; an image's terms are their sum over the regions.
    """
    pooling, dtype, remat = perception.pooling, jnp.dtype(perception.dtype), perception.remat
    photograph = photograph.astype(jnp.promote_types(photograph.dtype, jnp.float32))
    references = [less_mean(vgg_params, jax.lax.stop_gradient(photograph))]
    scaled = [masks]
    for tap in TAPS[1:]:
        references.append(vgg19_stage(vgg_params, references[-1].astype(dtype), tap, pooling))
        halved = masks is not None and references[-1].shape[1:3] != references[-2].shape[1:3]
        scaled.append(pool(scaled[-1], "average") if halved else scaled[-1])

    def stage(tap: str, x: jax.Array, *constants) -> tuple[jax.Array, jax.Array]:
        params, reference, masks = jax.lax.stop_gradient(constants)
        x = vgg19_stage(params, x, tap, pooling)
        return x, _term(x, reference, masks)

    def terms_of(images: jax.Array) -> jax.Array:  # [B, n, H, W, 3] -> [B, n, P, 6]
        x = less_mean(vgg_params, images.reshape(-1, *images.shape[2:]))
        terms = [_term(x, references[0], scaled[0])]
        x = x.astype(dtype)
        for tap, *compared in zip(TAPS[1:], references[1:], scaled[1:]):
            params = {name: vgg_params[name] for name in STAGES[tap]}
            x, term = rematerialized(functools.partial(stage, tap), remat)(x, params, *compared)
            terms.append(term)
        return jnp.stack(terms, axis=-1)

    if remat == "none" or images.shape[1] == 1:
        return terms_of(images)
    one_by_one = jax.checkpoint(lambda image: terms_of(image[:, None])[:, 0])
    return jnp.moveaxis(jax.lax.map(one_by_one, jnp.moveaxis(images, 1, 0)), 0, 1)


def _term(feature: jax.Array, reference: jax.Array, masks: jax.Array | None) -> jax.Array:
    """`[B n, h, w, C]`, `[B, h, w, C]`, `[B, h, w, P]` -> `[B, n, P]`."""
    exact = jnp.promote_types(feature.dtype, jnp.float32)
    feature = feature.reshape(reference.shape[0], -1, *feature.shape[1:])
    difference = jnp.abs(feature.astype(exact) - reference.astype(exact)[:, None])
    if masks is None:
        return difference.mean((2, 3, 4))[..., None]
    pixels = math.prod(difference.shape[2:4])
    return jnp.einsum("bnhw,bhwp->bnp", difference.mean(-1), masks.astype(exact), precision="highest") / pixels


def best_images(terms: jax.Array, weights: jax.Array) -> jax.Array:
    """The image with the least loss, of each region: terms `[B, k, P, 6]`, weights `[6]` -> int32 `[B, P]`."""
    return jnp.sum(terms * weights[None, None, None], axis=-1).argmin(axis=1)


def perceptual_loss(terms: jax.Array, weights: jax.Array, mean_share: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Eq. 1 for k = 1; beyond, Eq. 2 for one region and Eq. 3 for one a class, mixed with the mean over the images.

    Args:
      terms: `[B, k, P, 6]`, from `layer_terms`.
      weights: `[6]`, the w_l.
      mean_share: of the mean, see `LossConfig`.

    Returns:
      the loss [] and the terms [6] that it weights, sums over the regions; both means over the batch.
    """
    # The minimum is more than the choice's total: its gradient depends on all of them, so that a compiler cannot begin the
    # backward pass in one stage of VGG-19 before the forward pass is done, which costs 1 GB at 1024x2048.
    totals = jnp.sum(terms * weights[None, None, None], axis=-1)
    choice = best_images(terms, weights)
    loss, counted = totals.min(1), jnp.take_along_axis(terms, choice[:, None, :, None], axis=1)[:, 0]
    if mean_share:
        loss = (1 - mean_share) * loss + mean_share * totals.mean(1)
        counted = (1 - mean_share) * counted + mean_share * terms.mean(1)
    return loss.sum(1).mean(), counted.sum(1).mean(0)
