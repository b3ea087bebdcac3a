"""A trained generator as a folder that travels: the function as it was exported, its weights beside it, and how to load both.

| file             | what it is                                                                                     |
|------------------|------------------------------------------------------------------------------------------------|
| synthesize.bin   | the jitted function, by `jax.export`, for any batch on CPUs, NVIDIA GPUs and TPUs               |
| weights.npz      | its parameters, by name                                                                        |
| artifact.json    | sizes, classes, versions, where it comes from, and the SHA-256 of the files                    |
| load.py          | `load_artifact.py`: the loader, which needs jax and numpy alone                                |
| flatbuffers.zip  | the Python package (Apache 2.0) by which jax reads the function; jax does not install it       |
"""

import importlib.metadata
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import cattrs
import flax.traverse_util
import jax
import numpy as np

from crn_jax import load_artifact
from crn_jax.errors import UserError
from crn_jax.experiment import to_json
from crn_jax.files import sha256_of
from crn_jax.generator import Generator
from crn_jax.run import Run
from crn_jax.synthesize import synthesize

PLATFORMS = ("cpu", "cuda", "tpu")
FILES = ("synthesize.bin", "weights.npz", "flatbuffers.zip")


def export_synthesize(config: Generator, params: dict[str, np.ndarray], size: tuple[int, int], dtype: np.dtype) -> bytes:
    """`synthesize` as a serialized `jax.export.Exported` of (flat parameters, class ids `[b, H, W]`), for any b.

    Raises:
      ValueError: if height or width do not fit the generator.
    """

    def function(params: dict, layout_ids: jax.Array) -> jax.Array:
        return synthesize(config, flax.traverse_util.unflatten_dict(params, sep="/"), layout_ids)

    (batch,) = jax.export.symbolic_shape("batch")
    layouts = jax.ShapeDtypeStruct((batch, *size), dtype)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    return bytes(jax.export.export(jax.jit(function), platforms=PLATFORMS)(shapes, layouts).serialize())


def write_artifact(folder: Path, run: Run, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Writes a run's artifact for layouts of this size (default: the run's own), and returns what artifact.json says.

    Raises:
      UserError: if the size does not fit, or the folder cannot be written.
    """
    config, size = run.experiment.generator, size or run.experiment.size
    params = {name: np.asarray(leaf) for name, leaf in flax.traverse_util.flatten_dict(run.params, sep="/").items()}
    try:
        function = export_synthesize(config, params, size, run.label_space.dtype)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "synthesize.bin").write_bytes(function)
        np.savez(folder / "weights.npz", **params)
        (folder / "load.py").write_text(Path(load_artifact.__file__).read_text())
        _zip_flatbuffers(folder / "flatbuffers.zip")
        about = _describe(run, size) | {"sha256": {name: sha256_of(folder / name) for name in FILES}}
        (folder / "artifact.json").write_text(json.dumps(about, indent=1))
    except ValueError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"{folder}: the artifact cannot be written there ({error}).") from error
    return about


def _describe(run: Run, size: tuple[int, int]) -> dict[str, Any]:
    config = run.experiment.generator
    return {
        "size": size,
        "dtype": np.dtype(run.label_space.dtype).name,
        "num_images": config.num_images,
        "classes": run.label_space.classes,
        "label_space": cattrs.unstructure(run.label_space),
        "jax": jax.__version__,
        "platforms": PLATFORMS,
        "step": run.step,
        "vgg19": run.vgg19,
        "experiment": _without_folders(to_json(run.experiment)),
    }


def _without_folders(value: Any) -> Any:
    """Of paths only the last part: what travels does not tell how its maker's disks are laid out."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    return Path(value).name if isinstance(value, str) and os.sep in value else value


def _zip_flatbuffers(path: Path) -> None:
    """The installed package, as a zip that Python imports from."""
    files = [file for file in importlib.metadata.files("flatbuffers") if file.suffix == ".py" or file.name == "METADATA"]
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.writestr(zipfile.ZipInfo(str(file)), file.read_binary(), zipfile.ZIP_DEFLATED)
