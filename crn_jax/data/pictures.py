"""Opens pictures: the one place that decodes image files, for photographs, layouts and synthesized images alike.

PNG, JPEG and WebP are read, whatever a file's name says, and nothing else. Before Pillow decodes a file, its structure is
checked here, and only the parts that make pixels are handed on. Texts, previews and damaged notes in a file do no harm. The
checks are these:

- PNG: the checksums of all parts, and that the data fill all rows. Pillow fills missing rows with zeros.
- JPEG: that the data end neither early nor amid a code, by libjpeg's own warnings, which Pillow does not pass on. What was not
  there would be grey. libjpeg's check ends at its first warning, so it gets a copy without anything harmless to warn of.
  Flipped bits and overwritten bytes that leave the codes aligned cannot be noticed.
- WebP: that the file is as long as it says. It has no checksum, so zeros at the end of lossy data are only told.

The number of pixels is read from the header and bounded, so a small file cannot fill the memory.
"""

import errno
import io
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from crn_jax.errors import UserError

Format = Literal["PNG", "JPEG", "WebP"]

MAX_MEGAPIXELS = 100
"""The largest picture that is decoded, unless the environment variable CRN_JAX_MAX_MEGAPIXELS gives another number."""
_MAX_BYTES = 1 << 29
_MAX_SCANS = 500  # of a progressive JPEG; encoders write about ten, and each takes as long as the whole picture
_MAX_PROFILE_BYTES = 1 << 25
_ZERO_TAIL = 64  # bytes; only of large areas of one colour do encoders of lossy WebP leave more zeros
_PNG_SIGNATURE, _JPEG_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


class Picture(NamedTuple):
    """A decoded image file, and what the file says about its numbers."""

    image: Image.Image
    """The decoded image, in the mode that Pillow chooses."""
    format: Format
    bits: int
    """The number of bits of a sample in the file."""
    lossy: bool
    profile: bytes | None
    """The ICC profile."""
    chunks: dict[bytes, bytes]
    """The parts of a PNG that say how its numbers look: gAMA, cHRM, sRGB and cICP."""
    exif: bytes | None
    """The EXIF data, with neither checked nor parsed content."""
    notes: tuple[str, ...] = ()
    """Sentences about small damage that does not prevent decoding."""


class _Damaged(Exception):
    """The reason why a file is no whole picture, as part of a sentence."""


class _File(NamedTuple):
    """What the structure of a file tells, before any pixel is decoded."""

    format: Format
    width: int
    height: int
    stream: bytes
    """The file without the parts that make no pixels."""
    bits: int = 8
    lossy: bool = False
    profile: bytes | None = None
    exif: bytes | None = None
    chunks: dict[bytes, bytes] = {}  # noqa: RUF012  # nobody changes it
    interlaced: bool = False
    channels: int = 1
    codes: bytes = b""
    """A JPEG with nothing in it of which libjpeg would warn, except damaged codes."""
    notes: tuple[str, ...] = ()


def open_picture(path: str | Path) -> Picture:
    """Opens and decodes an image file.

    Raises:
      UserError: if the file is missing, truncated, damaged, too large, or no PNG, JPEG or WebP. The message names the file.
    """
    file = _parsed(path)
    megapixels = file.width * file.height / 1e6
    if megapixels > (limit := _max_megapixels()):
        raise UserError(
            f"{path}: {file.height}x{file.width} is {megapixels:,.0f} megapixels, and at most {limit:g} are read. Save it "
            f"smaller, or raise the limit with CRN_JAX_MAX_MEGAPIXELS={int(megapixels) + 1}, if the memory suffices."
        )
    try:
        image = _PLUGINS[file.format](io.BytesIO(file.stream))  # Image.open would warn of large pictures, once a thread
        image.load()
        notes = _CHECKS[file.format](file, image)
    except ImportError:
        raise
    except MemoryError as error:
        raise UserError(
            f"{path}: the memory does not suffice for {file.height}x{file.width} pixels. Save it smaller."
        ) from error
    except Exception as error:  # Pillow fails in many ways at damaged files
        raise _damaged(path, error) from error
    return Picture(image, file.format, file.bits, file.lossy, file.profile, file.chunks, file.exif, notes)


def size_of(path: str | Path) -> tuple[int, int]:
    """Returns the height and width that an image file declares, after checking its structure, without decoding it.

    Raises:
      UserError: as `open_picture`, as far as the structure shows it.
    """
    file = _parsed(path)
    return file.height, file.width


