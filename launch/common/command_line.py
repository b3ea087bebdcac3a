"""Reads the command line of launch.train: the name of an experiment, or of a recipe of stages, and overrides of its fields."""

import dataclasses
import os
import shlex
import threading
from pathlib import Path
from typing import Annotated, Any, Generic

import rich.table
import tyro

from crn_jax.buckets import is_bucket
from crn_jax.data.sources import DRAWN, DataConfig
from crn_jax.errors import UserError, did_you_mean
from crn_jax.experiment import AnyExperiment, Experiment, Kind, require_kind
from crn_jax.files import expanded
from launch.common.catalogue import experiments, recipes
from launch.common.names import as_typed
from launch.common.options import Processes
from launch.common.terminal import console

_PARSING = threading.Lock()  # tyro empties its caches after parsing, also under other threads that parse, as launch.ablate's do


@dataclasses.dataclass(frozen=True)
class Command(Generic[Kind]):
    """What the command line of launch.train says."""

    experiment: Annotated[Kind, tyro.conf.arg(name="")]
    processes: Annotated[Processes, tyro.conf.arg(name="")] = Processes()
    dry_run: bool = False
    """Compile the training step, print its layout on the mesh, its memory per device, what devices exchange, and how long the
    step and the training would take on each possible mesh, and end."""
    cache_only: bool = False
    """Build the cache of the data (--data.cache) and end, so that no accelerator has to wait for it later."""
    topology: str | None = None
    """Devices that --dry_run compiles for, which need not be there: h100, h200:8, a100:4x8 (4 hosts), b200, rtx4090, or a TPU
    slice such as v5e:2x2, which compiles slowly."""
    profile: str | None = None
    """FIRST:LAST, such as 100:105: a profile of these steps, for xprof, TensorBoard and Perfetto, in the run's folder
    tensorboard."""
    configs: Path | None = None
    """A file of experiments, recipes and ablations of your own, written as configs.py is. Default: $CRN_JAX_CONFIGS."""


def parse(arguments: list[str]) -> Command:
    """Returns the command that an experiment's name, or a run folder, and overrides ask for.

    Raises:
      UserError: if there is no such experiment, or a value is wrong.
    """
    name, *overrides = arguments
    experiment = named_experiment(name)
    return _overridden(experiment, overrides, name, experiment.about)


def _overridden(experiment: AnyExperiment, overrides: list[str], name: str, description: str) -> Command:
    """Returns an experiment with overrides, which help shows under this name and description."""
    with _PARSING:
        asked = tyro.cli(
            command_type(experiment),
            default=Command(experiment),
            args=_epochs_decide(overrides),
            prog=as_typed(f"python -m launch.train {name}"),
            description=description,
            use_underscores=True,
            config=(tyro.conf.AvoidSubcommands,),
        )
    refuse_empty(Command(experiment), asked)
    refuse_unread(experiment.data, asked.experiment.data)
    return asked


def _epochs_decide(words: list[str]) -> list[str]:
    """Adds to words with --epochs, but without --steps, that the experiment's own number of steps does not count."""
    given = {word.partition("=")[0] for word in words}
    return [*words, "--steps", "None"] if "--epochs" in given and "--steps" not in given else words


def refuse_empty(before: Any, settings: Any, prefix: str = "--") -> None:
    """Raises UserError if an option was given an empty text, such as that of a variable of the shell that is not set."""
    for field in dataclasses.fields(settings):
        was, value = (getattr(each, field.name) for each in (before, settings))
        if dataclasses.is_dataclass(value):
            refuse_empty(was, value, prefix if field.name in ("experiment", "processes") else f"{prefix}{field.name}.")
        elif value != was and value in ("", ("",)) and field.name != "about":
            raise UserError(f"{prefix}{field.name} is empty. Perhaps a variable of the shell is not set. Leave it out.")


def refuse_unread(before: DataConfig, data: DataConfig) -> None:
    """Raises UserError if an option of the data was given that their source does not read."""
    drawn = data.source in DRAWN
    default = DataConfig(data.source)
    unread = {"root": drawn, "fit": drawn, "read": drawn, "num_scenes": not drawn, "clear_days": data.source != "streets"}
    for name, has_no_effect in unread.items():
        if has_no_effect and (value := getattr(data, name)) not in (getattr(before, name), getattr(default, name)):
            drawn_or_not = ", which are drawn" * drawn
            raise UserError(
                f"--data.{name} {value} is not for {data.source}{drawn_or_not}. Leave it out, or choose another --data.source."
            )


