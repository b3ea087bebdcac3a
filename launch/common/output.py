"""Writes results to disk so that all of them appear, or none."""

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crn_jax.checksums import KEY, sealed, unsealed
from crn_jax.errors import UserError
from crn_jax.files import replace_text


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder, whose files replace those of the same name in `folder` at the end, unless there is an error.

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
    """Moves the files and folders of `source` into `folder`, where they replace those of the same name.

    Raises:
      UserError: if `folder` cannot be written.
    """
    try:
        folder.mkdir(exist_ok=True)
        for path in source.iterdir():
            if (folder / path.name).is_dir():
                shutil.rmtree(folder / path.name)
            os.replace(path, folder / path.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}); choose another folder with --out.") from error


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """Writes a JSON object with its own checksum, wholly or not at all. NaN and infinities become null."""
    replace_text(path, json.dumps(sealed(finite(fields)), indent=1))


def read_json(path: Path) -> dict[str, Any]:
    """Returns a JSON object that `write_json` wrote.

    Raises:
      UserError: if the file is damaged.
    """
    try:
        fields = json.loads(path.read_bytes())
        if not isinstance(fields, dict):
            raise ValueError("it is no JSON object")
        return unsealed(fields)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: the file is damaged ({error}). Remove it, and repeat the command that wrote it. If you have edited it on "
            f"purpose, remove its line {KEY}."
        ) from error


def finite(value: Any) -> Any:
    """Returns a tree of dicts and lists with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
