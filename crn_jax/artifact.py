"""An artifact: a folder that contains a trained generator, and runs wherever jax and numpy are installed.

| file                | contents                                                                                    |
|---------------------|---------------------------------------------------------------------------------------------|
| synthesize.bin      | the jitted function, by `jax.export`, for any batch size on CPUs, NVIDIA GPUs and TPUs       |
| weights.safetensors | its parameters, by name                                                                     |
| artifact.json       | sizes, classes, versions, origin, and the SHA-256 of the files                              |
| load.py             | a copy of `load_artifact.py`, the loader, which needs jax and numpy alone                   |
| flatbuffers.zip     | the Python package (Apache 2.0) with which jax reads the function; jax does not install it  |

The function is bound to some years of jax; weights and configuration are not. `load_run` opens an artifact like a run, so that
a new one can be made of it at any time.
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cattrs
import flax.traverse_util
import jax
import numpy as np
import safetensors.numpy
from jaxtyping import Array, Integer, UInt8

from crn_jax import load_artifact
from crn_jax.checksums import sealed
from crn_jax.errors import UserError
from crn_jax.experiment import to_json
from crn_jax.files import replace_text, replacing, sha256_of
from crn_jax.generator import Generator
from crn_jax.run import Run, nearby
from crn_jax.synthesize import abstract_ids, synthesize

PLATFORMS = ("cpu", "cuda", "tpu")
FILES = ("synthesize.bin", "weights.safetensors", "flatbuffers.zip")


def export_synthesize(
    config: Generator, params: dict[str, np.ndarray], size: tuple[int, int], dtype: np.typing.DTypeLike
) -> bytes:
    """Returns `synthesize` as a serialized `jax.export.Exported`, a function of parameters and class ids for any batch size.

    If the generator takes instance boundaries, the third argument are instance ids, int32.

    Args:
      config: the generator.
      params: its parameters, by names such as "module_0/conv1/kernel".
      size: the height and the width of the layouts, in pixels.
      dtype: the dtype of the class ids.

    Raises:
      ValueError: if the height or the width does not fit the generator.
    """

    def function(params: dict, *ids: Integer[Array, "B H W"]) -> UInt8[Array, "B k H W 3"]:
        return synthesize(config, flax.traverse_util.unflatten_dict(params, sep="/"), *ids)

    (batch,) = jax.export.symbolic_shape("batch")
    ids = abstract_ids(config, (batch, *size), dtype, np.int32)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    with _without_source_folders():
        return bytes(jax.export.export(jax.jit(function), platforms=PLATFORMS)(shapes, *ids).serialize())


@contextlib.contextmanager
def _without_source_folders() -> Iterator[None]:
    """Makes functions that are lowered in the block name the source files that they come from without their folders."""
    name = "jax_hlo_source_file_canonicalization_regex"
    before = jax.config.values[name]
    jax.config.update(name, "^.*/")
    try:
        yield
    finally:
        jax.config.update(name, before)


def write_artifact(folder: Path, run: Run, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Writes the artifact of a run, and returns the content of its artifact.json.

    Args:
      folder: the folder to write.
      run: a run that has trained a generator.
      size: the height and the width of the layouts, in pixels (default: the run's own).

    Raises:
      UserError: if the size does not fit, or the folder cannot be written.
    """
    generator, size = run.generator, size or run.experiment.size
    if min(size) < 1:
        raise UserError(f"--size {size[0]} {size[1]} does not fit: both have to be at least 1.")
    leaves = flax.traverse_util.flatten_dict(run.params, sep="/")
    params: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    try:
        function = export_synthesize(generator, params, size, run.label_space.dtype)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "synthesize.bin") as file:
            file.write(function)
        with replacing(folder / "weights.safetensors") as file:
            file.write(safetensors.numpy.save(params))
        replace_text(folder / "load.py", Path(load_artifact.__file__).read_text("utf-8"))
        _zip_flatbuffers(folder / "flatbuffers.zip")
        about = _describe(run, size) | {"sha256": {name: sha256_of(folder / name) for name in FILES}}
        replace_text(folder / "artifact.json", json.dumps(sealed(about), indent=1))
    except ValueError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"{folder}: the artifact cannot be written there ({error}).") from error
    return about


def exported_size(source: str | Path) -> tuple[int, int] | None:
    """Returns the height and the width of the layouts that a whole artifact takes, or None if the source is no artifact."""
    here = Path(nearby(source))
    if not (here / "artifact.json").is_file():
        return None
    height, width = json.loads((here / "artifact.json").read_text("utf-8"))["size"]
    return height, width


def _describe(run: Run, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "size": size,
        "dtype": np.dtype(run.label_space.dtype).name,
        "num_images": run.generator.num_images,
        "boundaries": run.generator.boundaries,
        "classes": run.label_space.classes,
        "label_space": cattrs.unstructure(run.label_space),
        "jax": jax.__version__,
        "exported": datetime.date.today().isoformat(),
        "calling_convention": jax.export.maximum_supported_calling_convention_version,
        "platforms": PLATFORMS,
        "step": run.step,
        "vgg19": {key: value for key, value in run.vgg19.items() if key != "because"},  # which names folders of this machine
        "experiment": without_folders(to_json(run.experiment)),
    }


def without_folders(value: Any) -> Any:
    """Shortens every path to its last part, so that an artifact does not reveal the folders of the machine that wrote it.

    The line that describes an experiment, `about`, is no path and stays as it is.
    """
    if isinstance(value, dict):
        return {key: item if key == "about" else without_folders(item) for key, item in value.items()}
    return Path(value).name if isinstance(value, str) and os.sep in value else value


def _zip_flatbuffers(path: Path) -> None:
    """Writes the installed package as a zip file from which Python can import it."""
    installed = importlib.metadata.files("flatbuffers")
    if installed is None:
        raise UserError(
            "The files of flatbuffers cannot be listed. Install it again: pip install --force-reinstall flatbuffers"
        )
    files = [file for file in installed if file.suffix == ".py" or file.name == "METADATA"]
    with replacing(path) as whole, zipfile.ZipFile(whole, "w") as archive:
        for file in files:
            archive.writestr(zipfile.ZipInfo(str(file)), file.read_binary(), zipfile.ZIP_DEFLATED)
