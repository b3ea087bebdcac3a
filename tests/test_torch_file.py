"""Files of torch.save: tests/data has some that torch wrote (`record_references.py`); what it would not write is made here."""

import hashlib
import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy

from crn_jax.errors import UserError
from crn_jax.files import sha256_of
from crn_jax.formats import torch_file
from crn_jax.formats.torch_file import expect, read_torch_file, read_weights
from tests.support.limits import memory_for

pytestmark = pytest.mark.quick

DATA = Path(__file__).parent / "data"
MAGIC = 0x1950A86A20F9469CFC6C


def expected() -> dict[str, np.ndarray]:
    """What `record_references.state_dict` holds."""
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    return {
        "weight": np.ones(3, np.float32),
        "bias": np.zeros(3, np.float32),
        "running_mean": np.zeros(3, np.float32),
        "running_var": np.ones(3, np.float32),
        "num_batches_tracked": np.array(0),
        "base": base,
        "transposed": base.transpose(2, 0, 1),
        "part": base[1, 1:, ::2],
        "expanded": np.float32([[1.5] * 3, [-2.5] * 3]),
        "parameter": np.float32([0.5, -0.25]),
        "empty": np.zeros((0, 3), np.float32),
        "half": np.float16([0.1, -65504]),
        "double": np.array([0.1, 1e300]),
        "int64": np.array([-(2**62), 7]),
        "uint8": np.uint8([0, 255]),
        "bool": np.array([True, False]),
    }


