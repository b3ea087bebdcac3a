"""Reads the variables of a TensorFlow checkpoint (format V2) without TensorFlow, and without executing anything in it.

A checkpoint `model.ckpt` has an index and data files. `model.ckpt.index` is a sorted table of names in LevelDB's format
("table_format.md" of LevelDB). `model.ckpt.data-00000-of-00001` has the numbers, little-endian. The table's values are messages
of TensorFlow's `tensor_bundle.proto`. They give each variable's type, shape, data file, position in that file, and checksum.

No number in a file is believed. Blocks lie one after the other and names ascend, as TensorFlow writes them, and variables take
no more bytes than the data files have. What is read is thus bounded by the size of the files.
"""

import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from crn_jax.errors import UserError
from crn_jax.formats.protobuf import fields, part, varint

_MAGIC = 0xDB4775248B80FB57  # the last 8 bytes of a LevelDB table, whose footer has 48
_INDEX_BYTES = 1 << 24
"""The greatest size of an index. The authors' have some 10 kB."""
_NAME_BYTES, _DIMENSIONS = 1000, 8
_MAX_SHARDS = 99_999  # a data file's number has five digits
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # numbers of types.proto; generators and their counters have no other types


class Variable(NamedTuple):
    """A variable as the index describes it."""

    dtype: int
    """The number of the dtype in types.proto."""
    shape: tuple[int, ...]
    shard: int
    """The number of the data file."""
    offset: int
    """The position of the first byte in the data file."""
    size: int
    """The number of bytes."""
    checksum: int
    """The masked CRC-32C of the bytes."""


def read_index(prefix: str | Path) -> dict[str, Variable]:
    """Reads which variables the checkpoint `prefix` (without `.index`) has, by name.

    Raises:
      UserError: if there is no such checkpoint, or if its index is damaged.
    """
    return _read_table(prefix)[1]


