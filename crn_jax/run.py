"""A run: its folder, the description that it contains, and how to load the trained network from it."""

import contextlib
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cattrs
import flax.traverse_util
import jax
import numpy as np
from jaxtyping import Shaped, UInt16

from crn_jax import load_artifact
from crn_jax.buckets import address_of, copied, copied_file, is_bucket
from crn_jax.checksums import KEY
from crn_jax.data.examples import Source
from crn_jax.data.geometry import view
from crn_jax.data.instances import MARGIN, decoded, numbered
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.errors import UserError, did_you_mean
from crn_jax.experiment import AnyExperiment, Synthesis, Training, from_json, require_kind, to_json
from crn_jax.formats.json_file import read_json
from crn_jax.formats.safetensors_file import load_run_file
from crn_jax.formats.strict_types import strict_converter
from crn_jax.generator import Generator
from crn_jax.hub import fetched
from crn_jax.packaged import layouts_of, packaged, packaged_names
from crn_jax.train import abstract_state

_KEYS = {"experiment", "label_space", "vgg19", "data", "versions", "origins"}
_REMEDY = (
    "Fetch it again. If it is a run.json, you can also remove it and repeat the command that trained the run, which writes a "
    f"new one. If you have edited it on purpose, remove its line {KEY}."
)
_converter = strict_converter()
_converter.register_structure_hook_func(
    lambda kind: kind == dict[int, int], lambda ids, _: {_id(key): _id(index) for key, index in ids.items()}
)


class Run(NamedTuple):
    """A trained run: everything that `synthesize` (or `segmenter.segment`) needs, and its origin."""

    experiment: AnyExperiment
    label_space: LabelSpace
    params: dict
    step: int  # the number of steps done
    vgg19: dict[str, str]  # where VGG-19's weights came from
    opt_state: dict | None = None  # Adam's moments, if `load_run` was asked for them
    layouts: tuple[Path, ...] = ()  # files of held-out layouts to try
    instances: tuple[Path, ...] = ()  # files of their instances, if the generator takes instance boundaries

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

    def read_instances(self, path: str | Path) -> UInt16[np.ndarray, "H W"]:
        """Reads an instance map as ids, and brings it to the run's size like `read_layout`.

        Raises:
          UserError: if the file cannot be read, or does not fit the run's size.
        """
        ids = decoded(path)
        chosen = view(ids.shape, self.experiment.size, self.experiment.data.fit, path=path)
        return numbered(chosen.layout(ids, MARGIN), path)


