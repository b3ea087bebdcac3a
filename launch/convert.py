"""Converts runs from and to other forms: `python -m launch.convert {authors,safetensors,run,export,onnx,web} FROM TO`."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from configs import COLLECTION
from crn_jax.artifact import exported_size, write_artifact
from crn_jax.authors import load_released
from crn_jax.checkpoint import Checkpoints
from crn_jax.data.sources import DataConfig, label_space_of
from crn_jax.errors import UserError
from crn_jax.experiment import Experiment, Regression, require_kind
from crn_jax.files import expanded, replace_text, require_text
from crn_jax.formats.safetensors_file import load_run_file, save_run
from crn_jax.generator import count_parameters
from crn_jax.run import Run, describe_run, load_run, parse_description, read_description
from crn_jax.settings import RELEASED_WEIGHTS, CascadeConfig, LambdaConfig, LossConfig
from crn_jax.train import abstract_state, init_state
from launch.common.jax_setup import set_up_jax
from launch.common.names import as_typed, command_line, quoted
from launch.common.options import BucketPath, read_options
from launch.common.output import explained_writing, remove_unfinished, staged, write_json
from launch.common.terminal import command, console
from launch.conversion.model_card import licences, model_card, use_of_artifact, use_of_onnx, use_of_web
from launch.conversion.onnxruntime_web import runtime_files, version_of
from launch.conversion.web_page import MODEL, check_size, write_web_page
from launch.painting.painted_run import check_paintable

_REMEDY = "Give another place as OUT, the last argument."

ReleasedData = Literal["cityscapes", "gta5"]


@dataclasses.dataclass(frozen=True)
class Authors:
    """Converts a checkpoint of the authors' TensorFlow program to a run folder, to synthesize with, evaluate or start from."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """The name of the checkpoint without .index, such as result_512p/model.ckpt. Its files lie side by side."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The run folder to make."""
    data: ReleasedData = "cityscapes"
    """The data set that the checkpoint was trained on; gta5 for the release called GTA."""


