"""The Inception-V3 that defines the Fréchet Inception distance, up to its 2048 features.

It is the graph that TensorFlow published on 2015-12-05, as ported by pytorch-fid (its `InceptionV3` with `use_fid_inception`).
It differs from torchvision's network in three ways: averages leave the padding out, a maximum replaces the last average, and
the weights are others. The published file has 95,628,359 bytes, see `WEIGHTS_URL` and `PUBLISHED_SHA256`.

Parameters are a dict `{"Conv2d_1a_3x3": {"kernel": [h, w, in, out], "bias": [out]}, "Mixed_5b.branch1x1": ...}`. The norms are
folded into the convolutions.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8
from PIL import Image

from crn_jax.errors import UserError
from crn_jax.formats.torch_file import expect, read_weights
from crn_jax.layers import exact_convolution

WEIGHTS_URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIZE = 299
_CLASSES = 1008  # torchvision's own Inception has the same layers, but 1000 classes
_NORM, _EPSILON = ("weight", "bias", "running_mean", "running_var"), 1e-3


class Conv(NamedTuple):
    """A convolution without a bias, followed by a norm and a ReLU."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: Literal["SAME", "VALID"] = "SAME"


class Mixed(NamedTuple):
    """Several branches side by side. Its name is the prefix of their names."""

    name: str
    branches: tuple[tuple, ...]


def _halving(name: str, channels: int) -> Conv:
    return Conv(name, channels, (3, 3), 2, "VALID")


def _mixed_a(name: str, pooled: int) -> Mixed:
    branch5x5 = Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))
    double = Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))
    return Mixed(name, ((Conv("branch1x1", 64),), branch5x5, double, ("average", Conv("branch_pool", pooled))))


def _mixed_b(name: str) -> Mixed:
    double = Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), _halving("branch3x3dbl_3", 96)
    return Mixed(name, ((_halving("branch3x3", 384),), double, ("halve",)))


def _mixed_c(name: str, width: int) -> Mixed:
    row, column = (1, 7), (7, 1)
    branch7x7 = Conv("branch7x7_1", width), Conv("branch7x7_2", width, row), Conv("branch7x7_3", 192, column)
    widths, kernels = (width, width, width, width, 192), ((1, 1), column, row, column, row)
    double = tuple(Conv(f"branch7x7dbl_{i}", *layer) for i, layer in enumerate(zip(widths, kernels), 1))
    return Mixed(name, ((Conv("branch1x1", 192),), branch7x7, double, ("average", Conv("branch_pool", 192))))


def _mixed_d(name: str) -> Mixed:
    branch3x3 = Conv("branch3x3_1", 192), _halving("branch3x3_2", 320)
    branch7x7 = Conv("branch7x7x3_1", 192), Conv("branch7x7x3_2", 192, (1, 7)), Conv("branch7x7x3_3", 192, (7, 1))
    return Mixed(name, (branch3x3, (*branch7x7, _halving("branch7x7x3_4", 192)), ("halve",)))


def _mixed_e(name: str, pooling: Literal["average", "max"]) -> Mixed:
    def crossed(name: str) -> Mixed:
        return Mixed("", ((Conv(f"{name}a", 384, (1, 3)),), (Conv(f"{name}b", 384, (3, 1)),)))

    branch3x3 = Conv("branch3x3_1", 384), crossed("branch3x3_2")
    double = Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, (3, 3)), crossed("branch3x3dbl_3")
    return Mixed(name, ((Conv("branch1x1", 320),), branch3x3, double, (pooling, Conv("branch_pool", 192))))


NETWORK = (
    _halving("Conv2d_1a_3x3", 32), Conv("Conv2d_2a_3x3", 32, (3, 3), 1, "VALID"), Conv("Conv2d_2b_3x3", 64, (3, 3)), "halve",
    Conv("Conv2d_3b_1x1", 80), Conv("Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"), "halve",
    _mixed_a("Mixed_5b.", 32), _mixed_a("Mixed_5c.", 64), _mixed_a("Mixed_5d.", 64),
    _mixed_b("Mixed_6a."),
    _mixed_c("Mixed_6b.", 128), _mixed_c("Mixed_6c.", 160), _mixed_c("Mixed_6d.", 160), _mixed_c("Mixed_6e.", 192),
    _mixed_d("Mixed_7a."),
    _mixed_e("Mixed_7b.", "average"), _mixed_e("Mixed_7c.", "max"),
)  # fmt: skip
"""The layers, with their names in the published file."""