def _max_megapixels() -> float:
    given = os.environ.get("CRN_JAX_MAX_MEGAPIXELS", "")
    try:
        limit = float(given or MAX_MEGAPIXELS)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise UserError(f"CRN_JAX_MAX_MEGAPIXELS={given}: a number above 0 is needed, such as {MAX_MEGAPIXELS}.")
    return limit


def _parsed(path: str | Path) -> _File:
    data = _content(path)
    if data.startswith(_PNG_SIGNATURE):
        parse = _png
    elif data.startswith(_JPEG_SIGNATURE):
        parse = _jpeg
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        parse = _webp
    else:
        raise UserError(f"{path}: {_described(data)} Pictures are read as PNG, JPEG or WebP, whatever the file's name.")
    try:
        return parse(data)
    except (_Damaged, struct.error, IndexError) as error:
        raise _damaged(path, error) from error


def _content(path: str | Path) -> bytes:
    try:
        if (size := os.stat(path).st_size) > _MAX_BYTES:
            raise UserError(f"{path}: the file has {size:,} bytes, and at most {_MAX_BYTES:,} are read. Save it smaller.")
        return Path(path).read_bytes()
    except OSError as error:
        if os.path.islink(path) and not os.path.exists(path):
            raise UserError(leads_nowhere(path)) from error
        if isinstance(error, FileNotFoundError):
            raise UserError(f"{path}: there is no such file.") from error
        raise UserError(f"{path}: the file cannot be read ({error.strerror or error}).") from error


def leads_nowhere(link: str | Path) -> str:
    """Returns a sentence that says why a broken symbolic link leads nowhere."""
    try:
        os.stat(link)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return f"{link}: the link leads nowhere; it leads back to itself."
    return f"{link}: the link leads nowhere; {os.readlink(link)} does not exist."


def _damaged(path: str | Path, error: Exception) -> UserError:
    return UserError(f"{path}: the image is truncated or damaged ({error or type(error).__name__}).")


_KNOWN = (
    (rb"....ftyp(?:heic|heix|hevc|heim|heis|mif1|msf1)", "HEIC, the format of phones. Convert it, such as by heif-convert."),
    (rb"....ftypavi[fs]", "AVIF. Convert it to PNG."),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000. Convert it to PNG."),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL. Convert it to PNG."),
    (rb"GIF8", "GIF. Convert it to PNG."),
    (rb"BM", "BMP. Convert it to PNG."),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF, or a camera's raw format. Convert it to PNG."),
    (rb"P[1-7]\s", "PNM (PGM or PPM). Convert it to PNG."),
    (rb"%!PS|\xc5\xd0\xd3\xc6|%PDF", "PostScript or PDF. Draw it as PNG."),
    (rb"DDS ", "DDS. Convert it to PNG."),
    (rb"8BPS", "a Photoshop document. Save it as PNG."),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the picture itself. Fetch it by `git lfs pull`."),
    (rb"\s*<(?:!DOCTYPE|html|\?xml|svg)", "a web page or SVG, as a failed download leaves. Fetch the picture again."),
    (rb"\0{16}", "zeros where a picture should begin, as an interrupted copy leaves. Copy it again."),
    (rb"(?:....)?\Z", "empty. Fetch it again."),
)  # fmt: skip


def _described(data: bytes) -> str:
    for pattern, words in _KNOWN:
        if re.match(pattern, data[:64], re.DOTALL | re.IGNORECASE):
            return f"the file is {words}"
    return "the image is truncated or damaged, or of an unknown format."


# PNG (www.w3.org/TR/png-3)

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_LOOKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP")


