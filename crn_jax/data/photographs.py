"""Opens photographs as people see them: upright, opaque, and in sRGB."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from crn_jax.data.pictures import open_picture
from crn_jax.data.srgb import Unconvertible, to_srgb
from crn_jax.errors import UserError

_ORIENTATION = 0x0112  # the tag in EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTERS = (5, 6, 7, 8)  # the orientations that exchange height and width


class Photograph(NamedTuple):
    """A decoded photograph, and what was done to it."""

    image: Image.Image
    """8-bit sRGB."""
    converted_from: str | None = None
    """The colour space that it was converted from."""
    turned: bool = False
    """Whether it was turned, as its EXIF orientation says."""
    notes: tuple[str, ...] = ()
    """Sentences about small damage."""


def open_photograph(path: str | Path, layout_size: tuple[int, int] | None = None) -> Image.Image:
    """Decodes a photograph as 8-bit sRGB. `read_photograph` says more."""
    return read_photograph(path, layout_size).image


def upright(path: str | Path) -> Image.Image:
    """Decodes a photograph as 8-bit sRGB, turned and mirrored as viewers show it. A layout is yet to be made of it."""
    return read_photograph(path, as_viewers=True).image


def read_photograph(path: str | Path, layout_size: tuple[int, int] | None = None, *, as_viewers: bool = False) -> Photograph:
    """Decodes a photograph as 8-bit sRGB, and tells what was done to it.

    If its EXIF orientation says that viewers turn it by a quarter, the height and width of its layout decide. It is turned if
    the layout has the turned size, and not if the layout has the size of the pixels. With `as_viewers`, it has no layout, and
    is turned and mirrored as its EXIF orientation says.

    Raises:
      UserError: if it is damaged, if it is grey with more than 8 bits, which Pillow would clip, if its colours cannot be
        converted, or if people see something else than its pixels, because viewers turn or mirror it and its layout does not
        tell whether it is turned, or because parts of it are transparent.
    """
    picture = open_picture(path)
    if picture.image.mode.startswith(("I", "F")):
        raise UserError(f"{path}: the photograph has more than 8 bits a channel ({picture.image.mode}). Save it with 8.")
    if picture.image.has_transparency_data:
        opaque = picture.image.convert("RGBA")
        if clear := np.count_nonzero(np.asarray(opaque)[..., 3] < 255):
            raise UserError(f"{path}: {clear:,} pixels are transparent. Save the photograph without transparency.")
        if picture.image.mode in ("P", "PA"):
            picture = picture._replace(image=opaque.convert("RGB"))  # Pillow would warn of the transparency later
    orientation = _orientation(picture.exif)
    turn = orientation in _TURNS and (as_viewers or _is_turned(path, picture.image, orientation, layout_size))
    try:
        image, converted_from = to_srgb(picture)
    except Unconvertible as error:
        raise UserError(f"{path}: the photograph cannot be converted to sRGB: {error}. Save it as sRGB.") from error
    if turn:
        image = image.transpose(_TURNS[orientation])
    return Photograph(image, converted_from, turn, picture.notes)


def _is_turned(path: str | Path, image: Image.Image, orientation: int, layout_size: tuple[int, int] | None) -> bool:
    stored, turned = (image.height, image.width), (image.width, image.height)
    if orientation in _QUARTERS and stored != turned and layout_size in (stored, turned):
        return layout_size == turned
    raise UserError(
        f"{path}: viewers turn or mirror the photograph, because its EXIF orientation is {orientation}. Save it upright, "
        f"without an EXIF orientation. It is turned here only if its layout's size tells that the layout is turned, too."
    )


def _orientation(exif: bytes | None) -> int:
    try:
        parsed = Image.Exif()
        parsed.load(exif or b"")
        return int(parsed.get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data fail in many ways, and viewers ignore them
        return 1
