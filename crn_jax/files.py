"""Files: replaced as a whole or not at all, set aside when they are damaged, and identified by their SHA-256."""

import contextlib
import hashlib
import itertools
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file for writing, which takes the place of `path` when the block ends without an error.

    At every moment, even if the process is killed, `path` has either its old content or all of the new content. Until the
    block ends, the new file lies beside `path` under a random name, which no other writer uses and no link can occupy.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    with open(temporary, "xb") as file:  # tempfile.mkstemp would hide it from other users, whatever the umask says
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def replace_text(path: Path, text: str) -> None:
    """Replaces a file by a text in UTF-8, as `replacing` does."""
    with replacing(path) as file:
        file.write(text.encode())


def set_aside(path: Path, folder: Path) -> Path:
    """Moves a damaged file or folder into `folder`/damaged, under a name that is free there, and returns its new place."""
    aside = folder / "damaged"
    aside.mkdir(exist_ok=True)
    names = (path.name + f".{n}" * (n > 0) for n in itertools.count())
    place = next(aside / name for name in names if not os.path.lexists(aside / name))
    os.rename(path, place)
    return place


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
