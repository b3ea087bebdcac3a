"""The pixels of a layout's or an instance map's file as they are stored, before anything says what they mean."""

from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from crn_jax.data.labels.indexed import Indexed
from crn_jax.data.pictures import open_picture
from crn_jax.errors import UserError


def stored_pixels(path: str | Path, what: str, paint: str) -> np.ndarray | Indexed:
    """Decodes a file: integer ids `[H, W]`, colours uint8 `[H, W, 3]`, or a palette PNG.

    Args:
      path: the file.
      what: what the file should be, such as "a layout", for messages.
      paint: the colour that transparent pixels should have, for messages.

    Raises:
      UserError: if the file is damaged, or if files of its kind do not keep ids and colours exactly.
    """
    picture = open_picture(path)
    image, bits = picture.image, picture.bits
    if picture.lossy:
        kind = picture.format.upper()
        raise UserError(f"{path}: lossy {kind} blends ids and colours. Make the file again from its source, as PNG.")
    if clear := _clear_pixels(image):
        refuse_clear(path, clear, paint)
    if image.mode in ("RGB", "RGBA"):
        if bits == 16:  # Pillow would drop the lower 8.
            raise UserError(f"{path}: a colour PNG of 16 bits a channel. Save colours with 8.")
        return np.asarray(image.convert("RGB"))
    if image.mode == "P":
        return Indexed.of(image, path)
    if image.mode in ("L", "1") and bits < 8:
        # Pillow stretches these to 0..255, which would turn one id into another.
        raise UserError(f"{path}: a grey PNG of {bits} bit{'s' * (bits > 1)} a pixel. Save ids with 8 or 16 bits.")
    if image.mode in ("L", "I", "I;16"):
        return np.asarray(image)
    raise UserError(f"{path}: {what} is a PNG of ids (8 or 16 bits) or of colours, not of mode {image.mode}.")


def _clear_pixels(image: Image.Image) -> int:
    """Counts the transparent pixels of an image with an alpha channel, or with one transparent colour or grey.

    A palette says more, so `Indexed` and its readers look at that.
    """
    if image.mode == "RGBA":
        return int(np.count_nonzero(np.asarray(image)[..., 3] < 255))
    transparent = image.info.get("transparency")
    if transparent is None or image.mode == "P":
        return 0
    same = np.asarray(image) == np.array(transparent)
    return int(np.count_nonzero(same.all(-1) if same.ndim == 3 else same))


def refuse_clear(path: str | Path, clear: int, paint: str) -> NoReturn:
    """Raises UserError, because that many pixels are transparent. `paint` is the colour that they should have."""
    raise UserError(f"{path}: {clear:,} pixels are transparent. Paint them in {paint}.")
