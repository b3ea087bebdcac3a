"""Trains a cascade, or a segmenter to judge its images: `python -m launch.train EXPERIMENT [--field value ...]`.

A recipe in place of an experiment grows a cascade in stages. The same command resumes a run that was stopped, and so does the
run's folder in place of the experiment. A run folder (default runs/EXPERIMENT; of a recipe, one for each stage in it) receives
checkpoints, run.json, metrics.jsonl, TensorBoard files and contact sheets.
"""

import contextlib
import sys
from pathlib import Path

import jax
from jax.sharding import Mesh

from crn_jax.checkpoint import Checkpoints
from crn_jax.data.pipeline import steps_per_epoch, training_batches
from crn_jax.errors import UserError
from crn_jax.experiment import (
    AnyExperiment,
    Experiment,
    GANExperiment,
    Regression,
    SegmenterExperiment,
    Synthesis,
)
from crn_jax.generator import count_parameters
from crn_jax.run import describe_run, load_run
from crn_jax.sharding import formats_of, local_rows, make_mesh, put
from crn_jax.train import Trainable, TrainState, abstract_state, init_state, make_train_step
from crn_jax.vgg_weights import perception_network, random_vgg19
from launch.common.command_line import Command, list_experiments, parse_stages
from launch.common.experiments import take_configs
from launch.common.processes import TRY_AGAIN, Stop, agree, is_first, join
from launch.common.terminal import command, console, describe_devices, opened, share_compiled
from launch.cost.dry_run import dry_run
from launch.training.loop import RANDOM_WARNING, Session
from launch.training.metrics_log import MetricsLog, NoLog
from launch.training.run_folder import check_room, describe_data, prepare_folder, refuse_going_back
from launch.training.segmenter_validation import SegmenterValidator
from launch.training.start import started_from
from launch.training.validation import Validator


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and trains."""
    with command():
        arguments = take_configs(sys.argv[1:] if arguments is None else arguments)
        if not arguments or arguments[0] in ("-h", "--help"):
            list_experiments(__doc__)
            sys.exit(0 if arguments else 2)
        stages = parse_stages(arguments)
        if stages[0].dry_run or stages[0].topology:
            return estimate(stages)
        if stages[0].cache_only:
            return build_caches(stages)
        join(stages[0].processes)
        share_compiled(Path(stages[0].experiment.folder))
        console.quiet = not is_first()
        for stage in stages:
            if not train(stage.experiment):
                sys.exit(TRY_AGAIN)


def estimate(stages: list[Command]) -> None:
    """Prints what a step of each would take."""
    for stage in stages:
        if not isinstance(stage.experiment, Experiment):
            raise UserError("--dry_run is for experiments that train a cascade.")
        dry_run(stage.experiment, stage.topology)


def build_caches(stages: list[Command]) -> None:
    """Builds what each of them would build before its first step."""
    for stage in stages:
        data, size = stage.experiment.data, stage.experiment.size
        if data.cache is None:
            raise UserError("--cache_only builds a cache: give its folder, --data.cache DIR.")
        examples = sum(len(opened(data, split, size)) for split in ("train", "val"))
        console.print(f"{data.cache}: {examples:,} examples of {size[0]}x{size[1]}", markup=False)


def train(experiment: AnyExperiment) -> bool:
    """Trains until all steps are done, from the last checkpoint if there is one.

    Returns whether they are done; otherwise the run was asked to stop, and is saved.
    """
    size, batch_size = experiment.size, experiment.batch_size
    mesh = make_mesh(experiment.sharding, batch_size, size[0])
    train_source, val_source = (opened(experiment.data, split, experiment.size) for split in ("train", "val"))
    label_space = train_source.label_space
    experiment.check_classes(label_space)
    for note in dict.fromkeys((*train_source.notes, *val_source.notes)):
        console.print(note, markup=False)
    epoch = steps_per_epoch(train_source, batch_size)
    if isinstance(experiment, SegmenterExperiment):
        judge, vgg19, make_validator = {}, {"weights": "none"}, SegmenterValidator
    else:
        (judge, vgg19), make_validator = perception_network(experiment.vgg, progressbar=is_first()), Validator
    objective, network = objective_of(experiment, epoch, judge)
    description = describe_run(experiment, label_space, vgg19, describe_data(train_source, epoch))
    folder = prepare_folder(experiment, description)

    abstract = abstract_state(objective, mesh, experiment.sharding.shard_state)
    network, judge = put(mesh, network), put(mesh, judge)
    with jax.set_mesh(mesh), contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints", experiment.run.keep_last))
        first_step = checkpoints.latest_step() or 0
        agree({"checkpoint": first_step})
        refuse_going_back(folder, first_step, experiment.last_step(epoch))
        Stop.listen_from(first_step)
        if first_step:
            state = checkpoints.load(first_step, abstract)
        else:
            check_room(folder, abstract)
            state = init_state(objective, experiment.seed, abstract)
            if isinstance(experiment, Experiment) and experiment.init_from:
                state = started_from(experiment, state)
        state = jax.device_put(state, formats_of(abstract))  # of orders in memory neither Orbax nor growth knows
        announce(experiment, mesh, state, first_step, epoch, vgg19)
        try:
            log = stack.enter_context(contextlib.closing(MetricsLog(folder, first_step) if is_first() else NoLog()))
            validator = make_validator(experiment, val_source, mesh, abstract, judge)
            session = Session(experiment, description, mesh, network, val_source, log, checkpoints, validator, epoch)
            if not first_step:
                session.measure_floor(train_source)
                session.validate(0, state)
            data, rows = experiment.data, local_rows(mesh, batch_size)
            batches = training_batches(train_source, batch_size, experiment.seed, first_step, data.threads, rows, data.flip)
            return session.run(make_train_step(objective, abstract), state, batches, first_step)
        except OSError as error:
            raise checkpoints.write_error(error) from error
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(
                f"The devices' memory does not suffice ({str(error).splitlines()[0]}). --dry_run says what a step needs. Less: "
                f"--cascade.dtype bfloat16, --remat full, a smaller --batch_size, more devices along spatial (--sharding.mesh)."
            ) from error


def objective_of(experiment: AnyExperiment, epoch: int, vgg_params: dict) -> tuple[Trainable, dict]:
    """What a training step does, and the network that it is given beside the state: VGG-19, a segmenter, or none.

    Raises:
      UserError: if a GAN's segmenter is for other classes or another size.
    """
    if not isinstance(experiment, GANExperiment) or experiment.segmenter is None:
        network = random_vgg19(seed=0) if isinstance(experiment, Synthesis) and experiment.vgg.untrained else vgg_params
        return experiment.objective(epoch), network if isinstance(experiment, Regression) else {}
    run = load_run(experiment.segmenter, "best", kind=SegmenterExperiment)
    wanted, found = (experiment.size, experiment.gan.num_classes), (run.experiment.size, run.label_space.num_classes)
    if wanted != found:
        raise UserError(
            f"--segmenter {experiment.segmenter} is for {found[0][0]}x{found[0][1]} and {found[1]} classes; images are "
            f"{wanted[0][0]}x{wanted[0][1]}, of {wanted[1]} classes."
        )
    return experiment.objective(epoch, run.experiment.segmenter), {"segmenter": run.params}


def announce(experiment: AnyExperiment, mesh: Mesh, state: TrainState, first_step: int, epoch: int, vgg19: dict) -> None:
    """Says what is about to be trained."""
    height, width = experiment.size
    images = f"k = {experiment.generator.num_images}, " if isinstance(experiment, Synthesis) else ""
    console.print(
        f"[bold]{experiment.name}[/]: {height}x{width}, {images}"
        f"{count_parameters(state.params):,} parameters, {epoch} steps an epoch, {experiment.last_step(epoch):,} steps, "
        f"on {describe_devices(mesh)}"
    )
    if first_step:
        console.print(f"Resuming {experiment.folder} at step {first_step}.")
    if vgg19["weights"] == "random":
        console.print(f"[bold yellow]{RANDOM_WARNING}[/]")
        console.print(vgg19["because"], markup=False, style="dim")


if __name__ == "__main__":
    main()
