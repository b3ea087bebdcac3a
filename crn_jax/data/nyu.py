"""The labelled frames of NYU Depth v2, read from the published MATLAB 7.3 file, which is an HDF5 file.

MATLAB stores columns first, so its array `[480, 640, 3, 1449]` is `[1449, 3, 640, 480]` in HDF5. Frames are turned upright when
they are read. Labels are ids from 0 (unlabelled) to 894. h5py is imported with the first file: no other data set needs it.
"""

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Integer, UInt8

from crn_jax.data.folders import numbers_in
from crn_jax.errors import UserError, counted

if TYPE_CHECKING:
    import h5py

_FILE, _SPLIT = "nyu_depth_v2_labeled.mat", "splits.mat"
_TRAINING = 1200
"""The number of training frames in the paper, the first of 1449."""
_TOO_LARGE = 2**31  # no id is as large


def find_frames(root: Path, split: str) -> tuple[Path, list[int], str]:
    """Returns the file, the numbers of a split's frames (counted from 1), and a sentence about how they were chosen.

    If `splits.mat` lies beside the file, it decides: 795 training and 654 held-out frames, which share no scene. Otherwise the
    first 1200 frames are for training and the last 249 are held out, as in the paper.

    Raises:
      UserError: if the file is missing, if its arrays have other shapes or types, or if it has too few frames for the paper's
        split.
    """
    path = root / _FILE
    if not path.is_file():
        raise UserError(f"{path}: there is no such file. Does --data.root name the folder that it is in?")
    with _opened(path) as file:
        (images, colors), (labels, ids) = (_shape_and_type(path, file, key) for key in ("images", "labels"))
    if not images or not labels or len(images) != 4 or images[1] != 3 or labels != (images[0], *images[2:]):
        raise UserError(f"{path}: images and labels are {images} and {labels}, not [1449, 3, 640, 480] and [1449, 640, 480].")
    for key, dtype, is_right, wanted in (
        ("images", colors, colors == np.uint8, "uint8"),
        ("labels", ids, ids is not None and ids.kind in "uif", "uint16"),
    ):
        if not is_right:
            raise UserError(f"{path}: {key} hold {dtype}, not {wanted}. Fetch the published file, or store them as {wanted}.")
    count = images[0]
    if (root / _SPLIT).is_file():
        frames = sorted(numbers_in(root / _SPLIT, {"train": "trainNdxs", "val": "testNdxs"}[split]))
        if not 1 <= frames[0] <= frames[-1] <= count:
            raise UserError(f"{root / _SPLIT} lists frames {frames[0]}..{frames[-1]}, but {path} has 1..{count}.")
        return path, frames, f"{root / _SPLIT} splits the frames."
    if count <= _TRAINING:
        raise UserError(
            f"{path} has {counted(count, 'frame')}, and without a list the first {_TRAINING:,} are for training, so none is "
            f"held out. Put {_SPLIT} beside it, which lists the frames as trainNdxs and testNdxs."
        )
    first, last = (1, _TRAINING) if split == "train" else (_TRAINING + 1, count)
    note = f"{root} has no {_SPLIT}, so the first {_TRAINING} frames are for training, and the others are held out."
    return path, list(range(first, last + 1)), note


def read_frame(path: Path, number: int) -> tuple[UInt8[np.ndarray, "H W 3"], Integer[np.ndarray, "H W"]]:
    """Reads the photograph and the ids of frame `number`, counted from 1. The published frames are 480x640.

    The file is opened each time, which takes a millisecond and leaves no handle to share with threads and processes.

    Raises:
      UserError: if the frame cannot be read. The message names file and frame.
    """
    from crn_jax.formats.hdf5_file import member, read_array

    with _opened(path) as file:
        try:
            arrays = member(file, "images"), member(file, "labels")
            photograph, ids = (read_array(array, getattr(array, "shape", ()), number - 1) for array in arrays)
        except (OSError, RuntimeError, LookupError, ValueError, zlib.error) as error:
            raise UserError(f"{path}: frame {number} cannot be read ({error}). Fetch the file again.") from error
    if ids.dtype.kind == "f":
        wrong = ids[~((np.trunc(ids) == ids) & (np.abs(ids) < _TOO_LARGE))]
        if wrong.size:
            raise UserError(f"{path}: frame {number} has a label {wrong[0]}, which is no id. Fetch the file again.")
        ids = ids.astype(np.int32)
    return np.ascontiguousarray(photograph.T), np.ascontiguousarray(ids.T)


def _shape_and_type(path: Path, file: "h5py.File", key: str) -> tuple[tuple[int, ...] | None, np.dtype | None]:
    from crn_jax.formats.hdf5_file import member

    try:
        array = member(file, key)
        return getattr(array, "shape", None), getattr(array, "dtype", None)
    except KeyError:
        return None, None
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: {key} cannot be read ({error}). Fetch the file again.") from error


def _opened(path: Path) -> "h5py.File":
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path}: this is no MATLAB 7.3 file, or it is cut short ({error}). Fetch it again.") from error
