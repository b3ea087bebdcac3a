"""DRN-D-105, the segmenter by which published figures on Cityscapes were measured: Yu, Koltun & Funkhouser, "Dilated Residual
Networks" (CVPR 2017), section 4, as https://github.com/fyu/drn has it (`DRNSeg` in segment.py, `drn_d_105` in drn.py).

A pixel of the output stands for 8x8 pixels of the image, because the last two groups of blocks widen their kernels in place of
halving the resolution. A fixed bilinear enlargement follows. Parameters are a dict `{"base.0.0": {"kernel": [h, w, in, out],
"bias": [out]}, "base.3.0.conv1": ..., "seg": ...}` by the names of the published file. The norms are folded into the
convolutions.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from crn_jax.errors import UserError
from crn_jax.formats.torch_file import expect, read_weights
from crn_jax.layers import DIMENSIONS

WEIGHTS_URL = "http://go.yf.io/drn-cityscapes-models (drn-d-105_ms_cityscapes.pth)"
CLASSES = 19
"""The classes of Cityscapes in the order of its train ids, without void."""

_MEAN = np.array([0.29010095242892997, 0.32808144844279574, 0.28696394422942517], np.float32)
_STD = np.array([0.1829540508368939, 0.18656561047509476, 0.18447508988480435], np.float32)
_NORM, _EPSILON = ("weight", "bias", "running_mean", "running_var"), 1e-5
_SCALE = 8


class Conv(NamedTuple):
    """A convolution and a norm. Its padding keeps the size, which the stride then divides."""

    name: str
    norm: str
    channels: int
    kernel: int
    stride: int = 1
    dilation: int = 1


class Bottleneck(NamedTuple):
    """Three convolutions beside a shortcut (He et al. 2016). The shortcut has a convolution only where the shape changes."""

    convolutions: tuple[Conv, Conv, Conv]
    shortcut: Conv | None


def _plain(group: int, channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> Conv:
    return Conv(f"base.{group}.0", f"base.{group}.1", channels, kernel, stride, dilation)


def _blocks(group: int, count: int, width: int, stride: int = 1, dilation: int = 1) -> Iterator[Bottleneck]:
    for i in range(count):
        name, step = f"base.{group}.{i}", stride if i == 0 else 1
        shapes = ((width, 1, 1, 1), (width, 3, step, dilation), (4 * width, 1, 1, 1))
        convolutions = [Conv(f"{name}.conv{n}", f"{name}.bn{n}", *shape) for n, shape in enumerate(shapes, 1)]
        shortcut = Conv(f"{name}.downsample.0", f"{name}.downsample.1", 4 * width, 1, step) if i == 0 else None
        yield Bottleneck((convolutions[0], convolutions[1], convolutions[2]), shortcut)


NETWORK: tuple[Conv | Bottleneck, ...] = (
    _plain(0, 16, 7), _plain(1, 16), _plain(2, 32, stride=2),
    *_blocks(3, 3, 64, 2), *_blocks(4, 4, 128, 2), *_blocks(5, 23, 256, dilation=2), *_blocks(6, 3, 512, dilation=4),
    _plain(7, 512, dilation=2), _plain(8, 512),
)  # fmt: skip
"""The layers before the classes, with their names in the published file."""


def drn_segment(params: dict, images: UInt8[Array | np.ndarray, "B H W 3"]) -> UInt8[Array, "B H W"]:
    """Returns the class that is most probable at each pixel of RGB images, 0 to 18. It never answers void."""
    return _segmented(params, images)


@jax.jit
def _segmented(params: dict, images: jax.Array) -> jax.Array:
    return drn_logits(params, images).argmax(-1).astype(jnp.uint8)


def drn_logits(params: dict, images: Shaped[Array | np.ndarray, "B H W 3"]) -> Float[Array, "B H W 19"]:
    """Returns the logits of RGB images of any size, 0..255.

    Where a side is no multiple of 8, the original's answer is larger than the image by up to 7 pixels. It is cut here.
    """
    coarse = coarse_logits(params, images)
    _, height, width, _ = images.shape
    rows, columns = (_enlargement(n) for n in coarse.shape[1:3])
    enlarged = jnp.einsum("yh,bhwc,xw->byxc", rows, coarse, columns, precision="highest")
    return enlarged[:, :height, :width]


def coarse_logits(params: dict, images: Shaped[Array | np.ndarray, "B H W 3"]) -> Float[Array, "B h w 19"]:
    """Returns the logits before they are enlarged, one for each 8x8 pixels."""
    x = (jnp.asarray(images, jnp.float32) / 255 - _MEAN[None, None, None]) / _STD[None, None, None]
    for layer in NETWORK:
        x = jax.nn.relu(_bottleneck(params, layer, x) if isinstance(layer, Bottleneck) else _convolved(params, layer, x))
    return _convolved(params, Conv("seg", "", CLASSES, 1), x)


def _bottleneck(params: dict, block: Bottleneck, x: jax.Array) -> jax.Array:
    first, second, third = block.convolutions
    y = jax.nn.relu(_convolved(params, first, x))
    y = jax.nn.relu(_convolved(params, second, y))
    return _convolved(params, third, y) + (_convolved(params, block.shortcut, x) if block.shortcut else x)


def _convolved(params: dict, conv: Conv, x: jax.Array) -> jax.Array:
    layer, reach = params[conv.name], conv.dilation * (conv.kernel // 2)
    y = jax.lax.conv_general_dilated(
        x,
        layer["kernel"],
        (conv.stride, conv.stride),
        [(reach, reach)] * 2,
        rhs_dilation=(conv.dilation, conv.dilation),
        dimension_numbers=DIMENSIONS,
        precision="highest",
    )
    return y + layer["bias"][None, None, None]


def _bilinear() -> Float[np.ndarray, "16"]:
    """Returns the taps of the enlargement along one axis (`fill_up_weights` in segment.py)."""
    return (1 - np.abs(np.arange(2 * _SCALE) / _SCALE - (2 * _SCALE - 1) / (2 * _SCALE))).astype(np.float32)


def _enlargement(n: int) -> Float[np.ndarray, "{8*n} {n}"]:
    """Returns the matrix that enlarges n pixels eight times along one axis: a transposed convolution, stride 8, padding 4."""
    matrix = np.zeros((_SCALE * n + _SCALE, n), np.float32)
    for i in range(n):
        matrix[_SCALE * i : _SCALE * (i + 2), i] = _bilinear()
    return matrix[_SCALE // 2 : -_SCALE // 2]


def _convolutions() -> Iterator[Conv]:
    for layer in NETWORK:
        if isinstance(layer, Conv):
            yield layer
        else:
            yield from layer.convolutions
            if layer.shortcut:
                yield layer.shortcut


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor of the published file that is used, in torch's order of axes."""
    shapes: dict[str, tuple[int, ...]] = {}
    width, outer = 3, 3
    for conv in _convolutions():
        # A block's shortcut begins where its first convolution begins.
        inputs = outer if ".downsample." in conv.name else width
        outer = width if conv.name.endswith(".conv1") else outer
        shapes[f"{conv.name}.weight"] = (conv.channels, inputs, conv.kernel, conv.kernel)
        shapes |= {f"{conv.norm}.{key}": (conv.channels,) for key in _NORM}
        width = conv.channels
    shapes |= {"seg.weight": (CLASSES, width, 1, 1), "seg.bias": (CLASSES,)}
    return shapes | {"up.weight": (CLASSES, 1, 2 * _SCALE, 2 * _SCALE)}


