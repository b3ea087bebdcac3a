"""From layouts to images: the jitted `synthesize`."""

import functools
from typing import Any

import jax
import numpy as np

from crn_jax.generator import Generator, one_hot
from crn_jax.images import to_uint8


def synthesize(config: Generator, params: dict, layout_ids: jax.Array) -> jax.Array:
    """Synthesizes images: jitted, compiled once per config and shape.

    Args:
      config: the generator's (a cascade's, most often).
      params: its parameters.
      layout_ids: uint8 (uint16 past 256 classes) `[B, H, W]`, class indices, void last.

    Returns:
      uint8 `[B, k, H, W, 3]`, RGB.

    Raises:
      ValueError: if height or width do not fit the cascade (the message names the nearest sizes that do), if ids are no
        integers, or if one of a NumPy array is out of range; ids that are on a device already are not looked at.
    """
    if layout_ids.dtype.kind not in "iu":
        raise ValueError(f"Class indices are integers, not {layout_ids.dtype}.")
    if isinstance(layout_ids, np.ndarray) and layout_ids.size:
        for index in (layout_ids.min(), layout_ids.max()):
            if not 0 <= index < config.num_classes:
                raise ValueError(f"Class index {index} is out of range: this generator knows 0..{config.num_classes - 1}.")
    return _synthesize(config, params, layout_ids)


@functools.partial(jax.jit, static_argnums=0)
def _synthesize(config: Generator, params: dict, layout_ids: jax.Array) -> jax.Array:
    return to_uint8(config.network().apply({"params": params}, one_hot(config, layout_ids)))


def compile_synthesize(config: Generator, params: dict, shape: tuple[int, int, int], dtype: np.dtype) -> jax.stages.Compiled:
    """`synthesize` for layouts of one shape `[B, H, W]` and dtype, ahead of time: to be called with (params, layout_ids).

    Its `memory_analysis()` tells what that takes. Ids are not looked at.

    Raises:
      ValueError: if height or width do not fit the generator.
    """
    return _synthesize.lower(config, params, jax.ShapeDtypeStruct(shape, dtype)).compile()


def __getattr__(name: str) -> Any:
    """`load_run`, which this file held once. It lives in run.py, whose imports (Orbax, h5py) `synthesize` does not need."""
    if name == "load_run":
        from crn_jax.run import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