def _png(data: bytes) -> _File:
    first: dict[bytes, bytes] = {}
    kept: list[bytes | memoryview] = [data[:8]]
    for kind, whole in _png_chunks(data):
        body = whole[8:-4]
        if kind[0] & 32 == 0 and kind not in _PNG_PIXELS:
            raise _Damaged(f"it has a part {kind!r} that no PNG may need")
        if kind in (b"IHDR", b"PLTE") and kind in first:
            raise _Damaged(f"it has two parts {kind.decode()}")
        if kind in _PNG_PIXELS:
            kept.append(whole)
        if kind != b"IDAT":
            first.setdefault(kind, bytes(body))
    width, height, bits, color, *methods = struct.unpack(">IIBBBBB", first[b"IHDR"])
    if bits not in _DEPTHS.get(color, ()) or methods[:2] != [0, 0] or methods[2] > 1 or not width or not height:
        raise _Damaged(f"its header is impossible: {width}x{height}, {bits} bits, colour type {color}")
    palette = first.get(b"PLTE", b"")
    if color == 3 and (not palette or len(palette) % 3 or len(palette) > 768):
        raise _Damaged(f"its pixels need a palette, but it has {'none' if not palette else f'one of {len(palette)} bytes'}")
    if color == 3 and len(first.get(b"tRNS", b"")) > 256:
        raise _Damaged(f"its palette has transparency for {len(first[b'tRNS'])} colours, and can have 256")
    return _File(
        "PNG", width, height, b"".join(kept), bits,
        profile=_png_profile(first[b"iCCP"]) if b"iCCP" in first else None,
        exif=first.get(b"eXIf"),
        chunks={kind: first[kind] for kind in _PNG_LOOKS if kind in first},
        interlaced=bool(methods[2]),
        channels=_CHANNELS[color],
    )  # fmt: skip


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yields the kind and all bytes of each part, from IHDR to IEND, and checks the order and the checksums."""
    view, place, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, place) if place + 12 <= len(data) else (0, b"")
        whole = view[place : place + 12 + length]
        if not kind or len(whole) < 12 + length:
            raise _Damaged("it ends too early")
        if place == 8 and (kind, length) != (b"IHDR", 13):
            raise _Damaged("it does not begin with a header")
        if zlib.crc32(whole[4:-4]).to_bytes(4) != whole[-4:]:
            raise _Damaged(f"the checksum of a part {kind.decode('latin-1')} at byte {place} is wrong")
        yield kind, whole
        place += 12 + length


def _png_profile(body: bytes) -> bytes:
    _, _, packed = body.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(packed[1:], _MAX_PROFILE_BYTES)
    except zlib.error as error:
        raise _Damaged(f"its colour profile cannot be unpacked: {error}") from error
    return profile


def _check_png(file: _File, image: Image.Image) -> tuple[str, ...]:
    """Refuses a PNG whose data end before the last row, which Pillow leaves zero."""
    last = image.crop((0, image.height - 1, image.width, image.height))
    if not file.interlaced and any(band_high for _, band_high in _extremes(last)):
        return ()
    needed = sum(
        height * (1 + (width * file.channels * file.bits + 7) // 8) for width, height in _png_passes(file) if width and height
    )
    there = _inflated(file.stream, needed)
    if there < needed:
        raise _Damaged(f"its data end after {there:,} of {needed:,} bytes")
    return ()


def _extremes(image: Image.Image) -> list[tuple[float, float]]:
    found = image.getextrema()
    return list(found) if isinstance(found[0], tuple) else [found]


def _png_passes(file: _File) -> list[tuple[int, int]]:
    if not file.interlaced:
        return [(file.width, file.height)]
    adam7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return [(-(-(file.width - x) // across), -(-(file.height - y) // down)) for x, y, across, down in adam7]


def _inflated(stream: bytes, enough: int) -> int:
    """Counts the bytes that a PNG's data unpack to, in little memory, and stops when there are enough."""
    unpack, count = zlib.decompressobj(), 0
    for kind, whole in _png_chunks(stream):
        packed = bytes(whole[8:-4]) if kind == b"IDAT" else b""
        while packed and count < enough:
            count += len(unpack.decompress(packed, 1 << 20))
            packed = unpack.unconsumed_tail
    return count + len(unpack.flush()) if count < enough and not unpack.eof else count


# JPEG (ITU T.81)

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a stuffed byte, nor a restart marker, nor filling
_ALONE = (0x01, 0xD8, 0xD9)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SCAN, _END, _EXIF, _PROFILE, _ADOBE, _COMMENT = 0xDA, 0xD9, 0xE1, 0xE2, 0xEE, 0xFE
_NOTES = {*range(0xE1, 0xF0), _COMMENT} - {_ADOBE}
_JFIF, _SEQUENTIAL = 0xE0, (0xC0, 0xC1)
_ICC = b"ICC_PROFILE\0"


def _jpeg(data: bytes) -> _File:
    kept, codes, notes = [b"\xff\xd8"], [b"\xff\xd8"], list[str]()
    scans = before = 0
    frame = exif = None
    profile: dict[int, bytes] = {}
    parts = 0
    for marker, between, part in _jpeg_parts(data):
        body = part[4:]
        kept += [between] if marker in _NOTES else [between, part]
        codes += [between if before == _SCAN else b"", _without_quirks(marker, part, frame)]
        if before != _SCAN and between.strip(b"\xff"):  # 0xff may fill any gap
            notes.append(f"{len(between):,} extraneous bytes before marker 0x{marker:02x}")
        before = marker
        if marker in _FRAMES:
            if frame:
                raise _Damaged("it has two headers")
            frame = marker, *struct.unpack(">BHH", body[:5])
        elif marker == _SCAN:
            scans += 1
        elif marker == _EXIF and body.startswith(b"Exif\0") and exif is None:
            exif = body[6:]
        elif marker == _PROFILE and body.startswith(_ICC):
            number, parts = body[12], body[13]
            profile[number] = body[14:]
    if frame is None or not scans or not frame[2] or not frame[3]:
        raise _Damaged("it has no pixels")
    if scans > _MAX_SCANS:
        raise _Damaged(f"it has {scans:,} scans")
    if profile and sorted(profile) not in ([*range(1, parts + 1)], [*range(parts)]):  # some programs count from 0
        raise _Damaged("parts of its colour profile are missing")
    icc = b"".join(profile[number] for number in sorted(profile)) or None
    _, bits, height, width = frame
    return _File(
        "JPEG", width, height, b"".join(kept), bits, True, icc, exif, codes=b"".join(codes), notes=tuple(notes)
    )  # fmt: skip


