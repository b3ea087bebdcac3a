"""ImageNet weights for VGG-19, from the files that people have, all to the tree that `vgg.py` describes.

| ending         | published by           | stored as                                                        |
|----------------|------------------------|------------------------------------------------------------------|
| `.h5`          | Keras                  | HWIO, BGR                                                        |
| `.mat`         | Oxford / MatConvNet    | HWIO, RGB; the file that the authors' program reads              |
| `.safetensors` | torchvision, timm      | OIHW, RGB 0..1 by mean and standard deviation; another training  |
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pooch

from crn_jax.errors import UserError
from crn_jax.files import sha256_of
from crn_jax.vgg import LAYERS, Pooling

MEAN_COLOR = np.array([123.68, 116.779, 103.939], np.float32)
ENVIRONMENT_VARIABLE = "CRN_JAX_VGG19"
PUBLISHED_NAME = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
PUBLISHED_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg19/{PUBLISHED_NAME}"
PUBLISHED_HASH = "md5:253f8cb515780f3b799900260a226db6"

# torchvision numbers the modules of its Sequential: a ReLU follows each convolution, a pooling each block.
_TORCHVISION_INDEX = dict(zip(LAYERS, (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30)))
_TORCHVISION_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_TORCHVISION_STD = np.array([0.229, 0.224, 0.225], np.float32)


@dataclasses.dataclass(frozen=True)
class VGGConfig:
    """The VGG-19 that images are compared by."""

    weights: str | None = None
    """File of ImageNet weights (.h5, .mat, .safetensors). Default: $CRN_JAX_VGG19, else the cache, else a download."""
    pooling: Pooling = "average"
    """Of the loss: average as the authors, or max as VGG-19 was trained. Held-out distances are by average pooling."""
    allow_random: bool = False
    """Without ImageNet weights, go on with seeded random ones; only the demo does."""
    untrained: bool = False
    """Train with seeded random weights, an ablation; held-out distances stay those of the ImageNet weights."""


def obtain_vgg19(config: VGGConfig | None, progressbar: bool = True) -> tuple[dict, dict[str, str]]:
    """Returns the parameters of Φ, and where they come from: `{"weights": "file", "file": ..., "sha256": ...}`.

    If there are none and the config allows it, they are random: `{"weights": "random", "because": ...}`. For a training that
    compares no images, whose config is None, there are none: `{"weights": "none"}`.

    Raises:
      UserError: if there are no ImageNet weights and the config does not allow random ones.
    """
    if config is None:
        return {}, {"weights": "none"}
    try:
        path = find_vgg19(config.weights) or download_vgg19(progressbar=progressbar)
    except UserError as error:
        if not config.allow_random:
            raise
        return random_vgg19(seed=0), {"weights": "random", "because": str(error)}
    return load_vgg19(path), {"weights": "file", "file": path.name, "sha256": sha256_of(path)}


def load_vgg19(path: str | Path) -> dict:
    """Reads a weight file (`.h5`, `.mat` or `.safetensors`) into float32 NumPy arrays.

    Raises:
      UserError: naming the file, if it is missing, truncated, of an unknown kind or of another network.
    """
    path = Path(path)
    readers = {".h5": _read_keras, ".mat": _read_matconvnet, ".safetensors": _read_torchvision}
    if path.suffix not in readers:
        raise UserError(f"{path}: VGG-19 weights are read from {', '.join(readers)}, not from '{path.suffix}'.")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file. {_instructions()}")
    try:
        params = readers[path.suffix](path)
        found = {name: (params[name]["kernel"].shape, params[name]["bias"].shape) for name in LAYERS}
    except KeyError as error:
        raise UserError(f"{path}: these are not VGG-19's weights: {error.args[0]} is missing.") from error
    except Exception as error:  # Each format's library has its own errors for a damaged file.
        raise UserError(f"{path}: the file is damaged or truncated ({error}); fetch it again.") from error
    for name, (channels_in, channels_out) in LAYERS.items():
        expected = (3, 3, channels_in, channels_out), (channels_out,)
        if found[name] != expected:
            raise UserError(f"{path}: these are not VGG-19's weights: {name} is {found[name]}, expected {expected}.")
    return params


def random_vgg19(seed: int) -> dict:
    """Weights of the same shapes drawn at random (He et al., 2015), for demonstrations and tests without a download."""
    rng = np.random.default_rng(seed)
    params = {"mean": MEAN_COLOR}
    for name, (channels_in, channels_out) in LAYERS.items():
        scale = np.sqrt(2 / (9 * channels_in))
        kernel = rng.standard_normal((3, 3, channels_in, channels_out), np.float32) * np.float32(scale)
        params[name] = {"kernel": kernel, "bias": np.zeros(channels_out, np.float32)}
    return params


def cache_folder() -> Path:
    """Where downloads are kept."""
    return Path(pooch.os_cache("crn_jax"))


def find_vgg19(path: str | Path | None = None) -> Path | None:
    """The weight file that `path`, else the environment variable, names; None if neither does."""
    chosen = path or os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(chosen) if chosen else None


def download_vgg19(
    folder: Path | None = None, url: str = PUBLISHED_URL, known_hash: str = PUBLISHED_HASH, progressbar: bool = True
) -> Path:
    """The published Keras file (80 MB) in the cache, fetched unless it is there already; returns its path.

    The checksum is verified each time: a file with another one is fetched again. A partial download never carries the
    final name.

    Raises:
      UserError: without a connection, or if what was fetched has another checksum.
    """
    folder = folder or cache_folder()
    downloader = pooch.HTTPDownloader(progressbar=progressbar, timeout=15)
    try:
        return Path(pooch.retrieve(url, known_hash, fname=PUBLISHED_NAME, path=folder, downloader=downloader))
    except ValueError as error:
        raise UserError(f"{url}: the download has a wrong checksum; try again. ({error})") from error
    except OSError as error:  # requests' errors are OSErrors, as are those of a full or read-only disk.
        raise UserError(f"The VGG-19 weights could not be fetched from {url}: {error}\n{_instructions(folder)}") from error


def _instructions(folder: Path | None = None) -> str:
    return (
        f"Fetch {PUBLISHED_URL} elsewhere and put it at {(folder or cache_folder()) / PUBLISHED_NAME}, or give the path of "
        f"any VGG-19 file (.h5, .mat, .safetensors) with --vgg.weights or in the variable {ENVIRONMENT_VARIABLE}."
    )


def _read_keras(path: Path) -> dict:
    import h5py

    params = {"mean": MEAN_COLOR}
    with h5py.File(path) as file:
        for name in LAYERS:
            keras = f"block{name[4]}_conv{name[6]}"
            if keras not in file:
                raise KeyError(keras)
            # Keras has written the variables as `..._W_1:0` and, later, as `kernel:0`, some versions in a further group.
            group = file[keras].get(keras, file[keras])
            params[name] = {"kernel" if d.ndim == 4 else "bias": d[()].astype(np.float32) for d in group.values()}
    params["conv1_1"]["kernel"] = np.ascontiguousarray(params["conv1_1"]["kernel"][:, :, ::-1])
    return params


def _read_matconvnet(path: Path) -> dict:
    import scipy.io

    layers = scipy.io.loadmat(path, simplify_cells=True)["layers"]
    weights = {layer["name"]: layer["weights"] for layer in layers if "weights" in layer}
    params = {"mean": MEAN_COLOR}
    for name in LAYERS:
        kernel, bias = weights[name]
        params[name] = {"kernel": np.ascontiguousarray(kernel, np.float32), "bias": bias.reshape(-1).astype(np.float32)}
    return params


def _read_torchvision(path: Path) -> dict:
    import safetensors.numpy

    tensors = safetensors.numpy.load_file(path)
    # (x / 255 - mean) / std = (x - 255 mean) / (255 std): the mean moves into the tree, the rest into conv1_1.
    params = {"mean": 255 * _TORCHVISION_MEAN}
    for name, index in _TORCHVISION_INDEX.items():
        kernel = tensors[f"features.{index}.weight"].transpose(2, 3, 1, 0)
        bias = tensors[f"features.{index}.bias"].astype(np.float32)
        params[name] = {"kernel": np.ascontiguousarray(kernel, np.float32), "bias": bias}
    params["conv1_1"]["kernel"] /= (255 * _TORCHVISION_STD)[:, None]
    return params
