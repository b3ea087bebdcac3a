"""A cache on the disk: every example of a source, decoded and resized once, in files that are mapped into memory.

A cache is a folder `HEIGHTxWIDTH-FINGERPRINT`. It has two plain NumPy files: `layout.npy` `[N, H, W]` of the label space's
dtype, and `photograph.npy` uint8 `[N, H, W, 3]`. For sources with instances there is `instances.npy`, uint16 `[N, H, W]`, too.
The file `done` has one byte for each example, which becomes 1 once the example's pixels are on the disk. The file `checksums`
has the CRC-32C of each example's pixels, as a uint32 in little-endian order; an example that is read and does not have its
checksum is decoded anew. `cache.json` says what the folder holds.

The fingerprint covers all that determines the examples: the source's fields, its files' names, sizes and times of change,
Pillow's version, and `FORMAT` of this module. A change of any of these makes another cache. SciPy's version is left out,
because it changes only the rounding of vivid photographs, and a data set of those takes hours to build.

Why not grain's ArrayRecord? One writer writes its files front to back and closes them with a footer. A build that is
interrupted must therefore start again, and each read copies and parses a record. Our examples all have one size, so an index
gives an example's place in the file. Threads write in any order, and all processes of a machine share the pages that they read.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from crn_jax.buckets import BucketFolder, address_of, copy_of, is_bucket, origin_of
from crn_jax.checksums import crc32c
from crn_jax.data.cache_in_bucket import fetch_cache, upload_cache
from crn_jax.data.examples import Source
from crn_jax.errors import UserError
from crn_jax.files import replace_text

FORMAT = 2  # 1 had photographs as their files hold them, whatever their colour profiles say
"""The version of the cache's files. Raise it when their form changes, or when sources give other pixels for the same files."""

Progress = Callable[[int, int], None]
"""A function that is called with the number of examples that are done, and the number of all examples."""

COMMIT_SECONDS = 1.0
_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Cached(Source):
    """A source whose examples are read-only views of mapped files. Any number of threads may read at once.

    An example that is damaged is decoded anew from `source`, and written to the cache again if that is possible.
    """

    source: Source
    folder: Path
    arrays: dict[str, np.ndarray] = dataclasses.field(repr=False, compare=False)
    checksums: np.ndarray = dataclasses.field(repr=False, compare=False)  # uint32 [N]
    bucket: BucketFolder | None = dataclasses.field(default=None, repr=False, compare=False)
    """The cache in a bucket of which `folder` is a copy. `source` may be an outline then, which decodes nothing."""

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        example = {key: array[index] for key, array in self.arrays.items()}
        return example if is_intact(example, index, self.checksums, self.label_space.num_classes) else self._anew(index)

    def _anew(self, index: int) -> dict[str, np.ndarray]:
        if self.bucket:
            return self._fetched_anew(self.bucket, index)
        logging.getLogger(__name__).warning("%s: example %s is damaged; decoded anew", self.folder, self.names[index])
        try:
            with _Writer(self.folder, self.source) as writer:
                writer.write(index)
        except (OSError, UserError):
            pass  # the cache may lie on a disk that can only be read
        return self.source[index]

    def _fetched_anew(self, bucket: BucketFolder, index: int) -> dict[str, np.ndarray]:
        logging.getLogger(__name__).warning("%s: example %s is damaged; fetched anew", self.folder, self.names[index])
        with _writing(self.folder, self.source), _reaching(bucket, "fetched from"), alone(self.folder, lambda: None):
            fetch_cache(bucket, self.folder, again=True)  # only the pieces that are damaged
        example = {key: array[index] for key, array in self.arrays.items()}
        if not is_intact(example, index, self.checksums, self.label_space.num_classes):
            raise UserError(f"{bucket.address}: example {self.names[index]} is damaged. Delete this folder, to build it again.")
        return example


def is_intact(example: dict[str, np.ndarray], index: int, checksums: np.ndarray | None, num_classes: int) -> bool:
    """Tells whether a cached example has its checksum; in a cache of an older version, whether its class ids exist."""
    if checksums is None:
        return example["layout"].max() < num_classes
    return _checksum(example) == checksums[index]


def _checksum(example: dict[str, np.ndarray]) -> int:
    keys = [key for key in ("layout", "photograph", "instances") if key in example]
    return crc32c(np.array([crc32c(example[key]) for key in keys], "<u4"))


