"""Trains a cascade, a baseline, or a segmenter to judge images: `python -m launch.train EXPERIMENT [--field value ...]`.

Name a recipe in place of an experiment to grow a cascade in stages. The same command resumes a run that was stopped, and so
does the run's folder in place of the experiment. The run folder, by default runs/EXPERIMENT, receives checkpoints, run.json,
metrics.jsonl, TensorBoard files and contact sheets. A recipe has one run folder for each stage, runs/RECIPE/STAGE.
"""

import sys
import time

from crn_jax.errors import UserError
from crn_jax.experiment import Experiment, require_kind
from launch.common.catalogue import take_configs
from launch.common.command_line import Command, list_experiments, parse_stages
from launch.common.exit_status import TRY_AGAIN, USER_ERROR
from launch.common.terminal import command, console, opened, show_error


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and trains."""
    with command():
        began = None if arguments is None else time.monotonic()
        arguments = take_configs(sys.argv[1:] if arguments is None else arguments)
        if not arguments or arguments[0] in ("-h", "--help"):
            list_experiments(__doc__)
            sys.exit(0 if arguments else USER_ERROR)
        stages = parse_stages(arguments)
        estimated = stages[0].dry_run or stages[0].topology is not None
        if stages[0].cache_only + estimated + (stages[0].profile is not None) > 1:
            raise UserError("--cache_only, --dry_run (or --topology) and --profile are for different calls. Give one of them.")
        if estimated:
            estimate(stages)
        elif stages[0].cache_only:
            build_caches(stages)
        else:
            train(stages, began)


def build_caches(stages: list[Command]) -> None:
    """Builds the caches that the trainings would build before their first step.

    Raises:
      UserError: if no folder for the cache is given.
    """
    for stage in stages:
        data, size, instances = stage.experiment.data, stage.experiment.size, stage.experiment.boundaries
        if data.cache is None:
            raise UserError("--cache_only builds a cache: give its folder, --data.cache DIR.")
        examples = sum(len(opened(data, split, size, instances=instances)) for split in ("train", "val"))
        console.print(f"{data.cache}: {examples:,} examples of {size[0]}x{size[1]}")


def estimate(stages: list[Command]) -> None:
    """Prints the memory, exchanges, operations and time of a training step of each stage, without running it."""
    from launch.common.jax_setup import compile_fewer_kernels, set_up_jax
    from launch.cost.dry_run import dry_run
    from launch.training.failures import explained_memory

    if stages[0].topology is None:
        compile_fewer_kernels()
    set_up_jax()
    for stage in stages:
        experiment = require_kind(stage.experiment, Experiment, f"--dry_run: '{stage.experiment.name}'")
        with explained_memory(experiment, dry_run=True):
            dry_run(experiment, stage.topology)


def train(stages: list[Command], began: float | None) -> None:
    """Trains the stages in turn. If one of them is stopped before its last step, the process ends, to be started again.

    Args:
      stages: the trainings.
      began: when the command was given, by `time.monotonic()`. None: when this process began.
    """
    from launch.common.ending import listen
    from launch.common.jax_setup import compile_fewer_kernels, keep_compiled_in, set_up_jax
    from launch.common.processes import is_first, join, several_processes
    from launch.common.stop_signals import Stop
    from launch.training import session
    from launch.training.ledger import process_began

    began = process_began() if began is None else began
    compile_fewer_kernels()
    set_up_jax()
    join(stages[0].processes)
    if several_processes():
        listen(show_error)
    keep_compiled_in(stages[0].experiment.folder)
    console.quiet = not is_first()
    for stage in stages:
        is_done = session.train(stage.experiment, began, stage.profile)
        if not is_done or (Stop.came and stage is not stages[-1]):
            sys.exit(TRY_AGAIN)
        began = time.monotonic()


if __name__ == "__main__":
    main()
