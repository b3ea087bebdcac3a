"""The perceptual loss of the paper (sections 3.3 and 3.4), on images of the 0..255 scale.

A *term* is the mean absolute difference of one VGG-19 layer. With λ_l = w_l / (number of elements of layer l), the summand
λ_l ‖Φ_l(I) − Φ_l(g)‖₁ of Eq. 1 is w_l times the term. The code works with the weights w, which do not depend on the
resolution. They start at 1, the paper's λ_l = 1/elements.

If k images are synthesized from a layout, only the best one counts: the best whole image (Eq. 2), or the best image for each
class (Eq. 3). The terms of a class weight each pixel's difference by the class's share of the pixel. Eq. 2 is Eq. 3 with one
region, the image; so all terms here are `[B, k, P, 6]` for P regions. The shares of a pixel sum to 1, and therefore the terms
of the regions sum to the image's.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from crn_jax.kernels.remat import rematerialized
from crn_jax.settings import RELEASED_WEIGHTS, LossConfig, Remat  # noqa: F401  # people's own configs have them from here
from crn_jax.vgg import less_mean, pool, vgg19_stage
from crn_jax.vgg_layers import STAGES, TAPS, Pooling


@dataclasses.dataclass(frozen=True)
class Perception:
    """How VGG-19 compares images."""

    pooling: Pooling = "average"
    """The pooling: average as the released program, or max as VGG-19 was trained with."""
    dtype: str = "float32"
    """The dtype of the convolutions. Differences are taken in float32."""
    remat: Remat = "none"
    """What the backward pass keeps. Unless it is `none`, the k images of a layout are compared one after the other."""
    depth: int = len(TAPS)
    """The number of layers that are compared, from the image on. Deeper ones are not computed, and their terms are 0."""


def layer_terms(
    vgg_params: dict,
    photograph: Num[Array, "B H W 3"],
    images: Float[Array, "B k H W 3"],
    masks: Float[Array, "B H W P"] | None = None,
    perception: Perception = Perception(),
) -> Float[Array, "B k P 6"]:
    """Computes the mean absolute difference of every layer in `TAPS`, for each synthesized image and region.

    Args:
      vgg_params: VGG-19's parameters.
      photograph: the reference I, 0..255. No gradient flows to it.
      images: the synthesized images g(L), 0..255.
      masks: each region's share of each pixel, such as the one-hot layout. None stands for one region, the image.
      perception: how the images are compared.

    Returns:
      The terms of each image and region, in float32. The terms of an image are the sum over its regions.
    """
    pooling, dtype, remat = perception.pooling, jnp.dtype(perception.dtype), perception.remat
    photograph = photograph.astype(jnp.promote_types(photograph.dtype, jnp.float32))
    taps = TAPS[1 : perception.depth]
    with jax.named_scope("photograph"):
        references = [less_mean(vgg_params, jax.lax.stop_gradient(photograph))]
        scaled = [masks]  # at each layer's resolution
        for tap in taps:
            references.append(vgg19_stage(vgg_params, references[-1].astype(dtype), tap, pooling))
            finer = scaled[-1]
            halved = references[-1].shape[1:3] != references[-2].shape[1:3]
            scaled.append(pool(finer, "average") if halved and finer is not None else finer)

    def stage(tap: str, x: Array, *constants) -> tuple[Array, Array]:
        params, reference, masks = jax.lax.stop_gradient(constants)
        x = vgg19_stage(params, x, tap, pooling)
        with jax.named_scope(f"term_{tap}"):
            return x, _term(x, reference, masks)

    def terms_of(images: Array) -> Array:  # [B, n, H, W, 3] -> [B, n, P, 6]
        x = less_mean(vgg_params, images.reshape(-1, *images.shape[2:]))
        with jax.named_scope("term_input"):
            terms = [_term(x, references[0], scaled[0])]
        x = x.astype(dtype)
        for tap, *compared in zip(taps, references[1:], scaled[1:]):
            params = {name: vgg_params[name] for name in STAGES[tap]}
            x, term = rematerialized(functools.partial(stage, tap), remat)(x, params, *compared)
            terms.append(term)
        terms += [jnp.zeros_like(terms[0])] * (len(TAPS) - len(terms))
        return jnp.stack(terms, axis=-1)

    if remat == "none" or images.shape[1] == 1:
        return terms_of(images)
    one_by_one = jax.checkpoint(lambda image: terms_of(image[:, None])[:, 0])
    return jnp.moveaxis(jax.lax.map(one_by_one, jnp.moveaxis(images, 1, 0)), 0, 1)


def _term(feature: Array, reference: Array, masks: Array | None) -> Array:
    """`[B n, h, w, C]`, `[B, h, w, C]`, `[B, h, w, P]` -> `[B, n, P]`."""
    exact = jnp.promote_types(feature.dtype, jnp.float32)
    feature = feature.reshape(reference.shape[0], -1, *feature.shape[1:])
    difference = jnp.abs(feature.astype(exact) - reference.astype(exact)[:, None])
    if masks is None:
        return difference.mean((2, 3, 4))[..., None]
    pixels = math.prod(difference.shape[2:4])
    return jnp.einsum("bnhw,bhwp->bnp", difference.mean(-1), masks.astype(exact), precision="highest") / pixels


def best_images(terms: Float[Array, "B k P 6"], weights: Float[Array, "6"]) -> Int[Array, "B P"]:
    """Returns, for each region, the index of the image with the least loss."""
    return jnp.sum(terms * weights[None, None, None], axis=-1).argmin(axis=1)


def perceptual_loss(
    terms: Float[Array, "B k P 6"], weights: Float[Array, "6"], mean_share: float = 0.0
) -> tuple[Float[Array, ""], Float[Array, "6"]]:
    """Computes the loss: Eq. 1 if k = 1, and else Eq. 2 (one region) or Eq. 3 (one region for each class).

    Args:
      terms: the terms from `layer_terms`.
      weights: the w_l.
      mean_share: the weight of the mean over all images, see `LossConfig`.

    Returns:
      The loss, and the terms that it weights. Both are sums over the regions and means over the batch.
    """
    # We take the minimum, not the chosen image's total, because the minimum's gradient depends on all totals. Then no
    # compiler begins a backward pass through VGG-19 before all forward passes are done, which would cost 1 GB at 1024x2048.
    totals = jnp.sum(terms * weights[None, None, None], axis=-1)
    choice = best_images(terms, weights)
    loss, counted = totals.min(1), jnp.take_along_axis(terms, choice[:, None, :, None], axis=1)[:, 0]
    if mean_share:
        loss = (1 - mean_share) * loss + mean_share * totals.mean(1)
        counted = (1 - mean_share) * counted + mean_share * terms.mean(1)
    return loss.sum(1).mean(), counted.sum(1).mean(0)