def _jpeg_parts(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yields the marker of each part, the bytes between the part before it and itself, and all its bytes, to the end mark."""
    place, marker = 2, 0
    while marker != _END:
        found = _MARKER.search(data, place)
        if found is None:
            raise _Damaged("it ends before its end mark")
        marker, begin, end = data[found.end() - 1], found.start(), found.end()
        if marker not in _ALONE:
            end += int.from_bytes(data[end : end + 2])
            if end > len(data) or end < found.end() + 2:
                raise _Damaged(f"it ends within a part that should have {end - found.end():,} bytes")
        yield marker, data[place:begin], data[begin:end]
        place = end


def _without_quirks(marker: int, part: bytes, frame: tuple[int, ...] | None) -> bytes:
    """Returns a part of a JPEG as libjpeg takes it without a warning, because its check of the codes ends at the first one.

    Parts that do not change the codes are left out, and a scan of a sequential JPEG gets the one range that it can have.
    """
    if marker in _NOTES or marker in (_JFIF, _ADOBE):
        return b""
    return part[:-3] + b"\0\x3f\0" if marker == _SCAN and frame and frame[0] in _SEQUENTIAL else part


def _check_jpeg(file: _File, image: Image.Image) -> tuple[str, ...]:
    """Refuses a JPEG whose codes libjpeg finds corrupt. To find out, it decodes a grey picture of an eighth of the size."""
    import simplejpeg  # only JPEGs need it, and layouts are none

    try:
        simplejpeg.decode_jpeg(file.codes, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        said = str(error)
        if re.fullmatch(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9", said):  # some cameras write these
            return (*file.notes, said.removeprefix("Corrupt JPEG data: "))
        if re.match("Corrupt|Premature|Inconsistent|Invalid progressive|Bogus", said):
            raise _Damaged(said) from error
        return (*file.notes, f"its codes cannot be checked: {said}")
    return file.notes


# WebP (RFC 9649)


def _webp(data: bytes) -> _File:
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise _Damaged(f"it has {len(data):,} of {end:,} bytes")
    chunks = dict[bytes, bytes]()
    place = 12
    while place + 8 <= end:
        kind, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if place + 8 + length > end:
            raise _Damaged(f"a part {kind.decode('latin-1')} is longer than the file")
        chunks.setdefault(kind, data[place + 8 : place + 8 + length])
        place += 8 + length + length % 2
    sizes = []
    if extended := chunks.get(b"VP8X"):
        sizes.append((1 + int.from_bytes(extended[4:7], "little"), 1 + int.from_bytes(extended[7:10], "little")))
    if lossless := chunks.get(b"VP8L"):
        packed = int.from_bytes(lossless[1:5], "little")
        sizes.append((1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)))
    if lossy := chunks.get(b"VP8 "):
        sizes.append((int.from_bytes(lossy[6:8], "little") & 0x3FFF, int.from_bytes(lossy[8:10], "little") & 0x3FFF))
    if not sizes:
        raise _Damaged("it has no pixels")
    if len({*sizes}) > 1:
        raise _Damaged("its parts are of different sizes")
    width, height = sizes[0]
    return _File(
        "WebP", width, height, data[:end], lossy=not lossless, profile=chunks.get(b"ICCP") or None, exif=chunks.get(b"EXIF")
    )  # fmt: skip


def _check_webp(file: _File, image: Image.Image) -> tuple[str, ...]:
    zeros = len(file.stream) - len(file.stream.rstrip(b"\0"))
    return (f"its data end in {zeros:,} zeros",) if file.lossy and zeros > _ZERO_TAIL else ()


_PLUGINS: dict[str, Callable[[BinaryIO], Image.Image]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,  # of the several pictures of an MPO, the first
    "WebP": WebPImagePlugin.WebPImageFile,
}
_CHECKS = {"PNG": _check_png, "JPEG": _check_jpeg, "WebP": _check_webp}
