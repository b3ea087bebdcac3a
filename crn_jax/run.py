"""A run folder: the description that it contains, and how to load the trained network from it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import cattrs
import jax
import numpy as np
from jaxtyping import Shaped

from crn_jax.checkpoint import Checkpoints
from crn_jax.data.geometry import view
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.errors import UserError
from crn_jax.experiment import AnyExperiment, Synthesis, Training, from_json, require_kind, to_json
from crn_jax.generator import Generator
from crn_jax.train import abstract_state


class Run(NamedTuple):
    """A trained run: everything that `synthesize` (or `segmenter.segment`) needs, and its origin."""

    experiment: AnyExperiment
    label_space: LabelSpace
    params: dict
    step: int  # the number of steps done
    vgg19: dict[str, str]  # where VGG-19's weights came from
    opt_state: dict | None = None  # Adam's moments, if `load_run` was asked for them

    @property
    def generator(self) -> Generator:
        """The generator that the run has trained.

        Raises:
          UserError: if the run has trained something else, such as a segmenter.
        """
        return require_kind(self.experiment, Synthesis, "The run").generator

    def read_layout(self, path: str | Path) -> Shaped[np.ndarray, "H W"]:
        """Reads a layout file as class ids, resized or cropped to the run's size as held-out examples are.

        Raises:
          UserError: if the file cannot be read, or does not fit the run's size.
        """
        layout = self.label_space.read(path)
        chosen = view(layout.shape, self.experiment.size, self.experiment.data.fit, path=path)
        return chosen.layout(layout, self.label_space.num_classes - 1)


def describe_run(experiment: Training, label_space: LabelSpace, vgg19: dict[str, str], data: dict[str, Any]) -> dict[str, Any]:
    """Returns the description of a run for `run.json` and its checkpoints; `data` identifies the training examples."""
    return {
        "experiment": to_json(experiment),
        "label_space": cattrs.unstructure(label_space),
        "vgg19": vgg19,
        "data": data,
        "versions": {"jax": jax.__version__},
    }


def read_description(folder: str | Path) -> tuple[AnyExperiment, LabelSpace, dict[str, Any]]:
    """Reads `run.json` in a run folder, and returns the experiment, the label space, and the whole file as plain JSON.

    Raises:
      UserError: if the folder is not a run folder, or the file is damaged.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise UserError(f"{folder}: this is not a run folder (it has no run.json); give one that launch.train has made.")
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:  # it is no JSON, or not even text
        raise _damaged(path, error) from error
    return *parse_description(fields, path), fields


def parse_description(fields: dict[str, Any], path: str | Path) -> tuple[AnyExperiment, LabelSpace]:
    """Returns the experiment and the label space of a description by `describe_run`, which was read from the file `path`.

    Raises:
      UserError: if something is missing, damaged, or of another version of crn_jax; the message names the file.
    """
    try:
        experiment, label_space = from_json(fields["experiment"]), cattrs.structure(fields["label_space"], LabelSpace)
        if not isinstance(fields["vgg19"], dict) or not isinstance(fields["data"], dict):
            raise TypeError("vgg19 and data are objects")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (AttributeError, LookupError, TypeError, cattrs.BaseValidationError) as error:
        raise _damaged(path, error) from error
    return experiment, label_space


def _damaged(path: str | Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: the file is damaged ({error!r}). Fetch it again. If it is a run.json, you can also remove it and repeat the "
        f"command that trained the run, which writes a new one."
    )


def load_run(
    folder: str | Path, checkpoint: str | int = "latest", kind: type[Training] = Synthesis, *, moments: bool = False
) -> Run:
    """Loads a trained run.

    Args:
      folder: a run folder.
      checkpoint: `latest`, `best` (smallest held-out distance), or a number of steps.
      kind: the kind of experiment that the run must have; `SegmenterExperiment` for a segmenter.
      moments: loads Adam's moments, too, and the parameters that belong to them instead of the moving average.

    Raises:
      UserError: if the folder is not a run of this kind, has no such checkpoint, or is damaged.
    """
    experiment, label_space, description = read_description(folder)
    require_kind(experiment, kind, f"The run {folder}")
    if not (Path(folder) / "checkpoints").is_dir():  # Orbax would create it
        raise _no_checkpoint(folder, checkpoint, [])
    checkpoints = Checkpoints(Path(folder) / "checkpoints")
    try:
        available, asked = checkpoints.steps(), str(checkpoint)
        steps = {"latest": checkpoints.latest_step(), "best": checkpoints.best_step()}
        step = steps[asked] if asked in steps else int(asked) if asked.isdecimal() else None
        if step not in available:
            raise _no_checkpoint(folder, checkpoint, available)
        abstract = abstract_state(experiment.objective(steps_per_epoch=1))
        if moments:
            state = checkpoints.load_fields(step, abstract, "params", "opt_state")
            return Run(experiment, label_space, state.params, step, description["vgg19"], state.opt_state)
        params = experiment.inference_params(checkpoints.load_params(step, abstract))
        return Run(experiment, label_space, params, step, description["vgg19"])
    finally:
        checkpoints.close()


def _no_checkpoint(folder: str | Path, checkpoint: str | int, available: list[int]) -> UserError:
    listing = ", ".join(map(str, available)) or "none yet"
    return UserError(f"{folder}: there is no checkpoint '{checkpoint}'. Steps saved: {listing}.")
