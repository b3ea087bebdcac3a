"""Reads the variables of a TensorFlow checkpoint (format V2) without TensorFlow, and without executing anything in it.

A checkpoint `model.ckpt` has an index and data files. `model.ckpt.index` is a sorted table of names in LevelDB's format
("table_format.md" of LevelDB). `model.ckpt.data-00000-of-00001` has the numbers, little-endian. The table's values are messages
of TensorFlow's `tensor_bundle.proto`. They give each variable's type, shape, data file, position in that file, and checksum.
"""

import math
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from crn_jax.errors import UserError

_MAGIC = 0xDB4775248B80FB57  # the last 8 bytes of a LevelDB table, whose footer has 48
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
    return {name: _read_variable(f"{prefix}.data-{index[name].shard:05d}-of-{shards:05d}", name, index[name]) for name in names}


def _read_variable(file_name: str, name: str, variable: Variable) -> np.ndarray:
    path = Path(file_name)
    if not path.is_file():
        raise UserError(f"{path}: this file of the checkpoint is missing. It belongs beside the .index file.")
    if variable.dtype not in _DTYPES:
        raise UserError(f"{path}: {name} has TensorFlow's type {variable.dtype}, which cannot be read here.")
    dtype = np.dtype(_DTYPES[variable.dtype])
    with open(path, "rb") as file:
        file.seek(variable.offset)
        data = file.read(variable.size)
    if len(data) != variable.size:
        raise UserError(f"{path}: {name} is cut short. Fetch the file again.")
    if _masked_crc(data) != variable.checksum or len(data) != dtype.itemsize * math.prod(variable.shape):
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
    data = path.read_bytes()
    try:
        if len(data) < 48 or int.from_bytes(data[-8:], "little") != _MAGIC:
            raise ValueError("it does not end as a table does")
        _, _, position = _handle(data, len(data) - 48)  # of the meta index, which is empty
        table: dict[str, bytes] = {}
        for _, handle in _entries(_block(data, *_handle(data, position)[:2])):
            table |= {key.decode(): value for key, value in _entries(_block(data, *_handle(handle, 0)[:2]))}
        header, _ = _fields(table.pop(""))  # a BundleHeaderProto
        if header.get(2, 0):
            raise ValueError("its numbers are big-endian")
        return header[1], {name: _variable(message) for name, message in table.items()}
    except (ValueError, IndexError, KeyError, struct.error) as error:  # a UnicodeDecodeError is a ValueError
        raise UserError(f"{path}: this is no index of a TensorFlow checkpoint (V2), or it is damaged: {error}.") from error


def _block(data: bytes, offset: int, size: int) -> bytes:
    """Returns a block of the table. Its compression and its checksum follow it in the file."""
    compression, checksum = struct.unpack_from("<BI", data, offset + size)
    if compression:
        raise ValueError("it is compressed")  # TensorFlow never compresses
    if _masked_crc(data[offset : offset + size + 1]) != checksum:
        raise ValueError("a block does not agree with its checksum")
    return data[offset : offset + size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a block. A key is stored as the length that it shares with the key before, and the rest."""
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
    """Reads a block's offset and size, and returns them with the position behind them."""
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return offset, size, position


def _variable(message: bytes) -> Variable:
    """Parses a BundleEntryProto."""
    numbers, messages = _fields(message)
    if 7 in messages:
        raise ValueError("a variable is stored in slices")
    _, shape = _fields(messages[2][-1] if 2 in messages else b"")  # a TensorShapeProto
    sizes = (_fields(dimension)[0].get(1, 0) for dimension in shape.get(2, []))
    return Variable(numbers[1], tuple(sizes), numbers.get(3, 0), numbers.get(4, 0), numbers.get(5, 0), numbers[6])


def _fields(message: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """Parses a protocol buffer: its numbers and, each as often as it occurs, its messages, by the numbers of their fields."""
    numbers: dict[int, int] = {}
    messages: dict[int, list[bytes]] = {}
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            numbers[number], position = _varint(message, position)
        elif kind == 2:
            size, position = _varint(message, position)
            messages.setdefault(number, []).append(message[position : position + size])
            position += size
        elif kind == 5:
            numbers[number], position = struct.unpack_from("<I", message, position)[0], position + 4
        else:
            raise ValueError(f"a field of kind {kind}")
    return numbers, messages


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _masked_crc(data: bytes) -> int:
    """Returns the CRC-32C in the masked form that LevelDB stores."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
