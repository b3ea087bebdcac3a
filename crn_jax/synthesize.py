"""The function `synthesize`, which turns layouts into images."""

import functools
from typing import Any, TypeGuard

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Integer, UInt8

from crn_jax.generator import Generator, generate, layout_of
from crn_jax.images import to_uint8
from crn_jax.sharding import OverDevices, mesh_of


def synthesize(
    config: Generator,
    params: dict,
    layout_ids: Integer[Array | np.ndarray, "B H W"],
    instance_ids: Integer[Array | np.ndarray, "B H W"] | None = None,
) -> UInt8[Array, "B {config.num_images} H W 3"]:
    """Synthesizes k images, RGB, from each layout. It compiles once for each config and shape.

    If the layouts are an array whose examples, or rows, are split over several devices, these devices share the work, and each
    keeps its part of the images. Layouts that were put on one device have their images made there. Parameters that the devices
    have not got are copied to all of them.

    Args:
      config: the generator's config, such as a `CascadeConfig`.
      params: the generator's parameters.
      layout_ids: class ids, void last.
      instance_ids: the id of each pixel's instance, for a generator that takes instance boundaries. Any integers will do,
        because only their differences count.

    Raises:
      ValueError: if height or width does not fit the generator (the message names the nearest sizes that fit a cascade), if
        the ids are no integers, if there are no layouts, if a class id is out of range, or if instances are missing or not
        wanted. The range is checked in NumPy arrays, not on a device.
    """
    layout_ids = _native(layout_ids)
    if layout_ids.dtype.kind not in "iu":
        raise ValueError(f"Class ids are integers, not {layout_ids.dtype}.")
    if layout_ids.shape[:1] == (0,):
        raise ValueError(
            f"There are no layouts: the class ids have the shape {list(layout_ids.shape)}. Give at least one layout."
        )
    if isinstance(layout_ids, np.ndarray) and layout_ids.size:
        for class_id in (layout_ids.min(), layout_ids.max()):
            if not 0 <= class_id < config.num_classes:
                raise ValueError(f"Class id {class_id} is out of range: this generator knows 0..{config.num_classes - 1}.")
    ids = (layout_ids,) if instance_ids is None else (layout_ids, _checked(instance_ids, layout_ids.shape))
    mesh = mesh_of(layout_ids)
    if mesh is None:
        return _synthesize(config, *_beside(layout_ids, (params, *ids)))
    return synthesize_on(mesh, config)(params, *ids)


def _beside(layout_ids: Array | np.ndarray, arguments: Any) -> Any:
    """Returns a tree of arrays with those copied that lie on other devices than layouts that were put somewhere.

    JAX moves arrays that were not put anywhere, and refuses the others.
    """
    if not _was_put(layout_ids):
        return arguments
    there, devices = layout_ids.sharding.device_set, list(layout_ids.sharding.devices_indices_map(layout_ids.shape))
    everywhere = NamedSharding(Mesh(np.array(devices), ("device",)), PartitionSpec())  # JAX compares the order of devices, too

    def placed(leaf: Any) -> Any:
        if not _was_put(leaf) or leaf.sharding.device_set == there:
            return leaf
        return jax.device_put(leaf, devices[0] if len(devices) == 1 else everywhere)

    return jax.tree.map(placed, arguments)


def _was_put(array: Any) -> TypeGuard[jax.Array]:
    return isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer) and array.committed


def _native(ids: Any) -> Array | np.ndarray:
    """Returns ids as JAX takes them: in this machine's byte order. What is no array yet, such as a list, becomes one."""
    if isinstance(ids, jax.Array):  # a tracer is one, too
        return ids
    ids = ids if isinstance(ids, np.ndarray) else np.asarray(ids)
    return ids if ids.dtype.isnative else ids.astype(ids.dtype.newbyteorder("="))


def _checked(instance_ids: Array | np.ndarray, shape: tuple[int, ...]) -> Array | np.ndarray:
    """Returns the instance ids, in at most 32 bits, which is what JAX keeps of them."""
    instance_ids = _native(instance_ids)
    if instance_ids.dtype.kind not in "iu":
        raise ValueError(f"Instance ids are integers, not {instance_ids.dtype}.")
    if instance_ids.shape != shape:
        raise ValueError(f"Instances have the shape of their layouts, {list(shape)}, not {list(instance_ids.shape)}.")
    if isinstance(instance_ids, np.ndarray) and instance_ids.dtype.itemsize > 4:
        return np.unique(instance_ids, return_inverse=True)[1].reshape(shape).astype(np.int32)
    return instance_ids


def _check_size(config: Generator, height: int, width: int) -> None:
    """Raises ValueError for sizes that a network would take for its own, or fail at, without naming those that fit."""
    rows, columns = config.size
    if config.fixed_size and (height, width) != (rows, columns):
        raise ValueError(f"A layout of {height}x{width} does not fit: this network makes images of {rows}x{columns} only.")
    if 0 in (height, width):
        raise ValueError(f"A layout of {height}x{width} has no pixels. This network was made for {rows}x{columns}.")


def _images(config: Generator, params: dict, layout_ids: Array, instance_ids: Array | None = None) -> Array:
    if layout_ids.ndim == 3:  # the network refuses other ranks
        _check_size(config, *layout_ids.shape[1:])
    return to_uint8(generate(config, params, layout_of(config, layout_ids, instance_ids)))


@functools.partial(jax.jit, static_argnums=0)
def _synthesize(config: Generator, params: dict, layout_ids: Array, instance_ids: Array | None = None) -> Array:
    return _images(config, params, layout_ids, instance_ids)


@functools.cache
def synthesize_on(mesh: Mesh, config: Generator) -> OverDevices:
    """Returns `synthesize` as a function of (params, layout_ids) for the devices of a mesh. It does not check class ids.

    With instance boundaries, its third argument are instance ids.
    """
    return OverDevices(functools.partial(_images, config), mesh)


def compile_synthesize(config: Generator, params: dict, shape: tuple[int, int, int], dtype: np.dtype) -> jax.stages.Compiled:
    """Compiles `synthesize` for layouts of one shape `[B, H, W]` and dtype, to be called with (params, layout_ids).

    With instance boundaries, the third argument are instance ids in uint16.
    The result's `memory_analysis()` says how much memory it takes. It does not check the range of class ids.

    Raises:
      ValueError: if height or width does not fit the generator.
    """
    return _synthesize.lower(config, params, *abstract_ids(config, shape, dtype)).compile()


def abstract_ids(
    config: Generator, shape: tuple[Any, ...], dtype: np.typing.DTypeLike, instances: np.typing.DTypeLike = np.uint16
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Returns shape and dtype of the class ids that a generator takes, and of the instance ids if it takes boundaries."""
    layout = jax.ShapeDtypeStruct(shape, dtype)
    return (layout, jax.ShapeDtypeStruct(shape, instances)) if config.boundaries else (layout,)


def __getattr__(name: str) -> Any:
    """Finds `load_run`, which was in this file before. Its imports (Orbax, h5py) would slow the import of `synthesize`."""
    if name == "load_run":
        from crn_jax.run import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
