"""The variables of the authors' TensorFlow program, and the parameters of this project to which they correspond.

| released                         | here                       | meaning                                 |
|----------------------------------|----------------------------|-----------------------------------------|
| g_{height}_conv1/weights         | module_i/conv1/kernel      | module i has height 4, 8, ...           |
| g_{height}_conv1/LayerNorm/gamma | module_i/norm1/scale       |                                         |
| g_{height}_conv1/LayerNorm/beta  | module_i/norm1/bias        | conv2 has the same names as conv1       |
| g_{last}_conv100/weights, biases | to_rgb/kernel, bias        | the projection to colour                |

A checkpoint may also hold Adam's moments: {variable}/Adam is the first moment of a variable, {variable}/Adam_1 the second.
beta1_power and beta2_power are Adam's decays to the power of the steps done plus one.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from crn_jax.errors import UserError
from crn_jax.formats.tensorflow_checkpoint import read_index, read_variables
from crn_jax.generator import init_params
from crn_jax.settings import CascadeConfig

_LARGEST = 1 << 16  # height or number of feature maps; a released cascade has at most 1024
_NAME = re.compile(r"g_(\d{1,6})_conv(1|2|100)/(weights|biases|LayerNorm/gamma|LayerNorm/beta)")


def variable_names(heights: list[int]) -> dict[str, tuple[str, ...]]:
    """Returns, for modules that work at these heights, each variable's name and its parameter's path."""
    table: dict[str, tuple[str, ...]] = {}
    for i, height in enumerate(heights):
        for conv in (1, 2):
            module = f"module_{i}"
            table[f"g_{height}_conv{conv}/weights"] = (module, f"conv{conv}", "kernel")
            table[f"g_{height}_conv{conv}/LayerNorm/gamma"] = (module, f"norm{conv}", "scale")
            table[f"g_{height}_conv{conv}/LayerNorm/beta"] = (module, f"norm{conv}", "bias")
    table[f"g_{heights[-1]}_conv100/weights"] = ("to_rgb", "kernel")
    table[f"g_{heights[-1]}_conv100/biases"] = ("to_rgb", "bias")
    return table


def config_from_shapes(shapes: Mapping[str, Sequence[int]]) -> CascadeConfig:
    """Derives the widths, the classes and k from the shapes of the variables.

    Raises:
      ValueError: if a variable is missing, unknown, or of a shape that does not fit; the message names each.
    """
    heights = sorted({int(match[1]) for name in shapes if (match := _NAME.fullmatch(name))})
    if not heights:
        raise ValueError(
            f"No variable of a released cascade (g_4_conv1/weights, ...) is there; the first names are {sorted(shapes)[:5]}."
        )
    if heights[0] < 1 or heights[-1] > _LARGEST:
        raise ValueError(f"The modules work at heights from {heights[0]} to {heights[-1]}, expected 1 to {_LARGEST:,}.")
    expected = variable_names([heights[0] * 2**i for i in range((heights[-1] // heights[0]).bit_length())])
    _refuse("missing", expected.keys() - shapes.keys())
    _refuse("unknown", shapes.keys() - expected.keys())
    ranks = {name: 4 if path[-1] == "kernel" else 1 for name, path in expected.items()}
    _refuse(
        "of a wrong shape",
        [
            f"{name} has {tuple(shapes[name])}, expected {rank} size{'s' * (rank > 1)} from 1 to {_LARGEST:,}"
            for name, rank in ranks.items()
            if len(shapes[name]) != rank or not all(1 <= size <= _LARGEST for size in shapes[name])
        ],
    )
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
        "of a wrong shape",
        [
            f"{name} has {tuple(shapes[name])}, expected {_at(params, path).shape}"
            for name, path in expected.items()
            if tuple(shapes[name]) != _at(params, path).shape
        ],
    )
    return config


def cascade_from_variables(variables: Mapping[str, np.ndarray]) -> tuple[CascadeConfig, dict]:
    """Converts the generator's variables in a released checkpoint, `{name: array}`, into a config and parameters.

    Raises:
      ValueError: if a variable is missing, unknown, or of a shape that does not fit; the message names each.
    """
    config = config_from_shapes({name: array.shape for name, array in variables.items()})
    leaves = {path: np.asarray(variables[name], np.float32) for name, path in variable_names(_heights(config)).items()}
    return config, flax.traverse_util.unflatten_dict(leaves)


_MOMENTS = ("Adam", "Adam_1")
_POWERS = {"beta1_power": 0.9, "beta2_power": 0.999}
_FULLY_GROWN = 100_000  # steps after which 1 - 0.999^steps is 1 in float32


def load_released(prefix: str | Path) -> tuple[CascadeConfig, dict, dict[str, optax.ScaleByAdamState]]:
    """Reads a checkpoint of the authors' program, such as result_512p/model.ckpt.

    Returns:
      the config, the parameters, and Adam's moments for those parts whose moments the checkpoint contains.

    Raises:
      UserError: if the files are missing or damaged, or are not the checkpoint of a cascade.
    """
    index = read_index(prefix)
    own = [name for name in index if not _is_optimizers(name)]
    try:
        config_from_shapes({name: index[name].shape for name in own})  # before a gigabyte is read
        values = read_variables(prefix, index)
        _refuse("with numbers that are not finite", [name for name in values if not np.isfinite(values[name]).all()])
        config, params = cascade_from_variables({name: values[name] for name in own})
        return config, params, _moments(config, values)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{prefix}: this is not a checkpoint of a released cascade. {error}") from error


def _is_optimizers(name: str) -> bool:
    variable, _, slot = name.rpartition("/")
    return name in _POWERS or (slot in _MOMENTS and _NAME.fullmatch(variable) is not None)


def _moments(config: CascadeConfig, values: Mapping[str, np.ndarray]) -> dict[str, optax.ScaleByAdamState]:
    """Returns Adam's moments for each part of which every variable has both moments."""
    table = variable_names(_heights(config))
    parts = dict.fromkeys(path[0] for path in table.values())
    for name, path in table.items():
        if any(f"{name}/{slot}" not in values for slot in _MOMENTS):
            parts.pop(path[0], None)
    count = jnp.asarray(_steps_done(values), jnp.int32)
    means, squares = (
        flax.traverse_util.unflatten_dict({path: values[f"{name}/{slot}"] for name, path in table.items() if path[0] in parts})
        for slot in _MOMENTS
    )
    return {part: optax.ScaleByAdamState(count, means[part], squares[part]) for part in parts}


def _steps_done(values: Mapping[str, np.ndarray]) -> int:
    """Returns the steps done, from the powers of Adam's decays; `_FULLY_GROWN` once these have vanished."""
    for name, decay in reversed(_POWERS.items()):
        power = float(values.get(name, 0))
        if power > np.finfo(np.float32).tiny:
            return max(0, round(math.log(power) / math.log(np.float32(decay))) - 1)
    return _FULLY_GROWN


def _heights(config: CascadeConfig) -> list[int]:
    return [config.base[0] * 2**i for i in range(len(config.widths))]


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _refuse(what: str, names: Collection[str]) -> None:
    if names:
        raise ValueError(f"Variables {what}: {'; '.join(sorted(names))}.")
