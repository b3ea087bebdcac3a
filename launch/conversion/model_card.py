"""The model card of an exported run: what the model is, how it was trained, how good it is, and which licences apply."""

import json
import re
from pathlib import Path
from typing import Any

from crn_jax.artifact import without_folders
from crn_jax.data.labels.published import LABEL_SPACES
from crn_jax.errors import counted
from crn_jax.experiment import to_json
from crn_jax.run import Run
from launch.common.terminal import console
from launch.evaluation.evaluation_file import at_step, read_evaluation
from launch.evaluation.score_tables import number
from launch.training.metrics_log import measured_folder, read_metrics

_LICENCES = {
    "cityscapes": "Cityscapes: for research and other non-commercial purposes.",
    "gta5": "GTA5 (Playing for Data): for research and education.",
    "ade20k": "ADE20K: images for non-commercial research and education; annotations under BSD 3-Clause.",
    "cocostuff": "COCO-Stuff: annotations under CC BY 4.0; images under Flickr's terms.",
    "camvid": "CamVid: published for research, without a licence of its own.",
    "nyu": "NYU Depth V2: published for research, without a licence of its own.",
    "streets": "Procedural streets: made by crn_jax, free of others' rights.",
    "detailed_streets": "Procedural streets: made by crn_jax, free of others' rights.",
}


def model_card(run: Run, source: str | Path, use: str, *, size: tuple[int, int] | None = None) -> str:
    """Writes the model card in Markdown, with the front matter that the Hugging Face Hub reads.

    Args:
      run: the run.
      source: where it was loaded from.
      use: what to say about the use of the exported file, by `use_of_artifact` or `use_of_onnx`.
      size: the height and the width of the exported layouts, in pixels. None: the run's own.
    """
    experiment, k, folder = run.experiment, run.generator.num_images, measured_folder(source)
    height, width = size or experiment.size
    steps = f"{run.step:,} steps" if run.step else "Converted from another program, so the number of steps is unknown"
    title = f"# {experiment.name}\n\n{experiment.about}".strip()
    data = published_data(run) or "the owner's data"
    return f"""{_front_matter(run, folder)}
{title}

This {experiment.trains} makes {counted(k, "photograph")} of each semantic layout of {height}x{width} pixels.
{"crn_jax trained it" if run.step else "It runs in crn_jax"} (Cascaded Refinement Networks, [Chen & Koltun, ICCV
2017](https://arxiv.org/abs/1707.09405)).

{use}
The class ids are {", ".join(f"{i} {name}" for i, name in enumerate(run.label_space.classes))}.

## Training

{steps}. Each batch has {counted(experiment.batch_size, "example")} of {data}. This is the whole experiment:

```json
{json.dumps(without_folders(to_json(experiment)), indent=1)}
```

## Scores

{_scores(folder, run.step)}

## Licences

Read these terms before you publish images or weights:

{"".join(f"- {licence}" + chr(10) for licence in licences(run))}"""


def use_of_artifact(about: dict[str, Any]) -> str:
    """Says how an artifact is used. `about` is the content of its artifact.json."""
    (height, width), k = about["size"], about["num_images"]
    arguments, ids = "layout_ids", "class ids"
    if about["boundaries"]:
        arguments, ids = "layout_ids, instance_ids", "class ids and instance ids"
    return f"""`synthesize.bin` was exported for {", ".join(about["platforms"])} by jax {about["jax"]}.
Later releases of jax can read it for at least six months. After that time, crn_jax makes a new artifact of this one:
`python -m launch.convert export THIS_FOLDER NEW_FOLDER`.

```python
from load import load

synthesize, about = load(".")
images = synthesize({arguments})  # {ids} [B, {height}, {width}] -> uint8 [B, {k}, {height}, {width}, 3]
```

`artifact.json` says which raw ids and colours in files the class ids stand for. `flatbuffers.zip` is under Apache 2.0.
"""


def use_of_onnx(run: Run, name: str) -> str:
    """Says how an ONNX file of this name is used."""
    k, inputs, ids = run.generator.num_images, '"layout_ids": layout_ids', "class ids"
    if run.generator.boundaries:
        inputs, ids = f'{inputs}, "instance_ids": instance_ids', "class ids, and instance ids in int32,"
    return f"""```python
import onnxruntime

session = onnxruntime.InferenceSession("{name}")
images = session.run(None, {{{inputs}}})[0]  # {ids} [B, H, W] -> uint8 [B, {k}, H, W, 3]
```
"""


def use_of_web(size: tuple[int, int], version: str) -> str:
    """Says how a folder with the page of launch.paint is used. `version` is that of onnxruntime-web."""
    height, width = size
    return f"""This folder is a page to paint layouts of {height}x{width} pixels on. Their images are made in the browser. The
page needs a web server, because browsers do not let a page that is opened as a file load its parts:

```bash
python -m http.server --bind 127.0.0.1 8000   # in this folder; then open http://127.0.0.1:8000/
```

Any web server can serve the folder. The page loads nothing from elsewhere. With the headers
`Cross-Origin-Opener-Policy: same-origin` and `Cross-Origin-Embedder-Policy: require-corp`, it may use several cores.

`onnxruntime/` is onnxruntime-web {version}, under the MIT License, copyright Microsoft Corporation. `layouts/` holds layouts to
start from.
"""


