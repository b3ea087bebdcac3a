"""Data sets on disk (and the procedural one) as random-access sources of examples.

An example is `{"layout": uint8 [H, W] class indices, "photograph": uint8 [H, W, 3]}` at the size asked for.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from crn_jax.data.label_space import CAMVID, CITYSCAPES, LabelSpace, open_image
from crn_jax.data.streets import render_street
from crn_jax.errors import UserError

Split = Literal["train", "val"]
_ASPECT_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data, and where."""

    source: Literal["camvid", "cityscapes", "streets"]
    """camvid: {train,val}/ and {train,val}annot/; cityscapes: leftImg8bit/ and gtFine/; streets: made on the fly."""
    root: str | None = None
    """Folder of the data set; streets needs none."""
    num_scenes: int = 2000
    """Training scenes of streets."""
    clear_days: bool = False
    """Streets on clear days only, which leaves less for the cascade to guess than any hour and weather."""
    flip: bool = False
    """Mirror half of the training examples, others in each epoch. The authors do not."""
    threads: int = 2
    """Threads that decode ahead of the training step."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set's split at one size: `len(source)` examples, `source[i]`; `names[i]` says which is which."""

    label_space: LabelSpace
    names: list[str]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class PairedFiles(Source):
    """Photographs and layouts in files."""

    pairs: list[tuple[Path, Path]]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        photograph_path, layout_path = self.pairs[index]
        photograph, layout = open_photograph(photograph_path), self.label_space.read(layout_path)
        if photograph.size != layout.shape[::-1]:
            raise UserError(
                f"{photograph_path} is {photograph.height}x{photograph.width}, but its layout {layout_path} is "
                f"{layout.shape[0]}x{layout.shape[1]}: a photograph and its layout need the same size."
            )
        height, width = self.size
        return {
            "layout": resize_layout(layout, self.size, layout_path),
            # Pillow's bicubic filter widens when it shrinks, so it is antialiased.
            "photograph": np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC)),
        }


@dataclasses.dataclass(frozen=True)
class Streets(Source):
    """Procedural street scenes; `first` is the index of the first one."""

    first: int
    clear_days: bool

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        street = render_street(self.first + range(len(self))[index], self.size, self.clear_days)
        return {"layout": street.layout, "photograph": street.photograph}


def open_photograph(path: Path) -> Image.Image:
    """Decodes a photograph as 8-bit RGB.

    Raises:
      UserError: if it is damaged or of more than 8 bits, which Pillow would clip.
    """
    image = open_image(path)
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{path}: the photograph has more than 8 bits a channel ({image.mode}); save it with 8.")
    return image.convert("RGB")


def resize_layout(layout: np.ndarray, size: tuple[int, int], path) -> np.ndarray:
    """Nearest-neighbour resize of `[h, w]` to `size`.

    Raises:
      UserError: if the aspect ratios differ by more than 2%.
    """
    (h, w), (height, width) = layout.shape, size
    if abs(h * width - w * height) > _ASPECT_TOLERANCE * w * height:
        raise UserError(
            f"{path}: {h}x{w} has another aspect ratio than the cascade's {height}x{width}. Crop it, or train a cascade "
            f"whose --cascade.base matches it (4 8 for 1:2, 3 4 for 3:4, 4 4 for square images)."
        )
    return np.asarray(Image.fromarray(layout).resize((width, height), Image.Resampling.NEAREST))


def label_space_of(data: DataConfig) -> LabelSpace:
    """The classes of a data set."""
    return CAMVID if data.source == "camvid" else CITYSCAPES


def open_source(data: DataConfig, split: Split, size: tuple[int, int]) -> Source:
    """Lists a split's examples; nothing is decoded yet.

    Raises:
      UserError: if the folder is missing or empty, or if a photograph or a layout lacks its partner.
    """
    if data.source == "streets":
        count, first = (data.num_scenes, 0) if split == "train" else (64, 10**6)
        names = [f"street {first + i}" for i in range(count)]
        return Streets(label_space_of(data), names, size, first, data.clear_days)
    if data.root is None:
        raise UserError(f"The data set {data.source} needs its folder: --data.root DIR.")
    root = Path(data.root)
    if data.source == "camvid":
        photographs = _by_name(root / split, "*", lambda path: path.stem)
        layouts = _by_name(root / f"{split}annot", "*", lambda path: path.stem)
    else:
        photographs = _by_name(root / "leftImg8bit" / split, "*/*_leftImg8bit.png", _city_frame)
        layouts = _by_name(root / "gtFine" / split, "*/*_gtFine_labelIds.png", _city_frame)
    names = _common_names(photographs, layouts)
    return PairedFiles(label_space_of(data), names, size, [(photographs[n], layouts[n]) for n in names])


def _city_frame(path: Path) -> str:
    return "_".join(path.name.split("_")[:3])


def _by_name(folder: Path, pattern: str, name) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; does --data.root name the data set's top folder?")
    paths = {name(path): path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith(".")}
    if not paths:
        raise UserError(f"{folder}: no files match {pattern}.")
    return paths


def _common_names(photographs: dict[str, Path], layouts: dict[str, Path]) -> list[str]:
    def complain(what: str, paths: Iterable[Path]) -> str:
        paths = sorted(paths)
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        return f"{len(paths)} {what}: {', '.join(map(str, paths[:5]))}{more}."

    problems = []
    if lonely := photographs.keys() - layouts.keys():
        problems.append(complain("photographs without a layout", (photographs[n] for n in lonely)))
    if lonely := layouts.keys() - photographs.keys():
        problems.append(complain("layouts without a photograph", (layouts[n] for n in lonely)))
    if problems:
        raise UserError(" ".join(problems) + " Pairs are matched by file name; add or remove the files named.")
    return sorted(photographs)
