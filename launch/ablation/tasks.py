"""Makes the commands of an ablation's tasks. A task is a training, followed by its scores and images.

Each task has a run folder. `task.json` in it lists the finished commands, so that none is repeated. If a task's commands
change, such as by a larger budget, it continues with the first that differs. (It does not notice if the content of a file that
a command names has changed.) `log.txt` has what the commands print.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from crn_jax.errors import UserError
from crn_jax.experiment import AnyExperiment, Synthesis, require_kind
from crn_jax.resuming import differences
from crn_jax.run import read_description
from launch.common.catalogue import configs_arguments
from launch.common.command_line import parse
from launch.common.names import command_line
from launch.common.output import read_json, write_json
from launch.evaluation.evaluation_file import at_step
from launch.training.metrics_log import last_step, read_metrics

PROBE_STEPS = 60
"""The number of steps by which a budget in minutes is turned into steps. Their fastest third counts, as it compiles nothing."""

VALIDATIONS = 8
"""The smallest number of validations of a training, which are the points of its learning curve."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """The budget of each training: a number of steps, or minutes. With neither, each experiment says how long it is trained."""

    steps: int | None = None
    minutes: float | None = None

    @staticmethod
    def parse(text: str | None) -> "Budget":
        """Reads a budget of the command line, such as 3000 or 30m.

        Raises:
          UserError: for anything else.
        """
        if text is None:
            return Budget()
        if match := re.fullmatch(r"([1-9][0-9]{0,11})|([0-9]{1,9}(?:\.\d+)?) ?(?:m|min|minutes)", text):
            steps, minutes = match.groups()
            if steps or float(minutes):
                return Budget(int(steps) if steps else None, float(minutes) if minutes else None)
        raise UserError(f"--budget {text}: give a number of steps, such as 3000, or minutes, such as 30m.")

    def __str__(self):
        if self.minutes is not None:
            return f"{self.minutes:g} minutes of training"
        return "as each experiment says" if self.steps is None else f"{self.steps:,} steps"


@dataclasses.dataclass(frozen=True)
class Task:
    """One training, and the commands that follow it.

    `train` are arguments of launch.train, and `score` are those that launch.evaluate needs besides the run. With `score` None,
    the run is neither scored nor shown.
    """

    name: str
    folder: Path
    train: tuple[str, ...]
    budget: Budget = Budget()
    score: tuple[str, ...] | None = None

    @functools.cached_property
    def experiment(self) -> AnyExperiment:
        """The experiment that is trained."""
        return parse(list(self.train)).experiment

    def commands(self) -> Iterator[list[str]]:
        """Yields the commands in order, each a module and its arguments.

        A budget in minutes becomes a number of steps when the first command is finished.
        """
        if self.budget.minutes is not None:
            yield self.training(PROBE_STEPS)
        yield self.training(self._steps())
        if self.score is not None:
            run, generator = str(self.folder), require_kind(self.experiment, Synthesis, self.name).generator
            grid = ["--grid"] if generator.num_images > 1 else []
            instances = ["--instances", str(self.folder / "instances")] if generator.boundaries else []
            yield ["launch.evaluate", run, *self.score]
            yield ["launch.synthesize", run, str(self.folder / "layouts"), *instances, *grid]

    def _steps(self) -> int | None:
        """Returns the number of steps of the whole training, or None if the experiment says it."""
        if self.budget.minutes is None:
            return self.budget.steps
        return max(PROBE_STEPS, round(60 * self.budget.minutes / self._seconds_per_step()))

    def training(self, steps: int | None) -> list[str]:
        """Returns the command that trains this number of steps in all, or as many as the experiment says."""
        command = ["launch.train", *self.train, "--run.folder", str(self.folder)]
        if steps is None:
            return command
        timed = self.budget.minutes is not None and steps == PROBE_STEPS  # validation would only take time
        every = min(self.experiment.run.validate_every, -(-steps // (1 if timed else VALIDATIONS)))
        return [*command, "--steps", str(steps), "--run.validate_every", str(every)]

    def _seconds_per_step(self) -> float:
        lines = [line for line in read_metrics(self.folder / "metrics.jsonl") if "seconds_per_step" in line]
        if not lines:
            raise UserError(f"{self.folder / 'metrics.jsonl'}: no line tells how long a step took. Remove {self.folder}.")
        return min(line["seconds_per_step"] for line in lines if line["step"] <= max(PROBE_STEPS, lines[0]["step"]))

    def finished(self) -> list[list[str]]:
        """Returns the finished commands, or none if the run has other settings, such as before configs.py was changed."""
        file, run = self.folder / "task.json", self.folder / "run.json"
        if not file.is_file() or (run.is_file() and differences(read_description(self.folder)[0], self.experiment)):
            return []
        return read_json(file, {"finished": [[str]]})["finished"]

    def outstanding(self) -> list[str] | None:
        """Returns the next command to run, or None after the last."""
        return self._reached()[1]

    def done(self, command: list[str]) -> None:
        """Records that the next command is finished."""
        write_json(self.folder / "task.json", {"finished": [*self._reached()[0], command]})

    def _reached(self) -> tuple[list[list[str]], list[str] | None]:
        """Returns the commands that need not be run again, and the next one."""
        finished, reached = self.finished(), list[list[str]]()
        for command in self.commands():
            is_next = finished[len(reached) : len(reached) + 1] != [command] and (reached or not self._is_timed())
            if is_next or (command[0] == "launch.evaluate" and not self._has_scores_of(command)):
                if command[0] != "launch.train":
                    self._check_not_trained_further()
                return reached, command
            reached.append(command)
        return reached, None

    def _check_not_trained_further(self) -> None:
        """Raises UserError if the run has more steps than this budget, by a larger one that was begun."""
        steps = self._steps()
        newest = max((int(path.name) for path in (self.folder / "checkpoints").glob("[0-9]*")), default=0)
        if steps is not None and newest > steps:
            raise UserError(
                f"{self.folder} is trained to step {newest:,} already, so it cannot be scored after the {steps:,} steps of "
                f"this budget. Give the larger --budget, or another --out."
            )

    def _has_scores_of(self, command: list[str]) -> bool:
        """Whether the run folder has the scores of this command. Somebody may have scored the run in another way since."""
        try:
            evaluation = read_json(self.folder / "evaluation" / "evaluation.json")
        except UserError:  # they are gone, or damaged
            return False
        stored, steps = evaluation.get("command"), self._steps()
        about = [candidate.get("about", "") for candidate in evaluation.get("candidates", [])][1:2]
        if steps and about and about[0].startswith("step ") and not about[0].startswith(at_step(steps)):
            return False
        return stored is None or stored.partition("evaluate ")[2] == shown(command).partition("evaluate ")[2]

    def _is_timed(self) -> bool:
        """Whether enough steps are trained to time a budget in minutes, such as by a training with another budget."""
        return self.budget.minutes is not None and last_step(self.folder / "metrics.jsonl") >= PROBE_STEPS

    @property
    def log(self) -> Path:
        """The file of what the commands print."""
        return self.folder / "log.txt"

    def progress(self) -> tuple[int, int | None]:
        """Returns the number of logged steps, and that of the whole training, or None before it has begun."""
        with contextlib.suppress(UserError):
            experiment, _, description = read_description(self.folder)
            return last_step(self.folder / "metrics.jsonl"), experiment.last_step(description["data"]["steps_per_epoch"])
        return 0, None

    def problem(self) -> str:
        """Returns the error of the last command in the log, or else the end of the log."""
        text = self.log.read_text("utf-8", errors="replace") if self.log.is_file() else ""
        _, _, last = text.rpartition("\n$ ")
        _, error, message = last.partition("error: ")
        return (error + message)[:2000].strip() or last[-500:].strip()


def shown(command: list[str]) -> str:
    """Returns a command as a person would type it."""
    own = configs_arguments() if command[0] == "launch.train" else []
    return command_line(command[0].removeprefix("launch."), *command[1:], *own)


def trains_with_segmenter(arguments: tuple[str, ...]) -> bool:
    """Whether these arguments of launch.train train with a segmenter."""
    return parse(list(arguments)).experiment.segmenter_run is not None


def with_segmenter(arguments: tuple[str, ...], segmenter: Path | None) -> tuple[str, ...]:
    """Adds the segmenter to arguments of launch.train, if they train with one."""
    if segmenter is None or not trains_with_segmenter(arguments):
        return arguments
    return (*arguments, "--segmenter", str(segmenter))
