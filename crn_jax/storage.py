"""How the checkpoints of a run are stored on a disk, and how in a bucket: which are complete, and how one is removed.

On a disk, Orbax gives a checkpoint its name when it is complete. In a bucket nothing can be renamed, so Orbax writes the object
`commit_success.txt` last. What is removed loses its name, or this object, first: what an interruption leaves behind does not
look like a checkpoint.
"""

import contextlib
import re
import shutil
from pathlib import Path
from typing import Any, Protocol

from crn_jax.buckets import BucketFolder, copied, is_bucket
from crn_jax.errors import UserError
from crn_jax.files import require_text, set_aside

UNFINISHED = ".orbax-checkpoint-tmp"
"""What Orbax puts behind the name of a checkpoint's folder on a disk until the checkpoint is complete."""

COMMITTED = "commit_success.txt"
"""The object that Orbax writes into a checkpoint in a bucket once all others are there."""

_STEP = "0|[1-9][0-9]{0,18}"


class Storage(Protocol):
    """A folder of checkpoints, each named by its step. Methods raise OSError if the folder cannot be read or written."""

    folder: Any
    """The folder, as a path that Orbax takes: a `Path`, or an `epath.Path` in a bucket."""

    def prepare(self) -> None:
        """Makes the folder."""

    def steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, in ascending order."""

    def copy_to_read(self, step: int) -> Any:
        """Returns where to read the checkpoint, for a program that reads all of it, perhaps several times."""

    def is_link(self, step: int) -> bool:
        """Returns whether the checkpoint's folder is a link."""

    def clear_unfinished(self) -> None:
        """Deletes the remains of a save, or of a deletion, that was killed."""

    def delete(self, step: int) -> None:
        """Deletes a checkpoint."""

    def set_aside(self, step: int) -> Any:
        """Moves a checkpoint into the folder `damaged` beside the folder of checkpoints, and returns its new place."""


class Disk(Storage):
    """Checkpoints in a folder of a disk."""

    def __init__(self, folder: str | Path):
        self.folder = require_text(Path(folder).absolute())  # Orbax and TensorStore take no other paths

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def steps(self) -> list[int]:
        if not self.folder.exists():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if re.fullmatch(_STEP, path.name) and path.is_dir())

    def copy_to_read(self, step: int) -> Path:
        return self.folder / str(step)

    def is_link(self, step: int) -> bool:
        return (self.folder / str(step)).is_symlink()

    def clear_unfinished(self) -> None:
        for path in self.folder.glob(f"*{UNFINISHED}*"):
            self._delete(path)

    def delete(self, step: int) -> None:
        self._delete(self.folder / str(step))

    @staticmethod
    def _delete(path: Path) -> None:
        with contextlib.suppress(OSError):  # it is deleted when the next training starts
            if UNFINISHED not in path.name:
                path = path.rename(path.with_name(f"{path.name}{UNFINISHED}-deleted"))
            path.unlink() if path.is_symlink() else shutil.rmtree(path)

    def set_aside(self, step: int) -> Path:
        return set_aside(self.folder / str(step), self.folder.parent)


class InBucket(Storage):
    """Checkpoints in a bucket."""

    def __init__(self, folder: str | Path):
        self._objects = BucketFolder(folder)
        from etils import epath

        self.folder = epath.Path(self._objects.address)

    def prepare(self) -> None:
        pass  # a bucket has no folders

    def steps(self) -> list[int]:
        return sorted(self._steps(committed=True))

    def _steps(self, committed: bool) -> set[int]:
        """Returns the steps of the checkpoints that are complete, or of those that are not."""
        names = self._objects.objects()
        there = {int(name.split("/")[0]) for name in names if re.match(f"({_STEP})/", name)}
        complete = {step for step in there if f"{step}/{COMMITTED}" in names}
        return complete if committed else there - complete

    def copy_to_read(self, step: int) -> Path:
        try:
            copy = copied(f"{self._objects.address}/{step}", lambda name: True)
            kept = [step, *self.steps()]
            for other in copy.parent.iterdir():
                if re.fullmatch(_STEP, other.name) and int(other.name) not in kept:
                    shutil.rmtree(other, ignore_errors=True)
        except UserError as error:
            raise OSError(str(error)) from error
        return copy

    def is_link(self, step: int) -> bool:
        return False

    def clear_unfinished(self) -> None:
        for step in self._steps(committed=False):
            self.delete(step)

    def delete(self, step: int) -> None:
        with contextlib.suppress(OSError):  # it is deleted when the next training starts
            self._delete(step)

    def _delete(self, step: int) -> None:
        self._objects.remove([f"{step}/{COMMITTED}"])
        self._objects.remove(self._objects.objects(f"{step}"))

    def set_aside(self, step: int) -> str:
        self._objects.remove([f"{step}/{COMMITTED}"])  # what is left after an interruption is deleted as unfinished
        return BucketFolder(str(self.folder.parent)).set_aside(f"{self.folder.name}/{step}")


def storage_of(folder: str | Path) -> Storage:
    """Returns how checkpoints are stored in a folder.

    Raises:
      UserError: if the folder is in a bucket, and the packages are missing that speak to one.
    """
    return InBucket(folder) if is_bucket(folder) else Disk(folder)
