"""Trains a cascade: `python -m launch.train EXPERIMENT [--field value ...]`.

The same command resumes a run that was stopped. A run folder (default runs/EXPERIMENT) receives checkpoints, run.json,
metrics.jsonl, TensorBoard files and contact sheets.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import rich.table
import tyro
from PIL import Image

from configs import EXPERIMENTS
from crn_jax.cascade import count_parameters
from crn_jax.checkpoint import Checkpoints
from crn_jax.data.label_space import LabelSpace
from crn_jax.data.pipeline import steps_per_epoch, training_batches
from crn_jax.data.sources import Source, label_space_of, open_source
from crn_jax.errors import UserError
from crn_jax.experiment import Experiment, differences, nearest
from crn_jax.synthesize import describe_run, read_description
from crn_jax.train import TrainState, abstract_state, init_state, make_train_step
from crn_jax.vgg import TAPS
from crn_jax.vgg_weights import perception_network
from launch.contact_sheet import Row, contact_sheet
from launch.reporting import MetricsLog, Progress, Window, named
from launch.terminal import command, console
from launch.validation import Validation, Validator


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and trains."""
    with command():
        train(parse(sys.argv[1:] if arguments is None else arguments))


def parse(arguments: list[str]) -> Experiment:
    """The experiment that a command line names, with its overrides; without a name, lists them and exits."""
    if not arguments or arguments[0] in ("-h", "--help"):
        console.print(__doc__, markup=False)
        table = rich.table.Table(box=None, show_header=False)
        for name, (description, _) in EXPERIMENTS.items():
            table.add_row(name, description)
        console.print(table)
        console.print("Fields and defaults of one: python -m launch.train EXPERIMENT --help", markup=False)
        sys.exit(0 if arguments else 2)
    name, *overrides = arguments
    if name not in EXPERIMENTS:
        known = ", ".join(EXPERIMENTS)
        raise UserError(f"There is no experiment '{name}'.{nearest(name, EXPERIMENTS)} Known: {known}.")
    description, experiment = EXPERIMENTS[name]
    return tyro.cli(
        Experiment,
        default=experiment,
        args=overrides,
        prog=f"python -m launch.train {name}",
        description=description,
        use_underscores=True,
        config=(tyro.conf.AvoidSubcommands,),
    )


def train(experiment: Experiment) -> None:
    """Trains until `experiment.epochs` are done, from the last checkpoint if there is one."""
    folder = Path(experiment.folder)
    size = experiment.cascade.size
    train_source, val_source = (open_source(experiment.data, split, size) for split in ("train", "val"))
    epoch = steps_per_epoch(train_source, experiment.batch_size)
    vgg_params, vgg19 = perception_network(experiment.vgg)
    label_space = label_space_of(experiment.data)
    names = hashlib.sha256("\n".join(train_source.names).encode()).hexdigest()
    data = {"examples": len(train_source), "steps_per_epoch": epoch, "names_sha256": names}
    description = describe_run(experiment, label_space, vgg19, data)
    prepare_folder(folder, experiment, description)
    vgg_params = jax.device_put(vgg_params)

    objective = experiment.objective(epoch)
    checkpoints = Checkpoints(folder / "checkpoints", experiment.run.keep_last)
    first_step = checkpoints.latest_step() or 0
    if first_step:
        state = checkpoints.load(first_step, abstract_state(objective))
    else:
        check_room(folder, abstract_state(objective))
        state = init_state(objective, experiment.seed)
    announce(experiment, state, first_step, epoch, vgg19)

    try:
        with contextlib.closing(MetricsLog(folder, first_step)) as log:
            validator = Validator(experiment, objective, val_source)
            session = Session(experiment, description, label_space, vgg_params, log, checkpoints, validator)
            if not first_step:
                session.measure_floor(train_source)
                session.save_layouts(session.validate(0, state).rows)
            batches = training_batches(
                train_source, experiment.batch_size, experiment.seed, first_step, experiment.data.threads
            )
            session.run(make_train_step(objective), state, batches, first_step, epoch)
    except OSError as error:
        raise checkpoints.write_error(error) from error
    finally:
        checkpoints.close()


