"""Converts photographs to sRGB, the colour space in which people see numbers as VGG-19 was trained on them.

A file may say that its numbers mean other colours than sRGB's. The first of these counts: PNG's cICP, an ICC profile, PNG's
sRGB, PNG's gAMA and cHRM, and the mark `R03` that cameras set in EXIF for Adobe RGB. Little CMS converts by ICC profiles. The
others give three primaries, a white and a curve, by which this file converts.

If all colours change by at most one level of 255, the numbers are left as they are: writers of sRGB round its profile
differently.
"""

import functools
import io
import struct

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageCms

from crn_jax.data.pictures import Picture

_PROBE_LEVELS = 17

Curve = Float[np.ndarray, "256"]
"""The light of each level of 255, from 0 to 1."""
_LEVELS = np.linspace(0, 1, 256)
Chromaticities = tuple[float, ...]
"""The x and y of white, red, green and blue."""
_SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_DISPLAY_P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
_ADOBE_RGB = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_ADOBE_EXPONENT = 563 / 256
# ITU-T H.273: the numbers of primaries, curve (13 is sRGB's), matrix (0 is RGB) and range (1 is full).
_BT709 = bytes((1, 1, 0, 1))  # frames of videos, as ffmpeg writes them
_CICP = {bytes((1, 13, 0, 1)): _SRGB, bytes((12, 13, 0, 1)): _DISPLAY_P3, _BT709: _SRGB}
_EXIF_INTEROPERABILITY, _INTEROPERABILITY_INDEX = 0xA005, 1
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


class Unconvertible(Exception):
    """The reason why a photograph cannot be converted, as part of a sentence."""


def to_srgb(picture: Picture) -> tuple[Image.Image, str | None]:
    """Returns a photograph as 8-bit sRGB, and the name of the colour space that it was converted from, if it was.

    Raises:
      Unconvertible: if the file names a colour space that is not understood.
    """
    image = picture.image
    if image.mode in ("LA", "1"):
        image = image.convert("L")
    if image.mode not in ("L", "CMYK", "RGB"):
        image = image.convert("RGB")
    chunks = picture.chunks
    if cicp := chunks.get(b"cICP"):
        if cicp not in _CICP:
            raise Unconvertible(f"its cICP {tuple(cicp)} is not of sRGB, Display P3 or BT.709")
        curve = _bt709_curve() if cicp == _BT709 else _srgb_curve()
        return _by_primaries(image, curve, _CICP[cicp], "cICP")
    if picture.profile is not None:
        return _by_profile(image, picture.profile)
    if b"sRGB" in chunks:
        return _rgb(image), None
    if b"gAMA" in chunks or b"cHRM" in chunks:
        return _by_primaries(image, *_curve_and_primaries(chunks), "gAMA and cHRM")
    if image.mode == "RGB" and picture.exif and _is_adobe_rgb(picture.exif):
        return _by_primaries(image, _LEVELS**_ADOBE_EXPONENT, _ADOBE_RGB, "Adobe RGB, by EXIF")
    return _rgb(image), None


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _curve_and_primaries(chunks: dict[bytes, bytes]) -> tuple[Curve, Chromaticities]:
    try:
        curve = _curve_of_gamma(struct.unpack(">I", chunks[b"gAMA"])[0] / 1e5) if b"gAMA" in chunks else _srgb_curve()
        numbers = tuple(n / 1e5 for n in struct.unpack(">8I", chunks[b"cHRM"])) if b"cHRM" in chunks else _SRGB
    except struct.error as error:
        raise Unconvertible("its gAMA or cHRM is damaged") from error
    return curve, numbers


def _srgb_curve() -> Curve:
    return np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1


def _bt709_curve() -> Curve:
    """Returns the inverse of the camera's curve of BT.709. ffmpeg's gAMA beside such a cICP, 0.51, stands for the same."""
    return np.where(_LEVELS < 0.081, _LEVELS / 4.5, ((_LEVELS + 0.099) / 1.099) ** (1 / 0.45))


def _curve_of_gamma(gamma: float) -> Curve:
    """Returns the curve of PNG's gAMA, the exponent that light is stored by. About 1/2.2 stands for sRGB's own curve."""
    if not 0.05 <= gamma <= 5:
        raise Unconvertible(f"its gAMA of {gamma} is impossible")
    return _srgb_curve() if abs(gamma - 1 / 2.2) < 0.005 else _LEVELS ** (1 / gamma)


