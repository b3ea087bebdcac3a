"""Loads an artifact of `launch.convert export`, with jax and numpy alone. Every artifact contains a copy of this file.

`python load.py` says for how long the installed jax, and later ones, can read the artifact.
"""

import datetime
import hashlib
import importlib.util
import io
import json
import re
import shlex
import sys
from pathlib import Path

import jax
import numpy as np

RENEWAL = "To renew it with crn_jax, which needs only its weights: python -m launch.convert export {} NEW_FOLDER"


def load(folder):
    """Returns the function `synthesize` and the content of artifact.json.

    `synthesize` takes class ids, an integer array [B, H, W], and returns k images for each layout, uint8 [B, k, H, W, 3]. If
    artifact.json has `boundaries`, `synthesize` also takes instance ids, a second array like the first. Any integers will do,
    because only their differences count.

    An artifact is a program. Load only those that you trust: checksums tell damage, but not who wrote them.

    Args:
      folder: the artifact.

    Raises:
      ValueError: if a file is missing or not the one that was exported, or (by `synthesize`) if there are no layouts,
        or if the class ids do not fit.
      RuntimeError: if the installed jax is too old or too new for the artifact; the message has the remedy.
    """
    folder = Path(folder)
    about, weights = read(folder)
    if [int(n) for n in jax.__version__.split(".")[:2]] < [int(n) for n in about["jax"].split(".")[:2]]:
        raise RuntimeError(f"{folder} needs jax {about['jax']} or later, not {jax.__version__}: pip install -U jax")
    package, function = (_verified(folder / name, about["sha256"][name]) for name in ("flatbuffers.zip", "synthesize.bin"))
    if package and importlib.util.find_spec("flatbuffers") is None:  # jax.export reads functions with it
        sys.path.append(str(folder / "flatbuffers.zip"))
    try:
        exported = jax.export.deserialize(bytearray(function))
    except Exception as error:  # jax raises errors of many classes for functions that it no longer knows
        raise RuntimeError(
            f"jax {jax.__version__} can no longer read {folder}. {RENEWAL.format(shlex.quote(str(folder)))}"
        ) from error
    function, params = jax.jit(exported.call), jax.device_put(weights)
    (height, width), classes = about["size"], len(about["classes"])

    def synthesize(ids, instances=None):
        ids, instances = np.asarray(ids), None if instances is None else np.asarray(instances)
        if ids.shape[:1] == (0,):
            raise ValueError(f"There are no layouts: the class ids have the shape {list(ids.shape)}. Give at least one layout.")
        fits = ids.shape[1:] == (height, width) and ids.dtype.kind in "iu"
        if not fits or not 0 <= ids.min() <= ids.max() < classes:
            raise ValueError(
                f"Layouts must be integer arrays [B, {height}, {width}] of class ids below {classes}; see artifact.json."
            )
        if (instances is not None) != about.get("boundaries", False):  # artifacts of crn_jax 0.2 have no boundaries
            wanted = "needs instances, too" if instances is None else "was trained without instances"
            raise ValueError(f"This artifact {wanted}; see boundaries in artifact.json.")
        if instances is None:
            return np.asarray(function(params, ids.astype(about["dtype"])))
        if instances.shape != ids.shape or instances.dtype.kind not in "iu":
            raise ValueError(f"Instances must be an integer array {list(ids.shape)}, like the class ids.")
        numbers = np.unique(instances, return_inverse=True)[1].reshape(ids.shape)  # so that 32 bits are enough
        return np.asarray(function(params, ids.astype(about["dtype"]), numbers.astype(np.int32)))

    return synthesize, about


def read(folder):
    """Returns the content of artifact.json, and the weights as NumPy arrays by name. This works with every version of jax.

    Raises:
      ValueError: if the weights are not those that were exported.
    """
    folder = Path(folder)
    about = _described(folder / "artifact.json")
    if "weights.npz" in about["sha256"]:  # an artifact of crn_jax 0.1
        return about, dict(np.load(io.BytesIO(_verified(folder / "weights.npz", about["sha256"]["weights.npz"]))))
    contents = _verified(folder / "weights.safetensors", about["sha256"]["weights.safetensors"])
    begin = 8 + int.from_bytes(contents[:8], "little")
    tensors = json.loads(contents[8:begin])
    arrays = np.frombuffer(contents, "<f4", offset=begin)  # all weights are float32
    return about, {
        name: arrays[tensor["data_offsets"][0] // 4 : tensor["data_offsets"][1] // 4].reshape(tensor["shape"])
        for name, tensor in tensors.items()
        if name != "__metadata__"
    }


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
        last = about[list(about)[-1]]  # where the checksum stood, if its key is damaged
        whole = whole and not (isinstance(last, str) and re.fullmatch("[0-9a-f]{8}", last))
        (height, width), classes = about["size"], about["classes"]
        whole = whole and isinstance(classes, list) and isinstance(about["dtype"], str)
        weights = {"weights.npz"} if "weights.npz" in about["sha256"] else {"weights.safetensors"}  # the former before 0.2
        named = set(about["sha256"]) == {"synthesize.bin", "flatbuffers.zip"} | weights
        if not (whole and named and height > 0 and width > 0 and classes and np.dtype(about["dtype"]).kind in "iu"):
            raise ValueError("it has other contents")
        [int(n) for n in about["jax"].split(".")[:2]]
        if not all(isinstance(digest, str) for digest in about["sha256"].values()):
            raise ValueError("a SHA-256 is no text")
        if not isinstance(about.get("boundaries", False), bool):  # artifacts of crn_jax 0.2 have none
            raise ValueError("boundaries is neither true nor false")
        if "exported" in about or "calling_convention" in about:  # artifacts of crn_jax 0.1 have neither
            _supported_until(about["exported"])
            if type(about["calling_convention"]) is not int:
                raise ValueError("calling_convention is no whole number")
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, SyntaxError) as error:
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


def window(about):
    """Returns which versions of jax read the artifact of this artifact.json, as far as the installed one knows."""
    oldest, newest = (
        jax.export.minimum_supported_calling_convention_version,
        jax.export.maximum_supported_calling_convention_version,
    )
    if "exported" not in about:  # artifacts of crn_jax 0.1
        return f"Exported by jax {about['jax']}, and artifact.json does not say when; the installed jax is {jax.__version__}."
    until = _supported_until(about["exported"])
    return (
        f"Exported on {about['exported']} by jax {about['jax']} with calling convention {about['calling_convention']}; the "
        f"installed jax {jax.__version__} reads {oldest} to {newest}. Releases of jax until {until} are promised to read the "
        f"artifact."
    )


def _supported_until(exported):
    """Returns the day until which jax promises to read a function that was exported on a day, which is text: six months."""
    return datetime.date.fromisoformat(exported) + datetime.timedelta(days=182)


if __name__ == "__main__":
    here = Path(__file__).parent
    try:
        print(window(read(here)[0]), RENEWAL.format(shlex.quote(str(here))), sep="\n")
    except ValueError as error:
        sys.exit(str(error))
