"""What the command line of launch.train asks for: an experiment's name and overrides, or a recipe's stages."""

import dataclasses
import shlex
import threading
from pathlib import Path
from typing import Annotated, Generic

import rich.table
import tyro

from crn_jax.errors import UserError, did_you_mean
from crn_jax.experiment import AnyExperiment, Experiment, Kind, require_kind
from crn_jax.growth import grow
from crn_jax.run import read_description
from crn_jax.train import abstract_state
from launch.common.experiments import experiments, recipes
from launch.common.names import as_typed
from launch.common.processes import Processes
from launch.common.terminal import console

_PARSING = threading.Lock()  # tyro empties its caches when it has parsed, whoever parses beside it: launch.ablate's workers do


@dataclasses.dataclass(frozen=True)
class Command(Generic[Kind]):
    """What the command line says."""

    experiment: Annotated[Kind, tyro.conf.arg(name="")]
    processes: Annotated[Processes, tyro.conf.arg(name="")] = Processes()
    dry_run: bool = False
    """Compile the step, print how it lies on the mesh, the memory per device and what is exchanged, and end."""
    cache_only: bool = False
    """Build the cache of the data (--data.cache), and end: so that no accelerator waits for it."""
    topology: str | None = None
    """With --dry_run: compile for these devices, which need not be there: h100, h200:8, a100:4x8 (4 hosts), or a TPU slice such
    as v5e:2x2, which is slow."""
    configs: Path | None = None
    """A file of experiments, recipes and ablations of your own, see launch/common/experiments.py. Default: $CRN_JAX_CONFIGS."""


def parse(arguments: list[str]) -> Command:
    """Returns what an experiment's name and overrides ask for."""
    name, *overrides = arguments
    experiment = named_experiment(name)
    return _overridden(experiment, overrides, name, experiment.about)


def _overridden(experiment: AnyExperiment, overrides: list[str], name: str, description: str) -> Command:
    """An experiment with overrides; help calls it by this name and description."""
    with _PARSING:
        return tyro.cli(
            Command[type(experiment)],
            default=Command(experiment),
            args=overrides,
            prog=as_typed(f"python -m launch.train {name}"),
            description=description,
            use_underscores=True,
            config=(tyro.conf.AvoidSubcommands,),
        )


def parse_stages(arguments: list[str]) -> list[Command]:
    """What is to be trained in turn: a recipe's stages, which all take the overrides, or the one experiment that is named.

    Each stage has a folder of its own in the recipe's, and starts from the one before it.

    Raises:
      UserError: also if a stage does not fit behind the one before it, or freezes what it has not.
    """
    name, *overrides = arguments
    if name not in recipes():
        return [parse(arguments)]
    recipe, commands, before = recipes()[name], [], None
    description = f"{recipe.about} Stages: {', '.join(recipe.stages)}. What is set here is set for each of them."
    for stage, words in recipe.stages.items():
        base, *settings = shlex.split(words)
        experiment = dataclasses.replace(named_experiment(base), about=f"{recipe.about} Stage {stage}.")
        command = _overridden(experiment, [*settings, *overrides], name, description)
        experiment = command.experiment
        run = dataclasses.replace(experiment.run, folder=f"{experiment.run.folder or f'runs/{name}'}/{stage}")
        start = before.folder if before else experiment.init_from
        experiment = dataclasses.replace(experiment, name=f"{name}_{stage}", run=run, init_from=start)
        check_growth(before, experiment)
        commands.append(dataclasses.replace(command, experiment=experiment))
        before = experiment
    return commands


def check_growth(before: Experiment | None, experiment: Experiment) -> None:
    """Raises UserError unless an experiment can start from the one before it; nothing is allocated for that."""
    state = abstract_state(experiment.objective(steps_per_epoch=1))
    try:
        if before is not None:
            grow(state.params, abstract_state(before.objective(steps_per_epoch=1)).params)
    except ValueError as error:
        raise UserError(f"{experiment.name} cannot start from {before.name}: {error}.") from error


def list_experiments(about: str) -> None:
    """Prints what there is to train."""
    console.print(about, markup=False)
    table = rich.table.Table(box=None, show_header=False)
    for name, experiment in experiments().items():
        table.add_row(name, experiment.about)
    for name, recipe in recipes().items():
        table.add_row(name, f"{recipe.about} Stages: {', '.join(recipe.stages)}.")
    console.print(table)
    console.print("Fields and defaults of one: python -m launch.train EXPERIMENT --help", markup=False)
    console.print("Experiments of your own: --configs FILE.py, or the variable CRN_JAX_CONFIGS.", markup=False)


def named_experiment(name: str) -> AnyExperiment:
    """Returns the experiment of that name, or the one of that run folder.

    A run folder goes on with what it stores, also where the file that named its experiment is gone.

    Raises:
      UserError: if there is none of that name.
    """
    if name in experiments():
        return experiments()[name]
    if (Path(name) / "run.json").is_file():
        experiment, _, _ = read_description(name)
        run = dataclasses.replace(experiment.run, folder=name)
        return dataclasses.replace(experiment, run=run)
    known = [*experiments(), *recipes()]
    raise UserError(f"There is no experiment '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}.")


def experiment_of_kind(name: str, kind: type[Kind]) -> Kind:
    """Returns an experiment of configs.py that has to be of a kind.

    Raises:
      UserError: if there is none of that name, or if it trains something else.
    """
    return require_kind(named_experiment(name), kind, f"'{name}'")
