"""MATLAB files that are not what they say."""

import struct
import zlib

import numpy as np
import pytest
import scipy.io

from crn_jax.formats.matlab_file import read_matlab
from tests.support.limits import memory_for

pytestmark = pytest.mark.quick


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def cell(*contents: bytes, count: int | None = None, name: bytes = b"") -> bytes:
    shape = struct.pack("<ii", 1, len(contents) if count is None else count)
    return element(14, element(6, struct.pack("<II", 1, 0)) + element(5, shape) + element(1, name) + b"".join(contents))


def numbers(count: int, content: bytes, name: bytes = b"") -> bytes:
    shape = struct.pack("<ii", 1, count)
    return element(14, element(6, struct.pack("<II", 9, 0)) + element(5, shape) + element(1, name) + element(2, content))


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = cell(inner or numbers(1, b"x"))
    return cell(inner, name=b"x")


HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"


def test_what_scipy_writes(tmp_path):
    values = {"x": np.arange(6.0).reshape(2, 3), "s": {"name": "conv", "weights": [np.ones((3, 3)), np.zeros(2)]}, "c": "text"}
    for packed in False, True:
        scipy.io.savemat(tmp_path / "x.mat", values, do_compression=packed)
        np.testing.assert_array_equal(read_matlab(tmp_path / "x.mat", "x", 10_000), values["x"])
        assert read_matlab(tmp_path / "x.mat", "s", 10_000)["name"] == "conv"
        with pytest.raises(KeyError):
            read_matlab(tmp_path / "x.mat", "y", 10_000)
    (tmp_path / "x.mat").write_bytes(HEADER + cell(numbers(2, b"ab"), numbers(1, b"c"), name=b"x"))
    first, second = read_matlab(tmp_path / "x.mat", "x", 10_000)
    assert first.tolist() == [97, 98] and second == 99


@pytest.mark.parametrize(
    "content",
    [
        HEADER + nested(2_000),
        HEADER + element(15, zlib.compress(nested(2_000))),
        HEADER + element(15, zlib.compress(bytes(1 << 26))),
        HEADER + element(15, zlib.compress(numbers(1, b"x", b"x"))[:-1]),
        HEADER + element(15, zlib.compress(numbers(1, b"x", b"x") * 2)),
        HEADER + cell(numbers(1, b"x"), count=1 << 30, name=b"x"),
        HEADER + cell(count=1 << 30, name=b"x"),
        HEADER + struct.pack("<II", 14, 1 << 31),
        HEADER + cell(struct.pack("<II", 14, 1 << 20), count=1, name=b"x"),
        HEADER + cell(*[numbers(0, b"")] * 150_000, name=b"x"),
        HEADER + element(1, b"x"),
        HEADER + element(14, b""),
        HEADER.replace(b"\0\1IM", b"\1\0MI") + numbers(1, b"x", b"x"),
        b"",
        b"x" * 1000,
        (HEADER + numbers(1, b"x", b"x")).replace(struct.pack("<IIBB", 6, 8, 9, 0), struct.pack("<IIBB", 6, 8, 9, 0x08)),
    ],
    ids=range(16),
)
def test_parts_that_do_not_nest_as_they_should(tmp_path, content):
    (tmp_path / "x.mat").write_bytes(content)
    with memory_for(1 << 28), pytest.raises((ValueError, KeyError, zlib.error)):
        read_matlab(tmp_path / "x.mat", "x", 1 << 24)
