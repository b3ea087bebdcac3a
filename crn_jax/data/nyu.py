"""NYU Depth v2's labelled frames, in the file as published: MATLAB 7.3, which is HDF5.

MATLAB stores columns first, so what it calls `[480, 640, 3, 1449]` is `[1449, 3, 640, 480]` here; frames are turned upright
as they are read. Labels are ids 0 (unlabelled) ... 894.
"""

from pathlib import Path

import h5py
import numpy as np

from crn_jax.data.folders import numbers_in
from crn_jax.errors import UserError

_FILE, _SPLIT = "nyu_depth_v2_labeled.mat", "splits.mat"
_TRAINING = 1200
"""Of 1449; the paper's."""


def find_frames(root: Path, split: str) -> tuple[Path, list[int], str]:
    """The file, a split's frames as numbers from 1 on, and how they were chosen.

    By `splits.mat` (795 and 654 frames, so that no scene is in both), if it lies beside; else the first 1200 and the last 249,
    as the paper.

    Raises:
      UserError: if the file is missing or another one.
    """
    path = root / _FILE
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; does --data.root name the folder that it is in?")
    with _opened(path) as file:
        shapes = {key: file[key].shape if key in file else None for key in ("images", "labels")}
    images, labels = shapes["images"], shapes["labels"]
    if not images or not labels or len(images) != 4 or images[1] != 3 or labels != (images[0], *images[2:]):
        raise UserError(f"{path}: images and labels are {images} and {labels}, not [1449, 3, 640, 480] and [1449, 640, 480].")
    count = images[0]
    if (root / _SPLIT).is_file():
        frames = sorted(numbers_in(root / _SPLIT, {"train": "trainNdxs", "val": "testNdxs"}[split]))
        if not 1 <= frames[0] <= frames[-1] <= count:
            raise UserError(f"{root / _SPLIT} lists frames {frames[0]}..{frames[-1]}, but {path} has 1..{count}.")
        return path, frames, f"Frames as {root / _SPLIT} splits them."
    frames = range(1, _TRAINING + 1) if split == "train" else range(_TRAINING + 1, count + 1)
    return path, list(frames), f"{root} has no {_SPLIT}: the first {_TRAINING} frames to train on, and the rest held out."


def read_frame(path: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The frame `number`, from 1 on: its photograph uint8 `[480, 640, 3]`, and its ids uint16 `[480, 640]`.

    The file is opened each time, which takes a millisecond and leaves no handle to share with threads and processes.

    Raises:
      UserError: naming file and frame, if it is damaged.
    """
    with _opened(path) as file:
        try:
            photograph, ids = file["images"][number - 1], file["labels"][number - 1]
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{path}: frame {number} cannot be read ({error}). Fetch the file again.") from error
    return np.ascontiguousarray(photograph.T), np.ascontiguousarray(ids.T)


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path}: this is no MATLAB 7.3 file, or it is cut short ({error}). Fetch it again.") from error
