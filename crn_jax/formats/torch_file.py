"""Reads state dicts saved by `torch.save`, without torch and without running anything that a file asks for.

A file is a pickle of names and tensors, which refer to storages. Since 2020 (torch 1.6), pickle and storages are members of a
zip archive. Before, in what torch calls the legacy format, they follow each other. A pickle may name any function of any module
and have it called. Here it may name only `OrderedDict`, the types of storages, and the names under which torch has pickled
tensors and parameters over the years. The latter only note where a tensor lies.
"""

import collections
import contextlib
import io
import operator
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors.numpy

from crn_jax.errors import UserError

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "Bool": "?",
    "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1",
}  # fmt: skip


def read_weights(path: str | Path, remedy: str) -> dict[str, np.ndarray]:
    """Reads named tensors from a `.safetensors` file, or from any other file by `read_torch_file`.

    Raises:
      UserError: if the file is missing or cannot be read. `remedy` is a sentence that tells where to find a missing file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file. {remedy}")
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    with _naming(path):
        return safetensors.numpy.load_file(path)


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict saved by `torch.save`, in its order. The arrays are read-only views.

    Raises:
      UserError: if the file is missing, damaged, truncated or of another kind, or if it holds or asks for anything but tensors.
        The message names the file.
    """
    path = Path(path)
    with _naming(path), open(path, "rb") as file:
        read = _read_zip if file.read(4) == _ZIP_MAGIC else _read_legacy
        file.seek(0)
        state, storages = read(file)
        if not isinstance(state, dict):
            raise _NoStateDict(f"it holds an object of type {type(state).__name__}")
        return {name: _array(name, tensor, storages) for name, tensor in state.items()}


def expect(tensors: dict[str, np.ndarray], key: str, shape: tuple[int, ...], path: str | Path, network: str) -> np.ndarray:
    """Returns a tensor of a file as float32, after checking its shape.

    Raises:
      UserError: if the tensor is missing or has another shape than in `network`. The message names the file and the key.
    """
    if key not in tensors:
        raise UserError(f"{path}: these are not the weights of {network}: {key} is missing.")
    if tensors[key].shape != shape:
        raise UserError(f"{path}: these are not the weights of {network}: {key} is {tensors[key].shape}, expected {shape}.")
    return tensors[key].astype(np.float32)


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

    def __setstate__(self, state: tuple) -> None:
        if state and isinstance(state[0], _Tensor):
            self.view = state[0].view
        elif state and isinstance(state[0], _Storage) and len(state) <= 6:  # the seventh would be negation or conjugation
            self.view = state[:4]


_GLOBALS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _Tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _Tensor,
    ("torch.nn.parameter", "Parameter"): _Tensor,
    **{("torch", f"{name}Tensor"): _Tensor for name in _DTYPES},
    **{("torch", f"{name}Storage"): dtype for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle._Unpickler):  # the one in C fills memory up to any memo index in a damaged file
    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise _NoStateDict(f"it asks for {module}.{name}, which was not run")
        return _GLOBALS[module, name]

    def persistent_load(self, pid: tuple) -> _Storage:
        kind, dtype, key, _device, count, *view = pid
        storage = _Storage(key, dtype, count)
        if kind != "storage" or any(view) or self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"{pid} is no storage that is understood")
        return storage


def _read_legacy(file: BinaryIO) -> tuple[Any, dict[str, np.ndarray]]:
    magic, _version, system = (_Unpickler(file).load() for _ in range(3))
    if magic != _LEGACY_MAGIC or not system["little_endian"]:
        raise ValueError("it does not begin as torch's little-endian files do")
    unpickler = _Unpickler(file)
    state, storages = unpickler.load(), {}
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        if int.from_bytes(file.read(8), "little") != storage.elements:
            raise ValueError(f"storage {key} has another size than its tensors say")
        storages[key] = _elements(storage, file.read(storage.elements * np.dtype(storage.dtype).itemsize))
    return state, storages


def _read_zip(file: BinaryIO) -> tuple[Any, dict[str, np.ndarray]]:
    with zipfile.ZipFile(file) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("its members are compressed, which torch's never are")  # and could be of any size
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
    shape, strides = [operator.index(n) for n in shape], [operator.index(n) for n in strides]
    reach = 0 if 0 in shape else 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if min([offset, *shape, *strides]) < 0 or offset + reach > len(elements):
        raise ValueError(f"{name} reaches beyond its storage")
    return np.lib.stride_tricks.as_strided(elements[offset:], shape, [stride * elements.itemsize for stride in strides])