def cached(source: Source, folder: str | Path, threads: int = 2, progress: Progress | None = None) -> Source:
    """Returns the examples of `source` from a cache in `folder`, after building the cache if it is not there.

    From a folder in a bucket, the cache is copied to this machine's disk. A cache that has to be built is built on the disk and
    then uploaded.

    A build that was interrupted, at whatever moment, continues where it stopped. If several processes need the same cache, one
    process builds it and the others wait.

    Args:
      source: a dataclass that gives the same example for an index every time.
      folder: the folder of all caches. It is created if it does not exist; other caches in it stay.
      threads: the number of threads that build.
      progress: called in this thread with the number of examples that are done, and the number of all examples.

    Raises:
      UserError: if the source cuts random crops, if an example cannot be read, or if the cache does not fit on the disk,
        cannot be written or is damaged.
    """
    if getattr(source, "fit", None) == "random_crop":
        raise UserError("Random crops differ from epoch to epoch, so they cannot be cached. Use --data.fit crop, or no cache.")
    if found := fetched(source, folder):
        return found
    place, bucket = _place(source, folder)
    report = progress or (lambda done, total: None)
    if not _done(place, source).all():
        with contextlib.ExitStack() as stack:
            with _writing(place, source):
                place.mkdir(parents=True, exist_ok=True)
                stack.enter_context(alone(place, lambda: report(int(_done(place, source).sum()), len(source))))
                if not (place / "cache.json").exists():
                    _allocate(place, source, _fingerprint(source))
            _build(place, source, threads, report)
    if bucket:
        with _writing(place, source), _reaching(bucket, "uploaded to"), alone(place, lambda: None):
            upload_cache(bucket, place)
    return _opened(place, source, bucket)


def fetched(source: Source, folder: str | Path) -> Source | None:
    """Returns the examples of `source` from a cache in a bucket, which is copied to this machine's disk; decodes nothing.

    Returns None if `folder` is not in a bucket, or has no whole cache of these examples.

    Raises:
      UserError: if the bucket cannot be read, or the cache does not fit on the disk.
    """
    if not is_bucket(folder):
        return None
    place, bucket = _place(source, folder)
    assert bucket is not None
    with _writing(place, source), _reaching(bucket, "fetched from"):
        place.mkdir(parents=True, exist_ok=True)
        with alone(place, lambda: None):
            if not fetch_cache(bucket, place):
                return None
    try:
        return _opened(place, source, bucket)
    except UserError as error:
        raise UserError(f"{error} If it is damaged again, delete {bucket.address}, too.") from error


def _place(source: Source, folder: str | Path) -> tuple[Path, BucketFolder | None]:
    """Returns where the cache of a source lies on this machine's disk, and in the bucket, if `folder` is in one."""
    height, width = source.size
    name = f"{height}x{width}-{_fingerprint(source)[:16]}"
    if not is_bucket(folder):
        return Path(folder).resolve() / name, None
    bucket = BucketFolder(f"{address_of(folder)}/{name}")
    return copy_of(bucket.address), bucket


def _opened(place: Path, source: Source, bucket: BucketFolder | None) -> "Cached":
    common = {field.name: getattr(source, field.name) for field in dataclasses.fields(Source)}
    arrays = open_arrays(place, len(source), source.size, source.label_space.dtype, source.has_instances)
    checksums = open_checksums(place, len(source))
    with _reading(place):
        if checksums is None:
            raise ValueError("the file checksums is missing")
        return Cached(**common, source=source, folder=place, arrays=arrays, checksums=checksums, bucket=bucket)


