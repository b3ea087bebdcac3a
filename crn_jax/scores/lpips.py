"""LPIPS, version 0.1: the perceptual distance of Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric" (CVPR 2018), section 3.

Published weights are two files: the linear ones of the metric and those of the network, torchvision's AlexNet or VGG-16.
Parameters: `{"layers": [{"kernel": [h, w, in, out], "bias": [out]}, ...], "linear": [[C], ...]}`; the shapes of the linear ones
tell which network it is.
"""

from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from crn_jax.errors import UserError
from crn_jax.formats.torch_file import expect, read_weights
from crn_jax.layers import exact_convolution


class Conv(NamedTuple):
    """A convolution and a ReLU, after a maximum over `pool` x `pool` pixels at stride 2, if any."""

    index: int  # in torchvision's Sequential
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0
    compared: bool = True


class Network(NamedTuple):
    name: str
    url: str
    smallest: int  # height and width
    layers: tuple[Conv, ...]


LINEAR_URL = "https://github.com/richzhang/PerceptualSimilarity/tree/master/lpips/weights/v0.1"
_NETWORKS = (
    Network("AlexNet", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", 31, (
        Conv(0, 64, 11, 4, 2), Conv(3, 192, 5, 1, 2, pool=3), Conv(6, 384, pool=3), Conv(8, 256), Conv(10, 256),
    )),
    Network("VGG-16", "https://download.pytorch.org/models/vgg16-397923af.pth", 16, (
        Conv(0, 64, compared=False), Conv(2, 64),
        Conv(5, 128, pool=2, compared=False), Conv(7, 128),
        Conv(10, 256, pool=2, compared=False), Conv(12, 256, compared=False), Conv(14, 256),
        Conv(17, 512, pool=2, compared=False), Conv(19, 512, compared=False), Conv(21, 512),
        Conv(24, 512, pool=2, compared=False), Conv(26, 512, compared=False), Conv(28, 512),
    )),
)  # fmt: skip
NETWORKS = {tuple(c.channels for c in network.layers if c.compared): network for network in _NETWORKS}
"""By the channels of the layers that are compared."""

_SHIFT, _SCALE = np.float32([-0.030, -0.088, -0.188]), np.float32([0.458, 0.448, 0.450])  # for images of -1..1
_EPSILON = 1e-10


def lpips(params: dict, a: jax.Array, b: jax.Array) -> jax.Array:
    """The distance of each of N pairs of images, `[N, H, W, 3]` twice, RGB, 0..255 -> float32 `[N]`.

    Raises:
      ValueError: if the images are smaller than the network can take (31x31 for AlexNet, 16x16 for VGG-16).
    """
    network = NETWORKS[tuple(map(len, params["linear"]))]
    if min(a.shape[1:3]) < network.smallest:
        raise ValueError(f"LPIPS by {network.name} takes images from {network.smallest}x{network.smallest} on, got {a.shape}.")
    x = jnp.concatenate([a, b]).astype(jnp.float32) / 127.5 - 1
    x = (x - _SHIFT[None, None, None]) / _SCALE[None, None, None]
    features = []
    for conv, layer in zip(network.layers, params["layers"]):
        x = nn.max_pool(x, (conv.pool, conv.pool), (2, 2)) if conv.pool else x
        x = exact_convolution(layer, x, conv.stride, [(conv.padding, conv.padding)] * 2)
        if conv.compared:
            features.append(x)
    return sum(_distance(x, weights) for x, weights in zip(features, params["linear"]))


def _distance(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Eq. 1 for one layer: `[2 N, h, w, C], [C] -> [N]`."""
    a, b = jnp.split(x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + _EPSILON), 2)
    return (jnp.square(a - b) * weights[None, None, None]).sum(-1).mean((1, 2))


def load_lpips(linear: str | Path, backbone: str | Path) -> dict:
    """Reads the two published files, or the same tensors from `.safetensors` files, into float32 NumPy arrays.

    Raises:
      UserError: naming the file, if it is missing or damaged, and the tensor, if the network is none of the two or not that of
        the other file.
    """
    tensors, keys = (
        read_weights(linear, f"Fetch alex.pth or vgg.pth from {LINEAR_URL}."),
        [f"lin{i}.model.1.weight" for i in range(5)],
    )
    channels = tuple(tensors[key].size for key in keys if key in tensors)
    if channels not in NETWORKS:
        known = " or ".join(map(str, NETWORKS))
        raise UserError(
            f"{linear}: these are not the linear weights of LPIPS: they have {channels} channels, expected {known}."
        )
    weights = [expect(tensors, key, (1, c, 1, 1), linear, "LPIPS").reshape(c) for key, c in zip(keys, channels)]
    network, layers, width = NETWORKS[channels], [], 3
    tensors = read_weights(backbone, f"Fetch {network.url}.")
    for conv in network.layers:
        name, shape = f"features.{conv.index}", (conv.channels, width, conv.kernel, conv.kernel)
        kernel = expect(tensors, f"{name}.weight", shape, backbone, network.name)
        bias = expect(tensors, f"{name}.bias", (conv.channels,), backbone, network.name)
        layers.append({"kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), "bias": bias})
        width = conv.channels
    return {"layers": layers, "linear": weights}


def network_name(params: dict) -> str:
    """AlexNet or VGG-16: whose features are compared."""
    return NETWORKS[tuple(map(len, params["linear"]))].name