def read_variables(prefix: str | Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Reads the values of these variables, and verifies their checksums.

    Raises:
      UserError: if a variable is missing, cut short, damaged or not of numbers. The message names file and variable.
    """
    shards, index = _read_table(prefix)
    if missing := sorted(set(names) - index.keys()):
        raise UserError(f"{prefix}.index: there is no variable {', '.join(missing)}.")
    values, ends = {}, dict[int, int]()
    for name in sorted(names, key=lambda name: (index[name].shard, index[name].offset)):
        variable = index[name]
        path = Path(f"{prefix}.data-{variable.shard:05d}-of-{shards:05d}")
        if variable.offset < ends.get(variable.shard, 0):
            raise UserError(f"{prefix}.index: it is damaged: {name} lies where another variable lies. Fetch the file again.")
        ends[variable.shard] = variable.offset + variable.size
        values[name] = _read_variable(path, name, variable)
    return {name: values[name] for name in names}


def _read_variable(path: Path, name: str, variable: Variable) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path}: this file of the checkpoint is missing. It belongs beside the .index file.")
    if variable.dtype not in _DTYPES:
        raise UserError(f"{path}: {name} has TensorFlow's type {variable.dtype}, which cannot be read here.")
    dtype = np.dtype(_DTYPES[variable.dtype])
    if variable.size != dtype.itemsize * math.prod(variable.shape):
        raise UserError(
            f"{path}: {name} has {variable.size:,} bytes, which is not the size of its shape. Fetch the files again."
        )
    with open(path, "rb") as file:
        if variable.offset + variable.size > os.fstat(file.fileno()).st_size:
            raise UserError(f"{path}: {name} is cut short. Fetch the file again.")
        file.seek(variable.offset)
        data = file.read(variable.size)
    if _masked_crc(data) != variable.checksum:
        raise UserError(f"{path}: {name} is damaged, by its checksum. Fetch the file again.")
    return np.frombuffer(data, dtype).reshape(variable.shape)


def _read_table(prefix: str | Path) -> tuple[int, dict[str, Variable]]:
    """Reads the number of data files, and the variables by name."""
    path = Path(f"{prefix}.index")
    if not path.is_file():
        found = sorted(file.name.removesuffix(".index") for file in path.parent.glob("*.index"))
        beside = f" There are: {', '.join(found)}." if found else ""
        raise UserError(
            f"{path}: there is no such file. Give the name of a TensorFlow checkpoint without .index, for example "
            f"result_512p/model.ckpt.{beside}"
        )
    with open(path, "rb") as file:
        data = file.read(_INDEX_BYTES + 1)
    try:
        if not 48 <= len(data) <= _INDEX_BYTES or int.from_bytes(data[-8:], "little") != _MAGIC:
            raise ValueError("it does not end as a table does")
        footer = data[-48:-8]
        _, _, position = _handle(footer, 0)  # of the meta index, which is empty
        handles = [_handle(handle, 0) for _, handle in _entries(_block(data, *_handle(footer, position)[:2]))]
        table: dict[str, bytes] = {}
        end, last = 0, None
        for offset, size, _ in handles:
            if offset < end:
                raise ValueError("its blocks overlap")
            end = offset + size
            for key, value in _entries(_block(data, offset, size)):
                if last is not None and key <= last:
                    raise ValueError("its names are not in order")
                table[key.decode()], last = value, key
        header, _ = fields(table.pop(""))  # a BundleHeaderProto
        if header.get(2, 0):
            raise ValueError("its numbers are big-endian")
        if not 1 <= header[1] <= _MAX_SHARDS:
            raise ValueError(f"it counts {header[1]} data files")
        return header[1], {name: _variable(message, header[1]) for name, message in table.items()}
    except (ValueError, LookupError) as error:  # a UnicodeDecodeError is a ValueError
        raise UserError(f"{path}: this is no index of a TensorFlow checkpoint (V2), or it is damaged: {error}.") from error


def _block(data: bytes, offset: int, size: int) -> bytes:
    """Returns a block of the table. Its compression and its checksum follow it in the file."""
    block, trailer = part(data, offset, size), part(data, offset + size, 5)
    if trailer[0]:
        raise ValueError("it is compressed")  # TensorFlow never compresses
    if _masked_crc(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise ValueError("a block does not agree with its checksum")
    return block


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a block. A key is stored as the length that it shares with the key before, and the rest."""
    restarts = int.from_bytes(block[-4:], "little")
    entries = part(block, 0, len(block) - 4 * (restarts + 1))
    position, key = 0, b""
    while position < len(entries):
        shared, position = varint(entries, position)
        unshared, position = varint(entries, position)
        size, position = varint(entries, position)
        if shared > len(key) or shared + unshared > _NAME_BYTES:
            raise ValueError("a name is too long")
        key = key[:shared] + part(entries, position, unshared)
        position += unshared
        yield key, part(entries, position, size)
        position += size


def _handle(data: bytes, position: int) -> tuple[int, int, int]:
    """Reads a block's offset and size, and returns them with the position behind them."""
    offset, position = varint(data, position)
    size, position = varint(data, position)
    return offset, size, position


def _variable(message: bytes, shards: int) -> Variable:
    """Parses a BundleEntryProto."""
    numbers, messages = fields(message)
    if 7 in messages:
        raise ValueError("a variable is stored in slices")
    _, shape = fields(messages[2][-1] if 2 in messages else b"")  # a TensorShapeProto
    sizes = tuple(fields(dimension)[0].get(1, 0) for dimension in shape.get(2, []))
    variable = Variable(numbers[1], sizes, numbers.get(3, 0), numbers.get(4, 0), numbers.get(5, 0), numbers[6])
    if len(sizes) > _DIMENSIONS or variable.shard >= shards or max(*sizes, 0, variable.offset, variable.size) >= 1 << 63:
        raise ValueError(f"a variable has the shape {sizes[:_DIMENSIONS]} and lies in data file {variable.shard} of {shards}")
    return variable


def _masked_crc(data: bytes) -> int:
    """Returns the CRC-32C in the masked form that LevelDB stores."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
