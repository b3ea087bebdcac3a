"""The function `synthesize`, which turns layouts into images."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Integer, UInt8

from crn_jax.generator import Generator, generate, one_hot
from crn_jax.images import to_uint8
from crn_jax.sharding import OverDevices, mesh_of


def synthesize(
    config: Generator, params: dict, layout_ids: Integer[Array | np.ndarray, "B H W"]
) -> UInt8[Array, "B {config.num_images} H W 3"]:
    """Synthesizes k images, RGB, from each layout. It compiles once for each config and shape.

    If the layouts are an array whose examples, or rows, are split over several devices, these devices share the work, and each
    keeps its part of the images. Parameters that they have not got are copied to all of them.

    Args:
      config: the generator's config, such as a `CascadeConfig`.
      params: the generator's parameters.
      layout_ids: class ids, void last.

    Raises:
      ValueError: if height or width does not fit the generator (the message names the nearest sizes that fit a cascade), if
        the ids are no integers, or if one is out of range. The range is checked in NumPy arrays, not on a device.
    """
    if layout_ids.dtype.kind not in "iu":
        raise ValueError(f"Class ids are integers, not {layout_ids.dtype}.")
    if isinstance(layout_ids, np.ndarray) and layout_ids.size:
        for class_id in (layout_ids.min(), layout_ids.max()):
            if not 0 <= class_id < config.num_classes:
                raise ValueError(f"Class id {class_id} is out of range: this generator knows 0..{config.num_classes - 1}.")
    mesh = mesh_of(layout_ids)
    if mesh is None:
        return _synthesize(config, params, layout_ids)
    return synthesize_on(mesh, config)(params, layout_ids)


def _images(config: Generator, params: dict, layout_ids: Array) -> Array:
    return to_uint8(generate(config, params, one_hot(config, layout_ids)))


@functools.partial(jax.jit, static_argnums=0)
def _synthesize(config: Generator, params: dict, layout_ids: Array) -> Array:
    return _images(config, params, layout_ids)


@functools.cache
def synthesize_on(mesh: Mesh, config: Generator) -> OverDevices:
    """Returns `synthesize` as a function of (params, layout_ids) for the devices of a mesh. It does not check class ids."""
    return OverDevices(functools.partial(_images, config), mesh)


def compile_synthesize(config: Generator, params: dict, shape: tuple[int, int, int], dtype: np.dtype) -> jax.stages.Compiled:
    """Compiles `synthesize` for layouts of one shape `[B, H, W]` and dtype, to be called with (params, layout_ids).

    The result's `memory_analysis()` says how much memory it takes. It does not check the range of class ids.

    Raises:
      ValueError: if height or width does not fit the generator.
    """
    return _synthesize.lower(config, params, jax.ShapeDtypeStruct(shape, dtype)).compile()


def __getattr__(name: str) -> Any:
    """Finds `load_run`, which was in this file before. Its imports (Orbax, h5py) would slow the import of `synthesize`."""
    if name == "load_run":
        from crn_jax.run import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
