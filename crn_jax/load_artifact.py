"""Loads an artifact of `launch.convert export`, with jax and numpy alone. Every artifact contains a copy of this file."""

import hashlib
import importlib.util
import io
import json
import sys
from pathlib import Path

import jax
import numpy as np


def load(folder):
    """Returns the function `synthesize` and the content of artifact.json.

    `synthesize` takes class ids, an integer array [B, H, W], and returns k images for each layout, uint8 [B, k, H, W, 3].

    An artifact is a program. Load only those that you trust: checksums tell damage, but not who wrote them.

    Args:
      folder: the artifact.

    Raises:
      ValueError: if a file is missing or not the one that was exported, or (by `synthesize`) if the class ids do not fit.
      RuntimeError: if the installed jax is older than the one that exported the artifact.
    """
    folder = Path(folder)
    about = _described(folder / "artifact.json")
    files = {name: _verified(folder / name, known) for name, known in about["sha256"].items()}
    if [int(n) for n in jax.__version__.split(".")[:2]] < [int(n) for n in about["jax"].split(".")[:2]]:
        raise RuntimeError(f"{folder} needs jax {about['jax']} or later, not {jax.__version__}: pip install -U jax")
    if importlib.util.find_spec("flatbuffers") is None:  # jax.export reads functions with it
        sys.path.append(str(folder / "flatbuffers.zip"))
    try:
        function = jax.jit(jax.export.deserialize(bytearray(files["synthesize.bin"])).call)
        params = jax.device_put(dict(np.load(io.BytesIO(files["weights.npz"]), allow_pickle=False)))
    except Exception as error:
        raise ValueError(f"{folder}: the artifact cannot be read ({error!r}); fetch it again.") from error

    (height, width), classes = about["size"], len(about["classes"])

    def synthesize(ids):
        fits = ids.shape[1:] == (height, width) and ids.dtype.kind in "iu"
        if not fits or not 0 <= ids.min() <= ids.max() < classes:
            raise ValueError(
                f"Layouts must be integer arrays [B, {height}, {width}] of class ids below {classes}; see artifact.json."
            )
        return np.asarray(function(params, ids.astype(about["dtype"])))

    return synthesize, about


def _crc32c(data):
    """Computes CRC-32C bit by bit, because NumPy and jax have none; artifact.json is short."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ 0x82F63B78 * (remainder & 1)
    return remainder ^ 0xFFFFFFFF


def _described(path):
    try:
        about = json.loads(path.read_text("utf-8"))
        known = about.pop("crc32c", None)  # before, artifacts had none
        whole = known in (None, f"{_crc32c(json.dumps(about, sort_keys=True).encode()):08x}")
        (height, width), classes = about["size"], about["classes"]
        named = set(about["sha256"]) == {"synthesize.bin", "weights.npz", "flatbuffers.zip"}
        if not (whole and named and height > 0 and width > 0 and classes and np.dtype(about["dtype"]).kind in "iu"):
            raise ValueError("it has other contents")
        [int(n) for n in about["jax"].split(".")[:2]]
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not the file that was exported ({error}); fetch it again.") from error
    return about


def _verified(path, known):
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); fetch it again.") from error
    if hashlib.sha256(content).hexdigest() != known:
        raise ValueError(f"{path} is not the file that was exported; fetch it again.")
    return content
