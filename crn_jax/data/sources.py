"""Data sets on disk (and the procedural one) as random-access sources of examples.

An example is `{"layout": uint8 [H, W] class indices, "photograph": uint8 [H, W, 3]}` at the size asked for. (Layouts are uint16
past 256 classes.)
"""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from crn_jax.data import folders, nyu
from crn_jax.data.cache import Progress, cached
from crn_jax.data.examples import Example, Source
from crn_jax.data.geometry import MIDDLE, Fit, Place, view
from crn_jax.data.labels.label_space import LabelSpace, open_image
from crn_jax.data.labels.published import find_label_space
from crn_jax.data.streets import render_street
from crn_jax.data.vivid import vivid_of
from crn_jax.errors import UserError

Split = Literal["train", "val"]

_LABELS = {
    "camvid": "camvid",
    "cityscapes": "cityscapes",
    "streets": "cityscapes",
    "ade20k": "ade20k",
    "nyu": "nyu40",
    "gta5": "gta5",
    "cocostuff": "cocostuff",
}
TOO_FEW = "Where a data set has no split of its own, every 10th pair is held out, so at least 2 are needed."
_ORIENTATION = 0x0112  # of EXIF
_TURNED = range(2, 9)  # its values by which viewers turn or mirror a picture


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data, and where."""

    source: Literal["camvid", "cityscapes", "streets", "ade20k", "nyu", "gta5", "cocostuff", "folder"]
    """camvid: {train,val}/ and {train,val}annot/, or (--data.labels camvid32) 701_StillsRaw_full/ and LabeledApproved_full/;
    cityscapes: leftImg8bit/ and gtFine/; ade20k: images/ and annotations/; nyu: nyu_depth_v2_labeled.mat; gta5: images/ and
    labels/; cocostuff: {train,val}2017/ and stuffthingmaps_trainval2017/; folder: one's own {train,val}/{photographs,layouts}/,
    or photographs/ and layouts/, of which every 10th is held out; streets: made on the fly."""
    root: str | None = None
    """Folder of the data set; streets needs none."""
    labels: str | None = None
    """The layouts' classes: a name such as cityscapes_trainids, or a JSON file of one's own. None: the source's usual ones."""
    fit: Fit = "resize"
    """How files reach the size. resize: stretched, by 2% at most; crop: the middle, as much as fits; random_crop: likewise, but
    anywhere in it, elsewhere in each epoch (held-out ones: the middle); pad: all of it, and void, in black, around it."""
    num_scenes: int = 2000
    """Training scenes of streets."""
    clear_days: bool = False
    """Streets on clear days only, which leaves less for the cascade to guess than any hour and weather."""
    flip: bool = False
    """Mirror half of the training examples, others in each epoch. The authors do not."""
    vivid: bool = False
    """Photographs with tone and detail boosted, as the released 512p and 1024p models learned from them; slow, so cache it."""
    cache: str | None = None
    """Folder of examples that are decoded and resized once; whatever changes makes another cache in it."""
    threads: int = 2
    """Threads that decode ahead of the training step."""


@dataclasses.dataclass(frozen=True)
class Photographs(Source):
    """Photographs and layouts of any size, each pair of one size."""

    fit: Fit = dataclasses.field(default="resize", kw_only=True)

    def read(self, index: int) -> tuple[Image.Image, np.ndarray, str | Path]:
        """A pair at its own size, and the name of its file for messages."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Example:
        return self._fitted(index, MIDDLE)

    def placed(self, index: int, place: Place) -> Example:
        return self._fitted(index, place) if self.fit == "random_crop" else self[index]

    def _fitted(self, index: int, place: Place) -> Example:
        photograph, layout, path = self.read(index)
        chosen = view(layout.shape, self.size, self.fit, place, path)
        void = self.label_space.num_classes - 1
        return {"layout": chosen.layout(layout, void), "photograph": chosen.photograph(photograph)}


@dataclasses.dataclass(frozen=True)
class PairedFiles(Photographs):
    """Photographs and layouts in files."""

    pairs: list[tuple[Path, Path]]

    def read(self, index: int) -> tuple[Image.Image, np.ndarray, Path]:
        photograph_path, layout_path = self.pairs[index]
        photograph, layout = open_photograph(photograph_path), self.label_space.read(layout_path)
        if photograph.size != layout.shape[::-1]:
            raise UserError(
                f"{photograph_path} is {photograph.height}x{photograph.width}, but its layout {layout_path} is "
                f"{layout.shape[0]}x{layout.shape[1]}: a photograph and its layout need the same size; correct "
                f"or remove both."
            )
        return photograph, layout, layout_path


@dataclasses.dataclass(frozen=True)
class LabelledFrames(Photographs):
    """NYU Depth v2's, in one file; `frames` counts from 1 on."""

    file: Path
    frames: list[int]

    def read(self, index: int) -> tuple[Image.Image, np.ndarray, str]:
        where = f"{self.file}, frame {self.frames[index]}"
        photograph, ids = nyu.read_frame(self.file, self.frames[index])
        return Image.fromarray(photograph), self.label_space.from_ids(ids, where), where


@dataclasses.dataclass(frozen=True)
class Streets(Source):
    """Procedural street scenes; `first` is the index of the first one."""

    first: int
    clear_days: bool

    def __getitem__(self, index: int) -> Example:
        street = render_street(self.first + range(len(self))[index], self.size, self.clear_days)
        return {"layout": street.layout, "photograph": street.photograph}


