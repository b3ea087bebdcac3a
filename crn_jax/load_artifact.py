"""Loads an artifact of `launch.convert export`, with jax and numpy alone. Every artifact contains a copy of this file."""

import hashlib
import json
import sys
from pathlib import Path

import jax
import numpy as np


def load(folder):
    """Returns the function `synthesize` and the content of artifact.json.

    `synthesize` takes class ids, an integer array [B, H, W], and returns k images for each layout, uint8 [B, k, H, W, 3].

    Args:
      folder: the artifact.

    Raises:
      ValueError: if a file is not the one that was exported, or (by `synthesize`) if the class ids do not fit.
      RuntimeError: if the installed jax is older than the one that exported the artifact.
    """
    folder = Path(folder)
    about = json.loads((folder / "artifact.json").read_text("utf-8"))
    for name, digest in about["sha256"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"{folder / name} is not the file that was exported; fetch it again.")
    if [int(n) for n in jax.__version__.split(".")[:2]] < [int(n) for n in about["jax"].split(".")[:2]]:
        raise RuntimeError(f"{folder} needs jax {about['jax']} or later, not {jax.__version__}: pip install -U jax")
    sys.path.append(str(folder / "flatbuffers.zip"))  # jax.export reads functions with it
    function = jax.jit(jax.export.deserialize(bytearray((folder / "synthesize.bin").read_bytes())).call)
    params = jax.device_put(dict(np.load(folder / "weights.npz")))

    (height, width), classes = about["size"], len(about["classes"])

    def synthesize(ids):
        fits = ids.shape[1:] == (height, width) and ids.dtype.kind in "iu"
        if not fits or not 0 <= ids.min() <= ids.max() < classes:
            raise ValueError(
                f"Layouts must be integer arrays [B, {height}, {width}] of class ids below {classes}; see artifact.json."
            )
        return np.asarray(function(params, ids.astype(about["dtype"])))

    return synthesize, about
