"""LPIPS, version 0.1: the perceptual distance of Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric" (CVPR 2018), section 3.

The published weights are two files: the linear weights of the metric, and the weights of torchvision's AlexNet or VGG-16.
Parameters are `{"layers": [{"kernel": [h, w, in, out], "bias": [out]}, ...], "linear": [[C], ...]}`. The shapes of the linear
weights tell which network it is.
"""

from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from crn_jax.errors import UserError
from crn_jax.formats.torch_file import expect, read_weights
from crn_jax.layers import exact_convolution


class Conv(NamedTuple):
    """A convolution and a ReLU. If `pool` is not 0, a maximum over `pool` x `pool` pixels at stride 2 goes before."""

    number: int
    """The number of the layer in torchvision's Sequential."""
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0
    compared: bool = True
    """Whether the distance compares the output of this layer."""


class Network(NamedTuple):
    """A network whose features LPIPS compares."""

    name: str
    url: str
    smallest: int
    """The smallest height and width of images, in pixels."""
    layers: tuple[Conv, ...]


LINEAR_URL = "https://github.com/richzhang/PerceptualSimilarity/tree/master/lpips/weights/v0.1"
LINEAR_SHA256 = (
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",  # alex.pth
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",  # vgg.pth
)
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
"""The networks by the numbers of channels of the layers that are compared."""

_SHIFT, _SCALE = (np.array(rgb, np.float32) for rgb in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))  # for -1..1
_EPSILON = 1e-10


def lpips(
    params: dict, a: Shaped[Array | np.ndarray, "N H W 3"], b: Shaped[Array | np.ndarray, "N H W 3"]
) -> Float[Array, " N"]:
    """Measures the distance of each pair of RGB images, 0..255.

    Raises:
      ValueError: if the images are smaller than the network can take (31x31 for AlexNet, 16x16 for VGG-16).
    """
    network = NETWORKS[tuple(map(len, params["linear"]))]
    if min(a.shape[1:3]) < network.smallest:
        raise ValueError(
            f"LPIPS by {network.name} takes images of at least {network.smallest}x{network.smallest} pixels, got {a.shape}."
        )
    x = jnp.concatenate([a, b]).astype(jnp.float32) / 127.5 - 1
    x = (x - _SHIFT[None, None, None]) / _SCALE[None, None, None]
    features = []
    for conv, layer in zip(network.layers, params["layers"]):
        x = nn.max_pool(x, (conv.pool, conv.pool), (2, 2)) if conv.pool else x
        x = exact_convolution(layer, x, conv.stride, [(conv.padding, conv.padding)] * 2)
        if conv.compared:
            features.append(x)
    distances = [_distance(x, weights) for x, weights in zip(features, params["linear"])]
    return sum(distances[1:], distances[0])


def _distance(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Evaluates Eq. 1 for one layer: `[2 N, h, w, C], [C] -> [N]`."""
    a, b = jnp.split(x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + _EPSILON), 2)
    return (jnp.square(a - b) * weights[None, None, None]).sum(-1).mean((1, 2))


def load_lpips(linear: str | Path, backbone: str | Path) -> dict:
    """Reads the two published files, or the same tensors from `.safetensors` files, into float32 NumPy arrays.

    Raises:
      UserError: if a file is missing or damaged, if it holds neither AlexNet's nor VGG-16's weights, or if the files belong to
        different networks. The message names the file and the tensor.
    """
    tensors, keys = (
        read_weights(linear, f"Fetch alex.pth or vgg.pth from {LINEAR_URL}.", LINEAR_SHA256),
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
    digest = Path(network.url).stem.rpartition("-")[2]  # its first eight digits
    tensors = read_weights(backbone, f"Fetch {network.url}.", [digest])
    for conv in network.layers:
        name, shape = f"features.{conv.number}", (conv.channels, width, conv.kernel, conv.kernel)
        kernel = expect(tensors, f"{name}.weight", shape, backbone, network.name)
        bias = expect(tensors, f"{name}.bias", (conv.channels,), backbone, network.name)
        layers.append({"kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), "bias": bias})
        width = conv.channels
    return {"layers": layers, "linear": weights}


def network_name(params: dict) -> str:
    """Names the network whose features are compared: AlexNet or VGG-16."""
    return NETWORKS[tuple(map(len, params["linear"]))].name
