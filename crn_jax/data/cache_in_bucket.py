"""A data cache in a bucket: its files in pieces, which are fetched to a disk in any order, and verified there.

A piece of the file `photograph.npy` is an object `photograph.npy/000012`. What was fetched, or uploaded, before an interruption
is known by the checksums that the bucket tells, and stays. The object `cache.json` is uploaded last: then the cache is whole.

Why not grain's ArrayRecord? The files of a cache have to be on the disk before the training begins, in either format. Pieces
fill a file in parallel, and an interruption costs a piece. docs/buckets.md has the times.
"""

from pathlib import Path

from crn_jax.buckets import BucketFolder, at_once
from crn_jax.checksums import crc32c
from crn_jax.files import replacing

PIECE = 1 << 24
"""Bytes of a piece; the last one of a file has fewer."""

_WHOLE = "cache.json"
_FILES = ("layout.npy", "photograph.npy", "instances.npy", "checksums", "done")
"""The files of a cache besides `cache.json`. Only a cache of examples with instances has all of them."""


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
    pieces = [piece for piece in objects if piece.split("/")[0] in _FILES]
    for name in {piece.split("/")[0] for piece in pieces}:
        size = sum(objects[piece].size for piece in pieces if piece.startswith(f"{name}/"))
        with open(place / name, "ab") as file:  # it takes no space yet
            file.truncate(size)

    def fetch(piece: str) -> None:
        name, number = piece.split("/")
        with open(place / name, "r+b") as file:
            file.seek(int(number) * PIECE)
            if crc32c(file.read(objects[piece].size)) != objects[piece].crc32c:
                file.seek(int(number) * PIECE)
                file.write(bucket.read_verified(piece, objects[piece]))

    at_once(fetch, pieces)
    with replacing(place / _WHOLE) as whole:
        whole.write(content)
    return True


def upload_cache(bucket: BucketFolder, place: Path) -> None:
    """Uploads a cache that is whole on the disk, unless it is in the bucket.

    Raises:
      OSError: if the disk cannot be read, or the bucket cannot be written.
    """
    objects = bucket.objects()
    if _WHOLE in objects:
        return
    sizes = {name: (place / name).stat().st_size for name in _FILES if (place / name).exists()}
    pieces = [f"{name}/{number:06d}" for name, size in sizes.items() for number in range(max(1, -(-size // PIECE)))]

    def upload(piece: str) -> None:
        name, number = piece.split("/")
        with open(place / name, "rb") as file:
            file.seek(int(number) * PIECE)
            content = file.read(PIECE)
        there = objects.get(piece)
        if there is None or (there.size, there.crc32c) != (len(content), crc32c(content)):
            bucket.write(piece, content)

    at_once(upload, pieces)
    bucket.create(_WHOLE, (place / _WHOLE).read_bytes())