def assert_equal(state: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(state) == list(wanted)
    for name, array in wanted.items():
        assert state[name].dtype == array.dtype, name
        np.testing.assert_array_equal(state[name], array, strict=True)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_files_of_torch(name):
    state = read_torch_file(DATA / name)
    assert_equal(state, expected())
    assert np.shares_memory(state["base"], state["part"])
    with pytest.raises(ValueError, match="read-only"):
        state["base"][:] = 0


def test_files_of_2017():
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    names = ["tensor", "built from a state", "built from a tensor"]
    assert_equal(read_torch_file(DATA / "as_in_2017.pth"), {name: transposed for name in names})


def test_names_written_by_python_2(tmp_path):
    """LPIPS' linear weights are in a file of this form."""
    written = re.sub(rb"X([\x01-\xff])\0\0\0", rb"U\1", (DATA / "legacy.pth").read_bytes())
    assert written.count(b"U\x04base") == 1
    (tmp_path / "python2.pth").write_bytes(written)
    assert_equal(read_torch_file(tmp_path / "python2.pth", [hashlib.sha256(written).hexdigest()[:8]]), expected())


class Malicious:
    def __init__(self, victim: Path):
        self.victim = victim

    def __reduce__(self):
        return os.system, (f"touch {self.victim}",)


def legacy(*pickles: bytes, storages: bytes = b"") -> bytes:
    system = {"little_endian": True, "protocol_version": 1001}
    return b"".join([*(pickle.dumps(x, 2) for x in (MAGIC, 1001, system)), *pickles, storages])


def zipped(pickled: bytes, compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in {"data.pkl": pickled, **members}.items():
            archive.writestr(f"archive/{name}", data)
    return file.getvalue()


@pytest.mark.parametrize("place", ["first pickle", "legacy", "zip"])
def test_no_code_of_a_file_is_run(place, tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "evil.pth"
    evil = pickle.dumps({"weight": Malicious(victim)}, 2)
    path.write_bytes({"first pickle": evil, "legacy": legacy(evil), "zip": zipped(evil)}[place])
    with pytest.raises(UserError, match=r"evil\.pth: this is no state dict: it asks for (posix|nt)\.system, which was not run"):
        read_torch_file(path)
    assert not victim.exists()
    pickle.loads(evil)  # it would have worked
    assert victim.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "torch.load", "torch._utils._rebuild_tensor_v2.__globals__", "numpy.ndarray"]
)
def test_only_the_globals_of_tensors_are_known(name, tmp_path):
    module, attribute = re.fullmatch(r"(torch\._utils|\w+)\.(.+)", name).groups()
    by_stack = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode() + b"\x8c" + bytes([len(attribute)]) + attribute.encode()
    for n, pickled in enumerate([f"c{module}\n{attribute}\n)R.".encode(), by_stack + b"\x93)R."]):
        (tmp_path / f"{n}.pth").write_bytes(legacy(pickled))
        with pytest.raises(UserError, match=f"it asks for {re.escape(name)}"):
            read_torch_file(tmp_path / f"{n}.pth")


@pytest.mark.parametrize("name", ["collections\nOrderedDict", "torch\nFloatTensor", "torch\nFloatStorage"])
def test_a_file_cannot_change_what_it_names(name, tmp_path):
    """BUILD sets attributes: here of a class, or of what else a name stands for."""
    for n, state in enumerate([{"__setstate__": 1, "view": 1}, (None, {"view": 1})]):
        (tmp_path / f"{n}.pth").write_bytes(legacy(f"c{name}\n".encode() + pickle.dumps(state, 2)[2:-1] + b"b."))
        with pytest.raises(UserError, match=rf"{n}\.pth"):
            read_torch_file(tmp_path / f"{n}.pth")
    assert_equal(read_torch_file(DATA / "legacy.pth"), expected())


def test_what_is_no_state_dict_is_refused():
    with pytest.raises(UserError, match=r"checkpoint\.pth: this is no state dict: its entry 'epoch' is no plain tensor"):
        read_torch_file(DATA / "checkpoint.pth")
    with pytest.raises(UserError, match=r"module\.pth: this is no state dict: it asks for torch\.nn\.modules\.linear\.Linear"):
        read_torch_file(DATA / "module.pth")


def one_tensor(count: int, offset, shape, strides, flags=(False, None)) -> bytes:
    """A pickle of `{"x": tensor}` over a storage "0" of `count` floats; torch's checks do not stand in the way."""

    def plain(value) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    storage = b"(" + plain("storage") + b"ctorch\nFloatStorage\n" + plain("0") + plain("cpu") + plain(count) + b"NtQ"
    arguments = storage + b"".join(map(plain, (offset, shape, strides, *flags)))
    return b"\x80\x02}" + plain("x") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs."


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (pickle.dumps([1], 2), "it holds an object of type list"),
        (pickle.dumps({"x": 1}, 2), "its entry 'x' is no plain tensor"),
        (b"\x80\x02}U\x01xctorch\nFloatTensor\n)Rs.", "its entry 'x' is no plain tensor"),
        (one_tensor(2, 0, (2,), (1,)).replace(pickle.dumps("x", 2)[2:-1], b"K\x07"), "its entry 7 is no plain tensor"),
    ],
)
def test_entries_that_are_no_tensors_are_refused(pickled, message, tmp_path):
    (tmp_path / "entry.pth").write_bytes(legacy(pickled, pickle.dumps([], 2)))
    with pytest.raises(UserError, match=rf"entry\.pth: this is no state dict: {message}"):
        read_torch_file(tmp_path / "entry.pth")


NUMBERS = st.integers(-1, 5)


@hypothesis.settings(deadline=None, max_examples=200, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(offset=NUMBERS, dims=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3))
def test_a_view_is_right_or_refused(offset, dims, tmp_path):
    shape, strides = tuple(n for n, _ in dims), tuple(stride for _, stride in dims)
    values = np.arange(10, 22, dtype=np.float32)
    path = tmp_path / "view.pth"
    stored = (12).to_bytes(8, "little") + values.tobytes()
    path.write_bytes(legacy(one_tensor(12, offset, shape, strides), pickle.dumps(["0"], 2), storages=stored))
    negative = min([offset, *shape, *strides]) < 0
    places = None if negative else {i: offset + int(np.dot(i, strides)) for i in np.ndindex(shape)}
    if negative or any(place >= 12 for place in places.values()):
        with pytest.raises(UserError, match=r"view\.pth.*x reaches beyond its storage"):
            read_torch_file(path)
    else:
        x = read_torch_file(path, [sha256_of(path)])["x"]
        assert x.shape == shape and all(x[i] == values[place] for i, place in places.items())


