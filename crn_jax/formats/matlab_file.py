"""Reads a variable of a MATLAB file (version 5, as MATLAB 5 to 7 and SciPy write), after checking how its parts nest.

SciPy reads the values. It believes the sizes in a file, and follows structures however deep they are nested. The file is
therefore walked through here first: parts must lie within each other, nest a few levels deep, and unpack to a bounded size, and
the checksums of packed parts are verified. MATLAB 7.3 writes HDF5 files, which `hdf5_file.py` reads.
"""

import struct
import zlib
from pathlib import Path
from typing import Any

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18}  # the types of parts without parts
_CELL, _STRUCT = 1, 2
_PLAIN = {4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}  # characters and numbers; not objects, sparse arrays or functions
_COMPLEX = 0x08
_DEPTH = 16
_ELEMENTS = 100_000


def read_matlab(path: str | Path, name: str, largest: int) -> Any:
    """Reads a variable. Structs become dicts, cells and arrays of structs become arrays or lists.

    Args:
      path: the file.
      name: the name of the variable.
      largest: how many bytes the file may have when it is unpacked.

    Raises:
      KeyError: if there is no such variable.
      Exception: if the file is damaged, of another kind, or larger. SciPy's own errors for damage are of a dozen kinds.
    """
    import scipy.io  # slow to import, and seldom needed

    _check(Path(path), largest)
    return scipy.io.loadmat(path, simplify_cells=True, variable_names=[name])[name]


def _check(path: Path, largest: int) -> None:
    """Raises ValueError unless the file's parts nest as they should."""
    with open(path, "rb") as file:
        header = file.read(_HEADER)
        if len(header) < _HEADER or header[124:] not in (b"\0\1IM", b"\1\0MI"):
            raise ValueError("it is no MATLAB file of version 5")
        if header[126:] == b"MI":
            raise ValueError("its numbers are big-endian")
        walk = _Walk(largest)
        while tag := file.read(8):
            kind, size = _tag(tag)
            if size > largest:
                raise ValueError(f"it is larger than {largest:,} bytes")
            data = file.read(size)
            if len(data) < size:
                raise ValueError("it is cut short")
            if kind == _COMPRESSED:
                unpacker = zlib.decompressobj()
                data = unpacker.decompress(data, walk.left + 1)
                if not unpacker.eof or len(data) > walk.left:
                    raise ValueError(f"it is damaged, or larger than {largest:,} bytes when it is unpacked")
                kind, size = _tag(data[:8])
                if kind != _MATRIX or size != len(data) - 8:
                    raise ValueError("a variable does not fill its part")
                data = data[8:]
            elif kind != _MATRIX:
                raise ValueError(f"a part is of kind {kind}")
            walk.left -= len(data)
            walk.matrix(memoryview(data), 0)


class _Walk:
    """What is left of the bounds."""

    def __init__(self, largest: int):
        self.left, self.elements = largest, _ELEMENTS

    def matrix(self, data: memoryview, depth: int) -> None:
        """Checks an array and what it contains."""
        self.elements -= 1
        if depth > _DEPTH or self.elements < 0:
            raise ValueError("its parts nest too deeply, or are too many")
        if not data:
            return  # an empty cell
        parts = _parts(data)
        kinds = [kind for kind, _ in parts]
        if len(parts) < 3 or kinds[:2] != [6, 5] or len(parts[0][1]) != 8:
            raise ValueError("an array does not begin with its class and its shape")
        contents = [content for kind, content in parts[3:] if kind == _MATRIX]
        of, flags = parts[0][1][:2]
        if flags & _COMPLEX:
            raise ValueError("its numbers are complex")  # SciPy would look for the imaginary ones wherever the file ends
        if of in (_CELL, _STRUCT):
            count = _product(parts[1][1])
            others = [content for kind, content in parts[3:] if kind != _MATRIX]
            if of == _STRUCT:
                if len(others) != 2 or len(others[0]) != 4:
                    raise ValueError("a struct does not name its fields")
                length = int.from_bytes(others[0], "little")
                count *= len(others[1]) // length if length else 0
            elif others:
                raise ValueError("a cell array has other parts")
            if count != len(contents):
                raise ValueError(f"an array says that it has {count:,} parts, but has {len(contents):,}")
            for content in contents:
                self.matrix(content, depth + 1)
        elif of not in _PLAIN or contents or len(parts) > 4:
            raise ValueError(f"an array is of class {of}, which is not read here")


def _parts(data: memoryview) -> list[tuple[int, memoryview]]:
    """Returns the parts of an array, each with its type."""
    parts, position = [], 0
    while position < len(data):
        kind, size = _tag(bytes(data[position : position + 8]))
        if kind >> 16:  # up to four bytes are stored in the tag itself
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4 or kind not in _NUMBERS:
                raise ValueError("a small part has over four bytes")
            parts.append((kind, data[position + 4 : position + 4 + size]))
            position += 8
            continue
        if kind not in _NUMBERS and kind != _MATRIX or size > len(data) - position - 8:
            raise ValueError(f"a part of kind {kind} reaches beyond the array that it is in")
        parts.append((kind, data[position + 8 : position + 8 + size]))
        position += 8 + (size if kind == _MATRIX else -(-size // 8) * 8)
        if len(parts) > _ELEMENTS:
            raise ValueError("it has too many parts")
    return parts


def _tag(data: bytes) -> tuple[int, int]:
    if len(data) < 8:
        raise ValueError("it is cut short")
    return struct.unpack("<II", data)


def _product(sizes: memoryview) -> int:
    """Returns the number of entries of an array with these sizes, 32 bits each."""
    count = 1
    for (size,) in struct.iter_unpack("<i", sizes[: len(sizes) // 4 * 4]):
        count *= max(size, 0)
    return count
