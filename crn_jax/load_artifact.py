"""Loads an artifact of `launch.convert export`, with jax and numpy alone. Every artifact contains a copy of this file.

`python load.py` says for how long the installed jax, and later ones, can read the artifact.
"""

import datetime
import hashlib
import io
import json
import sys
from pathlib import Path

import jax
import numpy as np

RENEWAL = "To renew it with crn_jax, which needs only its weights: python -m launch.convert export {} NEW_FOLDER"


def load(folder):
    """Returns the function `synthesize` and the content of artifact.json.

    `synthesize` takes class ids, an integer array [B, H, W], and returns k images for each layout, uint8 [B, k, H, W, 3].

    Args:
      folder: the artifact.

    Raises:
      ValueError: if a file is not the one that was exported, or (by `synthesize`) if the class ids do not fit.
      RuntimeError: if the installed jax is too old or too new for the artifact; the message has the remedy.
    """
    folder = Path(folder)
    about, weights = read(folder)
    if [int(n) for n in jax.__version__.split(".")[:2]] < [int(n) for n in about["jax"].split(".")[:2]]:
        raise RuntimeError(f"{folder} needs jax {about['jax']} or later, not {jax.__version__}: pip install -U jax")
    _verified(folder, about, "flatbuffers.zip")
    sys.path.append(str(folder / "flatbuffers.zip"))  # jax.export reads functions with it
    function = bytearray(_verified(folder, about, "synthesize.bin"))
    try:
        exported = jax.export.deserialize(function)
    except Exception as error:  # jax raises errors of many classes for functions that it no longer knows
        raise RuntimeError(f"jax {jax.__version__} can no longer read {folder}. {RENEWAL.format(folder)}") from error
    function, params = jax.jit(exported.call), jax.device_put(weights)
    (height, width), classes = about["size"], len(about["classes"])

    def synthesize(ids):
        fits = ids.shape[1:] == (height, width) and ids.dtype.kind in "iu"
        if not fits or not 0 <= ids.min() <= ids.max() < classes:
            raise ValueError(
                f"Layouts must be integer arrays [B, {height}, {width}] of class ids below {classes}; see artifact.json."
            )
        return np.asarray(function(params, ids.astype(about["dtype"])))

    return synthesize, about


def read(folder):
    """Returns the content of artifact.json, and the weights as NumPy arrays by name. This works with every version of jax.

    Raises:
      ValueError: if the weights are not those that were exported.
    """
    folder = Path(folder)
    about = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
    if "weights.npz" in about["sha256"]:  # an artifact of crn_jax 0.1
        return about, dict(np.load(io.BytesIO(_verified(folder, about, "weights.npz"))))
    contents = _verified(folder, about, "weights.safetensors")
    begin = 8 + int.from_bytes(contents[:8], "little")
    tensors = json.loads(contents[8:begin])
    arrays = np.frombuffer(contents, "<f4", offset=begin)  # all weights are float32
    return about, {
        name: arrays[tensor["data_offsets"][0] // 4 : tensor["data_offsets"][1] // 4].reshape(tensor["shape"])
        for name, tensor in tensors.items()
        if name != "__metadata__"
    }


def _verified(folder, about, name):
    """Returns the content of a file, which must be the one that was exported."""
    contents = (folder / name).read_bytes()
    if hashlib.sha256(contents).hexdigest() != about["sha256"][name]:
        raise ValueError(f"{folder / name} is not the file that was exported; fetch it again.")
    return contents


def window(about):
    """Returns which versions of jax read the artifact of this artifact.json, as far as the installed one knows."""
    oldest, newest = (
        jax.export.minimum_supported_calling_convention_version,
        jax.export.maximum_supported_calling_convention_version,
    )
    day = datetime.date.fromisoformat(about["exported"])
    until = day + datetime.timedelta(days=182)  # jax promises six months
    return (
        f"Exported on {day} by jax {about['jax']} with calling convention {about['calling_convention']}; the installed jax "
        f"{jax.__version__} reads {oldest} to {newest}. Releases of jax until {until} are promised to read the artifact."
    )


if __name__ == "__main__":
    here = Path(__file__).parent
    print(window(read(here)[0]), RENEWAL.format(here), sep="\n")
