"""Writing a file as a whole or not at all, and telling files apart by their SHA-256."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file for writing, which takes the place of `path` when the block ends without an error.

    At every moment, even if the process is killed, `path` has its content of before or all of the new one. The new file lies
    beside `path` until then, under a random name: no other writer uses that name, and no link can be waiting there.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    with open(temporary, "xb") as file:  # tempfile.mkstemp would make it unreadable for other users, whatever the umask says
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def replace_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8 in the place of a file, see `replacing`."""
    with replacing(path) as file:
        file.write(text.encode())


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