def _by_profile(image: Image.Image, profile: bytes) -> tuple[Image.Image, str | None]:
    space = profile[16:20]
    if space == b"RGB " and image.mode == "L":
        image = image.convert("RGB")
    if {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}.get(space) != image.mode:
        raise Unconvertible(f"its colour profile is of {space.decode('latin-1').strip()!r}, but its pixels are {image.mode}")
    transform, name, changes = _transform(profile, image.mode)
    if not changes:
        return _rgb(image), None
    converted = transform.apply(image)
    converted.info.pop("icc_profile", None)
    return converted, name


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform, str, bool]:
    """Returns Little CMS's transform to sRGB, the profile's name, and whether it changes any number by more than one level."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(source).strip() or "a profile without a name"
        transform = ImageCms.ImageCmsTransform(
            source, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), mode, "RGB", ImageCms.Intent.PERCEPTUAL
        )  # thread-safe: it is built once, and Little CMS only reads it
        probe = _probe(mode)
        after, before = (np.asarray(one, np.int16) for one in (transform.apply(probe), probe.convert("RGB")))
    except Exception as error:  # Little CMS and Pillow raise several kinds
        raise Unconvertible(f"its colour profile is damaged or of a kind that cannot be used ({error})") from error
    return transform, name, bool(np.abs(after - before).max() > 1)


def _probe(mode: str) -> Image.Image:
    """Returns a picture of all greys, or of a grid of colours and all greys. A CMYK profile always changes numbers."""
    greys = np.arange(256, dtype=np.uint8)[None]
    if mode == "L":
        return Image.fromarray(greys)
    if mode == "CMYK":
        return Image.new("CMYK", (1, 1))
    levels = np.linspace(0, 255, _PROBE_LEVELS).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    return Image.fromarray(np.concatenate([grid, greys[..., None].repeat(3, -1)], 1))


def _by_primaries(image: Image.Image, curve: Curve, numbers: Chromaticities, name: str) -> tuple[Image.Image, str | None]:
    probe = _probe("RGB")
    try:
        matrix = _primaries(_SRGB, inverse=True) @ _primaries(numbers)
        change = np.abs(_converted(np.asarray(probe), curve, matrix).astype(np.int16) - np.asarray(probe, np.int16)).max()
    except (ArithmeticError, np.linalg.LinAlgError) as error:
        raise Unconvertible(f"its {name} are impossible") from error
    if change <= 1:
        return _rgb(image), None
    return Image.fromarray(_converted(np.asarray(_rgb(image)), curve, matrix)), name


def _primaries(numbers: Chromaticities, inverse: bool = False) -> Float[np.ndarray, "3 3"]:
    """Returns the matrix from linear RGB to XYZ relative to D65, to which Bradford's transform adapts any other white."""
    if min(numbers[1::2]) <= 0:
        raise ArithmeticError("y of 0")
    white, red, green, blue = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in zip(numbers[::2], numbers[1::2]))
    columns = np.stack([red, green, blue], 1)
    matrix = columns * np.linalg.solve(columns, white)
    x, y = _SRGB[:2]
    cones = _BRADFORD @ np.stack([np.array([x / y, 1, (1 - x - y) / y]), white], 1)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(cones[:, 0] / cones[:, 1]) @ _BRADFORD @ matrix
    return np.linalg.inv(adapted) if inverse else adapted


def _converted(rgb: UInt8[np.ndarray, "H W 3"], curve: Curve, matrix: Float[np.ndarray, "3 3"]) -> UInt8[np.ndarray, "H W 3"]:
    converted = np.empty_like(rgb)
    for row in range(0, len(rgb), 64):  # in little memory
        light = np.clip(curve[rgb[row : row + 64]] @ matrix.T, 0, 1)
        encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        converted[row : row + 64] = np.round(255 * encoded)
    return converted


def _is_adobe_rgb(exif: bytes) -> bool:
    try:
        parsed = Image.Exif()
        parsed.load(exif)
        return str(parsed.get_ifd(_EXIF_INTEROPERABILITY).get(_INTEROPERABILITY_INDEX, "")).startswith("R03")
    except Exception:  # damaged EXIF data fail in many ways, and viewers ignore them
        return False
