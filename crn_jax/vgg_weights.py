"""Reads ImageNet weights for VGG-19 from the files that people have into the dict that `vgg.py` describes.

| ending         | published by           | layout of the kernels, and images that they expect                       |
|----------------|------------------------|--------------------------------------------------------------------------|
| `.h5`          | Keras                  | HWIO, BGR 0..255 less the mean                                           |
| `.mat`         | Oxford / MatConvNet    | HWIO, RGB 0..255 less the mean; the authors' program reads this file     |
| `.safetensors` | torchvision, timm      | OIHW, RGB 0..1 less the mean, by the standard deviation; trained anew    |
"""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from crn_jax.errors import UserError
from crn_jax.files import cache_folder, download, expanded, sha256_of
from crn_jax.vgg_layers import LAYERS, Pooling

MEAN_COLOR = np.array([123.68, 116.779, 103.939], np.float32)
ENVIRONMENT_VARIABLE = "CRN_JAX_VGG19"
PUBLISHED_NAME = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
PUBLISHED_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg19/{PUBLISHED_NAME}"
PUBLISHED_HASH = "md5:253f8cb515780f3b799900260a226db6"
_PUBLISHED_MD5 = {80_134_624: PUBLISHED_HASH.removeprefix("md5:"), 534_904_783: "106118b7cf60435e6d8e04f6a6dc3657"}
"""The MD5 of the files that Keras and MatConvNet publish, by their sizes in bytes."""
_MATCONVNET_BYTES = 1 << 30
"""The greatest size of a MatConvNet file when it is unpacked. The published one has 575 MB."""
_LARGEST = 1000
"""The greatest magnitude of a weight that is believed. Those of VGG-19 are below 10."""

# torchvision numbers all modules of its Sequential, among them a ReLU behind each convolution and a pooling behind each block.
_TORCHVISION_INDEX = dict(zip(LAYERS, (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30)))
_TORCHVISION_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_TORCHVISION_STD = np.array([0.229, 0.224, 0.225], np.float32)


@dataclasses.dataclass(frozen=True)
class VGGConfig:
    """The VGG-19 that compares images."""

    weights: str | None = None
    """The file of ImageNet weights (.h5, .mat or .safetensors). Without it, $CRN_JAX_VGG19 names the file, or the published
    one is taken from the cache or downloaded."""
    pooling: Pooling = "average"
    """The pooling of the loss's VGG-19: average as the authors, or max as VGG-19 was trained. Held-out distances always use
    average pooling."""
    allow_random: bool = False
    """Whether training goes on with seeded random weights if there are no ImageNet weights. Only experiments on streets do."""
    untrained: bool = False
    """Whether the loss uses seeded random weights (an ablation). Held-out distances still use the ImageNet weights."""


def obtain_vgg19(config: VGGConfig | None, progressbar: bool = True) -> tuple[dict, dict[str, str]]:
    """Returns the parameters of Φ and their origin: `{"weights": "file", "file": ..., "sha256": ...}`.

    If no ImageNet weights can be had, and the config allows it, the parameters are random and the origin is
    `{"weights": "random", "because": ...}`. A training that compares no images has no config (None) and gets no parameters;
    the origin is then `{"weights": "none"}`.

    Raises:
      UserError: if no ImageNet weights can be had, and the config does not allow random ones.
    """
    if config is None:
        return {}, {"weights": "none"}
    path = find_vgg19(config.weights)  # a file that was named must be there, whether or not random weights would do
    if path is None:
        try:
            path = download_vgg19(progressbar=progressbar)
        except UserError as error:
            if not config.allow_random:
                raise
            return random_vgg19(seed=0), {"weights": "random", "because": str(error)}
    return load_vgg19(path), {"weights": "file", "file": path.name, "sha256": sha256_of(path)}


def load_vgg19(path: str | Path) -> dict:
    """Reads a weight file (`.h5`, `.mat` or `.safetensors`) into float32 NumPy arrays.

    Raises:
      UserError: if the file is missing, damaged, of an unknown kind or of another network.
    """
    path = Path(path)
    readers = {".h5": _read_keras, ".mat": _read_matconvnet, ".safetensors": _read_torchvision}
    ending = path.suffix.lower()
    if ending not in readers:
        raise UserError(f"{path}: VGG-19's weights are read from {', '.join(readers)}, not from '{path.suffix}'.")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file. {_instructions()}")
    try:
        _verify_published(path)
        params = readers[ending](path)
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{path}: these are not VGG-19's weights: {error.args[0]} is missing.") from error
    except Exception as error:  # Each format's library has its own errors for a damaged file.
        raise UserError(f"{path}: the file is damaged or truncated ({error}). Fetch it again.") from error
    for name in LAYERS:
        largest = np.max([np.abs(weights).max() for weights in params[name].values()])  # NaN if one is NaN
        if not largest <= _LARGEST:  # nor is NaN
            raise UserError(
                f"{path}: the file is damaged: {name} has a number of magnitude {largest:g}, where VGG-19's are below 10. "
                f"Fetch it again."
            )
    return params


def _verify_published(path: Path) -> None:
    """Raises UserError if a file has the size of a published one but other contents. Its values have no checksums."""
    known = _PUBLISHED_MD5.get(path.stat().st_size)
    if known is None:
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != known:
        raise UserError(f"{path}: the file is damaged: its MD5 is {found}, that of the published file {known}. Fetch it again.")


