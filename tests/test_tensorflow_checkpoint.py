"""Against what TensorFlow wrote: the authors' runs in the shared data, and the file that record_tensorflow.py recorded."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from crn_jax.errors import UserError
from crn_jax.formats.tensorflow_checkpoint import _MAGIC as MAGIC
from crn_jax.formats.tensorflow_checkpoint import _masked_crc, read_index, read_variables
from tests.support.limits import memory_for

pytestmark = pytest.mark.quick

RECORDED = Path(__file__).parent / "data" / "released.ckpt"
DATA_FILE = "released.ckpt.data-00000-of-00001"


def assert_same(got: dict, expected: dict) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(got[name], value)


@pytest.mark.parametrize("run", ["graph_simple", "graph_diversity"])
@pytest.mark.parametrize("when", ["init", "final"])
def test_the_authors_runs(shared_data, run, when):
    prefix = shared_data / "authors" / run / f"{when}.ckpt"
    with np.load(shared_data / "authors" / run / f"{when}_variables.npz") as expected:
        assert_same(read_variables(prefix, read_index(prefix)), dict(expected))


def test_every_variable_of_a_checkpoint_with_moments():
    with np.load(RECORDED.with_suffix(".npz")) as arrays:
        expected = {name: value for name, value in arrays.items() if not name.startswith("further/")}
    assert "beta1_power" in expected and "g_8_conv1/weights/Adam_1" in expected
    assert_same(read_variables(RECORDED, read_index(RECORDED)), expected)


@pytest.fixture
def copy(tmp_path):
    """A copy to damage, and its intact contents."""
    for path in RECORDED.parent.glob("released.ckpt.*"):
        shutil.copy(path, tmp_path)
    prefix = tmp_path / "released.ckpt"
    return prefix, read_variables(prefix, read_index(prefix))


def read_all(prefix: Path) -> dict:
    return read_variables(prefix, read_index(prefix))


@pytest.mark.parametrize("name", ["released.ckpt.index", DATA_FILE])
def test_a_changed_byte_is_noticed_or_does_not_matter(copy, name):
    prefix, expected = copy
    path = prefix.with_name(name)
    intact, noticed = path.read_bytes(), 0
    positions = range(0, len(intact), 3)
    for position in positions:
        damaged = bytearray(intact)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            assert_same(read_all(prefix), expected)
        except UserError as error:
            noticed += 1
            assert str(path) in str(error)
    if name == DATA_FILE:
        assert noticed == len(positions)
    else:
        assert noticed > 0.9 * len(positions)  # but for the footer's handle of a block that is not read, and its padding


def varint(n: int) -> bytes:
    return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protocol buffer. Field 6 of an entry is its checksum, of four bytes."""
    parts = []
    for number, value in fields:
        if isinstance(value, bytes):
            parts.append(varint(number << 3 | 2) + varint(len(value)) + value)
        else:
            parts.append(
                varint(number << 3 | 5) + value.to_bytes(4, "little") if number == 6 else varint(number << 3) + varint(value)
            )
    return b"".join(parts)


def entry(key: bytes, value: bytes, shared: int = 0) -> bytes:
    return varint(shared) + varint(len(key)) + varint(len(value)) + key + value


def table(*blocks: bytes, handles=None) -> bytes:
    """An index whose checksums are right, whatever its blocks hold."""

    def closed(block: bytes) -> bytes:
        return block + b"\0" + _masked_crc(block + b"\0").to_bytes(4, "little")

    whole, found = b"", []
    for block in blocks:
        block += bytes(4) + (1).to_bytes(4, "little")
        found.append(varint(len(whole)) + varint(len(block)))
        whole += closed(block)
    index = (
        b"".join(entry(b"%06d" % n, handle) for n, handle in enumerate(handles or found)) + bytes(4) + (1).to_bytes(4, "little")
    )
    footer = bytes(2) + varint(len(whole)) + varint(len(index))
    return whole + closed(index) + footer.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


HEADER = entry(b"", message((1, 1)))
DATA = np.arange(6, dtype="<f4").tobytes()
CHECKSUM = _masked_crc(DATA)


def variable(dtype=1, shape=(2, 3), shard=0, offset=0, size=24, checksum=CHECKSUM, more=()) -> bytes:
    sizes = message(*((2, message((1, n))) for n in shape))
    return message((1, dtype), (2, sizes), (3, shard), (4, offset), (5, size), (6, checksum), *more)


