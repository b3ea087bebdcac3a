"""Photographs are read as people see them: in sRGB, upright, opaque."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from crn_jax.data.photographs import read_photograph
from crn_jax.errors import UserError

pytestmark = pytest.mark.quick

D65_TO_D50 = np.array(
    [[1.0478112, 0.0228866, -0.0501270], [0.0295424, 0.9904844, -0.0170491], [-0.0092345, 0.0150436, 0.7521316]]
)
P3 = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
ADOBE = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
WHITE = (0.3127, 0.3290)


def colours() -> Image.Image:
    """A gradient through many colours, 32x48."""
    rows, columns = np.mgrid[:32, :48]
    return Image.fromarray(np.stack([rows * 8, columns * 5, 255 - rows * 3 - columns * 2], -1).astype(np.uint8))


def profile(primaries: tuple[float, ...], gamma: float) -> bytes:
    """An ICC profile (version 2) of three primaries, white D65 and a power, as ICC.1:2001 lays it out."""
    x, y = np.array(primaries[::2]), np.array(primaries[1::2])
    xyz = np.stack([x / y, np.ones(3), (1 - x - y) / y])
    white = np.array([WHITE[0] / WHITE[1], 1, (1 - sum(WHITE)) / WHITE[1]])
    columns = D65_TO_D50 @ (xyz * np.linalg.solve(xyz, white))

    def numbers(values) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(65536 * value)) for value in values)

    description = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"made\0" + bytes(78)
    tags = {b"desc": description, b"cprt": b"text\0\0\0\0none\0", b"wtpt": numbers((0.9642, 1, 0.8249))}
    for n, channel in enumerate("rgb"):
        tags[f"{channel}XYZ".encode()] = numbers(columns[:, n])
        tags[f"{channel}TRC".encode()] = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma)) + b"\0\0"
    table, body, place = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s", place + len(body), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    header = (header + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)).ljust(128, b"\0")
    return header + table + body


def in_srgb(image: Image.Image, primaries: tuple[float, ...], decode) -> np.ndarray:
    """The numbers that show the same colours in sRGB, by the definition of IEC 61966-2-1."""

    def matrix(numbers):
        x, y = np.array(numbers[::2]), np.array(numbers[1::2])
        xyz = np.stack([x / y, np.ones(3), (1 - x - y) / y])
        return xyz * np.linalg.solve(xyz, [WHITE[0] / WHITE[1], 1, (1 - sum(WHITE)) / WHITE[1]])

    light = decode(np.asarray(image.convert("RGB")) / 255) @ (np.linalg.inv(matrix(SRGB)) @ matrix(primaries)).T
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def decode_srgb(levels):
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def difference(image: Image.Image, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(image, float) - expected).max())


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(path, *chunks: tuple[bytes, bytes], image: Image.Image | None = None):
    """Writes a PNG with further parts after its header."""
    file = io.BytesIO()
    (image or colours()).save(file, "PNG")
    content = file.getvalue()
    path.write_bytes(content[:33] + b"".join(chunk(*each) for each in chunks) + content[33:])
    return path


GAMMA = 563 / 256


@pytest.mark.parametrize("suffix, most", [("png", 2), ("jpg", 2), ("webp", 2)])
@pytest.mark.parametrize("primaries", [P3, ADOBE])
def test_profiles_are_converted_to_srgb(tmp_path, suffix, most, primaries):
    path = tmp_path / f"a.{suffix}"
    colours().save(path, icc_profile=profile(primaries, GAMMA), **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as stored:
        expected = in_srgb(stored, primaries, lambda levels: levels**GAMMA)
        apart = difference(stored, expected)
    photograph = read_photograph(path)
    assert photograph.converted_from == "made" and photograph.image.mode == "RGB"
    assert apart > 20 and difference(photograph.image, expected) <= most


def test_profiles_of_srgb_leave_the_numbers_as_they_are(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for image in (colours(), colours().convert("L"), colours().quantize(40)):
        image.save(tmp_path / "a.png", icc_profile=srgb)
        photograph = read_photograph(tmp_path / "a.png")
        assert photograph.converted_from is None and difference(photograph.image, np.asarray(image.convert("RGB"))) == 0


def words(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


PRIMARIES = {name: words(31270, 32900, *(round(1e5 * n) for n in one)) for name, one in (("p3", P3), ("srgb", SRGB))}


def decode_bt709(levels):
    """Inverts the curve of ITU-R BT.709 by a table of the curve itself."""
    light = np.linspace(0, 1, 1 << 20)
    return np.interp(levels, np.where(light < 0.018, 4.5 * light, 1.099 * light**0.45 - 0.099), light)


def test_gamma_and_primaries_of_a_png(tmp_path):
    image = colours()
    for chunks, primaries, decode in (
        ([(b"gAMA", words(45455)), (b"cHRM", PRIMARIES["p3"])], P3, decode_srgb),
        ([(b"cHRM", PRIMARIES["p3"])], P3, decode_srgb),
        ([(b"gAMA", words(100000))], SRGB, lambda levels: levels),
        ([(b"gAMA", words(55556))], SRGB, lambda levels: levels**1.8),
        ([(b"cICP", bytes((12, 13, 0, 1)))], P3, decode_srgb),
        ([(b"cICP", bytes((1, 1, 0, 1))), (b"gAMA", words(51000))], SRGB, decode_bt709),  # a video's frame
    ):
        photograph = read_photograph(png_with(tmp_path / "a.png", *chunks))
        assert photograph.converted_from and difference(photograph.image, in_srgb(image, primaries, decode)) <= 1
    same = np.asarray(image)
    for chunks in (
        [(b"gAMA", words(45455)), (b"cHRM", PRIMARIES["srgb"])],  # as in Cityscapes
        [(b"gAMA", words(45455))],
        [(b"sRGB", b"\0"), (b"gAMA", words(100000))],  # sRGB counts first
        [(b"cICP", bytes((1, 13, 0, 1))), (b"gAMA", words(100000))],
    ):
        photograph = read_photograph(png_with(tmp_path / "a.png", *chunks))
        assert photograph.converted_from is None and difference(photograph.image, same) == 0
    grey = read_photograph(png_with(tmp_path / "grey.png", (b"gAMA", words(100000)), image=image.convert("L")))
    assert difference(grey.image, in_srgb(image.convert("L"), SRGB, lambda levels: levels)) <= 1


def grey_profile() -> bytes:
    """A profile whose pixels are grey, which no photograph of three channels can have."""
    return profile(SRGB, 2.2).replace(b"RGB ", b"GRAY", 1)


@pytest.mark.parametrize(
    "chunk",
    [
        (b"cICP", bytes((9, 16, 0, 1))),  # HDR television
        (b"gAMA", words(0)),
        (b"gAMA", b"\0"),
        (b"cHRM", bytes(32)),
        (b"iCCP", b"a\0\0" + zlib.compress(b"no profile")),
        (b"iCCP", b"a\0\0" + zlib.compress(grey_profile())),
        (b"iCCP", b"a\0\0" + zlib.compress(profile(P3, 2.2)[:200])),
    ],
)
def test_colours_that_cannot_be_converted_are_refused(tmp_path, chunk):
    with pytest.raises(UserError, match=r"a\.png: the photograph cannot be converted to sRGB: .* Save it as sRGB"):
        read_photograph(png_with(tmp_path / "a.png", chunk))
    assert read_photograph(png_with(tmp_path / "b.png", (b"tIME", bytes(7)))).converted_from is None


def test_a_part_of_a_profile_that_is_missing_is_noticed(tmp_path):
    path = tmp_path / "a.jpg"
    colours().save(path, icc_profile=profile(P3, 2.2))
    path.write_bytes(path.read_bytes().replace(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2"))
    with pytest.raises(UserError, match="parts of its colour profile are missing"):
        read_photograph(path)


def tiff_directory(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """A directory of EXIF with one entry."""
    return struct.pack("<HHHI", 1, tag, kind, count) + value + bytes(4)


def test_the_mark_of_cameras_for_adobe_rgb(tmp_path):
    """DCF 2.0: the interoperability directory, which the EXIF directory points to, says R03."""
    pointer = [struct.pack("<I", 8 + 18 * n) for n in (1, 2)]
    exif = b"II*\0" + struct.pack("<I", 8) + tiff_directory(0x8769, 4, 1, pointer[0]) + tiff_directory(0xA005, 4, 1, pointer[1])
    for mark, name in ((b"R03\0", "Adobe RGB, by EXIF"), (b"R98\0", None)):
        photograph = read_photograph(png_with(tmp_path / "a.png", (b"eXIf", exif + tiff_directory(1, 2, 4, mark))))
        expected = in_srgb(colours(), ADOBE, lambda levels: levels**GAMMA) if name else np.asarray(colours(), float)
        assert photograph.converted_from == name and difference(photograph.image, expected) <= 1


def test_cmyk_without_a_profile_is_read_as_before(tmp_path):
    colours().convert("CMYK").save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as stored:
        assert difference(read_photograph(tmp_path / "a.jpg").image, np.asarray(stored.convert("RGB"))) == 0


@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_layouts_size_tells_whether_a_photograph_is_turned(tmp_path, orientation):
    """The pixels are 32x48, and a quarter's turn makes them 48x32."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    colours().save(path, exif=exif)
    turned = {
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: np.rot90,
    }
    for layout_size in (None, (32, 48), (48, 32), (20, 30)):
        if orientation not in turned or layout_size not in ((32, 48), (48, 32)):
            with pytest.raises(UserError, match=f"EXIF orientation is {orientation}. Save it upright"):
                read_photograph(path, layout_size)
            continue
        photograph = read_photograph(path, layout_size)
        pixels = np.asarray(colours())
        expected = turned[orientation](pixels) if layout_size == (48, 32) else pixels
        assert photograph.turned == (layout_size == (48, 32))
        assert photograph.image.size == layout_size[::-1] and difference(photograph.image, expected) == 0
