"""A run as one `.safetensors` file: its parameters by name (module_0/conv1/kernel), and its description in the metadata.

Any reader of safetensors can read the tensors. The metadata have two entries. `run` is JSON as in run.json, with the `step`.
`sha256` is the digest of tensors and JSON, so that a file that was changed or cut short is refused.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np
import safetensors
import safetensors.numpy

from crn_jax.errors import UserError
from crn_jax.files import replacing
from crn_jax.formats.json_file import parse_json


def save_run(path: str | Path, params: dict, description: dict[str, Any]) -> None:
    """Writes parameters and a description, which is plain JSON such as `describe_run` gives.

    Raises:
      UserError: if the file cannot be written.
    """
    tensors = {name: np.asarray(leaf) for name, leaf in flax.traverse_util.flatten_dict(params, sep="/").items()}
    text = json.dumps(description)
    try:
        with replacing(Path(path)) as file:
            file.write(safetensors.numpy.save(tensors, {"run": text, "sha256": _digest(tensors, text)}))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: the file cannot be written ({error}).") from error


def load_run_file(path: str | Path) -> tuple[dict, dict[str, Any]]:
    """Reads the parameters and the description that `save_run` wrote.

    Raises:
      UserError: if the file is missing, of another kind, cut short, or changed since it was written.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such file.")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # the library has its own errors, and those of NumPy for dtypes that NumPy lacks
        raise UserError(f"{path}: this is no safetensors file, or it is cut short ({error}).") from error
    if not metadata.keys() >= {"run", "sha256"}:
        raise UserError(f"{path}: launch.convert has not written this file. It does not say which run its tensors belong to.")
    if _digest(tensors, metadata["run"]) != metadata["sha256"]:
        raise UserError(f"{path}: its contents are not those that were written, by their SHA-256. Fetch it again.")
    description = parse_json(metadata["run"], path, "Fetch the file again.", {"step?": int})
    if not 0 <= description.get("step", 0) < 1 << 31:
        raise UserError(f"{path}: step: a number of steps is from 0 to {(1 << 31) - 1:,}, got {description['step']}.")
    for name, array in tensors.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            problem = f"is {array.dtype}, not float32" if array.dtype != np.float32 else "has numbers that are not finite"
            raise UserError(f"{path}: the parameter {name} {problem}. Convert the run again.")
    try:
        return flax.traverse_util.unflatten_dict(tensors, sep="/"), description
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: the names of its tensors are no tree of parameters ({error}).") from error


def _digest(tensors: dict[str, np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
