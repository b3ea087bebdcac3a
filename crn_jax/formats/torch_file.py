"""Reads state dicts saved by `torch.save`, without torch and without running anything that a file asks for.

A file is a pickle of names and tensors, which refer to storages. Since 2020 (torch 1.6), pickle and storages are members of a
zip archive, which has checksums. Before, in what torch calls the legacy format, they follow each other, and nothing tells a
damaged file from a sound one. Such a file is read only if its SHA-256 is known.

A pickle is a program that may name any function of any module and have it called. Here it may use only the instructions that
torch writes, and name only `OrderedDict`, the types of storages, and the names under which torch has pickled tensors and
parameters over the years. The latter only note where a tensor lies. Each instruction takes time and memory in proportion to the
bytes that it reads, and a pickle is short, so that no file takes long or much memory beyond its own size.
"""

import contextlib
import io
import operator
import os
import pickle
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np
import safetensors.numpy

from crn_jax.errors import UserError
from crn_jax.files import sha256_of

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "Bool": "?",
    "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1",
}  # fmt: skip
PICKLE_BYTES = 1 << 22
"""The greatest length of a pickle: some 20,000 tensors."""
_LISTED = 100_000
"""The greatest number of entries of dicts that are made from lists, as Python 2 pickled them."""
_DIMENSIONS = 32


