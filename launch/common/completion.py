"""Shell completion for `crn`: a script, written by tyro, that completes commands, experiments and options."""

import dataclasses
import importlib
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from crn_jax.errors import UserError
from crn_jax.files import expanded
from launch.common.catalogue import experiments, recipes
from launch.common.command_line import Command, command_type
from launch.common.names import COMMANDS, summary
from launch.common.terminal import command

SHELLS = ("bash", "zsh", "fish")


def write_completion(arguments: list[str]) -> None:
    """Writes the completion script for a shell into a file, and ends the process. `arguments` are the shell and the file.

    Raises:
      UserError: if the shell is not one of `SHELLS`, or there is no file.
    """
    with command():
        if len(arguments) != 2 or arguments[0] not in SHELLS:
            raise UserError(f"--tyro-write-completion: name a shell of {', '.join(SHELLS)}, and a file.")
        shell, file = arguments[0], Path(expanded(arguments[1]))
        file.parent.mkdir(parents=True, exist_ok=True)
        tyro.cli(every_command(), prog="crn", args=["--tyro-write-completion", shell, str(file)], use_underscores=True)


def every_command() -> Any:
    """Returns one type for the command lines of all commands, which tyro turns into subcommands."""
    modules = {name: importlib.import_module(f"launch.{name}") for name in COMMANDS}
    asked = {
        name: module.Asked if name == "convert" else module.Arguments for name, module in modules.items() if name != "train"
    }
    return _union(
        *(Annotated[type_, tyro.conf.subcommand(name, description=summary(name))] for name, type_ in asked.items()),
        Annotated[_training(), tyro.conf.subcommand("train", description=summary("train"))],
    )


def _training() -> type:
    """Returns the type of launch.train's command line, with the options of each experiment and each recipe's first stage."""
    known = experiments()
    first = {name: known[next(iter(recipe.stages.values())).split()[0]] for name, recipe in recipes().items()}
    about = {name: each.about for name, each in (known | recipes()).items()}
    named = known | first
    choice = _union(
        *(
            Annotated[
                command_type(experiment),
                tyro.conf.subcommand(name, default=Command(experiment), description=about[name]),
            ]
            for name, experiment in named.items()
        )
    )
    return dataclasses.make_dataclass("Train", [("experiment", Annotated[choice, tyro.conf.arg(name="")])])


def _union(*types: Any) -> Any:
    return Union[types]  # noqa: UP007 (no other syntax takes a tuple of types)
