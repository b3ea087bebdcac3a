"""Reads the command line of a command into a dataclass, whose fields are the options."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import tyro

from crn_jax.buckets import address_of, is_bucket
from crn_jax.errors import UserError
from crn_jax.files import expanded
from launch.common.names import as_typed

Options = TypeVar("Options")

_IN_BUCKETS = object()

BucketPath = Annotated[Path, _IN_BUCKETS]
"""The type of an option that may name a place in a bucket, from which the command reads. Every other `Path` is on a disk."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """Where the processes of a run meet. JAX finds out by itself under SLURM (srun) and Open MPI 4, and on TPUs (VMs, GKE)."""

    coordinator: str | None = None
    """HOST:PORT where process 0 listens, the same for all processes. Take any free port of its host."""
    num_processes: int | None = None
    """Number of processes of the run."""
    process_id: int | None = None
    """Number of this process, counted from 0."""
    alone: bool = False
    """Train in this process alone, whatever the environment says of others."""


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


def _expanded(value: Any, name: str = "", kind: Any = None) -> Any:
    if isinstance(value, Path):
        return _path(value, name, kind)
    if isinstance(value, tuple):
        return tuple(_expanded(item, name, kind) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kinds = get_type_hints(type(value), include_extras=True)
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: _expanded(getattr(value, name), name, kinds[name]) for name in names})
    return value


def _may_be_in_bucket(kind: Any) -> bool:
    """Returns whether a type is `BucketPath`, or made of it."""
    return kind is _IN_BUCKETS or any(map(_may_be_in_bucket, (*get_args(kind), *getattr(kind, "__metadata__", ()))))


def _path(path: Path, name: str, kind: Any) -> Path:
    if is_bucket(path) and not _may_be_in_bucket(kind):
        raise UserError(
            f"--{name} {address_of(path)}: this cannot be in a bucket. Name a place on a disk, or in a bucket that is mounted "
            f"as a folder (docs/buckets.md). `gcloud storage cp -r` copies between disks and buckets."
        )
    return Path(expanded(path))
