"""The model card of an exported run: what it is, what it was trained on, how good it is, and what may be done with it."""

import json
from pathlib import Path
from typing import Any

from crn_jax.run import Run
from launch.training.metrics_log import read_metrics

_LICENCES = {
    "cityscapes": "Cityscapes: for research and other non-commercial purposes.",
    "gta5": "GTA5 (Playing for Data): for research and education.",
    "ade20k": "ADE20K: images for non-commercial research and education; annotations under BSD 3-Clause.",
    "cocostuff": "COCO-Stuff: annotations under CC BY 4.0; images under Flickr's terms.",
    "camvid": "CamVid: published for research, without a licence of its own.",
    "nyu": "NYU Depth V2: published for research, without a licence of its own.",
    "streets": "Procedural streets: made by crn_jax, free of others' rights.",
}


def model_card(run: Run, folder: Path, about: dict[str, Any]) -> str:
    """Markdown; `folder` is the run's, `about` what artifact.json says."""
    experiment, (height, width), k = run.experiment, about["size"], about["num_images"]
    steps = f"{run.step:,} steps" if run.step else "Converted, so that the number of steps is not known"
    title = f"# {experiment.name}\n\n{experiment.about}".strip()
    return f"""{title}

From semantic layouts of {height}x{width} to photographs, {k} for each layout: a {experiment.trains} trained by crn_jax
(Cascaded Refinement Networks, [Chen & Koltun, ICCV 2017](https://arxiv.org/abs/1707.09405)). `synthesize.bin` was exported by
jax {about["jax"]} for {", ".join(about["platforms"])}; later releases of jax read it for at least six months.

```python
from load import load

synthesize, about = load(".")
images = synthesize(layout_ids)  # class ids [B, {height}, {width}] -> uint8 [B, {k}, {height}, {width}, 3]
```

Class ids: {", ".join(f"{i} {name}" for i, name in enumerate(run.label_space.classes))}. What raw ids and colours of files they
stand for, `artifact.json` says.

## Training

{steps}; a batch of {experiment.batch_size}, on {experiment.data.source}. The whole experiment:

```json
{json.dumps(about["experiment"], indent=1)}
```

## Scores

{_scores(folder, run.step)}

## Licences

To be looked at before images or weights are published:

- {_LICENCES.get(experiment.data.source, "The training data: your own, under your own terms.")}
- VGG-19 of the loss ({run.vgg19.get("file", run.vgg19["weights"])}): the Oxford weights are under Creative Commons Attribution;
  they were trained on ImageNet, whose terms are those of research.
- `flatbuffers.zip`: Apache 2.0.
"""


def _scores(folder: Path, step: int) -> str:
    """The held-out distance at this step, and the means of an evaluation if there is one."""
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "validation" in line and line["step"] <= step]
    texts = []
    if lines:
        last = lines[-1]
        texts.append(f"Held-out perceptual distance {last['validation']['distance']:.1f} at step {last['step']:,}.")
    texts += _evaluation(folder / "evaluation" / "evaluation.json", folder.resolve().name)
    return "\n".join(texts) or "Not measured."


def _evaluation(path: Path, name: str) -> list[str]:
    """A table of what launch.evaluate found, if it was asked; of the checkpoint that was the latest then."""
    if not path.is_file():
        return []
    evaluation = json.loads(path.read_text())
    lines = ["", f"By launch.evaluate, {evaluation['title']} (in brackets: 95% intervals):", "", "| score | |", "|---|---|"]
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
