"""A data cache in a bucket: its files in pieces, which are fetched to a disk in any order, and verified there.

A piece of the file `photograph.npy` is an object `photograph.npy/000012`. What was fetched, or uploaded, before an interruption
is known by the checksums that the bucket tells, and stays. The object `cache.json` is uploaded last: then the cache is whole.

Why not grain's ArrayRecord? The files of a cache have to be on the disk before the training begins, in either format. Pieces
fill a file in parallel, and an interruption costs a piece. docs/buckets.md has the times.
"""

from pathlib import Path

from crn_jax.buckets import BucketFolder, Object, at_once
from crn_jax.checksums import crc32c
from crn_jax.errors import UserError
from crn_jax.files import replacing

PIECE = 1 << 24
"""Bytes of a piece; the last one of a file has fewer."""

_WHOLE = "cache.json"
_FILES = ("layout.npy", "photograph.npy", "checksums", "done")
_TRIES = 3


def fetch_cache(bucket: BucketFolder, place: Path, again: bool = False) -> bool:
    """Fetches a cache, if it is in the bucket and whole, and returns whether it is. `cache.json` comes last to the disk, too.

    Args:
      bucket: the cache in the bucket.
      place: a folder of the disk, which this process alone writes to. A cache that is whole there is not looked at.
      again: looks at it, and fetches the pieces that are damaged.

    Raises:
      OSError: if the bucket cannot be read, or the disk cannot be written.
      UserError: if what arrives does not have the checksum that the bucket tells.
    """
    objects = bucket.objects()
    content = bucket.read(_WHOLE) if _WHOLE in objects else None
    if content is None:
        return False
    if (place / _WHOLE).exists() and not again:
        return True
    for name in _FILES:
        size = sum(about.size for piece, about in objects.items() if piece.startswith(f"{name}/"))
        with open(place / name, "ab") as file:  # it takes no space yet
            file.truncate(size)

    def fetch(piece: str) -> None:
        name, number = piece.split("/")
        with open(place / name, "r+b") as file:
            file.seek(int(number) * PIECE)
            if crc32c(file.read(objects[piece].size)) != objects[piece].crc32c:
                file.seek(int(number) * PIECE)
                file.write(_piece(bucket, piece, objects[piece]))

    at_once(fetch, [piece for piece in objects if piece.split("/")[0] in _FILES])
    with replacing(place / _WHOLE) as whole:
        whole.write(content)
    return True


def _piece(bucket: BucketFolder, name: str, about: Object) -> bytes:
    for _ in range(_TRIES):
        content = bucket.read(name)
        if content is not None and crc32c(content) == about.crc32c:
            return content
    raise UserError(f"{bucket.address}/{name}: what is fetched does not have the checksum that the bucket tells. Try again.")


def upload_cache(bucket: BucketFolder, place: Path) -> None:
    """Uploads a cache that is whole on the disk, unless it is in the bucket.

    Raises:
      OSError: if the disk cannot be read, or the bucket cannot be written.
    """
    objects = bucket.objects()
    if _WHOLE in objects:
        return
    pieces = [(name, number) for name in _FILES for number in range(max(1, -(-(place / name).stat().st_size // PIECE)))]

    def upload(piece: str) -> None:
        name, number = piece.split("/")
        with open(place / name, "rb") as file:
            file.seek(int(number) * PIECE)
            content = file.read(PIECE)
        there = objects.get(piece)
        if there is None or (there.size, there.crc32c) != (len(content), crc32c(content)):
            bucket.write(piece, content)

    at_once(upload, [f"{name}/{number:06d}" for name, number in pieces])
    bucket.create(_WHOLE, (place / _WHOLE).read_bytes())
