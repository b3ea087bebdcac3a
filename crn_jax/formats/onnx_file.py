"""A generator as an ONNX model: class ids in, uint8 images out, for every program that runs ONNX.

The functions below say once more, in ONNX's operators, what the modules of the same names compute in JAX. ONNX keeps channels
before height and width, so that features are `[B, C, H, W]` here. Needs the package `onnx` (`pip install 'crn_jax[onnx]'`).
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from crn_jax.baselines.shapes import dilations, fitting
from crn_jax.errors import UserError
from crn_jax.files import require_text
from crn_jax.generator import Generator
from crn_jax.settings import CascadeConfig, EncoderDecoderConfig, FullResolutionConfig, GANConfig

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise UserError("ONNX files need the package onnx: pip install 'crn_jax[onnx]'") from error

OPSET = 17
"""The version of ONNX's operators. It is of 2022, so that older runtimes and browsers read the file, too."""

LARGEST_FILE = 2**31 - 2**20
"""The largest file in bytes, since protocol buffers end at 2 GiB. Weights of a larger model lie in a second file beside it."""


class Graph:
    """An ONNX graph under construction. A call adds a node, and returns the name of its output."""

    def __init__(self, half: bool):
        self.half = half
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node, such as `graph("Relu", x)`."""
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, value: Any, dtype: np.typing.DTypeLike = np.float32) -> str:
        """Adds an array, and returns its name."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def kernel(self, values: Any, axes: tuple[int, ...] = (3, 2, 0, 1)) -> str:
        """Adds a convolution's kernel, from Flax's order of axes to that of `Conv`, in the precision of the convolutions."""
        return self.constant(np.asarray(values).transpose(axes), np.float16 if self.half else np.float32)

    def per_channel(self, values: Any) -> str:
        """Adds an array `[C]` such that it is broadcast over height and width."""
        return self.constant(np.asarray(values)[:, None, None])

    def narrowed(self, x: str) -> str:
        """Returns x in the precision of the convolutions."""
        return self("Cast", x, to=TensorProto.FLOAT16) if self.half else x

    def widened(self, x: str) -> str:
        """Returns x in float32, in which norms and colours are computed."""
        return self("Cast", x, to=TensorProto.FLOAT) if self.half else x


# The layers


