"""Files: replaced as a whole or not at all, and identified by their SHA-256."""

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


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
