"""How a step is split over devices: a mesh of two axes, and where every array lies on it.

`data` splits the batch, `spatial` the image's height. This is the only file that knows the axes' names. The others are written
for one device; `constrain` says how their activations lie, and the compiler (GSPMD) inserts what has to be exchanged: sums for
norms and gradients, rows where halo.py does not.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.experimental.layout import Format, Layout
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from crn_jax.errors import UserError

DATA, SPATIAL = "data", "spatial"

MIN_ROWS = 8
"""Rows per device from which a level of the cascade is split. Smaller levels are computed on every device: the gradients of
their wide kernels, which need no sum over `spatial` then, are larger than all of their activations."""


@dataclasses.dataclass(frozen=True)
class ShardingConfig:
    """How training is split over devices. All of it may change when a run is resumed."""

    mesh: tuple[int, int] = (-1, -1)
    """Devices along data (which splits the batch) and along spatial (which splits each image's height). -1: the rest; -1 -1:
    along data as many as divide the batch, along spatial the rest."""
    shard_state: bool = True
    """Splits parameters, Adam's moments and the moving average into shards, one a device, instead of a copy on each. A step
    then gathers the parameters, and each device updates its shard."""


def make_mesh(config: ShardingConfig, batch_size: int, height: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a training, over `devices` (default: all there are).

    Raises:
      UserError: if the mesh needs more devices than there are, leaves out those of another process, or does not divide the
        batch or the height.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    data, spatial = config.mesh
    if data == -1:
        data = math.gcd(batch_size, count) if spatial == -1 else count // max(spatial, 1)
    if spatial == -1:
        spatial = count // max(data, 1)

    several = len({device.process_index for device in devices}) > 1
    problem = ""
    if data < 1 or spatial < 1 or data * spatial > count:
        problem = f"it does not fit the {count} devices there are"
    elif data * spatial < count and several:
        problem = f"it leaves {count - data * spatial} of the {count} devices idle, which cannot be done with several processes"
    elif batch_size % data:
        problem = f"a batch of {batch_size} cannot be split into {data} equal parts (--batch_size)"
    elif height % spatial:
        problem = f"{height} rows cannot be split into {spatial} equal parts"
    if problem:
        meshes = fitting_meshes(count, batch_size, height)
        fitting = ", ".join(f"{d} {s}" for d, s in meshes if not several or d * s == count) or "none"
        raise UserError(
            f"--sharding.mesh {config.mesh[0]} {config.mesh[1]} means data = {data}, spatial = {spatial}: {problem}. Of "
            f"{count} devices, a batch of {batch_size} and {height} rows can use: {fitting}."
        )
    # `jax.make_mesh` refuses what would split an axis of a TPU's network.
    placed = mesh_utils.create_device_mesh((data, spatial), devices[: data * spatial], allow_split_physical_axes=True)
    return Mesh(placed, (DATA, SPATIAL), axis_types=(AxisType.Auto,) * 2)


def fitting_meshes(count: int, batch_size: int, height: int) -> list[tuple[int, int]]:
    """The meshes (data, spatial) of as many of `count` devices as the batch and the height can use."""
    pairs = [(d, s) for d in range(1, count + 1) for s in range(1, count // d + 1) if not (batch_size % d or height % s)]
    most = max(d * s for d, s in pairs)
    return [(d, s) for d, s in pairs if d * s == most]


def activation_spec(mesh: Mesh | AbstractMesh, shape: Sequence[int], min_rows: int = 1) -> PartitionSpec:
    """How an activation `[B, H, ...]` lies: each axis is split where it divides, the height if `min_rows` a device remain.

    Decided here, from the shape: asked for an uneven split, JAX would replicate without a word.
    """
    data, spatial = mesh.shape[DATA], mesh.shape[SPATIAL]
    rows = None if shape[1] % spatial or shape[1] // spatial < min_rows else SPATIAL
    return PartitionSpec(None if shape[0] % data else DATA, rows)


def constrain(x: jax.Array, min_rows: int = 1) -> jax.Array:
    """Says how `x` `[B, H, ...]` lies on the mesh in force (`jax.set_mesh`); without one, `x` itself."""
    mesh = jax.sharding.get_abstract_mesh()
    if DATA not in mesh.axis_names:
        return x
    return jax.lax.with_sharding_constraint(x, activation_spec(mesh, x.shape, min_rows))


def rows_are_split(x: jax.Array, min_rows: int) -> bool:
    """Whether the rows of an activation `[B, H, ...]` lie on several devices, as `constrain` splits it."""
    mesh = jax.sharding.get_abstract_mesh()
    split = DATA in mesh.axis_names and mesh.shape[SPATIAL] > 1
    return split and activation_spec(mesh, x.shape, min_rows)[1] is not None


def by_device(function: Callable, *split: jax.Array, whole: tuple = (), summed: bool = False) -> Any:
    """`function(*split, *whole)`, of which each device computes the part that is its own.

    Args:
      function: of a device's rows of the activations `split`, and of all that is in `whole`.
      split: activations `[B, H, ...]` whose rows are split; of all, B and the number of devices along H are the same.
      whole: arrays, or trees of them, of which every device has a copy.
      summed: whether the sum of what all devices return is wanted, which all get, instead of their rows beside each other.
    """
    rows, everywhere = activation_spec(jax.sharding.get_abstract_mesh(), split[0].shape), PartitionSpec()

    def of_its_own(*arguments) -> Any:
        result = function(*arguments)
        return jax.lax.psum(result, tuple(axis for axis in rows if axis)) if summed else result

    in_specs = (rows,) * len(split) + (everywhere,) * len(whole)
    return jax.shard_map(of_its_own, in_specs=in_specs, out_specs=everywhere if summed else rows)(*split, *whole)


def place_in_height() -> tuple[jax.Array, int]:
    """Within `by_device`: which of the devices along an image's height this is, counted from the top, and of how many."""
    return jax.lax.axis_index(SPATIAL), jax.lax.axis_size(SPATIAL)


def from_neighbours(last: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Within `by_device`: the last rows of the device above, the first of that below; zeros where there is none."""
    end = jax.lax.axis_size(SPATIAL) - 1
    above = jax.lax.ppermute(last, SPATIAL, [(i, i + 1) for i in range(end)])
    return above, jax.lax.ppermute(first, SPATIAL, [(i + 1, i) for i in range(end)])


def is_split() -> bool:
    """Whether the images are split over several devices; compilers have to see convolutions then, to split them."""
    return math.prod(jax.sharding.get_abstract_mesh().axis_sizes) > 1


def replicated(mesh: Mesh, tree: Any) -> Any:
    """The shapes and dtypes of a tree, with a copy of each leaf on every device."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), tree)


def sharded(mesh: Mesh, tree: Any) -> Any:
    """The shapes and dtypes of a tree, with each leaf split into shards, one on every device."""

    def place(leaf) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, _shard_spec(mesh, leaf.shape)))

    return jax.tree.map(place, tree)


