"""Functions of a diverse collection, the k images of one layout (section 3.4 of the paper)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Num

from crn_jax.losses import Perception
from crn_jax.vgg import less_mean, vgg19_stage
from crn_jax.vgg_layers import TAPS


def assemble(
    images: Num[Array | np.ndarray, "*B k H W 3"],
    layout: Integer[Array | np.ndarray, "*B H W"],
    choice: Integer[Array | np.ndarray, "*B c"],
) -> Num[Array, "*B H W 3"]:
    """Returns the virtual image of Eq. 3, which shows each class as the image chosen for it does.

    Args:
      images: the k images of a layout, of any scale and dtype.
      layout: the class ids. Their range is not checked.
      choice: the index of the chosen image for each class. Its range is not checked.
    """
    shape = layout.shape
    chosen = jnp.take_along_axis(choice, layout.reshape(*shape[:-2], -1).astype(jnp.int32), axis=-1).reshape(shape)
    return jnp.take_along_axis(images, chosen[..., None, :, :, None], axis=-4).squeeze(-4)


def pairwise_terms(vgg_params: dict, images: Float[Array, "B k H W 3"], perception: Perception) -> Float[Array, "B 6"]:
    """Measures how far a collection's images (0..255) are apart: by the terms of `losses.py`, means over all pairs of images.

    The result is float32, and 0 for a collection whose images are all the same. All k images pass through VGG-19 at once,
    whatever `perception.remat` says: at 1024x2048 with k = 9, the features of conv1_2 alone take 4.8 GB in float32.
    """
    b, k = images.shape[:2]

    def mean_difference(features: Array) -> Array:
        features = features.reshape(b, k, *features.shape[1:])
        exact = jnp.promote_types(features.dtype, jnp.float32)

        def to_others(u: Array) -> Array:
            return jnp.abs(features.astype(exact) - features[:, u][:, None].astype(exact)).mean((2, 3, 4)).sum(1)

        return jax.lax.map(to_others, jnp.arange(k)).sum(0) / max(1, k * (k - 1))

    x = less_mean(vgg_params, images.reshape(b * k, *images.shape[2:]))
    terms = [mean_difference(x)]
    x = x.astype(perception.dtype)
    for tap in TAPS[1:]:
        x = vgg19_stage(vgg_params, x, tap, perception.pooling)
        terms.append(mean_difference(x))
    return jnp.stack(terms, axis=-1)
