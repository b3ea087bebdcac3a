"""The model card of an exported run: what the model is, how it was trained, how good it is, and which licences apply."""

import json
from pathlib import Path
from typing import Any

from crn_jax.run import Run
from launch.evaluation.evaluation_file import read_evaluation
from launch.training.metrics_log import read_metrics

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


def model_card(run: Run, folder: Path, about: dict[str, Any]) -> str:
    """Writes the model card in Markdown. `folder` is the run folder, and `about` the contents of artifact.json."""
    experiment, (height, width), k = run.experiment, about["size"], about["num_images"]
    steps = f"{run.step:,} steps" if run.step else "Converted from another program, so the number of steps is unknown"
    title = f"# {experiment.name}\n\n{experiment.about}".strip()
    return f"""{title}

This {experiment.trains} makes {_count(k, "photograph")} of each semantic layout of {height}x{width} pixels. crn_jax trained it
(Cascaded Refinement Networks, [Chen & Koltun, ICCV 2017](https://arxiv.org/abs/1707.09405)). `synthesize.bin` was exported
for {", ".join(about["platforms"])} by jax {about["jax"]}. Later releases of jax can read it for at least six months.

```python
from load import load

synthesize, about = load(".")
images = synthesize(layout_ids)  # class ids [B, {height}, {width}] -> uint8 [B, {k}, {height}, {width}, 3]
```

The class ids are {", ".join(f"{i} {name}" for i, name in enumerate(run.label_space.classes))}. `artifact.json` says which raw
ids and colours in files they stand for.

## Training

{steps}. Each batch has {_count(experiment.batch_size, "example")} of {experiment.data.source}. This is the whole experiment:

```json
{json.dumps(about["experiment"], indent=1)}
```

## Scores

{_scores(folder, run.step)}

## Licences

Read these terms before you publish images or weights:

- {_LICENCES.get(experiment.data.source, "The training data are your own, under your own terms.")}
- The loss uses VGG-19 ({run.vgg19.get("file", run.vgg19["weights"])}). The Oxford weights are under Creative Commons
  Attribution. They were trained on ImageNet, which is for research.
- `flatbuffers.zip` is under Apache 2.0.
"""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _scores(folder: Path, step: int) -> str:
    """Writes the held-out distance at this step, and the scores of an evaluation, if there is one."""
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "validation" in line and line["step"] <= step]
    texts = []
    if lines:
        last = lines[-1]
        texts.append(f"The held-out perceptual distance at step {last['step']:,} is {last['validation']['distance']:.1f}.")
    texts += _evaluation(folder / "evaluation" / "evaluation.json", folder.resolve().name)
    return "\n".join(texts) or "No scores were measured."


def _evaluation(path: Path, name: str) -> list[str]:
    """Writes a table of launch.evaluate's scores, if there are any. They belong to the latest checkpoint at that time."""
    if not path.is_file():
        return []
    evaluation = read_evaluation(path)
    lines = [
        "",
        f"Scores by launch.evaluate, {evaluation['title']}, with 95% intervals in brackets:",
        "",
        "| score | |",
        "|---|---|",
    ]
    for candidate in evaluation["candidates"]:
        if candidate["name"] != name:
            continue
        for score in evaluation["scores"]:
            cell = candidate["scores"].get(score["key"])
            if cell and cell["value"] is not None:
                interval = f" ({cell['low']:.4g} to {cell['high']:.4g})" if cell.get("low") is not None else ""
                unit = f", {score['unit']}" if score["unit"] else ""
                lines.append(f"| {score['title']}{unit} | {cell['value']:.4g}{interval} |")
    return lines
