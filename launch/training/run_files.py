"""The files of a run besides its checkpoints. A training in a bucket writes them to this machine's disk, and uploads them."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from crn_jax.buckets import BucketFolder, is_bucket
from launch.common.processes import is_first
from launch.training import ledger
from launch.training.lock import Ownership
from launch.training.run_folder import writable


class RunFiles:
    """The files of a run besides its checkpoints, run.json and owner.

    Args:
      folder: the run folder.
      staging: a folder on this machine's disk, for a run in a bucket. The metrics and the ledger of earlier starts are
        fetched into it by the first process, since later lines follow. Earlier TensorBoard files and contact sheets are not
        fetched, because nothing is appended to them.
    """

    def __init__(self, folder: str, staging: Path | None = None):
        self.folder = folder
        """The run folder."""
        self.path = staging or Path(folder)
        """Where the files are written."""
        self._bucket = BucketFolder(folder) if staging else None
        self._uploaded: dict[str, tuple[int, int]] = {}
        if self._bucket and is_first():
            for name in ("metrics.jsonl", ledger.FILE):
                if (lines := self._bucket.read(name)) is not None:
                    (self.path / name).write_bytes(lines)

    def upload(self) -> None:
        """Brings the bucket up to date. Without a bucket, there is nothing to do.

        Raises:
          OSError: if the bucket cannot be written.
        """
        if not self._bucket:
            return
        files = [file for file in self.path.rglob("*") if file.is_file() and not file.name.startswith(".")]
        states = {file.relative_to(self.path).as_posix(): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}
        changed = [name for name, state in states.items() if self._uploaded.get(name) != state]
        self._bucket.upload({name: self.path / name for name in changed})
        self._uploaded |= states


@contextlib.contextmanager
def run_files(folder: str, ownership: Ownership | None) -> Iterator[RunFiles]:
    """Yields the files of a run, and uploads at the end of the block those that this process has written.

    Raises:
      UserError: if a bucket cannot be read or written, or another training has followed this one.
    """
    if not is_bucket(folder):
        yield RunFiles(folder)
        return
    with tempfile.TemporaryDirectory(prefix="crn_jax_run_") as staging:
        with writable(folder):
            files = RunFiles(folder, Path(staging))

        def upload() -> None:
            if ownership:
                ownership.beat()  # another training may have followed this one since the last time
                ownership.check()
            files.upload()

        try:
            yield files
        except BaseException:
            with contextlib.suppress(Exception):  # the error itself is what has to be told
                upload()
            raise
        with writable(folder):
            upload()
