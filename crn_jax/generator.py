"""A generator makes images of a layout. It is the cascade, or one of the baselines that the paper compares with it."""

import functools
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from crn_jax.boundaries import boundaries_of
from crn_jax.settings import Remat


@runtime_checkable  # so that the tests can check annotations
class Generator(Protocol):
    """The description of a generator, a frozen and hashable dataclass. `CascadeConfig` is the first example."""

    def __hash__(self) -> int: ...

    @property
    def num_classes(self) -> int:
        """The number of classes c of a layout, void included."""

    @property
    def boundaries(self) -> bool:
        """Whether instance boundaries are one more channel of the layout, after void."""

    @property
    def num_images(self) -> int:
        """The number k of images synthesized from one layout."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images that the generator is made for, in pixels."""

    @property
    def min_size(self) -> tuple[int, int]:
        """The smallest layout that fits, in pixels. Unless `fixed_size`, its multiples in height and width fit, too."""

    @property
    def fixed_size(self) -> bool:
        """Whether the generator makes images of `size` only, because its parameters depend on the size."""

    @property
    def mixes_batch(self) -> bool:
        """Whether the network's images would depend on the other layouts of a batch."""

    @property
    def largest_side(self) -> int | None:
        """The longest side of an image that the generator can make, in pixels. None: any."""

    @property
    def dtype(self) -> str:
        """The dtype of the convolutions, `float32` or `bfloat16`."""

    def network(self, remat: Remat = "none") -> nn.Module:
        """Returns the network from layouts `[B, H, W, C]` to images `[B, k, H, W, 3]` on the 0..255 scale."""


def generate(
    config: Generator, params: dict, layout: Float[Array, "B H W C"], remat: Remat = "none"
) -> Float[Array, "B {config.num_images} H W 3"]:
    """Returns g(L; θ): a layout's images, RGB on the 0..255 scale, not clipped. They do not depend on the rest of the batch."""
    network: Any = config.network(remat)  # Flax does not know what `apply` returns
    if config.mixes_batch:
        return jax.vmap(lambda one: network.apply({"params": params}, one[None])[0])(layout)
    return network.apply({"params": params}, layout)


def num_channels(config: Generator) -> int:
    """Returns the number C of a layout's channels: one for each class, and one for instance boundaries if there are any."""
    return config.num_classes + config.boundaries


def layout_of(
    config: Generator,
    class_ids: Integer[Array | np.ndarray, "B H W"],
    instance_ids: Integer[Array | np.ndarray, "B H W"] | None = None,
) -> Float[Array, "B H W C"]:
    """Returns class ids, and instance ids if the generator takes boundaries, as the layout that it takes, in float32.

    Raises:
      ValueError: if the generator takes boundaries and there are no instance ids, or the other way round.
    """
    if config.boundaries and instance_ids is None:
        raise ValueError("This generator takes instance boundaries, so it needs the instances of a layout, too.")
    if not config.boundaries and instance_ids is not None:
        raise ValueError("This generator was trained without instance boundaries. Leave the instances out.")
    classes = one_hot(config, class_ids)
    if instance_ids is None:
        return classes
    return jnp.concatenate([classes, boundaries_of(instance_ids)[..., None].astype(classes.dtype)], axis=-1)


def one_hot(config: Generator, layout: Integer[Array | np.ndarray, "B H W"]) -> Float[Array, "B H W {config.num_classes}"]:
    """Returns class ids as one channel for each class, in float32."""
    return jax.nn.one_hot(layout.astype(jnp.int32), config.num_classes)  # uint8 would wrap past 256 classes


def count_parameters(params: Any) -> int:
    """Returns the number of scalars in a tree of arrays, or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@functools.partial(jax.jit, static_argnums=0)
def init_params(config: Generator, key: Array) -> dict:
    """Returns fresh parameters: Xavier uniform kernels, zero biases, norms of scale 1 and bias 0 (the released program's).

    The smallest layout is enough. Either the shapes of parameters do not depend on its size, or `min_size` is the only size.
    """
    layout = jnp.zeros((1, *config.min_size, num_channels(config)))
    return config.network().init(key, layout)["params"]
