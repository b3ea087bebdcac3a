"""Trains a cascade, or a segmenter to judge its images: `python -m launch.train EXPERIMENT [--field value ...]`.

A recipe in place of an experiment grows a cascade in stages. The same command resumes a run that was stopped. A run folder
(default runs/EXPERIMENT; of a recipe, one for each stage in it) receives checkpoints, run.json, metrics.jsonl, TensorBoard
files and contact sheets.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from crn_jax.cascade import count_parameters
from crn_jax.checkpoint import Checkpoints
from crn_jax.data.examples import Source
from crn_jax.data.pipeline import steps_per_epoch, training_batches
from crn_jax.data.sources import label_space_of
from crn_jax.errors import UserError
from crn_jax.experiment import (
    AnyExperiment,
    Experiment,
    GANExperiment,
    Regression,
    SegmenterExperiment,
    Synthesis,
    differences,
    flat,
)
from crn_jax.growth import grow_state
from crn_jax.sharding import formats_of, local_rows, make_mesh, put
from crn_jax.synthesize import describe_run, load_run, read_description
from crn_jax.train import Trainable, TrainState, abstract_state, init_state, make_train_step
from crn_jax.vgg_weights import perception_network, random_vgg19
from launch.command_line import Command, list_experiments, parse_stages
from launch.dry_run import dry_run
from launch.processes import TRY_AGAIN, Stop, agree, is_first, join, wait_for_all
from launch.reporting import MetricsLog, NoLog, describe_devices
from launch.segmenter_validation import SegmenterValidator
from launch.session import RANDOM_WARNING, Session
from launch.terminal import command, console, opened, share_compiled
from launch.validation import Validator


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and trains."""
    with command():
        arguments = sys.argv[1:] if arguments is None else arguments
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


def refuse_going_back(folder: Path, trained: int, asked: int) -> None:
    """Raises UserError if the run is trained further than it is asked to be; of the steps before, no checkpoints are left."""
    if trained > asked:
        raise UserError(
            f"{folder} is trained to step {trained:,} already; {asked:,} are asked for. Ask for at least as many, or start "
            f"another run with --run.folder."
        )


def started_from(experiment: Experiment, state: TrainState) -> TrainState:
    """The initial state with the modules of the run that the experiment names; step and λ start anew.

    Raises:
      UserError: if that run's classes, or the shapes of its modules, are others.
    """
    folder = experiment.init_from
    run = load_run(folder, kind=Experiment, moments=experiment.init_moments == "kept")
    label_space = label_space_of(experiment.data)
    if run.label_space.classes != label_space.classes:
        raise UserError(f"--init_from {folder}: that run's classes are others: {', '.join(run.label_space.classes)}.")
    try:
        grown, fresh, kept = grow_state(state, state._replace(params=run.params, opt_state=run.opt_state))
    except ValueError as error:
        raise UserError(f"--init_from {folder}: its cascade does not fit into this one ({error}).") from error
    taken_over = [part for part in state.params if part not in fresh]
    moments = f" Adam's moments are kept of {', '.join(kept) or 'nothing'}." * (experiment.init_moments == "kept")
    console.print(
        f"Started from {folder}, step {run.step}: {', '.join(taken_over)}. Fresh: {', '.join(fresh) or 'nothing'}.{moments}",
        markup=False,
    )

    def placed(like: jax.Array, value: jax.Array) -> jax.Array:
        if value is like:
            return like
        host = np.asarray(value)
        return jax.make_array_from_callback(like.shape, like.sharding, lambda index: host[index])

    return jax.tree.map(placed, state, grown)


def describe_data(source: Source, epoch: int) -> dict[str, Any]:
    """What identifies the training examples; λ's rescaling and the order of the data depend on it."""
    names = hashlib.sha256("\n".join(source.names).encode("utf-8", "surrogateescape")).hexdigest()
    return {"examples": len(source), "steps_per_epoch": epoch, "names_sha256": names}


def prepare_folder(experiment: AnyExperiment, description: dict) -> Path:
    """The run folder, made with its `run.json`, or checked to belong to this experiment; the same on all processes."""
    if "://" in experiment.folder:
        raise UserError(
            f"--run.folder {experiment.folder}: give a folder; a bucket can be mounted as one (Cloud Storage FUSE, say)."
        )
    folder = Path(experiment.folder)
    file, vgg19 = folder / "run.json", description["vgg19"]
    own = {f"experiment.{field}" for field in ("data.root", "data.threads", "data.cache", "vgg.weights")}  # a process's
    common = flat({part: description[part] for part in ("experiment", "data", "versions")})
    network = {f"vgg19.{key}": vgg19.get(key) for key in ("weights", "sha256")}
    network["label_space"] = description["label_space"]
    agree(network | {key: value for key, value in common.items() if key not in own})
    if is_first():
        write_description(folder, experiment, description)
    wait_for_all("run folder")
    agree({"run folder": hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "has no run.json"})
    return folder


def write_description(folder: Path, experiment: AnyExperiment, description: dict) -> None:
    """Makes the run folder with its `run.json`, unless one is there that belongs to another experiment."""
    if (folder / "run.json").exists():
        stored, _, before = read_description(folder)
        changes = differences(stored, experiment)
        for part, keys in {"vgg19": ("weights", "sha256"), "data": description["data"]}.items():
            for key in keys:
                was, now = (d[part].get(key) for d in (before, description))
                if was != now:
                    changes.append(f"{part}.{key}: {was}, now {now}")
        labels = json.loads(json.dumps(description["label_space"]))  # JSON's keys are strings
        for key in ("classes", "ids", "colors"):
            if before["label_space"][key] != labels[key]:
                changes.append(f"label_space.{key}: the layouts are read differently now")
        if changes:
            raise UserError(
                f"{folder} holds a run of other settings; it cannot be resumed with these:\n  " + "\n  ".join(changes) + "\n"
                "Give the settings of the run, or start another one with --run.folder."
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / "run.json.tmp"
        temporary.write_text(json.dumps(description, indent=1))
        os.replace(temporary, folder / "run.json")
    except OSError as error:
        raise UserError(f"The run folder {folder} cannot be written ({error}); choose another with --run.folder.") from error


def check_room(folder: Path, state: TrainState) -> None:
    """Refuses to start where not even two checkpoints fit."""
    needed = 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {free / 1e9:.2f} GB free; two checkpoints of this cascade need {needed / 1e9:.2f} GB. Make room or "
            f"choose another disk with --run.folder."
        )


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
