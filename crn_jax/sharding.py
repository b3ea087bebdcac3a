"""How a step is split over devices: a mesh of two axes, and how every array is sharded over it.

The axis `data` splits the batch, and `spatial` splits the height of the images. Only this file knows the names of the axes.
The other files are written for one device. `constrain` says how their activations are sharded, and the compiler (GSPMD) inserts
the communication: sums for norms and gradients, and rows of images where halo.py does not exchange them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.experimental.layout import Format, Layout
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Shaped

from crn_jax.errors import UserError
from crn_jax.settings import ShardingConfig

DATA, SPATIAL = "data", "spatial"
DEVICE = "device"  # the only axis where every device computes alone

MIN_ROWS = 8
"""The fewest rows per device for which a level of the cascade is split. Every device computes the smaller levels whole. This
saves the sum over `spatial` of the gradients of their wide kernels, which are larger than all activations there."""


def make_mesh(config: ShardingConfig, batch_size: int, height: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of a training over `devices` (default: all devices of all processes).

    Raises:
      UserError: if the mesh needs more devices than there are, leaves devices idle in a run of several processes, or does not
        divide the batch or the height.
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
        problem = f"this does not fit the {count} devices"
    elif data * spatial < count and several:
        problem = f"this leaves {count - data * spatial} of the {count} devices idle, which several processes cannot do"
    elif batch_size % data:
        problem = f"a batch of {batch_size} cannot be split into {data} equal parts (--batch_size)"
    elif height % spatial:
        problem = f"{height} rows cannot be split into {spatial} equal parts"
    if problem:
        meshes = fitting_meshes(count, batch_size, height)
        fitting = ", ".join(f"{d} {s}" for d, s in meshes if not several or d * s == count) or "none"
        raise UserError(
            f"--sharding.mesh {config.mesh[0]} {config.mesh[1]} means data = {data}, spatial = {spatial}: {problem}. With "
            f"{count} devices, a batch of {batch_size} and {height} rows, these meshes are possible: {fitting}."
        )
    # `jax.make_mesh` refuses what would split an axis of a TPU's network.
    placed = mesh_utils.create_device_mesh((data, spatial), devices[: data * spatial], allow_split_physical_axes=True)
    return Mesh(placed, (DATA, SPATIAL), axis_types=(AxisType.Auto,) * 2)


def fitting_meshes(count: int, batch_size: int, height: int) -> list[tuple[int, int]]:
    """Returns the meshes (data, spatial) that use as many of `count` devices as the batch and the height allow."""
    pairs = [(d, s) for d in range(1, count + 1) for s in range(1, count // d + 1) if not (batch_size % d or height % s)]
    most = max(d * s for d, s in pairs)
    return [(d, s) for d, s in pairs if d * s == most]


def activation_spec(mesh: Mesh | AbstractMesh, shape: Sequence[int], min_rows: int = 1) -> PartitionSpec:
    """Returns the partition of an activation of `shape` [B, H, ...].

    The batch is split if `data` divides it. The height is split if `spatial` divides it and every device gets at least
    `min_rows` rows. The shape decides this here, because JAX would silently replicate what does not split evenly.
    """
    data, spatial = mesh.shape[DATA], mesh.shape[SPATIAL]
    rows = None if shape[1] % spatial or shape[1] // spatial < min_rows else SPATIAL
    return PartitionSpec(None if shape[0] % data else DATA, rows)


def _is_ours(mesh: Mesh | AbstractMesh) -> bool:
    """Tells whether a mesh in force is one of `make_mesh`. A program that calls `synthesize` may have set one of its own."""
    return mesh.axis_names == (DATA, SPATIAL) and AxisType.Explicit not in mesh.axis_types


def constrain(x: Shaped[Array, "B H *rest"], min_rows: int = 1) -> Shaped[Array, "B H *rest"]:
    """Returns `x` with the sharding of `activation_spec` on the mesh in force (`jax.set_mesh`), or as it is without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if not _is_ours(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, activation_spec(mesh, x.shape, min_rows))


def rows_are_split(x: Shaped[Array, "B H ..."] | jax.ShapeDtypeStruct, min_rows: int) -> bool:
    """Returns whether `constrain` splits the rows of an activation `x` [B, H, ...] over several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    split = _is_ours(mesh) and mesh.shape[SPATIAL] > 1
    return split and activation_spec(mesh, x.shape, min_rows)[1] is not None


def by_device(function: Callable, *split: Shaped[Array, "B ..."], whole: tuple = (), summed: bool = False) -> Any:
    """Computes `function(*split, *whole)` on every device, each for its own rows.

    Args:
      function: takes a device's rows of the activations `split`, and everything in `whole`.
      split: activations [B, H, ...] whose rows are split over the same devices.
      whole: arrays, or trees of arrays, of which every device has a copy.
      summed: returns the sum of the devices' results, on every device, instead of an activation that consists of their rows.
    """
    rows, everywhere = activation_spec(jax.sharding.get_abstract_mesh(), split[0].shape), PartitionSpec()

    def of_its_own(*arguments) -> Any:
        result = function(*arguments)
        return jax.lax.psum(result, tuple(axis for axis in rows if axis)) if summed else result

    in_specs = (rows,) * len(split) + (everywhere,) * len(whole)
    return jax.shard_map(of_its_own, in_specs=in_specs, out_specs=everywhere if summed else rows)(*split, *whole)


def place_in_height() -> tuple[Int[Array, ""], int]:
    """Returns, within `by_device`, this device's place along the height of the images, from the top, and how many there are."""
    return jax.lax.axis_index(SPATIAL), jax.lax.axis_size(SPATIAL)