def read_weights(path: str | Path, remedy: str, published: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Reads named tensors from a `.safetensors` file, or from any other file by `read_torch_file`.

    Raises:
      UserError: if the file is missing or cannot be read. `remedy` is a sentence that tells where to find a missing file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file. {remedy}")
    if path.suffix != ".safetensors":
        return read_torch_file(path, published)
    with _naming(path):
        return safetensors.numpy.load_file(path)


def read_torch_file(path: str | Path, published: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict saved by `torch.save`, in its order. The arrays are read-only views.

    Args:
      path: the file.
      published: the SHA-256 of published files, in hexadecimal digits, or the first eight digits or more. A file in the legacy
        format must be one of them. Otherwise its SHA-256 must stand in its name, as torch names what it publishes
        (`vgg16-397923af.pth`), or in a file of the same name with `.sha256` added, which the command `sha256sum` writes.

    Raises:
      UserError: if the file is missing, damaged, truncated or of another kind, if it holds or asks for anything but tensors, or
        if it is in the legacy format and its SHA-256 is unknown or wrong. The message names the file.
    """
    path = Path(path)
    with _naming(path), open(path, "rb") as file:
        legacy = file.read(4) != _ZIP_MAGIC
        file.seek(0)
        state, storages = _read_legacy(file) if legacy else _read_zip(file)
        if not isinstance(state, dict):
            raise _NoStateDict(f"it holds an object of type {type(state).__name__}")
        tensors = {name: _array(name, tensor, storages) for name, tensor in state.items()}
    if legacy:
        _verify_legacy(path, published)
    return tensors


def _verify_legacy(path: Path, published: Collection[str]) -> None:
    """Raises UserError unless the SHA-256 of a file is known and right."""
    digest, beside = sha256_of(path), path.with_name(f"{path.name}.sha256")
    if any(digest.startswith(known) for known in published):
        return
    if named := re.search(r"-([0-9a-f]{8,64})\.", path.name):
        expected, where = named[1], "its name"
    elif beside.is_file():
        with open(beside, "rb") as file:
            expected, where = file.read(64).decode(errors="replace").lower(), str(beside)
    else:
        raise UserError(
            f"{path}: this is PyTorch's format of before 2020, which has no checksums, so that damage would go unnoticed, and "
            f"the file is none of those that are published for this purpose. Save it again with a current PyTorch. Or compare "
            f"its SHA-256, {digest}, with the publisher's, and keep it beside the file: sha256sum {path.name} > {beside.name}"
        )
    if len(expected) < 8 or not digest.startswith(expected):
        raise UserError(f"{path}: the file is damaged: its SHA-256 is {digest}, but {where} says {expected}. Fetch it again.")


def expect(tensors: dict[str, np.ndarray], key: str, shape: tuple[int, ...], path: str | Path, network: str) -> np.ndarray:
    """Returns a tensor of a file as float32, after checking its shape.

    Raises:
      UserError: if the tensor is missing, has another shape than in `network`, or has numbers that are no finite floats. The
        message names the file and the key.
    """
    if key not in tensors:
        raise UserError(f"{path}: these are not the weights of {network}: {key} is missing.")
    if tensors[key].shape != shape:
        raise UserError(f"{path}: these are not the weights of {network}: {key} is {tensors[key].shape}, expected {shape}.")
    if tensors[key].dtype.kind != "f":
        raise UserError(f"{path}: these are not the weights of {network}: {key} holds {tensors[key].dtype}, not floats.")
    with np.errstate(over="ignore"):  # it becomes infinite, and is refused
        values = tensors[key].astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: the file is damaged: {key} has numbers that are not finite. Fetch it again.")
    return values


class _NoStateDict(Exception):
    """The file may be sound, but it holds or asks for something else than tensors."""


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except _NoStateDict as error:
        raise UserError(f"{path}: this is no state dict: {error}. Save the network's `state_dict()` alone.") from error
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read: {error}") from error
    except Exception as error:  # A damaged pickle can fail in any way.
        raise UserError(f"{path}: the file is damaged, truncated or of another kind ({error!r}). Fetch it again.") from error


class _Storage(NamedTuple):
    key: str
    dtype: str
    elements: int


class _Tensor:
    """A note of where a tensor lies: `view` has its storage, offset, shape and strides, the last three in elements.

    torch has pickled tensors and parameters by functions, by their classes, and by the state of an empty object. Arguments and
    states alike begin with the view, or with a tensor that has it. Others, such as a parameter's flags and hooks, are not used.
    """

    view: tuple | None = None

    def __new__(cls, *arguments: Any):
        tensor = super().__new__(cls)
        tensor.__setstate__(arguments)
        return tensor

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and state and isinstance(state[0], _Tensor):
            self.view = state[0].view
        elif isinstance(state, tuple) and state and isinstance(state[0], _Storage) and len(state) <= 6:
            self.view = state[:4]  # a seventh would be negation or conjugation


class _OrderedDict(dict):
    """An `OrderedDict`, as torch pickles a state dict. Its attributes, such as the versions of modules, are not used."""

    def __init__(self, pairs: Iterable = ()):
        super().__init__()
        for name, value in pairs:
            _add(self, name, value)

    def __setstate__(self, state: Any) -> None:
        pass


def _add(target: Any, name: Any, value: Any) -> None:
    """Sets an entry of a dict. A key may be a string or a number, as hashing a tuple can take for ever."""
    if not isinstance(target, dict) or type(name) not in (str, int):
        raise ValueError(f"an entry of a {type(target).__name__}, whose key is a {type(name).__name__}")
    target[name] = value


_GLOBALS = {
    ("collections", "OrderedDict"): _OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _Tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _Tensor,
    ("torch.nn.parameter", "Parameter"): _Tensor,
    **{("torch", f"{name}Tensor"): _Tensor for name in _DTYPES},
    **{("torch", f"{name}Storage"): dtype for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle._Unpickler):  # the one in C cannot be restricted to some instructions
    stack: list[Any]

    def __init__(self, file: BinaryIO):
        super().__init__(_Short(file))
        self.storages: dict[str, _Storage] = {}
        self._listed = 0

    def find_class(self, module: str, name: str) -> Any:
        """Returns a stand-in for a function or class of torch, so that nothing of the file's choice is imported or run."""
        if (module, name) not in _GLOBALS:
            raise _NoStateDict(f"it asks for {module}.{name}, which was not run")
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the storage that the pickle names, which is a file of its own in the archive."""
        if not isinstance(pid, tuple) or not 5 <= len(pid) <= 6:
            raise ValueError("a storage is described in another way than torch does")
        kind, dtype, key, _device, count, *view = pid
        if kind != "storage" or any(view) or type(key) is not str or type(dtype) is not str or type(count) is not int:
            raise ValueError("a storage is described in another way than torch does")
        storage = _Storage(key, dtype, count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key} is described in two ways")
        return storage

    def load_setitem(self) -> None:
        """Adds an item by `_add`, which takes dictionaries only. The pickle could otherwise call any `__setitem__`."""
        value, name = self.stack.pop(), self.stack.pop()
        _add(self.stack[-1], name, value)

    def load_setitems(self) -> None:
        """Adds several items, each as `load_setitem` does."""
        items = self.pop_mark()  # type: ignore[attr-defined]
        for name, value in zip(items[::2], items[1::2], strict=True):
            _add(self.stack[-1], name, value)

    def load_reduce(self) -> None:
        """Makes a stand-in by `_made`, which checks kind and arguments. The pickle could otherwise call any object."""
        arguments = self.stack.pop()
        self.stack.append(self._made(self.stack.pop(), arguments))

    load_newobj = load_reduce

    def load_build(self) -> None:
        """Sets the state of a stand-in. The pickle could otherwise set the attributes of any object."""
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) not in (_Tensor, _OrderedDict):
            raise ValueError(f"a state of a {type(made).__name__}")
        made.__setstate__(state)

    def _made(self, kind: Any, arguments: Any) -> Any:
        if kind not in (_Tensor, _OrderedDict) or not isinstance(arguments, tuple) or len(arguments) > 8:
            raise ValueError("a call that torch does not pickle")
        if kind is _OrderedDict and arguments:
            self._listed += len(arguments[0])
            if self._listed > _LISTED:
                raise ValueError(f"over {_LISTED:,} entries of dicts")
        return kind(*arguments)

    # What is not among these is an instruction that torch does not write.
    dispatch: ClassVar[dict[int, Any]] = {
        ord(code): pickle._Unpickler.dispatch[ord(code)]
        for code in (
            pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK,
            pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1,
            pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINSTRING, pickle.SHORT_BINSTRING,
            pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
            pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT,
            pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET,
            pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID,
        )
    } | {
        ord(pickle.SETITEM): load_setitem,
        ord(pickle.SETITEMS): load_setitems,
        ord(pickle.REDUCE): load_reduce,
        ord(pickle.NEWOBJ): load_newobj,
        ord(pickle.BUILD): load_build,
    }  # fmt: skip

    def load(self) -> Any:
        """Runs the pickle, and returns what it has made."""
        try:
            return super().load()
        except KeyError as error:
            raise ValueError(f"the pickle has an instruction or a reference that torch does not write ({error})") from error


class _Short:
    """The next `PICKLE_BYTES` of a file. A length in a pickle that reaches beyond them is wrong."""

    def __init__(self, file: BinaryIO):
        self._file, self._left = file, PICKLE_BYTES

    def read(self, size: int) -> bytes:
        """Returns this number of bytes."""
        data = self._file.read(size) if size <= self._left else b""
        if len(data) != size:
            raise ValueError(f"the pickle ends early, or has over {PICKLE_BYTES:,} bytes")
        self._left -= size
        return data

    def readline(self) -> bytes:
        """Returns the bytes up to the next line break."""
        line = self._file.readline(self._left)
        self._left -= len(line)
        return line


def _read_legacy(file: BinaryIO) -> tuple[Any, dict[str, np.ndarray]]:
    magic, _version, system = (_Unpickler(file).load() for _ in range(3))
    if magic != _LEGACY_MAGIC or not isinstance(system, dict) or not system["little_endian"]:
        raise ValueError("it does not begin as torch's little-endian files do")
    unpickler = _Unpickler(file)
    state, storages = unpickler.load(), {}
    for key in _Unpickler(file).load():
        if type(key) is not str:
            raise ValueError("the key of a storage is no string")
        storage = unpickler.storages[key]
        if int.from_bytes(file.read(8), "little") != storage.elements:
            raise ValueError(f"storage {key} has another size than its tensors say")
        size = storage.elements * np.dtype(storage.dtype).itemsize
        if size > os.fstat(file.fileno()).st_size - file.tell():
            raise ValueError(f"storage {key} is cut short")
        storages[key] = _elements(storage, file.read(size))
    return state, storages


def _read_zip(file: BinaryIO) -> tuple[Any, dict[str, np.ndarray]]:
    with zipfile.ZipFile(file) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("its members are compressed, which torch's never are")  # and could be of any size
        if sum(member.file_size + member.compress_size for member in archive.infolist()) > 2 * os.fstat(file.fileno()).st_size:
            raise ValueError("its members are larger than the file")
        folder = archive.namelist()[0].split("/")[0]
        if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
            raise ValueError("it is not little-endian")
        unpickler = _Unpickler(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        state, storages = unpickler.load(), unpickler.storages
        return state, {key: _elements(storages[key], archive.read(f"{folder}/data/{key}")) for key in storages}


def _elements(storage: _Storage, data: bytes) -> np.ndarray:
    elements = np.frombuffer(data, storage.dtype)
    if len(elements) != storage.elements:
        raise ValueError(f"storage {storage.key} has {len(elements)} of {storage.elements} elements")
    return elements


def _array(name: Any, tensor: Any, storages: dict[str, np.ndarray]) -> np.ndarray:
    if not isinstance(name, str) or not isinstance(tensor, _Tensor) or tensor.view is None:
        raise _NoStateDict(f"its entry {name!r} is no plain tensor")
    storage, offset, shape, strides = tensor.view
    elements = storages[storage.key]
    if max(len(shape), len(strides)) > _DIMENSIONS:
        raise ValueError(f"{name} has over {_DIMENSIONS} dimensions")
    shape, strides = [operator.index(n) for n in shape], [operator.index(n) for n in strides]
    reach = 0 if 0 in shape else 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if min([offset, *shape, *strides]) < 0 or offset + reach > len(elements):
        raise ValueError(f"{name} reaches beyond its storage")
    return np.lib.stride_tricks.as_strided(elements[offset:], shape, [stride * elements.itemsize for stride in strides])
