"""The variables of the released TensorFlow program and this project's parameters, as a table.

| released                         | here                       | for                                     |
|----------------------------------|----------------------------|-----------------------------------------|
| g_{height}_conv1/weights         | module_i/conv1/kernel      | height = 4, 8, ... of module i          |
| g_{height}_conv1/LayerNorm/gamma | module_i/norm1/scale       |                                         |
| g_{height}_conv1/LayerNorm/beta  | module_i/norm1/bias        | conv2 likewise                          |
| g_{last}_conv100/weights, biases | to_rgb/kernel, bias        | the projection to colour                |
"""

import re
from collections.abc import Mapping

import jax
import numpy as np

from crn_jax.cascade import CascadeConfig, init_params

_NAME = re.compile(r"g_(\d+)_conv(1|2|100)/(weights|biases|LayerNorm/gamma|LayerNorm/beta)")


def variable_names(heights: list[int]) -> dict[str, tuple[str, str, str] | tuple[str, str]]:
    """TensorFlow name -> path in the parameters, for modules working at these heights."""
    table = {}
    for i, height in enumerate(heights):
        for conv in (1, 2):
            module = f"module_{i}"
            table[f"g_{height}_conv{conv}/weights"] = (module, f"conv{conv}", "kernel")
            table[f"g_{height}_conv{conv}/LayerNorm/gamma"] = (module, f"norm{conv}", "scale")
            table[f"g_{height}_conv{conv}/LayerNorm/beta"] = (module, f"norm{conv}", "bias")
    table[f"g_{heights[-1]}_conv100/weights"] = ("to_rgb", "kernel")
    table[f"g_{heights[-1]}_conv100/biases"] = ("to_rgb", "bias")
    return table


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> CascadeConfig:
    """Reads widths, classes and k off the variables' shapes.

    Raises:
      ValueError: naming each variable that is missing, not one of a cascade's, or of a shape that does not fit.
    """
    heights = sorted({int(match[1]) for name in shapes if (match := _NAME.fullmatch(name))})
    if not heights:
        raise ValueError(f"No variable of a released cascade (g_4_conv1/weights, ...) among {sorted(shapes)[:5]}.")
    expected = variable_names([heights[0] * 2**i for i in range((heights[-1] // heights[0]).bit_length())])
    _refuse("missing", expected.keys() - shapes.keys())
    _refuse("not a cascade's", shapes.keys() - expected.keys())
    last = heights[-1]
    config = CascadeConfig(
        num_classes=shapes[f"g_{heights[0]}_conv1/weights"][2],
        widths=tuple(shapes[f"g_{height}_conv1/weights"][3] for height in heights),
        base=(heights[0], 2 * heights[0]),
        num_images=shapes[f"g_{last}_conv100/weights"][3] // 3,
        variant="authors",
    )
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    _refuse(
        "of an unexpected shape",
        [
            f"{name} {tuple(shapes[name])}, expected {_at(params, path).shape}"
            for name, path in expected.items()
            if tuple(shapes[name]) != _at(params, path).shape
        ],
    )
    return config


def cascade_from_variables(variables: Mapping[str, np.ndarray]) -> tuple[CascadeConfig, dict]:
    """Converts the generator variables of a released checkpoint, `{name: array}`, into a config and its parameters.

    Raises:
      ValueError: naming each variable that is missing, extra or misshapen.
    """
    config = config_from_shapes({name: array.shape for name, array in variables.items()})
    heights = [config.base[0] * 2**i for i in range(len(config.widths))]
    params = {}
    for name, path in variable_names(heights).items():
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = np.asarray(variables[name], np.float32)
    return config, params


def _at(tree, path: tuple[str, ...]):
    for key in path:
        tree = tree[key]
    return tree


def _refuse(what: str, names) -> None:
    if names:
        raise ValueError(f"Variables {what}: {'; '.join(sorted(names))}.")
