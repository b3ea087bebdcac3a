"""Reads the variables of a TensorFlow checkpoint (format V2) without TensorFlow: numbers, and nothing that is executed.

A checkpoint `model.ckpt` is `model.ckpt.index`, a sorted table of names in LevelDB's format ("table_format.md" of LevelDB), and
`model.ckpt.data-00000-of-00001` with the numbers, little-endian. The table's values are messages of TensorFlow's
`tensor_bundle.proto`: of each variable its type, its shape, where it lies in which data file, and a checksum.
"""

import math
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from crn_jax.errors import UserError

_MAGIC = 0xDB4775248B80FB57  # LevelDB's, in the last 8 of a table's 48 last bytes
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # of types.proto; generators and their counters have no others


class Variable(NamedTuple):
    """What the index says of a variable: where its bytes lie, and their masked CRC-32C."""

    dtype: int  # of types.proto
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def read_index(prefix: str | Path) -> dict[str, Variable]:
    """The variables of the checkpoint `prefix` (without `.index`), by name.

    Raises:
      UserError: if there is no such checkpoint, or its index is damaged.
    """
    return _read_table(prefix)[1]


def read_variables(prefix: str | Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The values of these variables, which are checked by their checksums.

    Raises:
      UserError: naming the file and the variable that is missing, cut short, damaged or not of numbers.
    """
    shards, index = _read_table(prefix)
    if missing := sorted(set(names) - index.keys()):
        raise UserError(f"{prefix}.index: there is no variable {', '.join(missing)}.")
    return {name: _read_variable(f"{prefix}.data-{index[name].shard:05d}-of-{shards:05d}", name, index[name]) for name in names}


def _read_variable(file_name: str, name: str, variable: Variable) -> np.ndarray:
    path = Path(file_name)
    if not path.is_file():
        raise UserError(f"{path}: this file of the checkpoint is missing; it belongs beside the .index.")
    if variable.dtype not in _DTYPES:
        raise UserError(f"{path}: {name} is of TensorFlow's type {variable.dtype}, which is not read here.")
    dtype = np.dtype(_DTYPES[variable.dtype])
    with open(path, "rb") as file:
        file.seek(variable.offset)
        data = file.read(variable.size)
    if len(data) != variable.size:
        raise UserError(f"{path}: {name} is cut short; fetch the file again.")
    if _masked_crc(data) != variable.checksum or len(data) != dtype.itemsize * math.prod(variable.shape):
        raise UserError(f"{path}: {name} is damaged, by its checksum; fetch the file again.")
    return np.frombuffer(data, dtype).reshape(variable.shape)


def _read_table(prefix: str | Path) -> tuple[int, dict[str, Variable]]:
    """The number of data files, and the variables."""
    path = Path(f"{prefix}.index")
    if not path.is_file():
        found = sorted(file.name.removesuffix(".index") for file in path.parent.glob("*.index"))
        beside = f" There are: {', '.join(found)}." if found else ""
        raise UserError(
            f"{path}: there is no such file. Give the name of a TensorFlow checkpoint without .index, such as "
            f"result_512p/model.ckpt.{beside}"
        )
    data = path.read_bytes()
    try:
        if len(data) < 48 or int.from_bytes(data[-8:], "little") != _MAGIC:
            raise ValueError("it does not end as a table does")
        _, _, position = _handle(data, len(data) - 48)  # of the meta index, which is empty
        table = {}
        for _, handle in _entries(_block(data, *_handle(data, position)[:2])):
            table |= {key.decode(): value for key, value in _entries(_block(data, *_handle(handle, 0)[:2]))}
        header = dict(_fields(table.pop("")))  # a BundleHeaderProto
        if header.get(2, 0):
            raise ValueError("its numbers are big-endian")
        return header[1], {name: _variable(message) for name, message in table.items()}
    except (ValueError, IndexError, KeyError, struct.error) as error:  # a UnicodeDecodeError is a ValueError
        raise UserError(f"{path}: this is no index of a TensorFlow checkpoint (V2), or it is damaged: {error}.") from error


def _block(data: bytes, offset: int, size: int) -> bytes:
    """A block of the table, behind which stand its compression and its checksum."""
    compression, checksum = struct.unpack_from("<BI", data, offset + size)
    if compression:
        raise ValueError("it is compressed")  # TensorFlow never does that
    if _masked_crc(data[offset : offset + size + 1]) != checksum:
        raise ValueError("a block does not agree with its checksum")
    return data[offset : offset + size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key is told by what it shares with the one before it."""
    restarts = int.from_bytes(block[-4:], "little")
    end, position, key = len(block) - 4 * (restarts + 1), 0, b""
    while position < end:
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        size, position = _varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + size]
        position += size


def _handle(data: bytes, position: int) -> tuple[int, int, int]:
    """A block's offset and size, and the position behind them."""
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return offset, size, position


def _variable(message: bytes) -> Variable:
    """A BundleEntryProto."""
    fields = dict(_fields(message))
    if 7 in fields:
        raise ValueError("a variable is stored in slices")
    shape = tuple(dict(_fields(dimension)).get(1, 0) for number, dimension in _fields(fields.get(2, b"")) if number == 2)
    return Variable(fields[1], shape, fields.get(3, 0), fields.get(4, 0), fields.get(5, 0), fields[6])


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a protocol buffer's fields."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = _varint(message, position)
        elif kind == 2:
            size, position = _varint(message, position)
            value, position = message[position : position + size], position + size
        elif kind == 5:
            value, position = struct.unpack_from("<I", message, position)[0], position + 4
        else:
            raise ValueError(f"a field of kind {kind}")
        yield number, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _masked_crc(data: bytes) -> int:
    """CRC-32C as LevelDB stores it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