def _shard_spec(mesh: Mesh | AbstractMesh, shape: Sequence[int]) -> PartitionSpec:
    """A leaf is split along its last axis that divides; one that has none is replicated."""
    dividing = [axis for axis, n in enumerate(shape) if n % mesh.size == 0]
    return PartitionSpec(*[None] * dividing[-1], (DATA, SPATIAL)) if dividing else PartitionSpec()


def all_gathered(params: Any, dtype: Any) -> Any:
    """Parameters that are `sharded`, whole on every device of the mesh in force; their gradients come back as shards.

    3x3 kernels become `dtype`, as their layers would convert them anyway: in bfloat16 half as much is exchanged.
    """
    if DATA not in jax.sharding.get_abstract_mesh().axis_names:
        return params
    cast = jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.shape[:2] == (3, 3) else leaf, params)
    return jax.tree.map(_all_gathered, cast)


@jax.custom_vjp
def _all_gathered(shard: jax.Array) -> jax.Array:
    return _constrain_replicated(_constrain_sharded(shard))


_all_gathered.defvjp(lambda shard: (_all_gathered(shard), None), lambda _, gradient: (reduce_scattered(gradient),))


def reduce_scattered(gradient: jax.Array) -> jax.Array:
    """A gradient to which every device adds a summand, as the shards of its sum, one on the device that updates it."""
    if DATA not in jax.sharding.get_abstract_mesh().axis_names:
        return gradient
    # Replicated at first, else convolutions would be split by channels, too.
    return _constrain_sharded(_constrain_replicated(gradient))


def _constrain_sharded(x: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, _shard_spec(jax.sharding.get_abstract_mesh(), x.shape))


def _constrain_replicated(x: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def laid_out(mesh: Mesh, tree: Any) -> Any:
    """A tree of placed `ShapeDtypeStruct`s, convolutions' kernels on GPUs in the order in which cuDNN reads and makes them.

    That is, in memory, `[output, row, column, input]`. In any other, each step transposes them, their gradients and what Adam
    makes of those: a tenth of all that it moves beside its convolutions at 1024x2048, a quarter at 256x512.
    """
    if not _is_gpu(mesh):
        return tree

    def place(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if leaf.ndim != 4 or leaf.shape[0] == 1:  # a projection is a matrix product
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=Format(Layout((3, 0, 1, 2)), leaf.sharding))

    return jax.tree.map(place, tree)


def _is_gpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "gpu"


def formats_of(abstract: Any) -> Any:
    """The shardings in a tree, with the orders in memory that `laid_out` chose, as `jax.jit` and `jax.device_put` take them."""
    return jax.tree.map(lambda leaf: leaf.format if leaf.format.layout else leaf.sharding, abstract)


def put(mesh: Mesh, tree: Any) -> Any:
    """Copies of arrays that every process holds, on every device of the mesh."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda a: jax.make_array_from_callback(np.shape(a), everywhere, lambda _: np.asarray(a)), tree)


def abstract_batch(mesh: Mesh, batch: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch, placed."""
    return {key: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_batch_sharding(mesh)) for key, leaf in batch.items()}


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """The examples of a global batch that this process has to decode: those that its devices hold a part of."""
    blocks = NamedSharding(mesh, PartitionSpec(DATA)).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (block,) in blocks for row in range(batch_size)[block]})


def put_batch(mesh: Mesh, batch_size: int, local: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """A global batch, split over the mesh, of the examples that each process holds: those of its `local_rows`."""
    position = {row: i for i, row in enumerate(local_rows(mesh, batch_size))}

    def place(array: np.ndarray) -> jax.Array:
        def block(index: tuple[slice, ...]) -> np.ndarray:
            rows = [position[row] for row in range(batch_size)[index[0]]]
            return array[rows[0] : rows[-1] + 1][(slice(None), *index[1:])]

        return jax.make_array_from_callback((batch_size, *array.shape[1:]), _batch_sharding(mesh), block)

    return {key: place(array) for key, array in local.items()}


def _batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(DATA, SPATIAL))