def test_an_index_of_our_own(tmp_path):
    (tmp_path / "own.index").write_bytes(table(HEADER + entry(b"x", variable()), entry(b"y", variable(9, (3,)))))
    (tmp_path / "own.data-00000-of-00001").write_bytes(DATA)
    np.testing.assert_array_equal(read_variables(tmp_path / "own", ["x"])["x"], [[0, 1, 2], [3, 4, 5]])
    assert read_variables(tmp_path / "own", ["y"])["y"].dtype == np.int64
    with pytest.raises(UserError, match="own.index: it is damaged: y lies where another variable lies"):
        read_variables(tmp_path / "own", ["x", "y"])


LONG = entry(b"a" * 1000, b"") + b"".join(entry(b"%05d" % n, b"", shared=1000) for n in range(50_000))


@pytest.mark.parametrize(
    "index",
    [
        table(HEADER + entry(b"x", variable(shape=(1 << 40, 1 << 40)))),
        table(HEADER + entry(b"x", variable(shape=(1 << 70,)))),
        table(HEADER + entry(b"x", variable(shape=(2,) * 1000))),
        table(HEADER + entry(b"x", variable(shape=()))),
        table(HEADER + entry(b"x", variable(size=1 << 40))),
        table(HEADER + entry(b"x", variable(shape=(1 << 38,), size=1 << 40))),
        table(HEADER + entry(b"x", variable(size=1 << 80))),
        table(HEADER + entry(b"x", variable(offset=1 << 62))),
        table(HEADER + entry(b"x", variable(offset=(1 << 64) - 24))),
        table(HEADER + entry(b"x", variable(shard=1))),
        table(HEADER + entry(b"x", variable(shard=1 << 60))),
        table(entry(b"", message((1, 1 << 60))) + entry(b"x", variable())),
        table(entry(b"", message((1, 0))) + entry(b"x", variable())),
        table(entry(b"", message((1, 1), (2, 1))) + entry(b"x", variable())),
        table(entry(b"", b"") + entry(b"x", variable())),
        table(entry(b"x", variable())),
        table(HEADER + entry(b"x", variable(dtype=7))),
        table(HEADER + entry(b"x", variable(checksum=1))),
        table(HEADER + entry(b"x", variable(more=[(7, b"")]))),
        table(HEADER + entry(b"x", b"")),
        table(HEADER + entry(b"x", b"\xff" * 100)),
        table(HEADER + entry(b"x", b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\1")),
        table(HEADER + entry(b"x", b"\x0b")),
        table(HEADER + entry(b"\xff", variable())),
        table(HEADER + entry(b"x", variable()) + entry(b"x", variable())),
        table(HEADER + entry(b"x", variable()) + entry(b"a", variable())),
        table(HEADER + entry(b"x", variable(), shared=5)),
        table(HEADER + LONG),
        table(HEADER + b"\0" + varint(1 << 62) + b"\0"),
        table(HEADER + b"\0\0" + varint(1 << 62)),
        table(HEADER + b"\xff" * 20),
        table(HEADER, handles=[varint(0) + varint(14)] * 2),
        table(HEADER, handles=[varint(1 << 62) + varint(14)]),
        table(HEADER, handles=[varint(0) + varint(1 << 62)]),
        table(HEADER, handles=[b""]),
        table(HEADER, handles=[b"\xff" * 30]),
        table(b""),
        table(),
        table(HEADER + entry(b"x", variable()))[:-48] + b"\xff" * 40 + MAGIC.to_bytes(8, "little"),
        bytes(40) + MAGIC.to_bytes(8, "little"),
        bytes(20_000_000) + MAGIC.to_bytes(8, "little"),
        b"",
    ],
    ids=range(42),
)
def test_an_index_that_makes_no_sense_is_refused(index, tmp_path):
    (tmp_path / "own.index").write_bytes(index)
    (tmp_path / "own.data-00000-of-00001").write_bytes(DATA)
    with memory_for(1 << 29), pytest.raises(UserError, match=r"own\.(index|data-00000-of-00001): .{,300}$"):
        read_variables(tmp_path / "own", ["x"])


def test_a_file_cut_short_is_named(copy):
    prefix, _ = copy
    for name in ("released.ckpt.index", DATA_FILE):
        path = prefix.with_name(name)
        intact = path.read_bytes()
        for length in range(0, len(intact), 37):
            path.write_bytes(intact[:length])
            with pytest.raises(UserError, match=name):
                read_all(prefix)
        path.write_bytes(intact)


def test_missing_files_are_named(copy):
    prefix, _ = copy
    with pytest.raises(UserError, match="there is no variable g_512_conv1/weights"):
        read_variables(prefix, ["g_512_conv1/weights"])
    prefix.with_name(DATA_FILE).unlink()
    with pytest.raises(UserError, match=f"{DATA_FILE}: this file of the checkpoint is missing"):
        read_all(prefix)
    with pytest.raises(UserError, match=r"model\.ckpt\.index: there is no such file.*There are: released.ckpt"):
        read_index(prefix.with_name("model.ckpt"))
