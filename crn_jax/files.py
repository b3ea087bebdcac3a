"""Files: named as a shell names them, replaced as a whole, set aside when damaged, downloaded, known by their checksums."""

import contextlib
import hashlib
import itertools
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from crn_jax.errors import UserError

TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")
"""The names of files that `replacing` has not finished."""


def expanded(path: str | Path) -> str:
    """Returns a path with the home directory in place of `~`, and values in place of $VARIABLE, as a shell does.

    A shell leaves both as they are behind `--option=` and in quotes, and no shell reads environment variables and files. A path
    stays as it is if it exists as it is and not as expanded: `~` is then the name of a folder.

    Raises:
      UserError: if there is no such variable or home directory.
    """
    written = os.fspath(path)
    if not written.startswith("~") and "$" not in written:
        return written
    replaced = os.path.expandvars(os.path.expanduser(written))
    if os.path.lexists(written) and (replaced == written or not os.path.lexists(replaced)):
        return written
    if unknown := re.search(r"\$([A-Za-z_]\w*|\{\w+\})", replaced):
        raise UserError(f"{written}: the environment has no variable {unknown[0]}. Set it, or write the path in full.")
    if replaced.startswith("~"):
        home = replaced.partition("/")[0]
        raise UserError(f"{written}: where {home} lies is not known. Write the path in full, or ./{home} for this very name.")
    return replaced


def require_text(path: Path) -> Path:
    """Returns the path, if its name is text.

    Raises:
      UserError: if it has bytes that the encoding of file names does not have.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path}: this name is no text in {sys.getfilesystemencoding()}, the encoding of file names here. "
            f"Rename it, or set PYTHONUTF8=1."
        ) from error
    return path


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
        file.write(text.encode("utf-8", "backslashreplace"))  # a name may have bytes that are no text


def set_aside(path: Path, folder: Path) -> Path:
    """Moves a damaged file or folder into `folder`/damaged, under a name that is free there, and returns its new place."""
    aside = folder / "damaged"
    aside.mkdir(exist_ok=True)
    place = aside / free_name(path.name, lambda name: os.path.lexists(aside / name))
    os.rename(path, place)
    return place


def free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """Returns the name, or the first of `name.1`, `name.2` and so on that is not taken."""
    return next(free for n in itertools.count() if not is_taken(free := name + f".{n}" * (n > 0)))


def cache_folder() -> Path | None:
    """Returns the folder that keeps downloads, copies and compiled programs; None if this user has no home directory."""
    import pooch  # whoever only replaces a file need not wait for it

    try:
        return Path(pooch.os_cache("crn_jax"))
    except RuntimeError:
        return None


def download(
    url: str, known_hash: str, name: str, folder: Path | None, *, what: str, remedy: str, progressbar: bool = True
) -> Path:
    """Downloads a file into a folder, unless it is there already, and returns its path.

    Each call verifies the checksum, and fetches a file that fails it again. A partial download never has the final name.

    Args:
      url: where the file is.
      known_hash: its checksum, as in "md5:253f".
      name: what the file is called in the folder.
      folder: the folder. None: that of downloads, `cache_folder()`.
      what: what messages call the file, at the beginning of a sentence.
      remedy: what else can be done, as sentences.
      progressbar: whether the download shows how far it is.

    Raises:
      UserError: if the file cannot be fetched or written, or if what was fetched fails the checksum.
    """
    import pooch  # only a download needs it

    folder = folder or cache_folder()
    if folder is None:
        raise UserError(f"There is no home directory to keep {name} in. {remedy}")
    downloader = pooch.HTTPDownloader(progressbar=progressbar, timeout=15)
    try:
        return Path(pooch.retrieve(url, known_hash, fname=name, path=folder, downloader=downloader))
    except ValueError as error:
        raise UserError(f"{url}: the download has a wrong checksum ({error}). Try again.") from error
    except OSError as error:  # The errors of requests are OSErrors, as are those of a full or read-only disk.
        raise UserError(f"{what} could not be fetched from {url}: {error}\n{remedy}") from error


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
