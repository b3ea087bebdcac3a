"""Folders in buckets of Google Cloud Storage, gs://BUCKET/FOLDER.

A bucket has no files. It holds objects, whose names may look like paths, and whose checksums it tells. An object appears whole
and is replaced whole, and a write may ask that there be none of its name yet. Nothing can be renamed or appended to.

Whatever needs files is given a copy on this machine's disk (`copied`). It holds what has changed since the last time, and each
file has the CRC-32C that the bucket tells. The copies may be deleted at any time.
"""

import base64
import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from crn_jax.checksums import crc32c, crc32c_of_file
from crn_jax.errors import UserError
from crn_jax.files import cache_folder, free_name, replacing

_ADDRESS = re.compile(r"gs:/+([^/]+)((?:/.*)?)")  # a Path has made one slash of two
_ELSEWHERE = re.compile(r"(s3a?|az|abfss?|wasbs?|oss|r2|https?):/")
_TRANSFERS = 32
"""Objects that are transferred at the same time. Each waits for the network for most of its time."""
_TRIES = 3
"""How often an object is fetched that does not have its checksum, because it was replaced meanwhile or damaged on the way."""

Progress = Callable[[int, int], None]
"""A function that is called with the number of objects that are there, and the number of all objects."""


class Object(NamedTuple):
    """What a bucket tells about an object: its size in bytes, its CRC-32C, and when it was written, in ns since 1970.

    An object that is replaced is written anew. One whose metadata change, such as its storage class, is not.
    """

    size: int
    crc32c: int
    written: int


def is_bucket(source: str | Path) -> bool:
    """Returns whether a folder is named that lies in a bucket of Google Cloud Storage.

    Raises:
      UserError: if it lies in the storage of another provider, which Orbax cannot write to.
    """
    text = os.fspath(source)
    if match := _ELSEWHERE.match(text):
        address = f"{match[1]}://{text[match.end() :].lstrip('/')}"
        raise UserError(
            f"{address}: only folders and gs:// can be used. Mount this storage as a folder, such as with rclone or s3fs, and "
            f"give that folder (docs/buckets.md)."
        )
    return text.startswith("gs:/")


def address_of(source: str | Path) -> str:
    """Returns the address of a folder in a bucket, as gs://BUCKET/FOLDER.

    Raises:
      UserError: if it names no folder in a bucket.
    """
    match = _ADDRESS.fullmatch(os.fspath(source))
    folder = "/".join(part for part in (match[2] if match else "").split("/") if part)
    if not match or not folder or not _is_safe(folder):
        raise UserError(f"{source}: this is no folder in a bucket. Give gs://BUCKET/FOLDER.")
    return f"gs://{match[1]}/{folder}"