def conv3x3(graph: Graph, parts: list[str], layer: Mapping, dilation: int = 1) -> str:
    """`layers.Conv3x3` and `full_resolution.DilatedConv3x3`: the input is the concatenation of `parts`."""
    x = graph("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
    return graph("Conv", x, graph.kernel(layer["kernel"]), pads=[dilation] * 4, dilations=[dilation] * 2)


def normalized(graph: Graph, x: str, layer: Mapping, axes: tuple[int, ...], epsilon: float) -> str:
    """`layers.LayerNorm`, over the axes 1, 2, 3; `adversarial.BatchNorm`, over the axes 0, 2, 3."""
    x = graph.widened(x)
    centred = graph("Sub", x, graph("ReduceMean", x, axes=axes))
    variance = graph("ReduceMean", graph("Mul", centred, centred), axes=axes)
    deviation = graph("Sqrt", graph("Add", variance, graph.constant(epsilon)))
    slope = graph("Div", graph.per_channel(layer["scale"]), deviation)
    return graph.narrowed(graph("Add", graph("Mul", centred, slope), graph.per_channel(layer["bias"])))


def layer_norm(graph: Graph, x: str, layer: Mapping) -> str:
    """`layers.LayerNorm`, or `layers.Bias` where the layer has no scale."""
    if "scale" not in layer:
        return graph.narrowed(graph("Add", graph.widened(x), graph.per_channel(layer["bias"])))
    return normalized(graph, x, layer, (1, 2, 3), 1e-12)


def batch_norm(graph: Graph, x: str, layer: Mapping) -> str:
    """`adversarial.BatchNorm`, by the statistics of the batch."""
    return normalized(graph, x, layer, (0, 2, 3), 1e-5)


def leaky_relu(graph: Graph, x: str) -> str:
    """`flax.linen.leaky_relu` with the slope 0.2."""
    return graph("LeakyRelu", x, alpha=0.2)


def halve_area(graph: Graph, x: str) -> str:
    """`resize.halve_area`."""
    return graph("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])


def double_bilinear(graph: Graph, x: str, upsampling: str = "align_corners") -> str:
    """`resize.double_bilinear`."""
    scales = graph.constant([1, 1, 2, 2])
    return graph("Resize", x, "", scales, mode="linear", coordinate_transformation_mode=upsampling)


def projection(graph: Graph, x: str, layer: Mapping) -> str:
    """`layers.Projection`, a 1x1 convolution in float32."""
    kernel = graph.constant(np.asarray(layer["kernel"]).transpose(3, 2, 0, 1))
    return graph("Conv", graph.widened(x), kernel, graph.constant(layer["bias"]))


def to_uint8(graph: Graph, x: str, num_images: int) -> str:
    """`images.to_images` and `images.to_uint8`: `[B, 3k, H, W]` in -1..1 to `[B, k, H, W, 3]` in 0..255."""
    half = graph.constant(127.5)
    scaled = graph("Round", graph("Add", graph("Mul", x, half), half))
    levels = graph("Cast", graph("Clip", scaled, graph.constant(0), graph.constant(255)), to=TensorProto.UINT8)
    channels = graph("Transpose", levels, perm=[0, 2, 3, 1])
    apart = graph("Reshape", channels, graph.constant([0, 0, 0, 3, num_images], np.int64))  # 0 keeps B, H, W
    return graph("Transpose", apart, perm=[0, 4, 1, 2, 3])


def boundaries(graph: Graph, ids: str) -> str:
    """`boundaries.boundaries_of`: ids `[B, H, W]` to `[B, 1, H, W]`, 1 at boundaries."""

    def between(axis: int, start: int, end: int) -> str:
        return graph("Slice", ids, *(graph.constant([n], np.int64) for n in (start, end, axis)))

    end, differences = np.iinfo(np.int64).max, list[str]()
    for axis in (1, 2):
        without_last, without_first = between(axis, 0, -1), between(axis, 1, end)
        shifted = (between(axis, 0, 1), without_last), (without_first, between(axis, -1, end))
        differences += [graph("Not", graph("Equal", ids, graph("Concat", *parts, axis=axis))) for parts in shifted]
    whole = functools.reduce(lambda one, other: graph("Or", one, other), differences)
    return graph("Unsqueeze", graph("Cast", whole, to=TensorProto.FLOAT), graph.constant([1], np.int64))


# The networks: from a layout [B, C, H, W] to [B, 3k, H, W]


def cascade(graph: Graph, config: CascadeConfig, params: Mapping, layout: str, size: tuple[int, int]) -> str:
    """`cascade.Cascade`."""
    layouts = [graph.narrowed(layout)]
    for _ in config.widths[1:]:
        layouts.insert(0, halve_area(graph, layouts[0]))
    features, last = "", len(config.widths) - 1
    for i, layout in enumerate(layouts):
        module = params[f"module_{i}"]
        parts = [double_bilinear(graph, features, config.upsampling)] if i else []
        parts += [layout] if i == 0 or config.layout_at == "every" else []
        for n in (1, 2):
            x = conv3x3(graph, parts, module[f"conv{n}"])
            if not (config.variant == "paper" and (i, n) == (last, 2)):
                x = leaky_relu(graph, layer_norm(graph, x, module[f"norm{n}"]))
            parts = [x]
        features = x
    return projection(graph, features, params["to_rgb"])


def encoder_decoder(graph: Graph, config: EncoderDecoderConfig, params: Mapping, layout: str, size: tuple[int, int]) -> str:
    """`unet.EncoderDecoder`."""
    params = params["inside"]

    def block(parts: list[str], name: str) -> str:
        for n in (1, 2):
            x = conv3x3(graph, parts, params[f"{name}_conv{n}"])
            parts = [leaky_relu(graph, layer_norm(graph, x, params[f"{name}_norm{n}"]))]
        return parts[0]

    skips, x, last = [], graph.narrowed(layout), len(config.widths) - 1
    for i in range(last + 1):
        x = block([halve_area(graph, x) if i else x], f"encoder_{i}")
        skips.append(x)
    for i in reversed(range(last)):
        x = block([double_bilinear(graph, x), skips[i]], f"decoder_{i}")
    return projection(graph, x, params["to_output"])


def full_resolution(graph: Graph, config: FullResolutionConfig, params: Mapping, layout: str, size: tuple[int, int]) -> str:
    """`full_resolution.FullResolution`, whose dilations depend on the size."""
    params, x = params["inside"], graph.narrowed(layout)
    for i, dilation in enumerate(dilations(*size, config.layers)):
        x = conv3x3(graph, [x], params[f"conv_{i}"], dilation)
        x = leaky_relu(graph, layer_norm(graph, x, params[f"norm_{i}"]))
    return projection(graph, x, params["to_output"])


def adversarial(graph: Graph, config: GANConfig, params: Mapping, layout: str, size: tuple[int, int]) -> str:
    """`adversarial.Pix2PixGenerator` and `adversarial.DCGANGenerator`."""
    params = params["inside"]
    count = sum(name.startswith("encoder_") for name in params)
    widths: list[int] = [params[f"encoder_{i}"]["conv"]["kernel"].shape[-1] for i in range(count)]
    smallest = 1 if config.networks == "pix2pix" else 3
    assert fitting(tuple(widths), *size, smallest) == tuple(widths)
    encoded, last = [graph.narrowed(layout)], count - 1
    for i in range(count):
        layer = params[f"encoder_{i}"]
        x = graph("Conv", encoded[-1], graph.kernel(layer["conv"]["kernel"]), pads=[1] * 4, strides=[2, 2])
        encoded.append(leaky_relu(graph, batch_norm(graph, x, layer["norm"]) if "norm" in layer else x))

    x = graph("Relu", encoded.pop())
    for i in reversed(range(last)):
        layer = params[f"decoder_{i + 1}"]
        x = batch_norm(graph, transposed_conv4x4(graph, x, layer["kernel"]), layer["norm"])
        if config.networks == "pix2pix" and last - i <= 3:
            x = dropped(graph, x, (size[0] >> (i + 1), size[1] >> (i + 1), widths[i]))
        x = graph("Relu", graph("Concat", encoded[i + 1], x, axis=1) if config.networks == "pix2pix" else x)
    layer = params["decoder_0"]
    x = graph.widened(transposed_conv4x4(graph, x, layer["kernel"]))
    return graph("Tanh", graph("Add", x, graph.per_channel(layer["bias"])))


def transposed_conv4x4(graph: Graph, x: str, kernel: Any) -> str:
    """`adversarial.transposed_conv4x4`. ConvTranspose adds row a of a kernel to row 2i + a - 1, not 2i + 2 - a."""
    flipped = np.asarray(kernel)[::-1, ::-1]
    return graph("ConvTranspose", x, graph.kernel(flipped, (2, 3, 0, 1)), pads=[1] * 4, strides=[2, 2])


def dropped(graph: Graph, x: str, shape: tuple[int, int, int]) -> str:
    """Drops the half of x that synthesis drops, for a batch of one: see `adversarial._noise`."""
    kept = jax.random.bernoulli(jax.random.key(0), 0.5, (1, *shape))
    mask = graph.constant(np.asarray(kept).transpose(0, 3, 1, 2) * 2, np.float16 if graph.half else np.float32)
    return graph("Mul", x, mask)


NETWORKS: dict[type, Callable[..., str]] = {
    CascadeConfig: cascade,
    EncoderDecoderConfig: encoder_decoder,
    FullResolutionConfig: full_resolution,
    GANConfig: adversarial,
}


# The model


def onnx_model(
    config: Generator,
    params: Mapping,
    dtype: np.typing.DTypeLike,
    size: tuple[int, int] | None = None,
    *,
    half: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> "onnx.ModelProto":
    """Returns `synthesize` as an ONNX model, from `layout_ids` `[B, H, W]` to `images`, uint8 `[B, k, H, W, 3]`.

    If the generator takes instance boundaries, the second input are `instance_ids`, int32 `[B, H, W]`.

    The batch size is free, except for pix2pix, whose noise is drawn for a batch of one. Height and width are free for networks
    that make images of any multiple of `min_size`; the dilations of the full-resolution network and the parameters of the
    adversarial networks belong to one size.

    Args:
      config: the generator.
      params: its parameters.
      dtype: the dtype of the class ids.
      size: the height and the width of the layouts, in pixels. None: free where possible, else the generator's own.
      half: computes convolutions in float16, which halves the file. Norms and colours stay float32.
      metadata: texts to store in the model, by name.

    Raises:
      UserError: if the size does not fit the generator.
    """
    free = isinstance(config, CascadeConfig | EncoderDecoderConfig)
    height, width = chosen = size or config.size
    if min(chosen) < 1 or max(chosen) > (config.largest_side or max(chosen)):
        most = f", and at most {config.largest_side}" if config.largest_side else ""
        raise UserError(f"--size {height} {width} does not fit: both have to be at least 1{most}.")
    if config.fixed_size and chosen != config.size or height % config.min_size[0] or width % config.min_size[1]:
        fitting_sizes = "{}x{} only" if config.fixed_size else "multiples of {}x{}"
        fitting_size = config.size if config.fixed_size else config.min_size
        raise UserError(f"--size {height} {width} does not fit: this network makes {fitting_sizes.format(*fitting_size)}.")
    batch = 1 if config.mixes_batch else "batch"
    shape = [batch, "height", "width"] if free and size is None else [batch, *chosen]

    graph, elements = Graph(half), helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ids = graph("Cast", "layout_ids", to=TensorProto.INT64)
    depth, off_on = graph.constant(config.num_classes, np.int64), graph.constant([0, 1])
    layout = graph("OneHot", ids, depth, off_on, axis=1)
    if config.boundaries:
        layout = graph("Concat", layout, boundaries(graph, "instance_ids"), axis=1)
    to_uint8(graph, NETWORKS[type(config)](graph, config, params, layout, chosen), config.num_images)
    graph.nodes[-1].output[0] = "images"

    inputs = [helper.make_tensor_value_info("layout_ids", elements, shape, "Class ids.")]
    if config.boundaries:
        inputs.append(helper.make_tensor_value_info("instance_ids", TensorProto.INT32, shape, "Ids of instances."))
    outputs = [
        helper.make_tensor_value_info(
            "images", TensorProto.UINT8, [batch, config.num_images, *shape[1:], 3], "RGB images, k for each layout."
        )
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "synthesize", inputs, outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,  # that of the opset, so that runtimes of its time read the file
        producer_name="crn_jax",
    )
    helper.set_model_props(model, dict(metadata or {}))
    return model


def save_onnx(path: Path, model: "onnx.ModelProto", largest: int = LARGEST_FILE) -> None:
    """Checks a model in full and writes it. Weights of more than `largest` bytes go to a file beside `path`, and `model` itself
    then only says where they are.

    Whoever calls this lets no reader see the files before it returns.

    Raises:
      OSError: if a file cannot be written.
      UserError: if weights lie beside the file, and the path is no text, which onnx needs.
    """
    beside = model.ByteSize() > largest
    if not beside:
        onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path, save_as_external_data=beside, location=f"{path.name}.data", convert_attribute=False)
    if beside:
        onnx.checker.check_model(str(require_text(path)), full_check=True)
