"""Against what TensorFlow wrote: the authors' runs in the shared data, and the file that record_tensorflow.py recorded."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from crn_jax.errors import UserError
from crn_jax.formats.tensorflow_checkpoint import read_index, read_variables

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