def licences(run: Run) -> list[str]:
    """Returns the terms that concern a run: those of its data and of VGG-19."""
    source = run.experiment.data.source
    terms = _LICENCES.get(source, "The training data are your own, under your own terms.")
    if source in _LICENCES and not published_data(run):
        terms = (
            f"The classes of the training data are the owner's, and their folders are those of {source}. If the photographs "
            f"are the published ones, their terms are these. {terms}"
        )
    return [
        terms,
        f"The loss uses VGG-19 ({run.vgg19.get('file', run.vgg19['weights'])}). The Oxford weights are under Creative Commons "
        "Attribution. They were trained on ImageNet, which is for research.",
    ]


def published_data(run: Run) -> str | None:
    """Returns the name of the published data set that a run was trained on, or None if the data may be the user's own.

    They may be so even in the folders of a published data set, if their classes come from a file of the user's own.
    """
    known = run.experiment.data.source in _LICENCES and run.label_space in LABEL_SPACES.values()
    return run.experiment.data.source if known else None


def _front_matter(run: Run, folder: Path) -> str:
    """Writes the YAML that the Hub reads: licence, tags, and the held-out distance in the form of a model index.

    The values are JSON, which YAML contains, so that no name needs an escape of its own.
    """
    experiment, measured, data = run.experiment, _held_out(folder, run.step), published_data(run)
    fields: dict[str, Any] = {
        "license": "other",
        "license_name": "see-the-section-licences",
        "library_name": "crn_jax",
        "pipeline_tag": "image-to-image",
        "tags": ["jax", "semantic-image-synthesis", "cascaded-refinement-networks", *([data] if data else [])],
    }
    if measured is not None and measured[0] == run.step:
        score = {
            "type": "perceptual-distance",
            "name": "held-out perceptual distance",
            "value": round(measured[1], 1),
        }
        result = {
            "task": {"type": "image-to-image", "name": "semantic image synthesis"},
            "dataset": {"type": data or "own", "name": data or "own data"},
            "metrics": [score],
        }
        fields["model-index"] = [{"name": experiment.name, "results": [result]}]
    return "---\n" + "".join(f"{name}: {json.dumps(value)}\n" for name, value in fields.items()) + "---\n"


def _card_of(artifact: Path) -> str:
    """Returns the model card of an artifact, or an empty text if it has none."""
    try:
        return (artifact / "README.md").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _held_out(folder: Path, step: int) -> tuple[int, float] | None:
    """Returns the newest validation up to this step, as its step and held-out distance, or None if there was none."""
    if (folder / "artifact.json").is_file():  # it is being renewed, and its model card has the figure
        found = re.search(r"distance at step ([\d,]+) is ([\d.]+)\.\n", _card_of(folder))
        return (int(found[1].replace(",", "")), float(found[2])) if found else None
    if folder.is_file():  # a .safetensors file says nothing of how the training went
        return None
    lines = [
        line for line in read_metrics(folder / "metrics.jsonl", console.print) if "validation" in line and line["step"] <= step
    ]
    return (lines[-1]["step"], lines[-1]["validation"]["distance"]) if lines else None


def _scores(folder: Path, step: int) -> str:
    """Writes the held-out distance at this step, and the scores of an evaluation, if there is one."""
    if (folder / "artifact.json").is_file():  # it is being renewed, and its model card has the scores
        scores = _card_of(folder).partition("## Scores\n\n")[2].partition("\n\n## ")[0]
        return scores or "No scores were measured."
    texts = []
    if measured := _held_out(folder, step):
        texts.append(f"The held-out perceptual distance at step {measured[0]:,} is {measured[1]:.1f}.")
    texts += _evaluation(folder / "evaluation" / "evaluation.json", step)
    return "\n".join(texts) or "No scores were measured."


def _evaluation(path: Path, step: int) -> list[str]:
    """Writes a table of launch.evaluate's scores of the run at this step, if there are any."""
    if not path.is_file():
        return []
    evaluation = read_evaluation(path)
    run = next((each for each in evaluation["candidates"] if each.get("kind") == "run"), None)  # whose folder this is
    if run is None or not run.get("about", "").startswith(at_step(step)):
        return []
    lines = [
        "",
        f"Scores by launch.evaluate, {evaluation['title']}, with 95% intervals in brackets:",
        "",
        "| score | |",
        "|---|---|",
    ]
    for score in evaluation["scores"]:
        cell = run["scores"].get(score["key"])
        if cell and cell["value"] is not None:
            interval = f" ({number(cell['low'])} to {number(cell['high'])})" if cell.get("low") is not None else ""
            unit = f", {score['unit']}" if score["unit"] else ""
            lines.append(f"| {score['title']}{unit} | {number(cell['value'])}{interval} |")
    return lines
