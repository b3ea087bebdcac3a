"""Reads the command line of a command into a dataclass, whose fields are the options."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import tyro

from crn_jax.files import expanded
from launch.common.names import as_typed

Options = TypeVar("Options")


def read_options(kind: type[Options] | Any, name: str, arguments: list[str] | None, **settings: Any) -> Options:
    """Returns the options of the command `name`, in which `~` and $VARIABLE of every path are expanded.

    Args:
      kind: the dataclass, or a union of dataclasses, one for each subcommand.
      name: the name of the command.
      arguments: the words after the command; None means those of this process.
      settings: further settings of `tyro.cli`.

    Raises:
      UserError: if a path has a variable that is not set.
    """
    read = tyro.cli(kind, prog=as_typed(f"python -m launch.{name}"), args=arguments, use_underscores=True, **settings)
    return _expanded(read)


def _expanded(value: Any) -> Any:
    if isinstance(value, Path):
        return Path(expanded(value))
    if isinstance(value, tuple):
        return tuple(map(_expanded, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{field.name: _expanded(getattr(value, field.name)) for field in dataclasses.fields(value)}
        )
    return value
