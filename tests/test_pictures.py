"""The files that are opened, and those that are refused: never a picture that is not in the file."""

import io
import random
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from crn_jax.data.labels.published import CAMVID
from crn_jax.data.photographs import read_photograph
from crn_jax.data.pictures import open_picture, size_of
from crn_jax.errors import UserError

pytestmark = pytest.mark.quick


def street() -> Image.Image:
    """A picture with some detail, 64x96."""
    rows, columns = np.mgrid[:64, :96]
    waves = 128 + 60 * np.sin(rows / 5)[..., None] * np.cos(columns[..., None] / (4, 7, 11))
    noise = np.random.default_rng(0).normal(0, 12, (64, 96, 3))
    return Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8))


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    file = io.BytesIO()
    (image or street()).save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width=24, height=16, bits=8, color=0, data=None, extra=b"", interlace=0) -> bytes:
    """A PNG made by hand; `data` are its unpacked rows."""
    data = bytes(height * (1 + width)) if data is None else data
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlace)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def written(path, content: bytes):
    path.write_bytes(content)
    return path


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\nshowpage\n"
STRANGE = {
    "eps": (EPS, "PostScript"),
    "pgm": (b"P5 24 16 127\n" + bytes(384), "PNM"),
    "jp2": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64), "JPEG 2000"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(64), "HEIC, the format of phones"),
    "avif": (b"\0\0\0\x1cftypavif" + bytes(64), "AVIF"),
    "gif": (b"GIF89a" + bytes(64), "GIF"),
    "bmp": (b"BM" + bytes(64), "BMP"),
    "tiff": (b"II*\0" + bytes(64), "TIFF"),
    "dds": (b"DDS " + bytes(64), "DDS"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    "html": (b"<!DOCTYPE html><title>404</title>", "a web page"),
    "zeros": (bytes(500), "zeros"),
    "empty": (b"", "empty"),
    "text": (b"nothing", "truncated or damaged"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_other_formats_are_named_and_never_opened(tmp_path, kind):
    content, words = STRANGE[kind]
    path = written(tmp_path / "a.png", content)
    for read in (read_photograph, CAMVID.read, size_of):
        with pytest.raises(UserError, match=rf"a\.png: .*{words}.*PNG, JPEG or WebP"):
            read(path)


@pytest.mark.parametrize("kind, options", [("PNG", {}), ("JPEG", {}), ("WEBP", {"lossless": True}), ("MPO", {})])
def test_the_content_counts_and_not_the_name(tmp_path, kind, options):
    content = encoded(kind, **options)
    image = open_picture(written(tmp_path / "a.bin", content)).image
    expected = Image.open(io.BytesIO(content))
    assert (np.asarray(image) == np.asarray(expected)).all() and size_of(tmp_path / "a.bin") == (64, 96)


def pieces(content: bytes) -> list[bytes]:
    rng = random.Random(0)
    return [content[: rng.randrange(1, len(content))] for _ in range(25)]


@pytest.mark.parametrize("kind, options", [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {})])
def test_a_part_of_a_file_is_refused(tmp_path, kind, options):
    for part in pieces(encoded(kind, **options)):
        with pytest.raises(UserError, match=r"part\.png: "):
            open_picture(written(tmp_path / "part.png", part))


def test_any_byte_of_a_png_counts(tmp_path):
    content = encoded("PNG")
    for place in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(UserError, match=r"bit\.png: "):
            open_picture(written(tmp_path / "bit.png", bytes(damaged)))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
def test_half_a_jpeg_with_an_end_mark_is_refused(tmp_path, options):
    content, rng = encoded("JPEG", quality=90, **options), random.Random(1)
    open_picture(written(tmp_path / "whole.jpg", content))
    for _ in range(15):
        half = content[: rng.randrange(len(content) // 2, len(content) - 40)] + b"\xff\xd9"
        with pytest.raises(UserError, match=r"half\.jpg: the image is truncated or damaged \("):
            open_picture(written(tmp_path / "half.jpg", half))


def test_zeros_within_a_jpeg_are_refused_or_told(tmp_path):
    content, rng, unnoticed = encoded("JPEG", quality=90), random.Random(2), 0
    for _ in range(40):
        place = rng.randrange(700, len(content) - 600)
        path = written(tmp_path / "zeros.jpg", content[:place] + bytes(512) + content[place + 512 :])
        try:
            unnoticed += not open_picture(path).notes
        except UserError:
            continue
    assert unnoticed <= 6


def test_bytes_too_many_before_a_mark_are_told(tmp_path):
    """Some cameras write them, and the picture is whole."""
    path = written(tmp_path / "more.jpg", encoded("JPEG")[:-2] + bytes(range(30)) + b"\xff\xd9")
    (note,) = read_photograph(path).notes
    assert re.fullmatch(r"\d+ extraneous bytes before marker 0xd9", note)


def with_quirk(content: bytes, quirk: str) -> bytes:
    """The JPEG with something of which libjpeg warns, although no pixel is wrong."""
    changed = bytearray(content)
    scan = content.index(b"\xff\xda")
    if quirk == "a scan's range":
        changed[scan + int.from_bytes(content[scan + 2 : scan + 4])] = 0
    elif quirk == "a new JFIF":
        changed[content.index(b"JFIF\0") + 5] = 2
    elif quirk == "an unknown Adobe transform":
        changed[content.index(b"Adobe") + 11] = 7
    else:
        place = content.index(b"\xff\xdb")
        changed[place:place] = bytes(3)
    return bytes(changed)


@pytest.mark.parametrize(
    "mode, quirk, notes",
    [
        ("RGB", "a scan's range", ()),
        ("RGB", "a new JFIF", ()),
        ("CMYK", "an unknown Adobe transform", ()),
        ("RGB", "bytes between parts", ("3 extraneous bytes before marker 0xdb",)),
    ],
)
def test_a_harmless_warning_does_not_hide_damage(tmp_path, mode, quirk, notes):
    content = with_quirk(encoded("JPEG", street().convert(mode), quality=90), quirk)
    assert open_picture(written(tmp_path / "whole.jpg", content)).notes == notes
    with pytest.raises(UserError, match=r"half\.jpg: the image is truncated or damaged \(Corrupt"):
        open_picture(written(tmp_path / "half.jpg", content[: len(content) // 2 + 150] + b"\xff\xd9"))


def test_a_jpeg_that_cannot_be_checked_is_told(tmp_path):
    path = written(tmp_path / "cmyk.jpg", encoded("JPEG", street().convert("CMYK"), subsampling=2))
    (note,) = open_picture(path).notes
    assert note.startswith("its codes cannot be checked: ")


def test_parts_of_a_colour_profile_may_be_counted_from_0(tmp_path):
    content, profile = encoded("JPEG"), bytes(range(200))
    for numbers in ((1, 2), (0, 1), (0, 2)):
        parts = [b"ICC_PROFILE\0" + bytes([n, 2]) + half for n, half in zip(numbers, (profile[:100], profile[100:]))]
        segments = b"".join(b"\xff\xe2" + struct.pack(">H", 2 + len(part)) + part for part in parts)
        path = written(tmp_path / "profile.jpg", content[:2] + segments + content[2:])
        if numbers == (0, 2):
            with pytest.raises(UserError, match="parts of its colour profile are missing"):
                open_picture(path)
        else:
            assert open_picture(path).profile == profile


def test_zeros_at_the_end_of_a_lossy_webp_are_told(tmp_path):
    content = encoded("WEBP", quality=95)
    assert not open_picture(written(tmp_path / "whole.webp", content)).notes
    path = written(tmp_path / "tail.webp", content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    assert "its data end in" in open_picture(path).notes[0]


@pytest.mark.parametrize("interlace", [0, 1])
def test_a_png_with_fewer_rows_than_it_declares_is_refused(tmp_path, interlace):
    whole = np.zeros((16, 25), np.uint8)
    passes = b"".join(bytes(h * (1 + w)) for w, h in ((3, 2), (3, 2), (6, 2), (6, 4), (12, 4), (12, 8), (24, 8)))
    data = passes if interlace else whole.tobytes()
    assert open_picture(written(tmp_path / "a.png", png(data=data, interlace=interlace))).image.size == (24, 16)
    for missing in (1, 25, 200):
        with pytest.raises(UserError, match=r"a\.png: the image is truncated or damaged"):
            open_picture(written(tmp_path / "a.png", png(data=data[:-missing], interlace=interlace)))


@pytest.mark.parametrize(
    "content, words",
    [
        (png(color=3), "its pixels need a palette, but it has none"),
        (png(color=3, extra=chunk(b"PLTE", bytes(7))), "palette"),
        (png(color=3, extra=chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", bytes(257))), "transparency for 257 colours"),
        (png(bits=5), "its header is impossible"),
        (png(extra=chunk(b"ABCD", b"")), "that no PNG may need"),
        (png(extra=chunk(b"IHDR", bytes(13))), "two parts IHDR"),
        (encoded("JPEG")[:2] + b"\xff\xd9", "truncated or damaged|unknown format"),
    ],
)
def test_impossible_files_are_refused(tmp_path, content, words):
    with pytest.raises(UserError, match=rf"a\.png: .*(?:{words})"):
        open_picture(written(tmp_path / "a.png", content))


@pytest.mark.parametrize("content", [png(60000, 60000, data=b""), png(10400, 10000, data=b"")])
def test_the_size_is_bounded_before_decoding(tmp_path, monkeypatch, content):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=r"bomb\.png: .* megapixels, and at most 100 are read.*CRN_JAX_MAX_MEGAPIXELS="):
            open_picture(written(tmp_path / "bomb.png", content))
        jpeg = bytearray(encoded("JPEG"))
        place = jpeg.index(b"\xff\xc0") + 5
        jpeg[place : place + 4] = struct.pack(">HH", 65000, 65000)
        with pytest.raises(UserError, match=r"bomb\.jpg: 65000x65000 is 4,225 megapixels"):
            open_picture(written(tmp_path / "bomb.jpg", bytes(jpeg)))
    monkeypatch.setenv("CRN_JAX_MAX_MEGAPIXELS", "0.001")
    with pytest.raises(UserError, match=r"at most 0\.001 are read"):
        open_picture(written(tmp_path / "small.png", encoded("PNG")))
    monkeypatch.setenv("CRN_JAX_MAX_MEGAPIXELS", "many")
    with pytest.raises(UserError, match=r"CRN_JAX_MAX_MEGAPIXELS=many: a number above 0"):
        open_picture(tmp_path / "small.png")


def test_texts_in_a_png_do_no_harm(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("made", "by hand")
    info.add_text("Straße", "naïve ☃")
    info.add_text("long", "x" * (3 << 20), zip=True)
    path = written(tmp_path / "texts.png", encoded("PNG", pnginfo=info))
    assert (np.asarray(open_picture(path).image) == np.asarray(street())).all()
    with pytest.raises(UserError, match="truncated or damaged"):
        open_picture(written(tmp_path / "cut.png", path.read_bytes()[:-30]))


def test_files_that_are_not_there(tmp_path):
    (tmp_path / "link.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name, words in (
        ("link.png", "the link leads nowhere; nowhere.png does not exist"),
        ("loop.png", "the link leads nowhere; it leads back to itself"),
        ("a.png", "there is no such file"),
    ):
        with pytest.raises(UserError, match=rf"{name}: {words}"):
            open_picture(tmp_path / name)
    with pytest.raises(UserError, match="the file cannot be read"):
        open_picture(tmp_path)


def test_mutated_files_raise_nothing_but_user_errors(tmp_path):
    rng = random.Random(3)
    whole = [
        encoded("PNG"), encoded("PNG", street().quantize(9)), encoded("PNG", street().convert("LA")), encoded("JPEG"),
        encoded("JPEG", street().convert("CMYK")), encoded("WEBP"), encoded("WEBP", lossless=True), encoded("MPO"),
        encoded("GIF"), encoded("TIFF"), encoded("JPEG2000"), encoded("DDS"),
    ]  # fmt: skip
    for turn in range(360):
        content = bytearray(whole[turn % len(whole)])
        for _ in range(rng.choice((1, 3, 40))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path = written(tmp_path / "mutated", bytes(content))
        for read in (read_photograph, CAMVID.examine, size_of):
            try:
                read(path)
            except UserError as error:
                assert "mutated" in str(error)
