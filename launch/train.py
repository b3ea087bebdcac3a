"""Trains a cascade, or a segmenter to judge its images: `python -m launch.train EXPERIMENT [--field value ...]`.

Name a recipe in place of an experiment to grow a cascade in stages. The same command resumes a run that was stopped, and so
does the run's folder in place of the experiment. The run folder, by default runs/EXPERIMENT, receives checkpoints, run.json,
metrics.jsonl, TensorBoard files and contact sheets. A recipe has one run folder for each stage, runs/RECIPE/STAGE.
"""

import contextlib
import sys
import time
from pathlib import Path

import jax

from crn_jax.checkpoint import Checkpoints
from crn_jax.data.pipeline import steps_per_epoch, training_batches
from crn_jax.errors import UserError
from crn_jax.experiment import AnyExperiment, Experiment, require_kind
from crn_jax.run import describe_run
from crn_jax.sharding import local_rows, make_mesh, put
from crn_jax.train import abstract_state, make_train_step
from crn_jax.vgg_weights import obtain_vgg19
from launch.common.catalogue import take_configs
from launch.common.command_line import Command, list_experiments, parse_stages
from launch.common.ending import listen
from launch.common.exit_status import TRY_AGAIN, USER_ERROR
from launch.common.processes import agree, is_first, join, several_processes
from launch.common.profiler import Profiler
from launch.common.stop_signals import Stop
from launch.common.terminal import command, console, keep_compiled_in, opened, show_error
from launch.cost.dry_run import dry_run
from launch.training.failures import explained
from launch.training.frozen import objective_and_frozen
from launch.training.ledger import Ledger, process_began
from launch.training.loop import VALIDATORS, TrainingLoop
from launch.training.metrics_log import MetricsLog, NoLog
from launch.training.origins import origins_of, with_start_of_folder
from launch.training.progress import announce
from launch.training.run_files import run_files
from launch.training.run_folder import describe_data, prepared_folder, refuse_going_back, writable
from launch.training.start import first_state
from launch.training.watchdog import Watchdog


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and trains."""
    with command():
        began = process_began() if arguments is None else time.monotonic()
        arguments = take_configs(sys.argv[1:] if arguments is None else arguments)
        if not arguments or arguments[0] in ("-h", "--help"):
            list_experiments(__doc__)
            sys.exit(0 if arguments else USER_ERROR)
        stages = parse_stages(arguments)
        if stages[0].dry_run or stages[0].topology:
            return estimate(stages)
        if stages[0].cache_only:
            return build_caches(stages)
        join(stages[0].processes)
        if several_processes():
            listen(show_error)
        keep_compiled_in(stages[0].experiment.folder)
        console.quiet = not is_first()
        for stage in stages:
            if not train(stage.experiment, began, stage.profile):
                sys.exit(TRY_AGAIN)
            began = time.monotonic()


def estimate(stages: list[Command]) -> None:
    """Prints the memory, exchanges, operations and time of a training step of each stage, without running it."""
    for stage in stages:
        experiment = require_kind(stage.experiment, Experiment, f"--dry_run: '{stage.experiment.name}'")
        dry_run(experiment, stage.topology)


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
        console.print(f"{data.cache}: {examples:,} examples of {size[0]}x{size[1]}", markup=False)


def train(experiment: AnyExperiment, began: float, profile: str | None = None) -> bool:
    """Trains from the last checkpoint, if there is one, until all steps are done or a signal asks the run to stop.

    Returns whether all steps are done. The state is saved in either case.

    Args:
      experiment: what to train.
      began: when this was started, by `time.monotonic()`, for the run's ledger.
      profile: the steps to record, FIRST:LAST.

    Raises:
      UserError: if the data, the weights, the run folder or the devices do not suit the experiment, or the loss diverges.
    """
    experiment = with_start_of_folder(experiment)
    Profiler(profile, Path(experiment.folder))  # refuses at once what makes no sense
    data, size, batch_size = experiment.data, experiment.size, experiment.batch_size
    mesh = make_mesh(experiment.sharding, batch_size, size[0])
    train_source, val_source = (opened(data, split, size, instances=experiment.boundaries) for split in ("train", "val"))
    experiment.check_classes(train_source.label_space)
    for note in dict.fromkeys((*train_source.notes, *val_source.notes)):
        console.print(note, markup=False)
    epoch = steps_per_epoch(train_source, batch_size)
    vgg_params, vgg19 = obtain_vgg19(experiment.vgg, progressbar=is_first())
    objective, frozen = objective_and_frozen(experiment, epoch, vgg_params)
    description = describe_run(experiment, train_source.label_space, vgg19, describe_data(train_source, epoch))
    description["origins"] = origins_of(experiment)

    abstract = abstract_state(objective, mesh, experiment.sharding.shard_state)
    frozen, vgg_params = put(mesh, frozen), put(mesh, vgg_params)
    folder = experiment.folder
    with jax.set_mesh(mesh), contextlib.ExitStack() as stack:
        ownership = stack.enter_context(prepared_folder(experiment, description))
        files = stack.enter_context(run_files(folder, ownership))
        profiler = Profiler(profile, files.path / "tensorboard", shown=f"{folder}/tensorboard")
        with writable(folder):
            ledger = stack.enter_context(Ledger(files.path if is_first() else None, began))
        checkpoints = stack.enter_context(Checkpoints(f"{folder}/checkpoints", experiment.run.keep_last))
        newest = checkpoints.latest_step() or 0
        agree({"checkpoints": checkpoints.steps()})
        refuse_going_back(folder, newest, experiment.last_step(epoch))
        first_step, state, event = first_state(experiment, objective, abstract, checkpoints, description)
        ledger.go_on_from(first_step)
        Stop.listen_from(first_step)
        announce(experiment, mesh, state, first_step, epoch, vgg19)
        with explained(checkpoints):
            log = stack.enter_context(contextlib.closing(MetricsLog(files.path, first_step) if is_first() else NoLog()))
            if event:
                log.write(first_step, event)
            writing = (lambda: ownership.beating) if ownership else (lambda: 0)
            watchdog = stack.enter_context(Watchdog(experiment.run.stuck_seconds, show_error, writing, experiment.folder))
            validator = VALIDATORS[experiment.measured_by](experiment, val_source, mesh, abstract, vgg_params)
            loop = TrainingLoop(
                experiment,
                description,
                mesh,
                frozen,
                val_source,
                files,
                log,
                checkpoints,
                validator,
                epoch,
                ownership,
                watchdog,
                ledger,
                profiler,
            )
            if not first_step:
                loop.measure_floor(train_source)
                loop.validate(0, state)
            rows = local_rows(mesh, batch_size)
            batches = training_batches(train_source, batch_size, experiment.seed, first_step, data.threads, rows, data.flip)
            return loop.run(make_train_step(objective, abstract), state, batches, first_step)


if __name__ == "__main__":
    main()