@pytest.mark.parametrize(
    "pickled",
    [
        one_tensor(2, 0, (2, 1), (1,)),
        one_tensor(2, 0.0, (2,), (1,)),
        one_tensor(2, 0, (2.0,), (1,)),
        one_tensor(2, 0, (1 << 62, 1 << 62), (0, 0)),
        one_tensor(2, 0, (1,), (1 << 70,)),
        one_tensor(3, 0, (2,), (1,)),
        one_tensor(-1, 0, (2,), (1,)),
        one_tensor(2, 0, (2,), (1,))[:-1] + one_tensor(3, 0, (2,), (1,))[3:],  # storage "0" twice, of different sizes
        one_tensor(2, 0, (2,), (1,), (False, None, {"neg": True})),
        one_tensor(2, 0, (2,), (1,)).replace(b"NtQ", pickle.dumps(("1", 0, 1), 2)[2:-1] + b"tQ"),  # a view of a storage
    ],
)
def test_tensors_that_make_no_sense_are_refused(pickled, tmp_path):
    data = np.float32([1, 2]).tobytes()
    sound = one_tensor(2, 0, (2,), (1,))
    path = tmp_path / "odd.pth"
    for one in sound, pickled:
        files = legacy(one, pickle.dumps(["0"], 2), storages=(2).to_bytes(8, "little") + data), zipped(one, **{"data/0": data})
        for file in files:
            path.write_bytes(file)
            if one is sound:
                np.testing.assert_array_equal(read_torch_file(path, [sha256_of(path)])["x"], [1, 2])
            else:
                with pytest.raises(UserError, match=r"odd\.pth"):
                    read_torch_file(path, [sha256_of(path)])


NESTED = b"K\x01" + b"2\x87" * 50  # DUP: a tuple of three references to the tuple before it
SHARED = b")q\0" + b"h\0h\0\x86q\0" * 60 + b"h\0"  # the same with what torch uses
PAIRS = b"]q\0(" + b"".join(b"X\4\0\0\0%04xK\0\x86" % n for n in range(40_000)) + b"e0"


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\2}" + NESTED + b"K\1s.",
        b"\x80\2}" + SHARED + b"K\1s.",
        b"\x80\2}(" + SHARED + b"K\1u.",
        b"\x80\2ccollections\nOrderedDict\n]" + SHARED + b"K\1\x86a\x85R.",  # as Python 2 pickles an OrderedDict
        b"\x80\2}X\1\0\0\0xX\7\0\0\0storagectorch\nFloatStorage\n" + SHARED + b"K\0K\1N(t\x86Qs.",
        b"\x80\2(X\7\0\0\0storagectorch\nFloatStorage\n" + SHARED + b"K\0K\1tQ.",  # the key of a storage
        b"\x80\2X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0K\0" + SHARED + b"\x86tQ.",
        b"\x80\2" + SHARED + b".",
        b"\x80\5\x96" + (1 << 32).to_bytes(8, "little") + b"a.",  # a bytearray of 4 GB
        b"\x80\2X\xff\xff\xff\xffa.",
        b"\x80\2T\xff\xff\xff\x7fa.",
        b"\x80\4\x95" + (1 << 62).to_bytes(8, "little") + b"a.",
        b"\x80\2\x8b\xff\xff\xff\x7fa.",
        b"\x80\2" + b"}" * 1_100_000 + b".",
        b"\x80\2" + b"(" * 200_000 + b".",
        b"\x80\2)" + b"\x85" * 200_000 + b".",
        b"\x80\2" + PAIRS.replace(b"e0", b"e\x85q\1ccollections\nOrderedDict\nq\2") + b"h\2h\1R" * 10_000 + b".",
        b"\x80\2(" + b"N" * 100_000 + b"tq\1ctorch\nFloatTensor\nq\2" + b"h\2h\1R" * 100_000 + b".",
    ],
    ids=range(18),
)
@pytest.mark.parametrize("kind", [legacy, zipped])
def test_no_pickle_takes_long_or_much_memory(kind, pickled, tmp_path, monkeypatch):
    """Nested tuples would be hashed or shown for ages, and lengths would be believed."""
    monkeypatch.setattr(torch_file, "PICKLE_BYTES", 1 << 20)
    path = tmp_path / "hostile.pth"
    path.write_bytes(kind(pickled))
    with memory_for(1 << 30), pytest.raises(UserError, match=r"hostile\.pth: .{,300}$"):
        read_torch_file(path)


