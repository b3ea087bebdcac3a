"""Checksums that tell whether bytes are still those that were written: CRC-32C, of arrays and of JSON.

CRC-32C finds every error within 32 neighbouring bits and every one to three flipped bits of up to 256 MiB. It misses any other
damage once in 4 billion times. It guards against failing disks, copies and memory. It is no protection against people, who can
compute it, too.
"""

import json
import re
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

KEY = "crc32c"
"""The key under which a JSON object holds its own checksum."""

_PIECE = 1 << 18
"""Bytes that are copied at a time, because google_crc32c takes immutable bytes only; they stay within a processor's cache."""


def crc32c(data: np.ndarray | bytes) -> int:
    """Returns the CRC-32C of bytes, or of an array's elements in C order."""
    if isinstance(data, bytes):
        return google_crc32c.value(data)
    view, checksum = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data, 0
    for start in range(0, len(view), _PIECE):
        checksum = google_crc32c.extend(checksum, bytes(view[start : start + _PIECE]))
    return checksum


def crc32c_of_file(path: Path) -> int:
    """Returns the CRC-32C of a file's content."""
    checksum = 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            checksum = google_crc32c.extend(checksum, piece)
    return checksum


def sealed(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns a JSON object with its own checksum under `KEY`. Line breaks and the order of keys do not change the checksum."""
    fields = json.loads(json.dumps(fields))  # JSON's keys are strings
    return fields | {KEY: _of_values(fields)}


def unsealed(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns a JSON object without the checksum that `sealed` has added. An object that has none comes back as it is.

    Raises:
      ValueError: if the values are not those that were sealed, or if the checksum's own key is damaged.
    """
    if KEY not in fields:
        last = next(reversed(fields), "")  # where `sealed` puts it
        if isinstance(fields.get(last), str) and re.fullmatch("[0-9a-f]{8}", fields[last]):
            raise ValueError(f"the key of its checksum is {last!r} instead of {KEY!r}")
        return fields
    values = {key: value for key, value in fields.items() if key != KEY}
    if fields[KEY] != _of_values(values):
        raise ValueError(f"its values do not have the checksum {KEY} that stands beside them")
    return values


def _of_values(fields: dict[str, Any]) -> str:
    return f"{crc32c(json.dumps(fields, sort_keys=True).encode()):08x}"