def _fingerprint(source: Source) -> str:
    facts = [FORMAT, PIL.__version__, _describe(source)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _describe(value: Any) -> Any:
    """Describes a value as JSON: a dataclass by its fields, a file by its name, size and time of change."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path):
        try:
            status = value.stat()
        except OSError as error:
            raise UserError(f"{value}: the file cannot be read ({error.strerror}).") from error
        return [origin_of(value) or os.path.abspath(value), status.st_size, status.st_mtime_ns]
    if isinstance(value, list | tuple):
        return [_describe(item) for item in value]
    if isinstance(value, dict):
        return sorted(([_describe(key), _describe(item)] for key, item in value.items()), key=str)
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if field.name != "notes"]  # words, which change no pixel
        if not getattr(value, "has_instances", True):
            names.remove("has_instances")  # caches from before there were instances stay in use
        return [type(value).__qualname__, {name: _describe(getattr(value, name)) for name in names}]
    raise TypeError(f"A cache cannot tell whether a {type(value).__qualname__} has changed: {value!r}.")


def _forms(source: Source) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns shape and dtype of each array of an example."""
    return _forms_of(source.size, source.label_space.dtype, source.has_instances)


def _forms_of(
    size: tuple[int, int], dtype: np.typing.DTypeLike, instances: bool
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    forms = {"layout": (size, np.dtype(dtype)), "photograph": ((*size, 3), np.dtype(np.uint8))}
    return forms | ({"instances": (size, np.dtype(np.uint16))} if instances else {})


def _bytes_each(source: Source) -> int:
    return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in _forms(source).values())


def _allocate(place: Path, source: Source, fingerprint: str) -> None:
    """Creates the files at their full size, which takes no space yet. `cache.json` comes last: it says that they exist."""
    for key, (shape, dtype) in _forms(source).items():
        np.lib.format.open_memmap(place / f"{key}.npy", "w+", dtype, (len(source), *shape))
    (place / "checksums").write_bytes(bytes(4 * len(source)))
    (place / "done").write_bytes(bytes(len(source)))
    facts = {"fingerprint": fingerprint, "label_space": source.label_space.name}
    replace_text(place / "cache.json", json.dumps(facts, indent=1))


def _done(place: Path, source: Source) -> np.ndarray:
    """Tells which examples the cache has: bool `[N]`."""
    if not (place / "cache.json").exists():
        return np.zeros(len(source), bool)
    with _reading(place):
        done = np.fromfile(place / "done", np.uint8) == 1
        if len(done) != len(source):
            raise ValueError(f"done has {len(done)} bytes for {len(source)} examples")
    return done


def open_arrays(
    place: Path, count: int, size: tuple[int, int], dtype: np.typing.DTypeLike, instances: bool
) -> dict[str, np.ndarray]:
    """Maps a cache's arrays `[N, ...]` into memory.

    Args:
      place: the cache.
      count: N, the number of its examples.
      size: the height and the width of the examples.
      dtype: the dtype of class ids.
      instances: whether the examples have instances.

    Raises:
      UserError: if a file is damaged.
    """
    arrays = {}
    for key, (shape, kind) in _forms_of(size, dtype, instances).items():
        with _reading(place):
            # Indexing an array is cheaper than indexing a memmap, which makes a memmap of each example.
            arrays[key] = array = np.asarray(np.load(place / f"{key}.npy", mmap_mode="r"))
            if array.shape != (count, *shape) or array.dtype != kind or not array.flags.c_contiguous:
                raise ValueError(f"{key}.npy is {array.dtype} {array.shape}")
    return arrays


def open_checksums(place: Path, count: int) -> np.ndarray | None:
    """Maps the checksums `[N]` of a cache into memory; None for a cache of an older version, which has none.

    Raises:
      UserError: if the file is damaged.
    """
    if not (place / "checksums").exists():
        return None
    with _reading(place):
        checksums = np.asarray(np.memmap(place / "checksums", "<u4", "r"))
        if len(checksums) != count:
            raise ValueError(f"checksums has {len(checksums)} entries for {count} examples")
    return checksums


@contextlib.contextmanager
def _reading(place: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of many classes, if the header of a NumPy file is damaged
        raise UserError(
            f"{place}: the cache is damaged ({error}). Delete this folder, and the cache is built again."
        ) from error


@contextlib.contextmanager
def _writing(place: Path, source: Source) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        size = f"{len(source) * _bytes_each(source):,} bytes in all"
        raise UserError(f"{place}: the cache, {size}, cannot be written ({error.strerror}). {_remedy(place)}") from error


@contextlib.contextmanager
def _reaching(bucket: BucketFolder, how: str) -> Iterator[None]:
    """Raises UserError in place of an OSError that names a place in the bucket. An error of the disk passes."""
    try:
        yield
    except OSError as error:
        if not str(error.filename).startswith(bucket.address):
            raise
        raise UserError(
            f"The cache cannot be {how} {bucket.address} ({error}). Mend the connection, or the account's rights. "
            f"The same command then goes on where it stopped."
        ) from error


def _remedy(place: Path) -> str:
    """Says what to do if there is no space. It names the folder's other caches with the space that they take on the disk."""
    others = {}
    for file in place.parent.glob("*/cache.json"):
        with contextlib.suppress(FileNotFoundError):  # another process is deleting it
            others[file.parent] = 512 * sum(part.stat().st_blocks for part in file.parent.iterdir())
    others.pop(place, None)
    listed = [f"{folder} ({others[folder]:,} bytes)" for folder in sorted(others, key=others.__getitem__, reverse=True)]
    used = f", or delete caches that you no longer use: {', '.join(listed)}" if listed else ""
    return f"Make space, choose another folder, use no cache{used}."


@contextlib.contextmanager
def alone(place: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of a folder while the context lasts. The kernel frees it when this process ends, however it ends."""
    import fcntl  # only Unix has it, and only a cache that is built needs it

    with open(place / "lock", "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                time.sleep(_POLL_SECONDS)
        yield


def _build(place: Path, source: Source, threads: int, progress: Progress) -> None:
    """Writes the missing examples. Only the process that holds the lock may do so."""
    missing = np.flatnonzero(~_done(place, source)).tolist()
    needed = len(missing) * _bytes_each(source)
    if needed > (free := shutil.disk_usage(place).free):
        raise UserError(f"{place}: the cache needs {needed:,} bytes more, but only {free:,} are free. {_remedy(place)}")
    progress(len(source) - len(missing), len(source))
    with _Writer(place, source) as writer, ThreadPoolExecutor(max(threads, 1)) as pool:
        futures = {pool.submit(writer.write, index): index for index in missing}
        written, committed = [], time.monotonic()
        try:
            for count, future in enumerate(as_completed(futures), len(source) - len(missing) + 1):
                future.result()
                written.append(futures[future])
                if time.monotonic() > committed + COMMIT_SECONDS:
                    writer.commit(written)
                    written, committed = [], time.monotonic()
                progress(count, len(source))
        finally:
            pool.shutdown(cancel_futures=True)
            ended = [(future, index) for future, index in futures.items() if not future.cancelled()]
            writer.commit(index for future, index in ended if future.exception() is None)


class _Writer(contextlib.ExitStack):
    """Writes examples through file descriptors, because writing to mapped memory kills the process when the disk is full."""

    def __init__(self, place: Path, source: Source):
        super().__init__()
        self._place, self._source = place, source
        self._arrays = open_arrays(place, len(source), source.size, source.label_space.dtype, source.has_instances)
        with _writing(place, source):
            self._files = {key: self.enter_context(open(place / f"{key}.npy", "r+b", 0)) for key in self._arrays}
            self._done = self.enter_context(open(place / "done", "r+b", 0))
            self._checksums = self.enter_context(open(place / "checksums", "r+b", 0))

    def write(self, index: int) -> None:
        """Decodes and writes one example. Several threads may write different examples at once."""
        example = self._source[index]
        for key, (shape, dtype) in _forms(self._source).items():
            pixels = np.ascontiguousarray(example[key])
            if pixels.shape != shape or pixels.dtype != dtype:  # it would overwrite its neighbours
                raise ValueError(f"{self._source.names[index]}: {key} is {pixels.dtype} {pixels.shape}, not {dtype} {shape}.")
            file = self._files[key].fileno()
            start = os.fstat(file).st_size - self._arrays[key].nbytes + index * pixels.nbytes
            with _writing(self._place, self._source):
                _write_all(file, pixels, start)
        with _writing(self._place, self._source):
            _write_all(self._checksums.fileno(), np.array([_checksum(example)], "<u4"), 4 * index)

    def commit(self, indices: Iterable[int]) -> None:
        """Marks these examples as done, after making sure that they are on the disk."""
        with _writing(self._place, self._source):
            for file in (*self._files.values(), self._checksums):
                os.fsync(file)
            for index in indices:
                os.pwrite(self._done.fileno(), b"\1", index)
            os.fsync(self._done)


def _write_all(file: int, pixels: np.ndarray, start: int) -> None:
    rest = memoryview(pixels.data).cast("B")
    while rest:
        written = os.pwrite(file, rest, start)
        rest, start = rest[written:], start + written
