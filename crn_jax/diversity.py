"""A diverse collection (section 3.4 of the paper): what its k images are together.

Images are float `[B, k, H, W, 3]` on the 0..255 scale, layouts `[B, H, W]` class ids.
"""

import jax
import jax.numpy as jnp

from crn_jax.losses import Perception
from crn_jax.vgg import TAPS, less_mean, vgg19_stage


def assemble(images: jax.Array, layout: jax.Array, choice: jax.Array) -> jax.Array:
    """The virtual image of Eq. 3: each class as the image chosen for it shows it.

    Args:
      images: `[..., k, H, W, 3]`.
      layout: class ids `[..., H, W]`.
      choice: an image's index for each class, int `[..., c]`.

    Returns:
      `[..., H, W, 3]`, in the dtype of the images. Neither the ids nor the choices are checked for their range.
    """
    shape = layout.shape
    chosen = jnp.take_along_axis(choice, layout.reshape(*shape[:-2], -1).astype(jnp.int32), axis=-1).reshape(shape)
    return jnp.take_along_axis(images, chosen[..., None, :, :, None], axis=-4).squeeze(-4)


def pairwise_terms(vgg_params: dict, images: jax.Array, perception: Perception) -> jax.Array:
    """How far a collection's images are from each other: the mean absolute difference of every layer in `TAPS`, over all pairs.

    All k images pass through VGG-19 at once, whatever `perception.remat` says: at 1024x2048, k = 9, in float32, conv1_2 alone
    has 4.8 GB of them.

    Returns:
      float32 `[B, 6]`, the first of pixels on the 0..255 scale; 0 for a collection that has collapsed.
    """
    b, k = images.shape[:2]

    def mean_difference(features: jax.Array) -> jax.Array:
        features = features.reshape(b, k, *features.shape[1:])
        exact = jnp.promote_types(features.dtype, jnp.float32)

        def to_others(u: jax.Array) -> jax.Array:
            return jnp.abs(features.astype(exact) - features[:, u][:, None].astype(exact)).mean((2, 3, 4)).sum(1)

        return jax.lax.map(to_others, jnp.arange(k)).sum(0) / max(1, k * (k - 1))

    x = less_mean(vgg_params, images.reshape(b * k, *images.shape[2:]))
    terms = [mean_difference(x)]
    x = x.astype(perception.dtype)
    for tap in TAPS[1:]:
        x = vgg19_stage(vgg_params, x, tap, perception.pooling)
        terms.append(mean_difference(x))
    return jnp.stack(terms, axis=-1)