@dataclasses.dataclass(frozen=True)
class Safetensors:
    """Converts a run to one .safetensors file with its parameters and its description."""

    run: Annotated[BucketPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The file to write."""
    checkpoint: str = "latest"
    """The checkpoint: latest, best (smallest held-out distance), or a number of steps."""
    dtype: Literal["float32", "float16"] = "float32"
    """The precision of the parameters. float16 halves the file and changes images by a few levels of 255 at most."""


@dataclasses.dataclass(frozen=True)
class FromSafetensors:
    """Converts a file that `safetensors` wrote to a run folder again."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The .safetensors file that `safetensors` wrote."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The run folder to make."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Exports `synthesize` of a run for CPUs, NVIDIA GPUs and TPUs. The artifact needs jax and numpy alone."""

    run: Annotated[BucketPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to make."""
    checkpoint: str = "latest"
    """The checkpoint: latest, best (smallest held-out distance), or a number of steps."""
    size: tuple[int, int] | None = None
    """Height and width of the layouts, in pixels. Default: the run's size, or that of an artifact that is renewed."""


@dataclasses.dataclass(frozen=True)
class Onnx:
    """Exports `synthesize` of a run as an ONNX model, for programs in other languages, phones and browsers."""

    run: Annotated[BucketPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The .onnx file to write."""
    checkpoint: str = "latest"
    """The checkpoint: latest, best (smallest held-out distance), or a number of steps."""
    size: tuple[int, int] | None = None
    """Height and width of the layouts, in pixels. Default: any size that the network can make; for networks that are bound to
    one size, the run's."""
    half: bool = False
    """Compute convolutions in float16. The file is half as large, and an image differs by a level here and there."""


@dataclasses.dataclass(frozen=True)
class Web:
    """Makes a folder of static files: the page of launch.paint, which needs no Python and makes its images in the browser."""

    run: Annotated[BucketPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to make. Any web server can serve it."""
    checkpoint: str = "latest"
    """The checkpoint: latest, best (smallest held-out distance), or a number of steps."""
    half: bool = False
    """Store convolutions in float16. The model is half as large to load, and images differ by a few levels of 255."""
    onnxruntime: Path | None = None
    """The folder of the npm package onnxruntime-web. Without it, the package is downloaded once (33 MB)."""


Asked = (
    Annotated[Authors, tyro.conf.subcommand("authors")]
    | Annotated[Safetensors, tyro.conf.subcommand("safetensors")]
    | Annotated[FromSafetensors, tyro.conf.subcommand("run")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Onnx, tyro.conf.subcommand("onnx")]
    | Annotated[Web, tyro.conf.subcommand("web")]
)


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and converts."""
    with command():
        asked: Asked = read_options(Asked, "convert", arguments, description=as_typed(__doc__ or ""))
        set_up_jax()
        if asked.out.exists() and (asked.out.is_file() or any(asked.out.iterdir())):
            raise UserError(f"{asked.out} exists already. Give another name.")
        match asked:
            case Authors():
                from_authors(asked)
            case Safetensors():
                to_safetensors(asked)
            case FromSafetensors():
                from_safetensors(asked)
            case Export():
                export(asked)
            case Onnx():
                to_onnx(asked)
            case Web():
                to_web(asked)


def from_authors(asked: Authors) -> None:
    """Converts a released checkpoint to a run folder."""
    config, params, moments = load_released(expanded(asked.checkpoint))
    experiment = released_experiment(config, asked.data)
    label_space = label_space_of(experiment.data)
    vgg19 = {"weights": "file", "file": "imagenet-vgg-verydeep-19.mat"}
    source = {"converted_from": os.path.basename(asked.checkpoint), "as": "the authors' program trained it"}
    description = describe_run(experiment, label_space, vgg19, source)
    write_run(asked.out, experiment, description, params, 0, moments)
    height, width = experiment.size
    console.print(
        f"{asked.out}: {height}x{width}, k = {config.num_images}, {count_parameters(params):,} parameters; Adam's moments: "
        f"{', '.join(moments) or 'none'}.\nNext: {command_line('synthesize', asked.out)} LAYOUT.png"
    )


def released_experiment(config: CascadeConfig, source: ReleasedData) -> Experiment:
    """Returns the experiment of a released cascade, as far as it is known."""
    height, width = config.size
    weights = "gta_256p" if source == "gta5" else "cityscapes_256p" if height <= 256 else "cityscapes_512p"
    return Experiment(
        name=f"released_{source}_{height}p",
        about=f"The cascade for {source} at {height}x{width} that the authors released.",
        data=DataConfig(source),
        cascade=config,
        lambdas=LambdaConfig(initial=RELEASED_WEIGHTS[weights], rescale_epoch=None),
        loss=COLLECTION if config.num_images > 1 else LossConfig(),
    )


def write_run(
    folder: Path, experiment: Regression, description: dict[str, Any], params: dict, step: int, moments: dict | None = None
) -> None:
    """Writes a run folder with one checkpoint of these parameters. Adam's moments that are not given are 0.

    Raises:
      UserError: if the parameters are not those of the experiment, or if the folder cannot be written.
    """
    objective = experiment.objective(steps_per_epoch=1)
    check_parameters(abstract_state(objective).params, params)
    state = init_state(objective, 0)
    ema = None if state.ema is None else params
    opt_state = {**state.opt_state, **(moments or {})}
    state = state._replace(step=jnp.int32(step), params=params, opt_state=opt_state, ema=ema)
    with staged(folder, _REMEDY) as unfinished:
        write_json(unfinished / "run.json", description)
        with Checkpoints(unfinished / "checkpoints", keep_last=1) as checkpoints:
            checkpoints.save(step, jax.tree.map(jnp.asarray, state), None, description)


def check_parameters(expected: dict, found: dict) -> None:
    """Raises UserError unless the parameters have the experiment's names and shapes. The message names the differences."""

    def shapes(tree: dict) -> set[str]:
        return {f"{jax.tree_util.keystr(path)} {leaf.shape}" for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}

    if wrong := shapes(expected) ^ shapes(found):
        raise UserError(f"The parameters are not those of the experiment beside them: {', '.join(sorted(wrong))}.")


def to_safetensors(asked: Safetensors) -> None:
    """Converts a run to one .safetensors file."""
    if asked.out.suffix != ".safetensors":
        raise UserError(f"{asked.out}: give the file the ending .safetensors, by which the commands know a run.")
    run = load_run(asked.run, asked.checkpoint, kind=Regression)
    _, _, description = read_description(asked.run)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, asked.dtype), run.params)
    remove_unfinished(asked.out.parent)
    save_run(asked.out, params, description | {"step": run.step})
    console.print(f"{asked.out}: step {run.step}, {count_parameters(run.params):,} parameters")


def from_safetensors(asked: FromSafetensors) -> None:
    """Converts a .safetensors file to a run folder. As it has neither λ nor Adam's moments, no training may resume it."""
    params, description = load_run_file(asked.file)
    step = description.pop("step", 0)
    description["data"] = {"converted_from": asked.file.name, "as": "λ and Adam's moments are not in the file"}
    described, _ = parse_description(description, asked.file)
    experiment = require_kind(described, Regression, f"The run in {asked.file}")
    write_run(asked.out, experiment, description, params, step)
    console.print(f"{asked.out}: step {step}. Next: {command_line('synthesize', asked.out)} LAYOUT.png")


def export(asked: Export) -> None:
    """Exports a run as an artifact with a model card."""
    run = load_run(asked.run, asked.checkpoint)
    with staged(asked.out, _REMEDY) as unfinished:
        about = write_artifact(unfinished, run, asked.size or exported_size(asked.run))
        card = model_card(run, asked.run, use_of_artifact(about), size=about["size"])
        replace_text(unfinished / "README.md", card)
    megabytes = sum(path.stat().st_size for path in asked.out.iterdir()) / 1e6
    console.print(f"{asked.out}: step {run.step}, {megabytes:.1f} MB. Its README.md says how to use it.")


def to_onnx(asked: Onnx) -> None:
    """Exports a run as an ONNX model that carries its classes, colours and model card."""
    require_text(Path(asked.out.name))  # the model says how to open a file of this name
    run = load_run(asked.run, asked.checkpoint)
    with explained_writing(asked.out, _REMEDY), staged(asked.out.parent, _REMEDY) as unfinished:
        shape = write_onnx(unfinished / asked.out.name, run, asked.run, asked.size, asked.half)
    instances = f"; instance_ids, int32 {shape}" if run.generator.boundaries else ""
    console.print(
        f"{asked.out}: step {run.step}, {asked.out.stat().st_size / 1e6:.1f} MB. Input: layout_ids, "
        f"{np.dtype(run.label_space.dtype)} {shape}{instances}. "
        f"Output: images, uint8 [B, {run.generator.num_images}, H, W, 3]."
    )


def write_onnx(file: Path, run: Run, source: Path, size: tuple[int, int] | None, half: bool) -> list[str | int]:
    """Writes a run, loaded from `source`, as an ONNX model, and returns the shape of its layouts."""
    from crn_jax.formats.onnx_file import onnx_model, save_onnx  # needs onnx, which is an optional extra

    metadata = {
        "classes": json.dumps(run.label_space.classes),
        "colors": json.dumps(run.label_space.colors),
        "size": json.dumps(size or run.experiment.size),
        "step": str(run.step),
        "licences": "\n".join(licences(run)),
        "model_card": model_card(run, source, use_of_onnx(run, file.name), size=size),
    }
    model = onnx_model(run.generator, run.params, run.label_space.dtype, size, half=half, metadata=metadata)
    save_onnx(file, model)
    return [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]


def to_web(asked: Web) -> None:
    """Makes the folder of a page that paints with a run, without a server of ours."""
    runtime = runtime_files(asked.onnxruntime)
    run = load_run(asked.run, asked.checkpoint)
    check_paintable(run, str(asked.run))
    with staged(asked.out, _REMEDY) as unfinished:
        with explained_writing(asked.out, _REMEDY):
            write_onnx(unfinished / MODEL, run, asked.run, run.generator.size, asked.half)
        check_size(unfinished)
        write_web_page(unfinished, run, str(asked.run), runtime)
        use = use_of_web(run.experiment.size, version_of(runtime))
        replace_text(unfinished / "README.md", model_card(run, asked.run, use))
    megabytes = sum(path.stat().st_size for path in asked.out.rglob("*") if path.is_file()) / 1e6
    console.print(
        f"{asked.out}: step {run.step}, {megabytes:.1f} MB. Any web server can serve it. To try it here: "
        f"python -m http.server --directory {quoted(str(asked.out))} --bind 127.0.0.1 8000, and open http://127.0.0.1:8000/."
    )


if __name__ == "__main__":
    main()
