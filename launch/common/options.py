"""Reads the command line of a command into a dataclass, whose fields are the options."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import tyro

from crn_jax.buckets import address_of, is_bucket
from crn_jax.errors import UserError
from crn_jax.files import expanded
from launch.common.names import as_typed

Options = TypeVar("Options")

_IN_BUCKETS = ("run", "runs", "methods", "layouts", "instances", "segmenter")
"""The options that may name a folder in a bucket, from which the commands read."""


def read_options(kind: type[Options] | Any, name: str, arguments: list[str] | None, **settings: Any) -> Options:
    """Returns the options of the command `name`, in which `~` and $VARIABLE of every path are expanded.

    Args:
      kind: the dataclass, or a union of dataclasses, one for each subcommand.
      name: the name of the command.
      arguments: the words after the command; None means those of this process.
      settings: further settings of `tyro.cli`.

    Raises:
      UserError: if a path has a variable that is not set, or is in a bucket where that cannot be.
    """
    read = tyro.cli(kind, prog=as_typed(f"python -m launch.{name}"), args=arguments, use_underscores=True, **settings)
    return _expanded(read)


def _expanded(value: Any, name: str = "") -> Any:
    if isinstance(value, Path):
        return _path(value, name)
    if isinstance(value, tuple):
        return tuple(_expanded(item, name) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{field.name: _expanded(getattr(value, field.name), field.name) for field in dataclasses.fields(value)}
        )
    return value


def _path(path: Path, name: str) -> Path:
    if is_bucket(path) and name not in _IN_BUCKETS:
        raise UserError(
            f"--{name} {address_of(path)}: this cannot be in a bucket. Name a place on a disk, or in a bucket that is mounted "
            f"as a folder (docs/buckets.md). `gcloud storage cp -r` copies between disks and buckets."
        )
    return Path(expanded(path))
