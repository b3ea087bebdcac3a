"""DRN-D-105, the segmenter by which published figures on Cityscapes were measured: Yu, Koltun & Funkhouser, "Dilated Residual
Networks" (CVPR 2017), section 4, as https://github.com/fyu/drn has it (`DRNSeg` in segment.py, `drn_d_105` in drn.py).

A pixel of the output stands for 8x8 pixels of the image, because the last two groups of blocks widen their kernels in place of
halving the resolution. A fixed bilinear enlargement follows. Parameters are those of `residual.py`, by the names of the
published file.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from crn_jax.errors import UserError
from crn_jax.formats.torch_file import expect, read_weights
from crn_jax.scores.residual import Conv, Layer, bottlenecks, convolved, folded, run, scaled, shapes_of, with_names_of

WEIGHTS_URL = "http://go.yf.io/drn-cityscapes-models (drn-d-105_ms_cityscapes.pth)"
CLASSES = 19
"""The classes of Cityscapes in the order of its train ids, without void."""

_MEAN = np.array([0.29010095242892997, 0.32808144844279574, 0.28696394422942517], np.float32)
_STD = np.array([0.1829540508368939, 0.18656561047509476, 0.18447508988480435], np.float32)
_SCALE = 8


def _plain(group: int, inputs: int, channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> Conv:
    return Conv(f"base.{group}.0", f"base.{group}.1", inputs, channels, kernel, stride, dilation)


NETWORK: tuple[Layer, ...] = (
    _plain(0, 3, 16, 7), _plain(1, 16, 16), _plain(2, 16, 32, stride=2),
    *bottlenecks("base.3", 3, 32, 64, stride=2),
    *bottlenecks("base.4", 4, 256, 128, stride=2),
    *bottlenecks("base.5", 23, 512, 256, dilation=2),
    *bottlenecks("base.6", 3, 1024, 512, dilation=4),
    _plain(7, 2048, 512, dilation=2), _plain(8, 512, 512),
)  # fmt: skip
"""The layers before the classes, with their names in the published file."""

_TO_CLASSES = Conv("seg", "", 512, CLASSES)


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
    x = run(params, NETWORK, scaled(jnp.asarray(images, jnp.float32) / 255, _MEAN, _STD))
    return convolved(params, _TO_CLASSES, x)


def _bilinear() -> Float[np.ndarray, "16"]:
    """Returns the taps of the enlargement along one axis (`fill_up_weights` in segment.py)."""
    return (1 - np.abs(np.arange(2 * _SCALE) / _SCALE - (2 * _SCALE - 1) / (2 * _SCALE))).astype(np.float32)


def _enlargement(n: int) -> Float[np.ndarray, "{8*n} {n}"]:
    """Returns the matrix that enlarges n pixels eight times along one axis: a transposed convolution, stride 8, padding 4."""
    matrix = np.zeros((_SCALE * n + _SCALE, n), np.float32)
    for i in range(n):
        matrix[_SCALE * i : _SCALE * (i + 2), i] = _bilinear()
    return matrix[_SCALE // 2 : -_SCALE // 2]


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor of the published file that is used, in torch's order of axes."""
    return shapes_of([*NETWORK, _TO_CLASSES]) | {"up.weight": (CLASSES, 1, 2 * _SCALE, 2 * _SCALE)}


def load_drn(path: str | Path) -> dict:
    """Reads the published file, or the same tensors from a `.safetensors` file, into float32 NumPy arrays.

    The published file is in PyTorch's format of before 2020, and its publisher names no SHA-256. `read_torch_file` says how to
    record one beside the file.

    Raises:
      UserError: if the file is missing or damaged, or if it holds another network. The message names the file and the tensor.
    """
    network = "DRN-D-105 for Cityscapes"
    tensors = with_names_of(read_weights(path, f"Fetch it from {WEIGHTS_URL}."), NETWORK)
    params = folded(tensors, [*NETWORK, _TO_CLASSES], path, network)
    enlargement = expect(tensors, "up.weight", tensor_shapes()["up.weight"], path, network)
    if not np.allclose(enlargement[:, 0], np.outer(_bilinear(), _bilinear()), atol=1e-6):
        raise UserError(f"{path}: these are not the weights of {network}: up.weight is no bilinear enlargement.")
    return params
