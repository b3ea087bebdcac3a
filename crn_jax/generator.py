"""A generator: what makes images of a layout, be it the cascade or what the paper compares it with."""

import functools
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from crn_jax.kernels.remat import Remat


class Generator(Protocol):
    """The shape of a generator: a frozen, hashable dataclass."""

    @property
    def num_classes(self) -> int:
        """Channels of the layout, void included."""

    @property
    def num_images(self) -> int:
        """Images k synthesized from one layout."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images that it is made for, in pixels."""

    @property
    def min_size(self) -> tuple[int, int]:
        """Height and width of the smallest layout that fits; those of others are multiples of it, unless `fixed_size`."""

    @property
    def fixed_size(self) -> bool:
        """Whether it makes images of `size` only, as its parameters depend on the size."""

    @property
    def dtype(self) -> str:
        """The dtype of its convolutions, `float32` or `bfloat16`."""

    def network(self, remat: Remat = "none") -> nn.Module:
        """The network, from a layout `[B, H, W, c]` to images `[B, k, H, W, 3]` on the 0..255 scale."""


def one_hot(config: Generator, layout: jax.Array) -> jax.Array:
    """Class ids `[B, H, W]` -> the generator's layout, float32 `[B, H, W, c]`."""
    return jax.nn.one_hot(layout.astype(jnp.int32), config.num_classes)  # uint8 would wrap past 256 classes


def count_parameters(params) -> int:
    """The number of scalars in a tree of arrays (or of their shapes)."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@functools.partial(jax.jit, static_argnums=0)
def init_params(config: Any, key: jax.Array) -> dict:
    """Fresh parameters: Xavier uniform kernels, zero biases, norms at scale 1 and bias 0 (as the released program).

    The config is a cascade's or, likewise with a `network()` and a `min_size`, a baseline's. Shapes do not depend on the
    resolution, so the smallest layout serves; where they do, as a GAN's, `min_size` is the size.
    """
    layout = jnp.zeros((1, *config.min_size, config.num_classes))
    return config.network().init(key, layout)["params"]