def open_photograph(path: Path) -> Image.Image:
    """Decodes a photograph as 8-bit RGB.

    Raises:
      UserError: if it is damaged; if it is of more than 8 bits, which Pillow would clip; or if it looks otherwise to people
        than its pixels say, as viewers turn it, or as parts of it are transparent.
    """
    image = open_image(path)
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{path}: the photograph has more than 8 bits a channel ({image.mode}); save it with 8.")
    if (orientation := _orientation(image)) in _TURNED:
        raise UserError(
            f"{path}: viewers turn or mirror the photograph, as its EXIF orientation is {orientation}; save it upright, "
            f"without its EXIF orientation."
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if clear := np.count_nonzero(np.asarray(image)[..., 3] < 255):
            raise UserError(f"{path}: {clear:,} pixels are transparent; save the photograph without transparency.")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of many types: it is damaged, and viewers do without it
        return 1


def label_space_of(data: DataConfig) -> LabelSpace:
    """The classes of a data set.

    Raises:
      UserError: if `data.labels` are missing, unknown, or not for this source.
    """
    if data.labels is not None and data.source == "streets":
        raise UserError(f"--data.labels {data.labels}: streets are made with Cityscapes' classes; leave it out.")
    labels = data.labels or _LABELS.get(data.source)
    if labels is None:
        raise UserError(f"The data set {data.source} needs its classes: --data.labels NAME, or a JSON file of your own.")
    return find_label_space(labels)


def open_source(
    data: DataConfig,
    split: Split,
    size: tuple[int, int],
    progress: Progress | None = None,
    label_space: LabelSpace | None = None,
) -> Source:
    """Lists a split's examples; nothing is decoded yet, but where there is to be a cache: that is built, see `cache.cached`.

    With a `label_space`, such as a run's own, `data.labels` are not looked at.

    Raises:
      UserError: if the folder is missing or empty, or if a photograph or a layout lacks its partner (of GTA5's, some are
        missing as published; they are left out, and `notes` says how many).
    """
    source = _listed(data, split, size, label_space or label_space_of(data))
    if data.vivid:
        source = vivid_of(source)
    if data.cache is not None:
        source = cached(source, Path(data.cache), data.threads, progress)
    return source


def _listed(data: DataConfig, split: Split, size: tuple[int, int], label_space: LabelSpace) -> Source:
    fit = "crop" if split == "val" and data.fit == "random_crop" else data.fit
    if data.source == "streets":
        count, first = (data.num_scenes, 0) if split == "train" else (64, 10**6)
        names = [f"street {first + i}" for i in range(count)]
        return Streets(label_space, names, size, first, data.clear_days)
    if data.source == "nyu":
        file, frames, note = nyu.find_frames(_root(data), split)
        if not frames:
            raise UserError(f"{file}: it has no frame to {'train on' if split == 'train' else 'hold out'}.")
        names = [f"{frame:04d}" for frame in frames]
        return LabelledFrames(label_space, names, size, file, frames, fit=fit, notes=(note,))
    found = _found(data, split, label_space)
    notes = _without_partners(found, refuse=data.source != "gta5")
    names = [name for name in found.names() if name in found.photographs and name in found.layouts]
    if not names:
        raise UserError(f"{data.root}: there is no pair to {'train on' if split == 'train' else 'hold out'}. {TOO_FEW}")
    pairs = [(found.photographs[name], found.layouts[name]) for name in names]
    return PairedFiles(label_space, names, size, pairs, fit=fit, notes=(*found.notes, *notes))


def pairs_of(data: DataConfig, split: Split) -> tuple[dict[str, Path], dict[str, Path]]:
    """A split's photographs and layouts by name, with or without their partner; of sources that are pairs of files.

    Raises:
      UserError: if a folder is missing or empty, or if two of its files have one name.
    """
    found = _found(data, split)
    return found.photographs, found.layouts


def _found(data: DataConfig, split: Split, label_space: LabelSpace | None = None) -> folders.Found:
    root = _root(data)
    match data.source:
        case "camvid":
            return folders.camvid(root, split, (label_space or label_space_of(data)).name)
        case "cityscapes":
            return folders.cityscapes(root, split, (label_space or label_space_of(data)).name)
        case "ade20k":
            return folders.ade20k(root, split)
        case "gta5":
            return folders.gta5(root, split)
        case "cocostuff":
            return folders.cocostuff(root, split)
        case "folder":
            return folders.folder(root, split)
    raise ValueError(f"{data.source} is not kept as pairs of files.")


def _root(data: DataConfig) -> Path:
    if data.root is None:
        raise UserError(f"The data set {data.source} needs its folder: --data.root DIR.")
    return Path(data.root)


def _without_partners(found: folders.Found, refuse: bool) -> list[str]:
    """What there is to say about files without a partner; raises it as a UserError, if they are to be refused."""
    problems = []
    for what, partner, files, others in (
        ("photographs", "layout", found.photographs, found.layouts),
        ("layouts", "photograph", found.layouts, found.photographs),
    ):
        if lonely := sorted(str(files[name]) for name in files.keys() - others.keys()):
            problems.append(f"{len(lonely)} {what} without a {partner}: {folders.some(lonely)}.")
    if problems and refuse:
        raise UserError(" ".join(problems) + " Pairs are matched by file name; add or remove the files named.")
    return [f"Left out: {problem}" for problem in problems]