def from_neighbours(
    last: Shaped[Array, "B rows *rest"], first: Shaped[Array, "B rows *rest"]
) -> tuple[Shaped[Array, "B rows *rest"], Shaped[Array, "B rows *rest"]]:
    """Exchanges rows with the neighbours, within `by_device`.

    Args:
      last: the last rows of this device, which go to the device below.
      first: the first rows of this device, which go to the device above.

    Returns:
      the last rows of the device above and the first rows of the device below; zeros beyond the edges of the image.
    """
    end = jax.lax.axis_size(SPATIAL) - 1
    above = jax.lax.ppermute(last, SPATIAL, [(i, i + 1) for i in range(end)])
    return above, jax.lax.ppermute(first, SPATIAL, [(i + 1, i) for i in range(end)])


def is_split() -> bool:
    """Returns whether the mesh in force splits arrays: the compiler has to see convolutions then, to split them."""
    mesh = jax.sharding.get_abstract_mesh()
    return _is_ours(mesh) and math.prod(mesh.axis_sizes) > 1


class OverDevices:
    """A function `(whole, *batches) -> batches` of arrays, or trees of arrays, compiled for the devices of a mesh.

    If the mesh does not split rows, each device runs the program of a single device on its own examples. Otherwise the compiler
    splits the function, as it splits a training step.
    """

    def __init__(self, function: Callable, mesh: Mesh):
        rows_are_whole = mesh.shape[SPATIAL] == 1
        self.mesh = Mesh(mesh.devices.ravel(), (DEVICE,)) if rows_are_whole else mesh
        whole, batch = PartitionSpec(), PartitionSpec(DEVICE) if rows_are_whole else PartitionSpec(DATA, SPATIAL)

        def split(parameters: Any, *batches: Any) -> Any:
            if not rows_are_whole:
                return function(parameters, *batches)
            specs = whole, *[batch] * len(batches)
            return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=batch, check_vma=False)(
                parameters, *batches
            )

        self._whole, self._batch = NamedSharding(self.mesh, whole), NamedSharding(self.mesh, batch)
        self._jitted = jax.jit(split)

    def place(self, whole: Any) -> Any:
        """Copies arrays to every device, unless they are there."""
        return jax.device_put(whole, self._whole)

    def __call__(self, whole: Any, *batches: Any) -> Any:
        """Computes the function. The devices get what they have not got yet."""
        with jax.set_mesh(self.mesh):
            return self._jitted(self.place(whole), *jax.device_put(batches, self._batch))

    def compile(self, whole: Any, *batches: Any) -> jax.stages.Compiled:
        """Compiles the function for the shapes and dtypes of its arguments. The result is called with placed arguments."""

        def at(sharding: NamedSharding) -> Callable[[Any], jax.ShapeDtypeStruct]:
            return lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        with jax.set_mesh(self.mesh):
            return self._jitted.lower(jax.tree.map(at(self._whole), whole), *jax.tree.map(at(self._batch), batches)).compile()


def over_local_devices(function: Callable) -> Callable:
    """Returns the function `(whole, *batches) -> batches` for all devices of this process, which share out each batch.

    Each device runs the program of a single device on its part of the batch. A batch that cannot be shared equally is left to
    `function` itself. Arrays in `whole` must not change between two calls: the devices keep their copies.
    """
    devices = jax.local_devices()
    split = OverDevices(function, Mesh(np.array(devices).reshape(-1, 1), (DATA, SPATIAL)))
    placed: list[Any] = [None, None]

    def computed(whole: Any, *batches: Any) -> Any:
        if len(devices) == 1 or any(len(leaf) % len(devices) for leaf in jax.tree.leaves(batches)):
            return function(whole, *batches)
        if placed[0] is not whole:
            placed[:] = whole, split.place(whole)
        return split(placed[1], *batches)

    return computed


def mesh_of(layouts: Array | np.ndarray) -> Mesh | None:
    """Returns the mesh (data, spatial) over which the examples, and the rows, of layouts [B, H, W] are split already.

    The names of the axes by which they were split do not matter. It is None for an array on one device, for a NumPy array, and
    while a function is traced.
    """
    if not isinstance(layouts, jax.Array) or isinstance(layouts, jax.core.Tracer):
        return None
    devices = dict[tuple[int, int], jax.Device]()
    for device, index in layouts.sharding.devices_indices_map(layouts.shape).items():
        devices.setdefault((index[0].start or 0, index[1].start or 0), device)  # further devices hold copies
    if len(devices) == 1:
        return None
    ordered = np.array([devices[place] for place in sorted(devices)])
    return Mesh(ordered.reshape(len({example for example, _ in devices}), -1), (DATA, SPATIAL))


