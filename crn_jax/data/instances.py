"""Instance maps: files that give each pixel the id of its instance, such as of one car among several.

Only the differences of ids count (`crn_jax/boundaries.py`). Therefore an instance map may be a grey PNG of 8 or 16 bits, as
Cityscapes' `instanceIds`; a PNG of RGB, whose id is R + 256 G + 256^2 B, as in COCO's panoptic format; or a palette PNG whose
used entries all have different colours, so that it does not matter whether indices or colours are ids.
"""

import re
import unicodedata
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Integer, UInt16

from crn_jax.data.folders import by_name
from crn_jax.data.labels.indexed import Indexed
from crn_jax.data.labels.stored_pixels import stored_pixels
from crn_jax.data.pictures import size_of
from crn_jax.errors import UserError, some

MARGIN = -1
"""The id of the pixels that surround a padded instance map. No file has it."""
_MOST = 1 << 16
_CITYSCAPES = re.compile(r"(.+)_gt(?:Fine|Coarse)_(\w+)")


def read_instances(path: str | Path, layout: str | Path, layout_size: tuple[int, int]) -> Int32[np.ndarray, "h w"]:
    """Reads the instance map that belongs to a layout of this height and width.

    Raises:
      UserError: if the file is missing or damaged, of another size than the layout or the layout's own file, or if it does not
        tell its ids exactly.
    """
    check_instances(path, layout, layout_size)
    return decoded(path)


def decoded(path: str | Path) -> Int32[np.ndarray, "h w"]:
    """Reads an instance map as ids.

    Raises:
      UserError: if the file is missing or damaged, or if it does not tell its ids exactly.
    """
    stored = stored_pixels(path, "an instance map", "the colour of the background")
    if isinstance(stored, Indexed):
        used = stored.used
        indices = {color: [i for i in used if stored.palette[i] == color] for color in (stored.palette[i] for i in used)}
        if doubled := next((twins for twins in indices.values() if len(twins) > 1), None):
            raise UserError(
                f"{path}: the indices {doubled[0]} and {doubled[1]} of its palette have one colour, "
                f"{stored.palette[doubled[0]]}, so they may be one instance or two. Save the ids as a grey PNG of 16 bits."
            )
        return stored.indices.astype(np.int32)
    if stored.ndim == 3:
        return stored.astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], np.int32)
    return stored.astype(np.int32)


def check_instances(path: str | Path, layout: str | Path, layout_size: tuple[int, int]) -> None:
    """Raises UserError if an instance map is not of its layout's size, or the layout's own file. It decodes no pixel."""
    if Path(path).exists() and Path(path).samefile(layout):
        raise UserError(f"{path} is the layout itself. Instance maps are files of their own, which number the instances.")
    if (size := size_of(path)) != layout_size:
        raise UserError(
            f"{path} is {size[0]}x{size[1]}, but its layout {layout} is {layout_size[0]}x{layout_size[1]}. An instance map "
            f"needs its layout's size."
        )


def numbered(ids: Integer[np.ndarray, "H W"], path: str | Path) -> UInt16[np.ndarray, "H W"]:
    """Returns instance ids in 16 bits. They stay as they are if they fit, and are numbered anew if they do not.

    Raises:
      UserError: if there are more than 65,536 different ids, as in a photograph.
    """
    if ids.min() >= 0 and ids.max() < _MOST:
        return ids.astype(np.uint16)
    values, numbers = np.unique(ids, return_inverse=True)
    if len(values) > _MOST:
        raise UserError(f"{path}: {len(values):,} different ids are too many for instances. Is it a photograph?")
    return numbers.reshape(ids.shape).astype(np.uint16)


def instance_files(names: list[str], folder: Path, option: str) -> dict[str, Path]:
    """Finds the instance map of each layout in a folder, by name. Other PNGs, and pictures of other formats, are ignored.

    A file belongs to a layout of the same name. In Cityscapes, NAME_gtFine_instanceIds.png belongs to the layout NAME, or
    NAME_gtFine_labelIds.

    Args:
      names: the names of the layouts, without suffixes.
      folder: the folder of the instance maps.
      option: where the folder was named, for messages.

    Raises:
      UserError: if there is no such folder, or if layouts have no instance map. The message names them.
    """
    if not folder.is_dir():
        raise UserError(f"{option}: there is no folder {folder} of instance maps.")
    files, numbered_files = by_name(folder, "*.[pP][nN][gG]"), {}
    for stem, path in files.items():
        if (match := _CITYSCAPES.fullmatch(stem)) and match[2] == "instanceIds":
            numbered_files[match[1]] = path
    found = {}
    for name in names:
        stem = unicodedata.normalize("NFC", name)
        match = _CITYSCAPES.fullmatch(stem)
        if own := numbered_files.get(match[1] if match else stem) or files.get(stem):
            found[name] = own
    refuse_missing([name for name in names if name not in found], folder)
    return found


def refuse_missing(names: list[str], folder: Path) -> None:
    """Raises UserError if there are layouts without an instance map."""
    if names:
        have = "layout has" if len(names) == 1 else "layouts have"
        raise UserError(
            f"{folder}: {len(names):,} {have} no instance map there: {some(names)}. Add files of these names, or train and "
            f"synthesize without boundaries."
        )
