"""Writes results to disk when all of them are there, so that an error in between leaves the former ones."""

import contextlib
import fcntl
import json
import math
import os
import shutil
import tempfile
import time
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from crn_jax.checksums import KEY, sealed
from crn_jax.errors import UserError
from crn_jax.files import TEMPORARY, replace_text, replacing
from crn_jax.formats import json_file

_PNG = b"\x89PNG\r\n\x1a\n"
_ASCII = "".join(chr(code) for code in range(32, 127) if code != ord("%"))
_UNFINISHED = ".unfinished."
_ABANDONED = 3600.0  # seconds since anybody wrote to a temporary file
REMEDY = "Choose another folder with --out."
"""What a person can do if a folder cannot be written."""
_MADE = "crn_jax"  # the key of a PNG's text that says how the picture was made


@contextlib.contextmanager
def explained_writing(folder: Path, remedy: str = REMEDY) -> Iterator[None]:
    """Turns an `OSError` within the block, which writes to a folder, into an error that says what to do.

    Raises:
      UserError: if a file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}). {remedy}") from error


@contextlib.contextmanager
def staged(folder: Path, remedy: str = REMEDY) -> Iterator[Path]:
    """Yields a temporary folder, whose files replace those of the same name in `folder` at the end, unless there is an error.

    The temporary folder lies within `folder`, because `folder` may be a file system of its own, such as a container's volume.

    Raises:
      UserError: if `folder` cannot be written.
    """
    folder = folder.resolve()
    is_new = not folder.exists()
    with explained_writing(folder, remedy):
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        temporary = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
    try:
        with _held(temporary):
            temporary.mkdir(exist_ok=True)  # another command may have taken it for unfinished before it was held
            yield temporary
            replace(temporary, folder, remedy)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if nothing was written


def remove_unfinished(folder: Path) -> None:
    """Removes the temporary folders and files of commands that were killed.

    A command that still runs holds a lock on its folder, and has written to its file within the last hour.
    """
    for left in folder.glob(f"{_UNFINISHED}*"):
        with _held(left) as held:
            if held:
                shutil.rmtree(left, ignore_errors=True)
    for left in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):  # another command may have removed it
            if TEMPORARY.fullmatch(left.name) and time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Holds a lock on a folder, and yields whether it does: another process may hold it, or the file system has no locks."""
    try:
        file = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = True
    except OSError:
        held = False
    try:
        yield held
    finally:
        os.close(file)


def replace(source: Path, folder: Path, remedy: str = REMEDY) -> None:
    """Moves the files and folders of `source` into `folder`, where they replace those of the same name.

    Raises:
      UserError: if `folder` cannot be written.
    """
    with explained_writing(folder, remedy):
        folder.mkdir(exist_ok=True)
        for path in source.iterdir():
            if (folder / path.name).is_dir():
                shutil.rmtree(folder / path.name)
            os.replace(path, folder / path.name)


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """Writes a JSON object with its own checksum, wholly or not at all. NaN and infinities become null."""
    replace_text(path, json.dumps(sealed(finite(fields)), indent=1))


def read_json(path: Path, form: Any = dict) -> dict[str, Any]:
    """Returns a JSON object that `write_json` wrote, after checking its checksum and its form (see `json_file.check`).

    Raises:
      UserError: if the file is damaged.
    """
    remedy = "Remove it, and repeat the command that wrote it. If you have edited it on purpose, remove its line"
    return json_file.read_json(path, f"{remedy} {KEY}.", form)


def write_png(image: Image.Image, path: Path, made: str = "") -> None:
    """Writes a picture as PNG, wholly or not at all, with a text that says how it was made."""
    info = PngImagePlugin.PngInfo()
    if made:
        info.add_text(_MADE, urllib.parse.quote(made, safe=_ASCII))  # Pillow writes other letters as another kind of text
    with replacing(path) as file:
        image.save(file, "png", pnginfo=info)


def made_by(path: Path) -> tuple[str | None, bool]:
    """Reads how a command made a PNG, as `write_png` noted it, and whether the file is whole.

    It looks at the parts of the PNG file and their checksums, and decodes nothing. An image of another program, or what is no
    image, gives None.
    """
    made, kind = None, b""
    try:
        with open(path, "rb") as file:
            if file.read(len(_PNG)) != _PNG:
                return None, False
            left = os.fstat(file.fileno()).st_size - len(_PNG)
            while len(head := file.read(8)) == 8 and kind != b"IEND":
                size, kind = int.from_bytes(head[:4], "big"), head[4:]
                left -= 12 + size
                if left < 0:
                    break
                data, checksum = file.read(size), file.read(4)
                if checksum != zlib.crc32(kind + data).to_bytes(4, "big"):
                    return made, False
                if kind == b"tEXt" and data.startswith(_MADE.encode() + b"\0"):
                    made = urllib.parse.unquote(data[len(_MADE) + 1 :].decode("latin-1"))
            return made, kind == b"IEND" and left == 0
    except FileNotFoundError:
        return None, False
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror}). Choose another folder.") from error


def finite(value: Any) -> Any:
    """Returns a tree of dicts and lists with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