def prepare_folder(folder: Path, experiment: Experiment, description: dict) -> None:
    """Makes the run folder with its `run.json`, or checks that the one that is there belongs to this experiment."""
    if (folder / "run.json").exists():
        stored, _, before = read_description(folder)
        changes = differences(stored, experiment)
        # λ's rescaling and the order of the data follow from the step only as long as an epoch is the same.
        for part, keys in {"vgg19": ("weights", "sha256"), "data": description["data"]}.items():
            for key in keys:
                was, now = (d[part].get(key) for d in (before, description))
                if was != now:
                    changes.append(f"{part}.{key}: {was}, now {now}")
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


def announce(experiment: Experiment, state: TrainState, first_step: int, epoch: int, vgg19: dict) -> None:
    """Says what is about to be trained."""
    height, width = experiment.cascade.size
    console.print(
        f"[bold]{experiment.name}[/]: {height}x{width}, k = {experiment.cascade.num_images}, "
        f"{count_parameters(state.params):,} parameters, {epoch} steps an epoch, {experiment.epochs} epochs, "
        f"on {jax.device_count()} x {jax.devices()[0].device_kind}"
    )
    if first_step:
        console.print(f"Resuming {experiment.folder} at step {first_step}.")
    if vgg19["weights"] == "random":
        console.print(f"[bold yellow]{RANDOM_WARNING}[/]")
        console.print(vgg19["because"], markup=False, style="dim")


RANDOM_WARNING = "VGG-19 has seeded RANDOM weights, not ImageNet's: expect worse images."


