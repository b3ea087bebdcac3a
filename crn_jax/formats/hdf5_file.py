"""Reads arrays of HDF5 files, after checking that they are as large as they say and lie in this file.

An HDF5 file may compress an array a thousandfold, fill in what it does not store, and refer to other files. Here an array must
be stored wholly, in the file itself, as plain numbers. Its chunks may be compressed by gzip, whose checksums are verified.
"""

import itertools
import math
import zlib

import h5py
import numpy as np

_ENTRIES = 1000
"""The greatest number of entries that a group may have."""
_CHUNKS = 1 << 16
"""The greatest number of chunks that are read at a time."""
_CHUNK_BYTES = 1 << 28
_FILTERS = {h5py.h5z.FILTER_DEFLATE: "gzip", h5py.h5z.FILTER_SHUFFLE: "shuffle", h5py.h5z.FILTER_FLETCHER32: "fletcher32"}


def entries(group: h5py.Group) -> list[str]:
    """Returns the names in a group.

    Raises:
      ValueError: if there are over a thousand.
    """
    if len(group) > _ENTRIES:
        raise ValueError(f"{group.name} has {len(group):,} entries")
    return list(group)


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """Returns the group or array of this name, which must lie in the file itself.

    Raises:
      KeyError: if there is none.
      ValueError: if it is a reference to another place.
    """
    if not isinstance(group, h5py.Group) or name not in group:
        raise KeyError(name)
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link to another place")
    return group[name]


def read_array(dataset: h5py.Dataset | h5py.Group, shape: tuple[int, ...], index: int | None = None) -> np.ndarray:
    """Reads an array of numbers, or its part at `index` of the first axis.

    Raises:
      ValueError: if it has another shape, or is not stored wholly in the file, as plain numbers.
      OSError, zlib.error: if it is damaged.
    """
    if not isinstance(dataset, h5py.Dataset) or dataset.shape != shape:
        raise ValueError(f"{dataset.name} is {getattr(dataset, 'shape', 'a group')}, expected {shape}")
    if dataset.dtype.kind not in "fiu" or dataset.dtype.itemsize > 8 or dataset.dtype.subdtype:
        raise ValueError(f"{dataset.name} holds {dataset.dtype}, no plain numbers")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{dataset.name} lies in another file")
    size = math.prod(shape) * dataset.dtype.itemsize
    if dataset.chunks:
        _check_chunks(dataset, size, index)
    elif dataset.id.get_storage_size() != size:
        raise ValueError(f"{dataset.name} stores {dataset.id.get_storage_size():,} of {size:,} bytes")
    return dataset[()] if index is None else dataset[index]


def _check_chunks(dataset: h5py.Dataset, size: int, index: int | None) -> None:
    """Raises ValueError unless all chunks that are about to be read are there and have their size when they are unpacked."""
    created, chunk = dataset.id.get_create_plist(), dataset.chunks
    filters = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
    if not set(filters) <= _FILTERS.keys():
        raise ValueError(f"{dataset.name} is packed by another filter than {', '.join(_FILTERS.values())}")
    unpacked = math.prod(chunk) * dataset.dtype.itemsize
    if unpacked > min(max(2 * size, 1 << 20), _CHUNK_BYTES):
        raise ValueError(f"{dataset.name} has chunks of {unpacked:,} bytes, and {size:,} bytes in all")
    firsts = [range(0, length, step) for length, step in zip(dataset.shape, chunk)]
    if index is not None:
        firsts[0] = range(index - index % chunk[0], index + 1, chunk[0])
    if math.prod(map(len, firsts)) > _CHUNKS:
        raise ValueError(f"{dataset.name} has too many chunks")
    for first in itertools.product(*firsts):
        found = dataset.id.get_chunk_info_by_coord(first)
        if found.byte_offset is None or not 0 < found.size <= unpacked + unpacked // 1000 + 1000:
            raise ValueError(f"{dataset.name} lacks the chunk at {first}, or it is too large")
        unused = {f for i, f in enumerate(filters) if found.filter_mask >> i & 1}
        if h5py.h5z.FILTER_DEFLATE in set(filters) - unused:
            # HDF5 would unpack whatever the chunk holds, without a bound.
            unpacker = zlib.decompressobj()
            length = len(unpacker.decompress(dataset.id.read_direct_chunk(first)[1], unpacked + 5))
            if not unpacker.eof or length not in (unpacked, unpacked + 4):  # fletcher32 adds 4
                raise ValueError(f"{dataset.name}: the chunk at {first} is damaged")