_POOLINGS = {
    "halve": lambda x: nn.max_pool(x, (3, 3), (2, 2)),
    "max": lambda x: nn.max_pool(x, (3, 3), padding="SAME"),
    "average": lambda x: nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False),
}


def inception_features(params: dict, images: Shaped[Array | np.ndarray, "N H W 3"]) -> Float[Array, "N 2048"]:
    """Returns the features of RGB images of any size, 0..255."""
    return inception_trunk(params, inception_input(images))


def inception_input(images: Shaped[Array | np.ndarray, "N H W 3"]) -> Float[Array, "N 299 299 3"]:
    """Resizes RGB images of 0..255 to the network's input of -1..1.

    Pixels are interpolated linearly between their centres, also where that leaves pixels out. This is torch's `interpolate`
    with neither `align_corners` nor `antialias`.
    """
    x = jnp.asarray(images, jnp.float32) / 255
    return 2 * jax.image.resize(x, (len(x), SIZE, SIZE, 3), "linear", antialias=False) - 1


def clean_input(images: UInt8[np.ndarray, "N H W 3"]) -> Float[np.ndarray, "N 299 299 3"]:
    """Resizes RGB images to the network's input as clean-fid does (Parmar et al. 2022, "On Aliased Resizing").

    Pillow's bicubic filter widens where it shrinks, so no pixel is left out. The result stays between 0 and 255, and is not
    rounded. clean-fid scales it by 128, where pytorch-fid's scale is 127.5.
    """

    def resized(plane: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(plane.astype(np.float32)).resize((SIZE, SIZE), Image.Resampling.BICUBIC))

    planes = [[resized(image[..., channel]) for channel in range(3)] for image in images]
    return (np.clip(np.moveaxis(np.array(planes, np.float32), 1, -1), 0, 255) - 128) / 128


def inception_trunk(params: dict, x: Float[Array, "N 299 299 3"]) -> Float[Array, "N 2048"]:
    """Returns the features of what `inception_input` gives."""
    return _run(params, NETWORK, "", x).mean((1, 2))


def _run(params: dict, steps: tuple, prefix: str, x: jax.Array) -> jax.Array:
    for step in steps:
        if isinstance(step, str):
            x = _POOLINGS[step](x)
        elif isinstance(step, Mixed):
            x = jnp.concatenate([_run(params, branch, prefix + step.name, x) for branch in step.branches], -1)
        else:
            x = exact_convolution(params[prefix + step.name], x, step.stride, step.padding)
    return x


def _add_shapes(shapes: dict, steps: tuple, prefix: str, channels: int) -> int:
    """Adds the shape of every kernel to `shapes`, and returns the number of output channels."""
    for step in steps:
        if isinstance(step, Mixed):
            channels = sum(_add_shapes(shapes, branch, prefix + step.name, channels) for branch in step.branches)
        elif isinstance(step, Conv):
            shapes[prefix + step.name] = (*step.kernel, channels, step.channels)
            channels = step.channels
    return channels


def kernel_shapes() -> dict[str, tuple[int, int, int, int]]:
    """Returns the kernel shape `(h, w, in, out)` of each of the 94 convolutions."""
    shapes: dict[str, tuple[int, int, int, int]] = {}
    _add_shapes(shapes, NETWORK, "", 3)
    return shapes


def load_inception(path: str | Path) -> dict:
    """Reads pytorch-fid's file, or the same tensors from a `.safetensors` file, into float32 NumPy arrays.

    Raises:
      UserError: if the file is missing or damaged, or if it holds another network. The message names the file and the tensor.
    """
    tensors, network = read_weights(path, f"Fetch {WEIGHTS_URL}.", [PUBLISHED_SHA256]), "the Inception-V3 of FID"
    params = {}
    expect(tensors, "fc.weight", (_CLASSES, 2048), path, network)
    for name, (h, w, c, d) in kernel_shapes().items():
        kernel = expect(tensors, f"{name}.conv.weight", (d, c, h, w), path, network)
        gain, bias, mean, variance = (expect(tensors, f"{name}.bn.{key}", (d,), path, network) for key in _NORM)
        if (variance < 0).any():
            raise UserError(f"{path}: the file is damaged: {name}.bn.running_var has negative variances. Fetch it again.")
        scale = gain / np.sqrt(variance + _EPSILON)
        params[name] = {"kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0) * scale), "bias": bias - mean * scale}
    return params