def describe_data(source: Source, epoch: int) -> dict[str, Any]:
    """Returns what identifies the training examples: their number, the steps in an epoch, and a hash of their names.

    The order of the data and the step at which λ is rescaled depend on them.
    """
    names = hashlib.sha256("\n".join(source.names).encode("utf-8", "surrogateescape")).hexdigest()
    return {"examples": len(source), "steps_per_epoch": epoch, "names_sha256": names}


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

    A run that is stored without its training, such as an artifact, has its description in a file of its own.

    Raises:
      UserError: if the folder is not a run folder, or the file is damaged.
    """
    return _description_in(nearby(folder), folder)


def _description_in(here: str | Path, folder: str | Path) -> tuple[AnyExperiment, LabelSpace, dict[str, Any]]:
    if stored := _stored_alone(here):
        return *parse_description(stored.description, stored.name), stored.description
    path = Path(here) / "run.json"
    if not path.is_file():
        problem = f"{folder}: this is not a run folder (it has no run.json); give one that launch.train has made."
        others = [name for name in packaged_names() if name != str(folder)]
        raise UserError(problem + did_you_mean(str(folder), others))
    fields = read_json(path, _REMEDY)
    if unknown := fields.keys() - _KEYS:
        raise _damaged(path, ValueError(f"unknown: {', '.join(sorted(unknown))}"))
    return *parse_description(fields, path), fields


def nearby(folder: str | Path) -> str | Path:
    """Returns where the files of a run are read, except its checkpoints: a copy, if it is in a bucket or on the Hub.

    The name of a packaged run becomes its file.

    Raises:
      UserError: if they cannot be fetched.
    """
    if not is_bucket(folder):
        return fetched(packaged(folder))
    return copied_file(folder) if address_of(folder).endswith(".safetensors") else copied(folder, _describes)


def _describes(name: str) -> bool:
    """Returns whether a file of a run folder is copied: one at its top but metrics.jsonl, or a layout or instances to try."""
    return name.startswith(("layouts/", "instances/")) or ("/" not in name and name != "metrics.jsonl")


def holds_run(folder: str | Path) -> bool:
    """Returns whether a folder, perhaps in a bucket, is a run folder of launch.train.

    Raises:
      UserError: if the bucket cannot be read.
    """
    return (Path(nearby(folder)) / "run.json").is_file()


def parse_description(fields: dict[str, Any], path: str | Path) -> tuple[AnyExperiment, LabelSpace]:
    """Returns the experiment and the label space of a description by `describe_run`, which was read from the file `path`.

    Raises:
      UserError: if something is missing, damaged, or of another version of crn_jax; the message names the file.
    """
    try:
        experiment, label_space = from_json(fields["experiment"]), _converter.structure(fields["label_space"], LabelSpace)
        origins = fields.get("origins", {})
        if not all(isinstance(part, dict) for part in (fields["vgg19"], fields["data"], origins, *origins.values())):
            raise TypeError("vgg19, data and origins are objects")
        if (needed := experiment.num_classes) != label_space.num_classes:
            raise ValueError(f"the network has {needed} classes, but the label space {label_space.num_classes}")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError, cattrs.BaseValidationError) as error:
        raise _damaged(path, error) from error
    return experiment, label_space


def _id(value: str | int) -> int:
    """Returns an id, which JSON writes as a string where it is a key."""
    if type(value) not in (str, int) or len(str(value)) > 6:
        raise ValueError(f"{value!r} is no id"[:200])
    return int(value)


def _damaged(path: str | Path, error: Exception) -> UserError:
    problems = "; ".join(cattrs.transform_error(error)) if isinstance(error, cattrs.BaseValidationError) else repr(error)
    return UserError(f"{path}: the file is damaged ({problems}). {_REMEDY}")


def load_run(
    folder: str | Path,
    checkpoint: str | int | np.integer = "latest",
    kind: type[Training] = Synthesis,
    *,
    moments: bool = False,
) -> Run:
    """Loads a trained run.

    Args:
      folder: a run folder, perhaps in a bucket, "gs://BUCKET/FOLDER"; or an artifact, a .safetensors file of a run,
        "hf://OWNER/NAME" on the Hugging Face Hub, or "streets", which comes with crn_jax.
      checkpoint: `latest`, `best` (smallest held-out distance), or a number of steps.
      kind: the kind of experiment that the run must have; `SegmenterExperiment` for a segmenter.
      moments: loads Adam's moments, too, and the parameters that belong to them instead of the moving average.

    Raises:
      UserError: if the folder is not a run of this kind, has no such checkpoint, or is damaged.
    """
    here = nearby(folder)
    if stored := _stored_alone(here):
        return _of_alone(stored, checkpoint, kind, moments)
    from crn_jax.checkpoint import Checkpoints, DamagedCheckpoint  # it imports Orbax, which a single file does not need

    folder = address_of(folder) if is_bucket(folder) else here
    experiment, label_space, description = _description_in(here, folder)
    require_kind(experiment, kind, f"The run {folder}")
    with Checkpoints(f"{folder}/checkpoints") as checkpoints:
        available, asked = checkpoints.steps(), str(checkpoint)
        steps = {"latest": checkpoints.latest_step(), "best": checkpoints.best_step()}
        step = steps[asked] if asked in steps else int(asked) if re.fullmatch("[0-9]{1,19}", asked) else None
        if step is None or step not in available:
            raise _no_checkpoint(folder, checkpoint, available)
        abstract = abstract_state(experiment.objective(steps_per_epoch=1))

        def load(step: int) -> Run:
            if moments:
                state = checkpoints.load_fields(step, abstract, "params", "opt_state", description=description)
                return Run(experiment, label_space, state.params, step, description["vgg19"], state.opt_state)
            params = experiment.inference_params(checkpoints.load_params(step, abstract, description))
            layouts, instances = (tuple(sorted((Path(here) / part).glob("[!.]*.png"))) for part in ("layouts", "instances"))
            return Run(experiment, label_space, params, step, description["vgg19"], layouts=layouts, instances=instances)

        try:
            return load(step)
        except DamagedCheckpoint as error:
            others = [other for other in reversed(available) if other != step]
            raise DamagedCheckpoint(f"{error}\n{_way_out(folder, others, load)}") from error


def _way_out(folder: str | Path, others: list[int], load: Callable[[int], Run]) -> str:
    """Says which of the other checkpoints is whole, and what to do."""
    for step in others:
        with contextlib.suppress(UserError):
            load(step)
            return (
                f"The checkpoint of step {step} is whole. Use it with --checkpoint {step} if the command has that option. "
                f"If not, fetch the damaged one again, or move it away. A training that is resumed goes on from the newest one "
                f"that is whole."
            )
    return f"No other checkpoint in {folder} is whole. Fetch the run again, or train it anew."


class _Alone(NamedTuple):
    """What is stored of a run without its training, in an artifact or a .safetensors file."""

    name: str | Path
    params: dict
    description: dict[str, Any]


def _stored_alone(source: str | Path) -> _Alone | None:
    """Reads a run that is stored without its training, or returns None if `source` is something else."""
    path = Path(source)
    if path.suffix == ".safetensors" and path.is_file():
        return _Alone(path, *load_run_file(path))
    if not (path / "artifact.json").is_file():
        return None
    try:
        about, leaves = load_artifact.read(path)
        description = {name: about[name] for name in ("experiment", "label_space", "vgg19", "step")} | {"data": {}}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: the artifact cannot be read ({error}). Fetch it again.") from error
    return _Alone(path, flax.traverse_util.unflatten_dict(leaves, sep="/"), description)


def _of_alone(stored: _Alone, checkpoint: str | int | np.integer, kind: type[Training], moments: bool) -> Run:
    """Returns the run, which has the parameters of one checkpoint, perhaps in half precision."""
    name, params, description = stored
    experiment, label_space = parse_description(description, name)
    require_kind(experiment, kind, f"The run {name}")
    step = description.get("step", 0)
    if str(checkpoint) not in ("latest", "best", str(step)):
        raise _no_checkpoint(name, checkpoint, [step])
    if moments:
        raise UserError(f"{name}: this run is stored without Adam's moments. Use --init_moments fresh.")
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
    return Run(experiment, label_space, params, step, description["vgg19"], layouts=layouts_of(name))


def is_run(path: Path) -> bool:
    """Returns whether `load_run` would take a path for a run: a run folder, an artifact, a file, an address, or a name.

    Raises:
      UserError: if it is an address in the storage of another provider than Google.
    """
    is_folder = (path / "run.json").is_file() or (path / "artifact.json").is_file()
    is_file = path.suffix == ".safetensors" and path.is_file()
    return is_folder or is_file or packaged(path) != path or path.parts[:1] == ("hf:",) or is_bucket(path)


def output_folder(run: Path, name: str) -> Path:
    """Returns the folder for what is made with a run: RUN/NAME for a run folder, and RUN_NAME in the current one for others.

    An artifact stays as it was exported.
    """
    return run / name if (run / "run.json").is_file() else Path(f"{run.absolute().name.removesuffix('.safetensors')}_{name}")


def _no_checkpoint(folder: str | Path, checkpoint: str | int | np.integer, available: list[int]) -> UserError:
    listing = ", ".join(map(str, available)) or "none yet"
    remedy = " None of them was validated yet, so train the run further." if available and str(checkpoint) == "best" else ""
    return UserError(f"{folder}: there is no checkpoint '{checkpoint}'. Steps saved: {listing}.{remedy}")
