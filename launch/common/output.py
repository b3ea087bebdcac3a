"""Results on disk: all of them, or nothing."""

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crn_jax.errors import UserError
from crn_jax.files import replace_text


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder; what is written there replaces its namesakes in `folder` at the end, unless there was an error.

    Raises:
      UserError: if `folder` cannot be written.
    """
    folder = folder.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.unfinished.", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}); choose another folder with --out.") from error
    try:
        yield temporary
        replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace(source: Path, folder: Path) -> None:
    """Moves what is in `source` into `folder`, in the place of what has the same name there."""
    try:
        folder.mkdir(exist_ok=True)
        for path in source.iterdir():
            if (folder / path.name).is_dir():
                shutil.rmtree(folder / path.name)
            os.replace(path, folder / path.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}); choose another folder with --out.") from error


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, as a whole or not at all, see `finite`."""
    replace_text(path, json.dumps(finite(value), indent=1))


def finite(value: Any) -> Any:
    """The same, with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
