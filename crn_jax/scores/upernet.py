"""UPerNet with ResNet-101, the segmenter by which published figures on ADE20K were measured: Xiao et al., "Unified Perceptual
Parsing for Scene Understanding" (ECCV 2018), as https://github.com/CSAILVision/semantic-segmentation-pytorch has it (`Resnet`
and `UPerNet` in models.py).

The encoder yields features at four resolutions. The decoder pools the deepest (PPM), adds each to the next finer one (FPN),
and classifies all of them together, at a quarter of the resolution. Parameters are those of `residual.py`, by the names of the
two published files.

There are two generations of weights, of one shape. The program of each prepares images in its own way. `Preparation` is this
way, and the weights tell theirs.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8
from PIL import Image

from crn_jax.formats.torch_file import read_weights
from crn_jax.scores.residual import (
    Conv,
    Layer,
    bottlenecks,
    convolved,
    folded,
    interpolated,
    run,
    scaled,
    shapes_of,
    with_names_of,
)

WEIGHTS_URL = "http://sceneparsing.csail.mit.edu/model/pytorch"
CLASSES = 150
"""The classes of ADE20K in the order of its ids 1 to 150, without void."""


class Preparation(NamedTuple):
    """How the program of one generation brings images to the network."""

    generation: str
    """The folder in which the weights are published."""
    shorter_sides: tuple[int, ...]
    """The sizes at which the network sees an image, by its shorter side in pixels. The probabilities are averaged."""
    bgr: bool
    """Whether the network sees blue, green and red, in place of red, green and blue."""
    mean: np.ndarray
    deviation: np.ndarray
    antialias: bool
    """Whether images that shrink are filtered (Pillow), or pixels are left out (OpenCV)."""


OF_2018 = Preparation(
    "baseline-resnet101-upernet", (450,), True, np.array([102.9801, 115.9465, 122.7717], np.float32), np.ones(3, np.float32),
    antialias=False,
)  # fmt: skip
"""Until August 2019. These are the weights that SPADE's users name (https://github.com/NVlabs/SPADE/issues/39)."""
OF_2019 = Preparation(
    "ade20k-resnet101-upernet", (300, 375, 450, 525, 600), False, 255 * np.array([0.485, 0.456, 0.406], np.float32),
    255 * np.array([0.229, 0.224, 0.225], np.float32), antialias=True,
)  # fmt: skip
"""Since August 2019."""
_LONGEST_SIDE, _MULTIPLE = 1000, 32
_LARGEST_GAIN = 8
"""Where inputs have a standard deviation of 1, the responses of a 3x3 convolution deviate by at most 27**0.5 = 5.2 times
the norm of its kernel. The inputs of 2018 have a deviation of some 60."""


class UPerNet(NamedTuple):
    """The parameters of a network, and how its program prepares images."""

    params: dict
    preparation: Preparation


def _conv(name: str, inputs: int, channels: int, kernel: int = 1) -> Conv:
    return Conv(f"{name}.0", f"{name}.1", inputs, channels, kernel)


_STEM = Conv("conv1", "bn1", 3, 64, 3, 2), Conv("conv2", "bn2", 64, 64, 3), Conv("conv3", "bn3", 64, 128, 3)
_GROUPS = (
    tuple(bottlenecks("layer1", 3, 128, 64)),
    tuple(bottlenecks("layer2", 4, 256, 128, stride=2)),
    tuple(bottlenecks("layer3", 23, 512, 256, stride=2)),
    tuple(bottlenecks("layer4", 3, 1024, 512, stride=2)),
)
ENCODER: tuple[Layer, ...] = (*_STEM, *(block for group in _GROUPS for block in group))
"""The layers of the encoder, with their names in its file."""

_BINS, _WIDTH = (1, 2, 3, 6), 512
_POOLED = tuple(_conv(f"ppm_conv.{i}", 2048, 512) for i in range(4))
_DEEPEST = _conv("ppm_last_conv", 2048 + 4 * 512, _WIDTH, 3)
_LATERAL = tuple(_conv(f"fpn_in.{i}", inputs, _WIDTH) for i, inputs in enumerate((256, 512, 1024)))
_MERGED = tuple(_conv(f"fpn_out.{i}.0", _WIDTH, _WIDTH, 3) for i in range(3))
_FUSED, _TO_CLASSES = _conv("conv_last.0", 4 * _WIDTH, _WIDTH, 3), Conv("conv_last.1", "", _WIDTH, CLASSES)
DECODER: tuple[Layer, ...] = (*_POOLED, _DEEPEST, *_LATERAL, *_MERGED, _FUSED, _TO_CLASSES)
"""The layers of the decoder, with their names in its file."""


def upernet_segment(network: UPerNet, images: UInt8[np.ndarray, "B H W 3"]) -> UInt8[np.ndarray, "B H W"]:
    """Returns the class that is most probable at each pixel of RGB images of any size, 0 to 149. It never answers void."""
    return most_probable(network.preparation, images, functools.partial(probabilities, network.params))


def most_probable(
    preparation: Preparation, images: UInt8[np.ndarray, "B H W 3"], compute: Callable[[np.ndarray, np.ndarray], Array]
) -> UInt8[np.ndarray, "B H W"]:
    """Averages the probabilities that `compute`, of images and of the same images as prepared, returns at each size."""
    total = sum(np.asarray(compute(images, prepared)) for prepared in prepared_at_each_size(preparation, images))
    return np.argmax(total, -1).astype(np.uint8)