def replicated(mesh: Mesh, tree: Any) -> Any:
    """Returns the shapes and dtypes of a tree, with a copy of each leaf on every device."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), tree)


def sharded(mesh: Mesh, tree: Any) -> Any:
    """Returns the shapes and dtypes of a tree, with each leaf split into one shard for each device."""

    def place(leaf) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, _shard_spec(mesh, leaf.shape)))

    return jax.tree.map(place, tree)


def _shard_spec(mesh: Mesh | AbstractMesh, shape: Sequence[int]) -> PartitionSpec:
    """Splits a leaf along its last axis that the number of devices divides; replicates a leaf that has no such axis."""
    dividing = [axis for axis, n in enumerate(shape) if n % mesh.size == 0]
    return PartitionSpec(*[None] * dividing[-1], (DATA, SPATIAL)) if dividing else PartitionSpec()


def all_gathered(params: Any, dtype: Any) -> Any:
    """Gathers `sharded` parameters, so that every device of the mesh in force has all; their gradients come back as shards.

    3x3 kernels are converted to `dtype` first, as their layers would do anyway: bfloat16 halves the communication.
    """
    if not _is_ours(jax.sharding.get_abstract_mesh()):
        return params
    cast = jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.shape[:2] == (3, 3) else leaf, params)
    return jax.tree.map(_all_gathered, cast)


@jax.custom_vjp
def _all_gathered(shard: jax.Array) -> jax.Array:
    return _constrain_replicated(_constrain_sharded(shard))


_all_gathered.defvjp(lambda shard: (_all_gathered(shard), None), lambda _, gradient: (reduce_scattered(gradient),))


def reduce_scattered(gradient: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Sums the devices' contributions to a gradient, and leaves each device the shard of the sum that it updates."""
    if not _is_ours(jax.sharding.get_abstract_mesh()):
        return gradient
    # It is replicated first, because the compiler would otherwise split the convolutions by channels, too.
    return _constrain_sharded(_constrain_replicated(gradient))


def _constrain_sharded(x: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, _shard_spec(jax.sharding.get_abstract_mesh(), x.shape))


def _constrain_replicated(x: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def laid_out(mesh: Mesh, tree: Any) -> Any:
    """Chooses the memory order of kernels: on GPUs [output, row, column, input], in which cuDNN reads and writes them.

    With any other order, each step would transpose the kernels, their gradients and Adam's updates. Outside the convolutions,
    this is a tenth of the memory traffic at 1024x2048, and a quarter at 256x512.

    Args:
      mesh: the mesh of the training.
      tree: `ShapeDtypeStruct`s with shardings.
    """
    if not is_gpu(mesh):
        return tree

    def place(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if leaf.ndim != 4 or leaf.shape[0] == 1:  # a projection is a matrix product
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=Format(Layout((3, 0, 1, 2)), leaf.sharding))

    return jax.tree.map(place, tree)


def is_gpu(mesh: Mesh) -> bool:
    """Returns whether the devices of a mesh are GPUs."""
    return mesh.devices.flat[0].platform == "gpu"


def formats_of(abstract: Any) -> Any:
    """Returns the shardings in a tree, with the memory orders of `laid_out`, as `jax.jit` and `jax.device_put` accept them."""
    return jax.tree.map(lambda leaf: leaf.format if leaf.format.layout else leaf.sharding, abstract)


def put(mesh: Mesh, tree: Any) -> Any:
    """Copies arrays, which every process holds, to every device of the mesh."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda a: jax.make_array_from_callback(np.shape(a), everywhere, lambda _: np.asarray(a)), tree)


def abstract_batch(mesh: Mesh, batch: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes and dtypes of a batch with its sharding on the mesh."""
    return {key: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_batch_sharding(mesh)) for key, leaf in batch.items()}


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Returns which examples of a global batch this process has to decode: those of which its devices hold a part."""
    blocks = NamedSharding(mesh, PartitionSpec(DATA)).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for block in blocks if block is not None for row in range(batch_size)[block[0]]})


def put_batch(mesh: Mesh, batch_size: int, local: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts a global batch on the mesh; `local` holds the examples of this process's `local_rows`."""
    position = {row: i for i, row in enumerate(local_rows(mesh, batch_size))}

    def place(array: np.ndarray) -> jax.Array:
        def block(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # JAX asks for blocks of this process's devices only
            rows = [position[row] for row in range(batch_size)[index[0]]]
            return array[rows[0] : rows[-1] + 1][(slice(None), *index[1:])]

        return jax.make_array_from_callback((batch_size, *array.shape[1:]), _batch_sharding(mesh), block)

    return {key: place(array) for key, array in local.items()}


def _batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(DATA, SPATIAL))
