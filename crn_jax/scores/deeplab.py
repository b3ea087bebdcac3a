"""DeepLabV2 with ResNet-101, the segmenter by which published figures on COCO-Stuff were measured: Chen et al., "DeepLab"
(TPAMI 2018), as https://github.com/kazuto1011/deeplab-pytorch has it (`DeepLabV2_ResNet101_MSC` in libs/models).

The network sees an image at three scales, and the largest logit counts at each place (`MSC`). A pixel of its output stands for
8x8 pixels of the image. Parameters are those of `residual.py`, by the names of the published file without "base.".
"""

import functools
import math
from collections.abc import Iterator
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from crn_jax.formats.torch_file import read_weights
from crn_jax.scores.residual import (
    Bottleneck,
    Conv,
    Layer,
    convolved,
    folded,
    interpolated,
    run,
    scaled,
    shapes_of,
    with_names_of,
)

WEIGHTS_URL = (
    "https://github.com/kazuto1011/deeplab-pytorch/releases/download/v1.0/deeplabv2_resnet101_msc-cocostuff164k-100000.pth"
)
CLASSES = 182
"""The classes of COCO-Stuff, numbered from 0 as in its layouts. Eleven of them never occur there."""

_MEAN_BGR = np.array([104.008, 116.669, 122.675], np.float32)
_SCALES, _RATES = (0.5, 0.75), (6, 12, 18, 24)


def _blocks(group: str, count: int, inputs: int, channels: int, stride: int = 1, dilation: int = 1) -> Iterator[Bottleneck]:
    """Yields a group of bottlenecks. As in Caffe, the first convolution of the first one has the stride."""

    def conv(block: str, part: str, *shape: int) -> Conv:
        return Conv(f"{block}.{part}.conv", f"{block}.{part}.bn", *shape)

    width = channels // 4
    for i in range(count):
        name, begins, step = f"{group}.block{i + 1}", *((inputs, stride) if i == 0 else (channels, 1))
        convolutions = (
            conv(name, "reduce", begins, width, 1, step),
            conv(name, "conv3x3", width, width, 3, 1, dilation),
            conv(name, "increase", width, channels),
        )
        yield Bottleneck(convolutions, conv(name, "shortcut", begins, channels, 1, step) if i == 0 else None)


_STEM = Conv("layer1.conv1.conv", "layer1.conv1.bn", 3, 64, 7, 2)
_TRUNK: tuple[Layer, ...] = (
    *_blocks("layer2", 3, 64, 256),
    *_blocks("layer3", 4, 256, 512, stride=2),
    *_blocks("layer4", 23, 512, 1024, dilation=2),
    *_blocks("layer5", 3, 1024, 2048, dilation=4),
)
_PYRAMID = tuple(Conv(f"aspp.c{i}", "", 2048, CLASSES, 3, 1, rate) for i, rate in enumerate(_RATES))
NETWORK: tuple[Layer, ...] = (_STEM, *_TRUNK, *_PYRAMID)
"""All layers, with their names in the published file. The last four see the same features, and are added (ASPP)."""


def deeplab_segment(params: dict, images: UInt8[Array | np.ndarray, "B H W 3"]) -> UInt8[Array, "B H W"]:
    """Returns the class that is most probable at each pixel of RGB images, 0 to 181. It never answers void."""
    return deeplab_logits(params, images).argmax(-1).astype(jnp.uint8)


def deeplab_logits(params: dict, images: Shaped[Array | np.ndarray, "B H W 3"]) -> Float[Array, "B H W 182"]:
    """Returns the logits of RGB images, 0..255, of any size from 2x2.

    The images are not resized, as in the program's `test`. Its demonstration alone resizes them, to 513 pixels.
    """
    return interpolated(coarse_logits(params, images), images.shape[1:3])


@jax.jit
def coarse_logits(params: dict, images: Shaped[Array | np.ndarray, "B H W 3"]) -> Float[Array, "B h w 182"]:
    """Returns the logits before they are enlarged, one for each 8x8 pixels."""
    x = scaled(images[..., ::-1], _MEAN_BGR, np.ones(3, np.float32))
    logits = _logits_at_one_scale(params, x)
    others = [_logits_at_one_scale(params, _shrunk(x, scale)) for scale in _SCALES]
    return functools.reduce(jnp.maximum, [interpolated(other, logits.shape[1:3]) for other in others], logits)


def _logits_at_one_scale(params: dict, x: jax.Array) -> jax.Array:
    x = run(params, [_STEM], x)
    # The last window of the pooling may reach beyond the edge (torch's `ceil_mode`).
    x = nn.max_pool(x, (3, 3), (2, 2), [(1, 2 - n % 2) for n in x.shape[1:3]])
    x = run(params, _TRUNK, x)
    return functools.reduce(jnp.add, [convolved(params, conv, x) for conv in _PYRAMID])


def _shrunk(x: jax.Array, scale: float) -> jax.Array:
    """Shrinks by a factor exactly, and cuts the part of a pixel that may be left over (torch's `scale_factor`)."""
    shape = (len(x), *(math.floor(n * scale) for n in x.shape[1:3]), x.shape[3])
    shift = jnp.zeros(2)
    return jax.image.scale_and_translate(x, shape, (1, 2), jnp.full(2, scale), shift, "linear", antialias=False)


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor of the published file that is used, in torch's order of axes."""
    return {f"base.{name}": shape for name, shape in shapes_of(NETWORK).items()}


def load_deeplab(path: str | Path) -> dict:
    """Reads the published file, or the same tensors from a `.safetensors` file, into float32 NumPy arrays.

    The published file is in PyTorch's format of before 2020, and its publisher names no SHA-256. `read_torch_file` says how to
    record one beside the file.

    Raises:
      UserError: if the file is missing or damaged, or if it holds another network. The message names the file and the tensor.
    """
    tensors = with_names_of(read_weights(path, f"Fetch it from {WEIGHTS_URL}."), NETWORK)
    return folded(tensors, NETWORK, path, "DeepLabV2-ResNet101 for COCO-Stuff")