def command_type(experiment: AnyExperiment) -> Any:
    """Returns `Command` of the experiment's own type, so that tyro makes flags of that type's fields."""
    return Command[type(experiment)]  # type: ignore[misc]  # known at run time only


def parse_stages(arguments: list[str]) -> list[Command]:
    """Returns what is to be trained in turn: the stages of a recipe, which all take the overrides, or one experiment.

    Each stage has its own folder within the recipe's folder, and starts from the stage before it.

    Raises:
      UserError: if there is no such name, a value is wrong, a stage does not fit the one before it, or freezes an unknown part.
    """
    name, *overrides = arguments
    if name not in recipes():
        return [parse(arguments)]
    recipe, commands = recipes()[name], list[Command]()
    before: Experiment | None = None
    description = f"{recipe.about} Stages: {', '.join(recipe.stages)}. Options given here apply to every stage."
    for stage, words in recipe.stages.items():
        base, *settings = shlex.split(words)
        experiment = dataclasses.replace(named_experiment(base), name=name, about=f"{recipe.about} Stage {stage}.")
        command = _overridden(experiment, [*_epochs_decide(settings), *_epochs_decide(overrides)], name, description)
        experiment = command.experiment
        run = dataclasses.replace(experiment.run, folder=f"{experiment.run.folder or f'runs/{experiment.name}'}/{stage}")
        start = before.folder if before else experiment.init_from
        experiment = dataclasses.replace(experiment, name=f"{experiment.name}_{stage}", run=run, init_from=start)
        check_growth(before, experiment)
        commands.append(dataclasses.replace(command, experiment=experiment))
        before = experiment
    return commands


def check_growth(before: Experiment | None, experiment: Experiment) -> None:
    """Raises UserError unless an experiment can start from the one before it. Nothing is allocated."""
    from crn_jax.growth import grow
    from crn_jax.train import abstract_state

    state = abstract_state(experiment.objective(steps_per_epoch=1))
    if before is None:
        return
    try:
        grow(state.params, abstract_state(before.objective(steps_per_epoch=1)).params)
    except ValueError as error:
        raise UserError(f"{experiment.name} cannot start from {before.name}: {error}.") from error


def list_experiments(about: str) -> None:
    """Prints `about` and every experiment and recipe, a line each."""
    console.print(about)
    table = rich.table.Table(box=None, show_header=False)
    for name, experiment in experiments().items():
        table.add_row(name, experiment.about)
    for name, recipe in recipes().items():
        table.add_row(name, f"{recipe.about} Stages: {', '.join(recipe.stages)}.")
    console.print(table)
    console.print("Fields and defaults of one: python -m launch.train EXPERIMENT --help")
    console.print("Experiments of your own: --configs FILE.py, or the variable CRN_JAX_CONFIGS.")


def named_experiment(name: str) -> AnyExperiment:
    """Returns the experiment of that name, or the experiment that a run folder of that name stores.

    A run folder can go on even if the file that defined its experiment is gone.

    Raises:
      UserError: if there is neither.
    """
    if name in experiments():
        return experiments()[name]
    folder = expanded(name)
    if os.path.isdir(folder) or is_bucket(folder):
        from crn_jax.run import holds_run, read_description

        if holds_run(folder):
            experiment, _, _ = read_description(folder)
            run = dataclasses.replace(experiment.run, folder=folder)
            return dataclasses.replace(experiment, run=run)
    if name in recipes():
        raise UserError(f"'{name}' is a recipe of several stages. Name an experiment here, such as that of one of its stages.")
    known = [*experiments(), *recipes()]
    raise UserError(f"There is no experiment '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}.")


def experiment_of_kind(name: str, kind: type[Kind]) -> Kind:
    """Returns the experiment of that name, which has to be of a kind.

    Raises:
      UserError: if there is no such experiment, or it trains something else.
    """
    return require_kind(named_experiment(name), kind, f"'{name}'")