@dataclasses.dataclass
class Session:
    """One process's part of a run: the loop over steps, and what happens between them."""

    experiment: Experiment
    description: dict
    label_space: LabelSpace
    vgg_params: dict
    log: MetricsLog
    checkpoints: Checkpoints
    validator: Validator

    def run(self, train_step, state: TrainState, batches, first_step: int, epoch: int) -> None:
        """Trains to the last epoch or to the first SIGTERM or SIGINT, saving at the end in either case."""
        last_step, every = self.experiment.epochs * epoch, self.experiment.run
        window, step, stopping = Window(), first_step, False
        device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        with Progress(console, first_step, last_step, device) as progress, _Stop() as stop:
            for step in range(first_step + 1, last_step + 1):
                began = time.perf_counter()
                batch = self.next_batch(batches, step, state)
                waited = time.perf_counter() - began
                state, metrics = train_step(state, self.vgg_params, batch)
                metrics = {name: np.asarray(value) for name, value in metrics.items()}
                self.check_finite(step, metrics["terms"], loss=metrics["loss"], gradient=metrics["grad_norm"])
                window.add(metrics, self.experiment.batch_size, time.perf_counter() - began, waited)
                progress.step(step)
                if step % every.log_every == 0 or step == last_step:
                    line = {"epoch": (step - 1) // epoch + 1, **window.line()}
                    self.log.write(step, line)
                    progress.line(step, line)
                if step == (self.experiment.lambdas.rescale_epoch or 0) * epoch:
                    self.report_rescaling(step, metrics["weights"], state, epoch)
                stopping = stop.requested
                validated = step == last_step or step % every.validate_every == 0
                distance = self.validate(step, state).distance if validated else None
                if validated or stopping or step % every.checkpoint_every == 0:
                    self.checkpoints.save(step, state, distance, self.description)
                if stopping:
                    break
        self.checkpoints.wait()
        self.farewell(step, last_step, stopping)

    def next_batch(self, batches, step: int, state: TrainState) -> dict[str, np.ndarray]:
        """The batch of a step; if its files are bad, what was trained before it is saved first."""
        try:
            return next(batches)
        except UserError:
            if step - 1 not in (0, *self.checkpoints.steps()):
                self.checkpoints.save(step - 1, state, None, self.description)
            raise

    def check_finite(self, step: int, terms: np.ndarray, **numbers: float) -> None:
        """Ends the run where a term, or another number, is NaN or infinite, before that can be saved."""
        bad = [name for name, value in [*zip(TAPS, terms), *numbers.items()] if not np.isfinite(value)]
        if bad:
            self.checkpoints.wait()
            kept = self.checkpoints.latest_step()
            raise UserError(
                f"Not a finite number at step {step}: {', '.join(bad)}. "
                + (f"The last good checkpoint, step {kept}, is kept. " if kept else "Nothing had been saved yet. ")
                + "Try a smaller --optimizer.learning_rate, or --optimizer.schedule authors_fallback, in another --run.folder."
            )

    def measure_floor(self, train_source: Source) -> None:
        """Logs how far the mean training photograph is from the held-out ones."""
        floor = self.validator.floor(train_source, self.vgg_params)
        self.log.write(0, {"mean_photograph": floor.line()["validation"]})
        console.print(f"Held-out distance of the mean training photograph, the floor to beat: {floor.distance:.1f}")

    def validate(self, step: int, state: TrainState) -> Validation:
        """Measures the held-out distance and writes a contact sheet."""
        params = state.params if state.ema is None else state.ema
        validation = self.validator(params, self.vgg_params)
        self.check_finite(step, validation.terms)
        self.log.write(step, validation.line())
        warning = RANDOM_WARNING if self.description["vgg19"]["weights"] == "random" else ""
        title = f"{self.experiment.name}, step {step}, held-out distance {validation.distance:.1f}"
        sheet = contact_sheet(validation.rows, self.label_space, title, warning)
        path = self.sheet_path(step)
        path.parent.mkdir(exist_ok=True)
        sheet.save(path)
        self.log.picture(step, "contact_sheet", np.asarray(sheet))
        console.print(f"step {step}: held-out distance {validation.distance:.1f}, {path}", markup=False)
        return validation

    def save_layouts(self, rows: list[Row]) -> None:
        """Writes the contact sheet's layouts as PNGs, something to try `launch.synthesize` on."""
        folder = Path(self.experiment.folder) / "layouts"
        folder.mkdir(exist_ok=True)
        for i, row in enumerate(rows):
            Image.fromarray(self.label_space.draw(row.layout)).save(folder / f"{i}.png")

    def sheet_path(self, step: int) -> Path:
        """Where the contact sheet of a step lies."""
        return Path(self.experiment.folder) / "contact_sheets" / f"step_{step:07d}.png"

    def report_rescaling(self, step: int, before: np.ndarray, state: TrainState, epoch: int) -> None:
        """Logs λ before and after, with the mean terms that it was computed from."""
        after, means = np.asarray(state.lambdas.weights), np.asarray(state.lambdas.sums) / epoch
        event = {
            "before": named(before),
            "after": named(after),
            "mean_terms": named(means),
            "contributions": named(after * means),
        }
        self.log.write(step, {"lambda_rescaled": event})
        changes = ", ".join(f"{name} {b:.3g} -> {a:.3g}" for name, b, a in zip(TAPS, before, after))
        console.print(f"step {step}: λ x elements rescaled: {changes}", markup=False)

    def farewell(self, step: int, last_step: int, stopped: bool) -> None:
        """Says where everything is and what to do next."""
        folder = self.experiment.folder
        if stopped:
            console.print(f"Stopped and saved at step {step} of {last_step}. The same command resumes.")
            return
        console.print(f"Trained to step {step}. Contact sheet: {self.sheet_path(step)}", markup=False)
        console.print(f"Next: python -m launch.synthesize {folder} {folder}/layouts --sheet", markup=False)


class _Stop:
    """Notes a SIGTERM or SIGINT, so that the loop can end between two steps; a second one ends at once."""

    def __enter__(self):
        self.requested = False
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, _frame) -> None:
        self.requested = True
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    main()