class BucketFolder:
    """A folder in a bucket, whose objects are named by their paths within it.

    Every method raises OSError if it cannot be done. The error names the place in the bucket, unless the disk is at fault.

    Args:
      source: gs://BUCKET/FOLDER.

    Raises:
      UserError: if the packages are missing that speak to a bucket, or `source` names no folder in one.
    """

    def __init__(self, source: str | Path):
        self.address = address_of(source)
        self._files = _file_system(self.address)

    def objects(self, within: str = "") -> dict[str, Object]:
        """Returns all objects, or those whose names begin with the folder `within`, by their names."""
        place = f"{self.address}/{within}".rstrip("/")
        start = len(self.address.removeprefix("gs://")) + 1
        with _told(place):
            found = self._files.find(place, detail=True)
        named = {path[start:]: info for path, info in found.items() if info["type"] == "file" and not path.endswith("/")}
        return {name: _object(info) for name, info in named.items()}

    def read(self, name: str) -> bytes | None:
        """Returns the content of an object; None if there is none of this name."""
        with contextlib.suppress(FileNotFoundError), _told(self._place(name)):
            return self._files.cat_file(self._place(name))
        return None

    def write(self, name: str, content: bytes) -> None:
        """Makes an object, or replaces it."""
        with _told(self._place(name)):
            self._files.pipe_file(self._place(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Makes an object if there is none of this name, and returns whether it did. If several call it at a time, one does.

        An answer may be lost, and the client then asks again, so an object with this very content is one's own.
        """
        try:
            with _told(self._place(name)):
                self._files.pipe_file(self._place(name), content, mode="create")
            return True
        except FileExistsError:
            return self.read(name) == content

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects, if they are there."""

        def remove(name: str) -> None:
            with contextlib.suppress(FileNotFoundError), _told(self._place(name)):
                self._files.rm_file(self._place(name))

        at_once(remove, names)

    def copy(self, names: Mapping[str, str]) -> None:
        """Copies objects within the folder, each to the name that it maps to."""

        def copy(name: str) -> None:
            with _told(self._place(name)):
                self._files.cp_file(self._place(name), self._place(names[name]))

        at_once(copy, names)

    def set_aside(self, name: str) -> str:
        """Moves an object, or all in a folder, into the folder `damaged` under a free name, and returns the new place."""
        last = name.rpartition("/")[2]
        taken = {other.split("/")[1] for other in self.objects("damaged")}
        free = free_name(last, taken.__contains__)
        moved = {old: f"damaged/{free}{old.removeprefix(name)}" for old in self.objects(name)}
        self.copy(moved)
        self.remove(moved)
        return f"{self.address}/damaged/{free}"

    def upload(self, files: Mapping[str, Path]) -> None:
        """Makes or replaces objects from files, by their names in the folder."""

        def upload(name: str) -> None:
            with _told(self._place(name)):
                self._files.put_file(str(files[name]), self._place(name))

        at_once(upload, files)

    def fetch(self, wanted: Mapping[str, Object], into: Path, progress: Progress | None = None, verify: bool = True) -> None:
        """Fetches objects into a folder on this machine's disk, unless they are there, and verifies them.

        What is fetched stays if this is interrupted. A file has the time at which its object was written.

        Args:
          wanted: some of `objects()`.
          into: the folder; others may be fetching into it at the same time.
          progress: called with the number of objects that are there, and the number of all objects.
          verify: computes the checksums of the files that are there already, too. Otherwise, only their size and time are
            compared.

        Raises:
          UserError: if an object does not have the checksum that the bucket tells, or has a name that is no path.
        """
        done = 0

        def fetch(name: str) -> None:
            nonlocal done
            if not _is_safe(name):
                raise UserError(f"{self.address}: the name of the object {name!r} is no path. Rename it.")
            if not _is_there(into / name, wanted[name], verify):
                self._fetch_one(name, wanted[name], into / name)
            done += 1
            if progress:
                progress(done, len(wanted))

        at_once(fetch, wanted)

    def _fetch_one(self, name: str, about: Object, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{secrets.token_hex(8)}.tmp")

        def get() -> tuple[int, int]:
            with _told(self._place(name)):
                self._files.get_file(self._place(name), str(temporary))
            return temporary.stat().st_size, crc32c_of_file(temporary)

        try:
            written = self._until_verified(name, about, get).written
            os.utime(temporary, ns=(written, written))
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)

    def read_verified(self, name: str, about: Object) -> bytes:
        """Returns the content of an object.

        Raises:
          UserError: if it does not have the checksum that the bucket tells.
        """
        content = b""

        def get() -> tuple[int, int]:
            nonlocal content
            content = self.read(name) or b""
            return len(content), crc32c(content)

        self._until_verified(name, about, get)
        return content

    def _until_verified(self, name: str, about: Object, get: Callable[[], tuple[int, int]]) -> Object:
        """Gets an object until `get` returns the size and the CRC-32C that the bucket tells. Returns what the bucket tells."""
        for _ in range(_TRIES):
            if get() == (about.size, about.crc32c):
                return about
            with _told(self._place(name)):
                about = _object(self._files.info(self._place(name)))
        raise UserError(f"{self._place(name)}: what is fetched does not have the checksum that the bucket tells. Try again.")

    def _place(self, name: str) -> str:
        return f"{self.address}/{name}"


def copied(source: str | Path, wanted: Callable[[str], bool], progress: Progress | None = None, *, whole: bool = True) -> Path:
    """Returns a copy of a folder in a bucket, on this machine's disk. It has the objects that are `wanted`, by their names.

    Args:
      source: gs://BUCKET/FOLDER.
      wanted: returns whether the object of a name is to be in the copy. If there is a copy already, what is wanted is brought
        up to date, and the rest stays.
      progress: as in `BucketFolder.fetch`.
      whole: verifies the checksums of files that are there already, too.

    Raises:
      UserError: if the bucket cannot be read, the disk cannot be written, or an object is damaged.
    """
    folder = BucketFolder(source)
    place = copy_of(folder.address)
    try:
        objects = {name: about for name, about in folder.objects().items() if wanted(name)}
        folder.fetch(objects, place, progress, verify=whole)
        _remove_others(place, wanted, objects)
    except OSError as error:
        raise UserError(f"{folder.address} cannot be copied to {place}: {error}") from error
    return place


def outlined(source: str | Path, wanted: Callable[[str], bool], needed: Callable[[str], bool]) -> Path:
    """Returns an outline of a folder in a bucket: files of the right names, sizes and times, most of which hold only zeros.

    It takes no space, and one request for a thousand objects.

    Args:
      source: gs://BUCKET/FOLDER.
      wanted: returns whether the object of a name is to be in the outline.
      needed: returns whether the content of the object of a name is fetched, too.

    Raises:
      UserError: as `copied` does.
    """
    folder = BucketFolder(source)
    place = _own_folder(folder.address) / "outlines" / folder.address.removeprefix("gs://")
    try:
        objects = {name: about for name, about in folder.objects().items() if wanted(name)}
        folder.fetch({name: about for name, about in objects.items() if needed(name)}, place, verify=False)
        for name, about in objects.items():
            if not needed(name) and _is_safe(name) and not _is_there(place / name, about, verify=False):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                with replacing(place / name) as file:
                    file.truncate(about.size)
                    os.utime(file.fileno(), ns=(about.written, about.written))
        _remove_others(place, wanted, objects)
    except OSError as error:
        raise UserError(f"{folder.address} cannot be listed in {place}: {error}") from error
    return place


def _remove_others(place: Path, wanted: Callable[[str], bool], objects: Mapping[str, Object]) -> None:
    """Removes the files of a copy that are wanted, but are no longer in the bucket."""
    for file in place.rglob("*") if place.exists() else ():
        name = file.relative_to(place).as_posix()
        if wanted(name) and name not in objects and not file.name.startswith(".") and not file.is_dir():
            file.unlink(missing_ok=True)


def copied_file(source: str | Path) -> Path:
    """Returns a copy of an object in a bucket, on this machine's disk; a path without a file if there is no such object.

    Raises:
      UserError: as `copied` does.
    """
    home, _, name = address_of(source).rpartition("/")
    place = copy_of(home)
    try:
        folder = BucketFolder(home)
        folder.fetch({found: about for found, about in folder.objects(name).items() if found == name}, place)
    except OSError as error:
        raise UserError(f"{home}/{name} cannot be copied to {place}: {error}") from error
    return place / name


def copy_of(source: str | Path) -> Path:
    """Returns where the copy of a folder in a bucket lies on this machine's disk, if there is one.

    Raises:
      UserError: if this user has no folder for what can be made anew.
    """
    return _own_folder(str(source)) / "buckets" / address_of(source).removeprefix("gs://")


def origin_of(path: Path) -> str | None:
    """Returns the address of the object of which a file is the copy, or the outline; None if the file is neither."""
    root = cache_folder() if "outlines" in path.parts or "buckets" in path.parts else None
    for own in (root / "buckets", root / "outlines") if root else ():
        if path.is_relative_to(own):
            return f"gs://{path.relative_to(own).as_posix()}"
    return None


def _own_folder(source: str) -> Path:
    root = cache_folder()
    if root is None:
        raise UserError(f"{source} is copied to ~/.cache/crn_jax, but this user has no home directory. Set XDG_CACHE_HOME.")
    return root


def _object(info: Mapping[str, Any]) -> Object:
    written = datetime.fromisoformat(info["timeCreated"].replace("Z", "+00:00"))
    microseconds = (written - datetime.fromisoformat("1970-01-01T00:00:00+00:00")) // _MICROSECOND
    return Object(int(info["size"]), int.from_bytes(base64.b64decode(info["crc32c"]), "big"), 1000 * microseconds)


_MICROSECOND = datetime.resolution


def _is_safe(name: str) -> bool:
    """Returns whether a name is a path that leads nowhere else."""
    return not any(part in ("", ".", "..") or "\0" in part for part in name.split("/"))


def _is_there(file: Path, about: Object, verify: bool) -> bool:
    try:
        status = file.stat()
    except OSError:
        return False
    if status.st_size != about.size or status.st_mtime_ns != about.written:
        return False
    return not verify or crc32c_of_file(file) == about.crc32c


def at_once(act: Callable[[str], None], names: Iterable[str]) -> None:
    """Acts on all names in several threads. After the first error, which it raises, it begins with no further one."""
    with ThreadPoolExecutor(_TRANSFERS, "bucket") as pool:
        try:
            for _ in pool.map(act, names):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _told(place: str) -> Iterator[None]:
    """Turns what the clients raise, of many classes, into an OSError that has a number, a text and the place.

    Their own OSErrors may lack all of these. Errors of a file on the disk, and of a disk that is full, pass as they are.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and (error.filename is not None or error.errno in _FULL):
            raise
        number = next((number for kind, number in _NUMBERS.items() if isinstance(error, kind)), None)
        if number:
            raise OSError(number, os.strerror(number), place) from error
        text = " ".join(f"{type(error).__name__}: {error}".removeprefix("OSError: ").rstrip(": ").split())
        raise OSError(getattr(error, "errno", None) or errno.EIO, text, place) from error


_NUMBERS = {FileNotFoundError: errno.ENOENT, FileExistsError: errno.EEXIST}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _file_system(address: str) -> Any:
    """Returns fsspec's interface to buckets, and sets it up for Orbax, too.

    Raises:
      UserError: if a package is missing.
    """
    try:
        import fsspec
        import gcsfs  # noqa: F401
        from etils import epath  # noqa: F401
    except ImportError as error:
        raise UserError(f"{address} needs the packages etils and gcsfs: pip install 'crn_jax[gcs]'") from error
    # Other machines, and TensorStore in this process, write to a bucket. A listing that is kept would not show it.
    fsspec.config.conf.setdefault("gcs", {}).update(use_listings_cache=False, requests_timeout=300)
    return fsspec.filesystem("gcs", finalize_on_close=True)  # with the same arguments as epath, which gets the same one