def _check_shapes(path: Path, name: str, found: tuple) -> None:
    """Raises UserError unless kernel and bias of a layer have VGG-19's shapes."""
    channels_in, channels_out = LAYERS[name]
    expected = (3, 3, channels_in, channels_out), (channels_out,)
    if found != expected:
        raise UserError(f"{path}: these are not VGG-19's weights: {name} is {found}, expected {expected}.")


def _layer(path: Path, name: str, kernel: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """Returns a layer as float32, after checking its shapes."""
    _check_shapes(path, name, (kernel.shape, bias.shape))
    if kernel.dtype.kind != "f" or bias.dtype.kind != "f":
        raise UserError(f"{path}: these are not VGG-19's weights: {name} holds {kernel.dtype} and {bias.dtype}, not floats.")
    with np.errstate(over="ignore"):  # it becomes infinite, and is refused
        return {"kernel": np.ascontiguousarray(kernel, np.float32), "bias": bias.astype(np.float32)}


def random_vgg19(seed: int) -> dict:
    """Returns random weights (He et al., 2015) for demonstrations, ablations and tests, which need no file."""
    rng = np.random.default_rng(seed)
    params: dict[str, Any] = {"mean": MEAN_COLOR}
    for name, (channels_in, channels_out) in LAYERS.items():
        scale = np.sqrt(2 / (9 * channels_in))
        kernel = rng.standard_normal((3, 3, channels_in, channels_out), np.float32) * np.float32(scale)
        params[name] = {"kernel": kernel, "bias": np.zeros(channels_out, np.float32)}
    return params


def find_vgg19(path: str | Path | None = None) -> Path | None:
    """Returns the weight file that `path` or else the environment variable names, and None if neither names one."""
    chosen = path or os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(expanded(chosen)) if chosen else None


def download_vgg19(
    folder: Path | None = None, url: str = PUBLISHED_URL, known_hash: str = PUBLISHED_HASH, progressbar: bool = True
) -> Path:
    """Downloads the published Keras file (80 MB) into the cache, unless it is there already, and returns its path.

    Raises:
      UserError: if the file cannot be fetched or written, or if the fetched file fails the checksum.
    """
    what, remedy = "The VGG-19 weights", _instructions(folder)
    return download(url, known_hash, PUBLISHED_NAME, folder, what=what, remedy=remedy, progressbar=progressbar)


def _instructions(folder: Path | None = None) -> str:
    folder = folder or cache_folder()
    put = f"put it at {folder / PUBLISHED_NAME}, or give" if folder else "give its path, or"
    return (
        f"Fetch {PUBLISHED_URL} elsewhere and {put} the path of any VGG-19 file (.h5, .mat, .safetensors) with --vgg.weights "
        f"or in the variable {ENVIRONMENT_VARIABLE}."
    )


def _read_keras(path: Path) -> dict:
    import h5py

    from crn_jax.formats.hdf5_file import entries, member, read_array

    params: dict[str, Any] = {"mean": MEAN_COLOR}
    with h5py.File(path, "r") as file:
        for name in LAYERS:
            keras = f"block{name[4]}_conv{name[6]}"
            group = member(file, keras)
            # Keras named the variables `..._W_1:0` and later `kernel:0`, and some versions put them into a further group.
            group = member(group, keras) if keras in entries(group) else group
            arrays = {getattr(array, "ndim", 0): array for array in (member(group, key) for key in entries(group))}
            for rank, part in ((4, "kernel"), (1, "bias")):
                if rank not in arrays:
                    raise KeyError(part)
            shapes = arrays[4].shape, arrays[1].shape
            _check_shapes(path, name, shapes)  # before anything is unpacked
            params[name] = _layer(path, name, *(read_array(arrays[rank], shape) for rank, shape in zip((4, 1), shapes)))
    params["conv1_1"]["kernel"] = np.ascontiguousarray(params["conv1_1"]["kernel"][:, :, ::-1])
    return params


def _read_matconvnet(path: Path) -> dict:
    from crn_jax.formats.matlab_file import read_matlab

    layers = read_matlab(path, "layers", _MATCONVNET_BYTES)
    weights = {layer["name"]: layer["weights"] for layer in layers if "weights" in layer}
    params: dict[str, Any] = {"mean": MEAN_COLOR}
    for name in LAYERS:
        kernel, bias = weights[name]
        params[name] = _layer(path, name, kernel, bias.reshape(-1))
    return params


def _read_torchvision(path: Path) -> dict:
    import safetensors

    # (x / 255 - mean) / std = (x - 255 mean) / (255 std): the mean becomes ours, and conv1_1 takes in the rest.
    params: dict[str, Any] = {"mean": 255 * _TORCHVISION_MEAN}
    with safetensors.safe_open(path, "numpy") as file:
        names = set(file.keys())
        for name, index in _TORCHVISION_INDEX.items():
            kernel, bias = f"features.{index}.weight", f"features.{index}.bias"
            if missing := sorted({kernel, bias} - names):
                raise KeyError(missing[0])
            for key in (kernel, bias):
                if (kind := file.get_slice(key).get_dtype()).startswith(("BF", "F8")):  # NumPy has no such numbers
                    raise UserError(f"{path}: {key} holds {kind}, which is not read. Save the weights as float32.")
            params[name] = _layer(path, name, file.get_tensor(kernel).transpose(2, 3, 1, 0), file.get_tensor(bias))
    params["conv1_1"]["kernel"] /= (255 * _TORCHVISION_STD)[:, None]
    return params
