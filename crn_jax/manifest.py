"""The manifest of a checkpoint: the checksum of every array that was handed over to be saved, and the step that it belongs to.

A checkpoint has a folder `checksums` with one file for each process that saved. The file `process_0.json` looks like this:

```
{"format": 1, "step": 8, "process": 0, "processes": 1, "distance": 211.3, "description": {...},
 "arrays": {"params/to_rgb/bias": {"shape": [3], "dtype": "float32", "blocks": [[[0], [3], 2345678901]]}, ...},
 "crc32c": "1d0a4c63"}
```

A block is a part of an array that one device held: its first index along each axis, its last index plus 1, and the CRC-32C of
its elements. The blocks of all processes fill each array without overlap, so a checkpoint can be verified on any other mesh.
The last entry is the checksum of the file itself.
"""

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from crn_jax.checksums import KEY, crc32c, sealed, unsealed

FOLDER = "checksums"
_FORMAT = 1


class LaterVersion(ValueError):
    """The error that a later version of crn_jax wrote a manifest, in a form that this version does not know."""


class Block(NamedTuple):
    """A part of an array: its first index along each axis, its last index plus 1, and the CRC-32C of its elements."""

    start: tuple[int, ...]
    stop: tuple[int, ...]
    checksum: int

    @property
    def place(self) -> tuple[slice, ...]:
        """Where the block is in the array."""
        return tuple(map(slice, self.start, self.stop))

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(stop - start for start, stop in zip(self.start, self.stop))


class Recorded(NamedTuple):
    """What a manifest says about an array."""

    shape: tuple[int, ...]
    dtype: str
    blocks: list[Block]


class Manifest(NamedTuple):
    """The manifests of all processes that saved a checkpoint, together."""

    step: int
    distance: float | None  # the held-out distance, if it was measured at this step
    description: dict[str, Any]  # of the run that the checkpoint belongs to
    arrays: dict[str, Recorded]


class ManifestWriter:
    """Writes this process's manifest of a state into a checkpoint, as an Orbax `StatefulCheckpointable`.

    The checksums are those of the arrays in memory, before anything of them has come to a disk. They are computed in the
    background, on the same copies in the host's memory that are being written.
    """

    def __init__(self, state: Any, step: int, distance: float | None, description: dict[str, Any]):
        self._state = state
        self._fields: dict[str, Any] = {"format": _FORMAT, "step": step, "process": jax.process_index()}
        self._fields |= {"processes": jax.process_count(), "distance": distance, "description": description}

    async def save(self, directory: Any) -> Any:
        """Takes hold of the arrays, which may be donated afterwards, and returns what is to be done in the background."""
        copies = {name: (leaf.shape, leaf.dtype.name, _own_blocks(leaf)) for name, leaf in named_leaves(self._state)}
        del self._state

        def write(folder: Any) -> None:
            arrays = {}
            for name, (shape, dtype, blocks) in copies.items():
                recorded = [(start, stop, crc32c(elements)) for start, stop, elements in blocks]
                arrays[name] = {"shape": shape, "dtype": dtype, "blocks": recorded}
            text = json.dumps(sealed(self._fields | {"arrays": arrays}))
            (folder / f"process_{self._fields['process']}.json").write_text(text)

        async def write_in_background() -> None:
            await asyncio.to_thread(write, await directory.await_creation())

        return write_in_background()

    async def load(self, directory: Any) -> Any:
        """Does nothing; `read_manifest` reads."""
        raise NotImplementedError


def named_leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yields the leaves of a tree with their names, such as `params/module_0/conv1/kernel`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def _own_blocks(array: jax.Array) -> list[tuple[tuple[int, ...], tuple[int, ...], np.ndarray]]:
    """Returns start, stop and elements of each block of which this process has the first copy."""
    own = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    for shard in own:
        shard.data.copy_to_host_async()
    return [(*_bounds(shard.index, array.shape), np.asarray(shard.data)) for shard in own]


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    ranges = [part.indices(length) for part, length in zip(index, shape)]
    return tuple(start for start, _, _ in ranges), tuple(stop for _, stop, _ in ranges)


