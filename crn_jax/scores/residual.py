"""Residual networks in inference, of which the segmenters that judge published figures are made: He et al., "Deep Residual
Learning for Image Recognition" (CVPR 2016).

A network is a list of convolutions and bottlenecks, which bear the names of the published files. Parameters are a dict
`{"layer1.0.conv1": {"kernel": [h, w, in, out], "bias": [out]}, ...}`. The norms are folded into the convolutions.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from crn_jax.errors import UserError
from crn_jax.formats.torch_file import expect
from crn_jax.layers import DIMENSIONS

_NORM, _EPSILON = ("weight", "bias", "running_mean", "running_var"), 1e-5


class Conv(NamedTuple):
    """A convolution. Its padding keeps the size, which the stride then divides. Without a norm, it has a bias."""

    name: str
    norm: str
    inputs: int
    channels: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1


class Bottleneck(NamedTuple):
    """Three convolutions beside a shortcut. The shortcut has a convolution only where the shape changes."""

    convolutions: tuple[Conv, Conv, Conv]
    shortcut: Conv | None


Layer = Conv | Bottleneck


def bottlenecks(group: str, count: int, inputs: int, width: int, stride: int = 1, dilation: int = 1) -> Iterator[Bottleneck]:
    """Yields a group of bottlenecks with the names of torchvision. The 3x3 convolution of the first one has the stride."""
    for i in range(count):
        name, step = f"{group}.{i}", stride if i == 0 else 1
        begins = inputs if i == 0 else 4 * width
        shortcut = Conv(f"{name}.downsample.0", f"{name}.downsample.1", begins, 4 * width, stride=step) if i == 0 else None
        convolutions = (
            Conv(f"{name}.conv1", f"{name}.bn1", begins, width),
            Conv(f"{name}.conv2", f"{name}.bn2", width, width, 3, step, dilation),
            Conv(f"{name}.conv3", f"{name}.bn3", width, 4 * width),
        )
        yield Bottleneck(convolutions, shortcut)


def scaled(
    images: Shaped[Array | np.ndarray, "B H W 3"], mean: Float[np.ndarray, "3"], deviation: Float[np.ndarray, "3"]
) -> Float[Array, "B H W 3"]:
    """Subtracts the mean of each channel and divides by its standard deviation, in float32."""
    return (jnp.asarray(images, jnp.float32) - mean[None, None, None]) / deviation[None, None, None]


def run(params: dict, layers: Iterable[Layer], x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    """Computes layers one after the other, each followed by a ReLU."""
    for layer in layers:
        x = jax.nn.relu(_bottleneck(params, layer, x) if isinstance(layer, Bottleneck) else convolved(params, layer, x))
    return x


def _bottleneck(params: dict, block: Bottleneck, x: jax.Array) -> jax.Array:
    first, second, third = block.convolutions
    y = run(params, (first, second), x)
    return convolved(params, third, y) + (convolved(params, block.shortcut, x) if block.shortcut else x)


def convolved(params: dict, conv: Conv, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    """Computes a convolution with its norm or bias, in float32 even where an accelerator's default is less precise."""
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


def interpolated(x: Float[Array, "B h w C"], size: Sequence[int]) -> Float[Array, "B H W C"]:
    """Resizes to a height and a width, linearly between the centres of pixels. It leaves pixels out where it shrinks.

    This is torch's `interpolate` with neither `align_corners` nor `antialias`.
    """
    return jax.image.resize(x, (len(x), *size, x.shape[-1]), "linear", antialias=False)


def convolutions_of(layers: Iterable[Layer]) -> Iterator[Conv]:
    """Yields every convolution of these layers."""
    for layer in layers:
        if isinstance(layer, Conv):
            yield layer
        else:
            yield from layer.convolutions
            if layer.shortcut:
                yield layer.shortcut


def shapes_of(layers: Iterable[Layer]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor of the published file that these layers use, in torch's order of axes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv in convolutions_of(layers):
        shapes[f"{conv.name}.weight"] = (conv.channels, conv.inputs, conv.kernel, conv.kernel)
        vectors = [f"{conv.norm}.{key}" for key in _NORM] if conv.norm else [f"{conv.name}.bias"]
        shapes |= dict.fromkeys(vectors, (conv.channels,))
    return shapes


def with_names_of(tensors: dict[str, np.ndarray], layers: Iterable[Layer]) -> dict[str, np.ndarray]:
    """Returns tensors under the names that these layers use, without a prefix that all of them have in the file.

    Programs that wrap a network put "module.", "base." and the like before its names.
    """
    first = f"{next(convolutions_of(layers)).name}.weight"
    found = [name for name in tensors if name == first or name.endswith(f".{first}")]
    prefix = min(found, key=len, default=first).removesuffix(first)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def folded(tensors: dict[str, np.ndarray], layers: Iterable[Layer], path: str | Path, network: str) -> dict:
    """Returns the parameters of these layers from the tensors of a file, in float32. Norms are folded into convolutions.

    Args:
      tensors: the tensors by the layers' names.
      layers: the layers.
      path: the file, for messages.
      network: what the file is expected to hold, for messages.

    Raises:
      UserError: if a tensor is missing or damaged, or has another shape. The message names the file and the tensor.
    """
    layers = list(layers)
    found = {key: expect(tensors, key, shape, path, network) for key, shape in shapes_of(layers).items()}
    params = {}
    for conv in convolutions_of(layers):
        kernel = np.ascontiguousarray(found[f"{conv.name}.weight"].transpose(2, 3, 1, 0))
        if not conv.norm:
            params[conv.name] = {"kernel": kernel, "bias": found[f"{conv.name}.bias"]}
            continue
        gain, bias, mean, variance = (found[f"{conv.norm}.{key}"] for key in _NORM)
        if (variance < 0).any():
            raise UserError(f"{path}: the file is damaged: {conv.norm}.running_var has negative variances. Fetch it again.")
        scale = gain / np.sqrt(variance + _EPSILON)
        params[conv.name] = {"kernel": kernel * scale, "bias": bias - mean * scale}
    return params
