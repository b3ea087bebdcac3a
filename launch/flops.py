"""Floating-point operations, counted from the configuration: two for each multiplication of a convolution, nothing else.

They are those of the mathematics, whatever algorithm computes it and however often: Winograd's form needs fewer,
rematerialization more.
"""

from crn_jax.cascade import CascadeConfig
from crn_jax.vgg import LAYERS


def forward_flops(config: CascadeConfig) -> int:
    """Synthesizing from one layout."""
    return sum(_convolutions(config))


def step_flops(config: CascadeConfig, batch_size: int = 1) -> int:
    """One training step: the cascade and VGG-19 forward and backward.

    A backward pass costs the forward pass again for each gradient that is needed: that by the kernels and that by the input,
    but for the first, which is the layout; of VGG-19 the latter alone, and none of its pass over the photograph.
    """
    convolutions = _convolutions(config)
    height, width = config.size
    vgg = 0
    for name, (c, d) in LAYERS.items():
        scale = 2 ** (int(name[4]) - 1)
        vgg += 2 * 9 * -(-height // scale) * -(-width // scale) * c * d
    return batch_size * (3 * sum(convolutions) - convolutions[0] + (2 * config.num_images + 1) * vgg)


def _convolutions(config: CascadeConfig) -> list[int]:
    """Of each convolution of the cascade, in order."""
    counts, features = [], 0
    for i, maps in enumerate(config.widths):
        pixels = config.base[0] * config.base[1] * 4**i
        counts += [2 * 9 * pixels * (features + config.num_classes) * maps, 2 * 9 * pixels * maps * maps]
        features = maps
    return counts + [2 * config.size[0] * config.size[1] * features * 3 * config.num_images]
