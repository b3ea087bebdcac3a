"""One training: from the last checkpoint, or the start, until all steps are done or a signal asks it to stop."""

import contextlib
from pathlib import Path

import jax

from crn_jax.checkpoint import Checkpoints
from crn_jax.data.pipeline import steps_per_epoch, training_batches
from crn_jax.experiment import AnyExperiment
from crn_jax.run import describe_data, describe_run
from crn_jax.sharding import local_rows, make_mesh, put
from crn_jax.train import abstract_batch_of, abstract_state, make_train_step
from crn_jax.vgg_weights import obtain_vgg19
from launch.common.processes import agree, is_first
from launch.common.profiler import Profiler
from launch.common.terminal import console, opened, show_error
from launch.training.ahead import compile_step
from launch.training.failures import explained_memory, explained_writes
from launch.training.frozen import objective_and_frozen
from launch.training.ledger import Ledger
from launch.training.loop import VALIDATORS, TrainingLoop
from launch.training.metrics_log import MetricsLog, NoLog
from launch.training.origins import origins_of, with_start_of_folder
from launch.training.progress import announce
from launch.training.run_files import run_files
from launch.training.run_folder import prepared_folder, refuse_going_back, writable
from launch.training.start import first_state
from launch.training.watchdog import Watchdog


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
        console.print(note)
    epoch = steps_per_epoch(train_source, batch_size)
    vgg_params, vgg19 = obtain_vgg19(experiment.vgg, progressbar=is_first())
    description = describe_run(experiment, train_source.label_space, vgg19, describe_data(train_source, epoch))
    description["origins"] = origins_of(experiment)
    objective, frozen = objective_and_frozen(experiment, epoch, vgg_params, description["origins"].get("segmenter"))

    abstract = abstract_state(objective, mesh, experiment.sharding.shard_state)
    folder = experiment.folder
    with jax.set_mesh(mesh), explained_memory(experiment), contextlib.ExitStack() as stack:
        placed = put(mesh, vgg_params)
        frozen = placed if frozen is vgg_params else put(mesh, frozen)
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
        announce(experiment, mesh, state, first_step, epoch, vgg19)
        with explained_writes(checkpoints):
            log = stack.enter_context(contextlib.closing(MetricsLog(files.path, first_step) if is_first() else NoLog()))
            if event:
                log.write(first_step, event)
            writing = (lambda: ownership.beating) if ownership else (lambda: 0)
            watchdog = stack.enter_context(Watchdog(experiment.run.stuck_seconds, show_error, writing, experiment.folder))
            floored = None if first_step else train_source
            validator = VALIDATORS[experiment.measured_by](experiment, val_source, mesh, abstract, placed, floored)
            train_step = make_train_step(objective, abstract)
            if first_step < experiment.last_step(epoch):
                batch = abstract_batch_of(objective, batch_size, train_source.label_space.dtype)
                compile_step(train_step, state, frozen, mesh, batch)
            validator.wait()
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
                loop.measure_floor()
                loop.validate(0, state)
            rows = local_rows(mesh, batch_size)
            batches = training_batches(train_source, batch_size, experiment.seed, first_step, data.threads, rows, data.flip)
            return loop.run(train_step, state, batches, first_step)