def load_drn(path: str | Path) -> dict:
    """Reads the published file, or the same tensors from a `.safetensors` file, into float32 NumPy arrays.

    The published file is in PyTorch's format of before 2020, and its publisher names no SHA-256. `read_torch_file` says how to
    record one beside the file.

    Raises:
      UserError: if the file is missing or damaged, or if it holds another network. The message names the file and the tensor.
    """
    tensors, network = read_weights(path, f"Fetch it from {WEIGHTS_URL}."), "DRN-D-105 for Cityscapes"
    found = {key: expect(tensors, key, shape, path, network) for key, shape in tensor_shapes().items()}
    if not np.allclose(found["up.weight"][:, 0], np.outer(_bilinear(), _bilinear()), atol=1e-6):
        raise UserError(f"{path}: these are not the weights of {network}: up.weight is no bilinear enlargement.")
    params = {"seg": {"kernel": _as_kernel(found["seg.weight"]), "bias": found["seg.bias"]}}
    for conv in _convolutions():
        gain, bias, mean, variance = (found[f"{conv.norm}.{key}"] for key in _NORM)
        if (variance < 0).any():
            raise UserError(f"{path}: the file is damaged: {conv.norm}.running_var has negative variances. Fetch it again.")
        scale = gain / np.sqrt(variance + _EPSILON)
        params[conv.name] = {"kernel": _as_kernel(found[f"{conv.name}.weight"]) * scale, "bias": bias - mean * scale}
    return params


def _as_kernel(weight: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