@pytest.mark.parametrize("name", ["torch_bytearray8_4GB", "torch_laughs_in_dict_key"])
def test_hostile_files(name):
    with memory_for(1 << 30), pytest.raises(UserError, match=f"{name}.pth: the file is damaged, truncated or of another kind"):
        read_torch_file(DATA / f"{name}.pth")


def test_members_that_claim_more_than_the_file_has(tmp_path):
    data = np.float32([1, 2]).tobytes()
    whole = zipped(one_tensor(2, 0, (2,), (1,)), **{"data/0": data})
    for size in 9, 1 << 31:
        lying = whole.replace(len(data).to_bytes(4, "little") * 2, size.to_bytes(4, "little") * 2)
        (tmp_path / "lying.pth").write_bytes(lying)
        with memory_for(1 << 30), pytest.raises(UserError, match=r"lying\.pth"):
            read_torch_file(tmp_path / "lying.pth")


def test_the_legacy_format_needs_a_known_sha256(tmp_path):
    """In the name, as torch publishes files, in a file beside it, or known to whoever reads it."""
    whole, digest = (DATA / "legacy.pth").read_bytes(), sha256_of(DATA / "legacy.pth")
    values = whole.index(np.float32([1.5, -2.5]).tobytes())
    damaged = whole[:values] + b"\1" + whole[values + 1 :]
    plain, named, beside = tmp_path / "own.pth", tmp_path / f"own-{digest[:8]}.pth", tmp_path / "own.pth.sha256"
    for path in plain, named:
        path.write_bytes(whole)
    assert_equal(read_torch_file(named), expected())
    assert_equal(read_torch_file(plain, ["00000000", digest]), expected())
    with pytest.raises(UserError, match=rf"own\.pth: .*before 2020.* {digest}, .*sha256sum own\.pth > own\.pth\.sha256"):
        read_torch_file(plain, ["00000000"])
    beside.write_text(f"{digest}  own.pth\n")
    assert_equal(read_torch_file(plain), expected())
    for path, where in (plain, "own.pth.sha256 says"), (named, "its name says"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{path.name}: the file is damaged: .*{where}"):
            read_torch_file(path)
    with pytest.raises(UserError, match="before 2020"):
        plain.rename(tmp_path / "other.pth")
        read_torch_file(tmp_path / "other.pth", [digest])
    for text in b"", digest[:8].encode(), b"\xff" * 100:
        (tmp_path / "other.pth.sha256").write_bytes(text)
        with pytest.raises(UserError, match=r"other\.pth: the file is damaged"):
            read_torch_file(tmp_path / "other.pth")


def test_storages_have_the_size_that_the_legacy_format_repeats(tmp_path):
    for count in 1, 2, 3:
        stored = count.to_bytes(8, "little") + np.float32([1, 2, 3]).tobytes()
        (tmp_path / "size.pth").write_bytes(legacy(one_tensor(2, 0, (2,), (1,)), pickle.dumps(["0"], 2), storages=stored))
        if count == 2:
            state = read_torch_file(tmp_path / "size.pth", [sha256_of(tmp_path / "size.pth")])
            np.testing.assert_array_equal(state["x"], [1, 2])
        else:
            with pytest.raises(UserError, match=r"size\.pth: .*storage 0 has another size"):
                read_torch_file(tmp_path / "size.pth")


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_a_truncated_file_is_named(name, tmp_path):
    whole, path = (DATA / name).read_bytes(), tmp_path / name
    for length in {*range(0, len(whole), 3), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=re.escape(name)):
            read_torch_file(path)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_a_damaged_byte_does_no_harm(name, tmp_path):
    whole, path, refused = (DATA / name).read_bytes(), tmp_path / name, 0
    known = [sha256_of(DATA / name)]
    changes = np.random.default_rng(0).integers(1, 256, len(whole)).tolist()
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ changes[position]]) + whole[position + 1 :])
        try:
            state = read_torch_file(path, known)
        except UserError as error:
            assert name in str(error)
            refused += 1
        else:
            assert name == "zip.pth"
            assert_equal(state, expected())
    assert refused > len(whole) / 12


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pth", b""),
        ("page.pth", b"<!DOCTYPE html><html>Not Found</html>"),
        ("picture.pth", b"\x89PNG\r\n\x1a\n" + bytes(100)),
        ("other.pth", zipped(b"", **{"readme": b"..."})),
        ("number.pth", pickle.dumps(5)),
        ("big_legacy.pth", legacy(pickle.dumps({}, 2), pickle.dumps([], 2)).replace(b"\x88", b"\x89", 1)),  # the one True
        ("magic.pth", legacy(pickle.dumps({}, 2), pickle.dumps([], 2)).replace(b"\x6c\xfc", b"\x6c\xfd", 1)),
        ("bomb.pth", zipped(one_tensor(2, 0, (2,), (1,)), zipfile.ZIP_DEFLATED, **{"data/0": bytes(8)})),
        ("big.pth", zipped(one_tensor(2, 0, (2,), (1,)), **{"data/0": bytes(8), "byteorder": b"big"})),
        ("weights.pth", safetensors.numpy.save({"x": np.ones(3)})),
        ("weights.safetensors", safetensors.numpy.save({"x": np.ones(3)})[:-1]),
        ("torch.safetensors", (DATA / "zip.pth").read_bytes()),
    ],
)
def test_files_of_other_kinds_are_named(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: the file is damaged, truncated or of another kind"):
        read_weights(tmp_path / name, "")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth: there is no such file\. Buy it\."):
        read_weights(tmp_path / "none.pth", "Buy it.")
    with pytest.raises(UserError, match=r"none\.pth: the file cannot be read: .*No such file"):
        read_torch_file(tmp_path / "none.pth")


def test_safetensors(tmp_path):
    tensors = {"a": np.float32([1, 2]), "b": np.int64([[3]])}
    safetensors.numpy.save_file(tensors, tmp_path / "weights.safetensors")
    assert_equal(dict(sorted(read_weights(tmp_path / "weights.safetensors", "").items())), tensors)
    assert_equal(read_weights(str(DATA / "zip.pth"), ""), expected())


def test_tensors_are_asked_for_by_name_and_shape():
    tensors = {"a": np.float16([1, 2])}
    a = expect(tensors, "a", (2,), "f.pth", "a network")
    np.testing.assert_array_equal(a, np.float32([1, 2]), strict=True)
    with pytest.raises(UserError, match=r"f\.pth: these are not the weights of a network: b is missing"):
        expect(tensors, "b", (2,), "f.pth", "a network")
    with pytest.raises(UserError, match=r"a is \(2,\), expected \(3,\)"):
        expect(tensors, "a", (3,), "f.pth", "a network")