def read_manifest(checkpoint: Path, step: int) -> Manifest:
    """Reads the manifest of a checkpoint, which must be that of `step`.

    Raises:
      ValueError: if it is incomplete, damaged, or that of another step; the message names the file.
      OSError: if a file cannot be read.
    """
    first = _read_file(checkpoint, 0, step)
    arrays: dict[str, Recorded] = {}
    for process in range(first["processes"]):
        fields = first if process == 0 else _read_file(checkpoint, process, step)
        for name, entry in fields["arrays"].items():
            blocks = [Block(tuple(start), tuple(stop), checksum) for start, stop, checksum in entry["blocks"]]
            recorded = arrays.setdefault(name, Recorded(tuple(entry["shape"]), entry["dtype"], []))
            recorded.blocks.extend(blocks)
    for name, recorded in arrays.items():
        if sum(block.size for block in recorded.blocks) != math.prod(recorded.shape):
            raise ValueError(f"{FOLDER}: the checksums of {name} do not cover it")
    return Manifest(step, first["distance"], first["description"], arrays)


def _read_file(checkpoint: Path, process: int, step: int) -> dict[str, Any]:
    path = checkpoint / FOLDER / f"process_{process}.json"
    place = path.relative_to(checkpoint)
    try:
        fields = json.loads(path.read_bytes())
        if not isinstance(fields, dict) or KEY not in fields:
            raise ValueError("it lacks its own checksum")
        fields = unsealed(fields)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is damaged ({error})") from error
    # What its own checksum confirms has the form that this module has written.
    if fields["format"] != _FORMAT:
        raise LaterVersion(f"{place} was written by a later version of crn_jax")
    if fields["process"] != process:
        raise ValueError(f"{place} is the file of process {fields['process']}")
    if fields["step"] != step:
        raise ValueError(f"it was saved at step {fields['step']}, but its folder is that of step {step}")
    return fields


def differing(manifest: Manifest, state: Any) -> list[str]:
    """Returns the names of the arrays in a loaded state that are not those that were saved.

    If the arrays lie on devices of several processes, every process has to call this, and all get the same names.
    """
    arrays = {name: leaf for name, leaf in named_leaves(state) if isinstance(leaf, jax.Array)}  # the others were not read
    wrong = []
    for name, array in arrays.items():
        recorded = manifest.arrays.get(name)
        if recorded is None or (recorded.shape, recorded.dtype) != (array.shape, array.dtype.name):
            wrong.append(name)
        elif not all(crc32c(elements) == checksum for elements, checksum in _to_compare(array, recorded.blocks)):
            wrong.append(name)
    if all(array.is_fully_addressable for array in arrays.values()):
        return wrong
    flags = np.asarray(multihost_utils.process_allgather(np.array([name in wrong for name in arrays])))
    return [name for name, column in zip(arrays, flags.T) if column.any()]


def _to_compare(array: jax.Array, blocks: list[Block]) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the elements and the recorded checksums of the blocks that this process compares.

    If the array is split now as it was when it was saved, each process compares its own blocks. Otherwise every process gets
    the whole array, which is never large, and compares all blocks.
    """
    held = {_bounds(index, array.shape) for index in array.sharding.devices_indices_map(array.shape).values()}
    if all((block.start, block.stop) in held for block in blocks):
        checksums = {(block.start, block.stop): block.checksum for block in blocks}
        own = {_bounds(shard.index, array.shape): shard for shard in array.addressable_shards}
        for place, shard in own.items():
            yield np.asarray(shard.data), checksums[place]
        return
    whole = np.asarray(array if array.is_fully_addressable else multihost_utils.process_allgather(array, tiled=True))
    for block in blocks:
        yield whole[block.place], block.checksum