def prepared_at_each_size(
    preparation: Preparation, images: UInt8[np.ndarray, "B H W 3"]
) -> Iterator[Float[np.ndarray, "B h w 3"]]:
    """Yields images as the network sees them, at each size."""
    for shorter in preparation.shorter_sides:
        size = network_size(images.shape[1:3], shorter)
        if preparation.antialias:
            resized = np.stack([np.asarray(Image.fromarray(x).resize(size[::-1], Image.Resampling.BILINEAR)) for x in images])
        else:
            resized = np.rint(interpolated(jnp.asarray(images, jnp.float32), size))
        resized = resized[..., ::-1] if preparation.bgr else resized
        yield np.asarray(scaled(resized, preparation.mean, preparation.deviation))


def network_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Returns the height and width to which images of a size are resized: multiples of 32 that keep the shape, nearly."""
    scale = min(shorter / min(size), _LONGEST_SIDE / max(size))
    height, width = (-(-int(n * scale) // _MULTIPLE) * _MULTIPLE for n in size)
    return height, width


def probabilities(
    params: dict, images: Shaped[Array | np.ndarray, "B H W 3"], prepared: Float[Array | np.ndarray, "B h w 3"]
) -> Float[Array, "B H W 150"]:
    """Returns the probability of each class at each pixel of images, which the network sees as they are prepared."""
    return jax.nn.softmax(interpolated(coarse_logits(params, jnp.asarray(prepared)), images.shape[1:3]))


@jax.jit
def coarse_logits(params: dict, x: Float[Array, "B h w 3"]) -> Float[Array, "B h/4 w/4 150"]:
    """Returns the logits of images as they are prepared, at a quarter of their resolution."""
    x = nn.max_pool(run(params, _STEM, x), (3, 3), (2, 2), [(1, 1), (1, 1)])
    features = []
    for group in _GROUPS:
        x = run(params, group, x)
        features.append(x)
    pooled = [run(params, [conv], _pooled(x, bins)) for conv, bins in zip(_POOLED, _BINS)]
    x = run(params, [_DEEPEST], jnp.concatenate([x, *pooled], -1))
    levels = [x]
    for i in (2, 1, 0):
        lateral = run(params, [_LATERAL[i]], features[i])
        x = lateral + interpolated(x, lateral.shape[1:3])
        levels.insert(0, run(params, [_MERGED[i]], x))
    finest = levels[0].shape[1:3]
    x = jnp.concatenate([interpolated(level, finest) for level in levels], -1)
    return convolved(params, _TO_CLASSES, run(params, [_FUSED], x))


def _pooled(x: jax.Array, bins: int) -> jax.Array:
    """Averages over bins x bins parts of the features, and enlarges the averages to the size of the features."""
    rows, columns = (_parts(n, bins) for n in x.shape[1:3])
    averages = jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns, precision="highest")
    return interpolated(averages, x.shape[1:3])


def _parts(n: int, bins: int) -> Float[np.ndarray, "{bins} {n}"]:
    """Returns the matrix that averages n pixels over bins, which overlap where n is no multiple (torch's adaptive pooling)."""
    matrix = np.zeros((bins, n), np.float32)
    for i in range(bins):
        begin, end = i * n // bins, -(-(i + 1) * n // bins)
        matrix[i, begin:end] = 1 / (end - begin)
    return matrix


def tensor_shapes() -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Returns the shape of each tensor that is used of the encoder's file and of the decoder's, in torch's order of axes."""
    return shapes_of(ENCODER), shapes_of(DECODER)


def load_upernet(encoder: str | Path, decoder: str | Path) -> UPerNet:
    """Reads the two published files, or the same tensors from `.safetensors` files, into float32 NumPy arrays.

    The published files are in PyTorch's format of before 2020, and their publisher names no SHA-256. `read_torch_file` says
    how to record one beside each file.

    Raises:
      UserError: if a file is missing or damaged, or if it holds another network. The message names the file and the tensor.
    """
    parts = []
    for part, path, layers in (("encoder", encoder, ENCODER), ("decoder", decoder, DECODER)):
        remedy = f"Fetch {part}_epoch_50.pth from {WEIGHTS_URL}/{OF_2019.generation}."
        parts.append(with_names_of(read_weights(path, remedy), layers))
    params = folded(parts[0], ENCODER, encoder, "UPerNet101's encoder for ADE20K")
    params |= folded(parts[1], DECODER, decoder, "UPerNet101's decoder for ADE20K")
    return UPerNet(params, preparation_of(parts[0]["conv1.weight"], parts[0]["bn1.running_var"]))


def preparation_of(kernel: Float[np.ndarray, "64 3 3 3"], variance: Float[np.ndarray, "64"]) -> Preparation:
    """Tells the generation by the first convolution and the variance of its responses, which the norm has recorded."""
    gain = np.sqrt(variance.astype(np.float64).mean() / np.square(kernel.astype(np.float64)).sum((1, 2, 3)).mean())
    return OF_2018 if gain > _LARGEST_GAIN else OF_2019
