"""Writes a trained run of drawn streets as the packaged run of a name (`crn_jax/packaged.py`), with layouts to try.

    python -m launch.train packaged_streets
    python -m tests.support.record_packaged streets runs/packaged_streets/128x256_fine

The parameters are stored in float16. The paths of this machine stay here. The picture docs/NAME.png shows what the stored run
makes: a held-out layout above its photograph, and beside them its images.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from crn_jax.checksums import KEY
from crn_jax.data.sources import open_source
from crn_jax.formats.safetensors_file import save_run
from crn_jax.packaged import FOLDER
from crn_jax.run import load_run, read_description
from crn_jax.synthesize import synthesize

GAP = 4
"""The pixels between two tiles of the picture."""


def without_paths(fields: Any, root: str) -> Any:
    """Returns JSON whose paths below the folder `root` begin with runs/packaged_streets instead."""
    if isinstance(fields, dict):
        return {name: without_paths(value, root) for name, value in fields.items()}
    if isinstance(fields, list):
        return [without_paths(value, root) for value in fields]
    if isinstance(fields, str) and os.path.isabs(fields):
        return f"runs/packaged_streets/{os.path.relpath(fields, root)}"
    return fields


def main() -> None:
    """Writes the file and the layouts."""
    name, source = sys.argv[1], Path(sys.argv[2]).absolute()
    run = load_run(source)
    _, _, description = read_description(source)
    description = without_paths(description | {"step": run.step}, str(source.parent))
    description["experiment"]["data"]["cache"] = None
    description.pop(KEY, None)
    FOLDER.mkdir(exist_ok=True)
    save_run(FOLDER / f"{name}.safetensors", jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), run.params), description)

    shutil.rmtree(FOLDER / name, ignore_errors=True)
    shutil.copytree(source / "layouts", FOLDER / name)
    picture(name).save(f"docs/{name}.png", optimize=True)


def picture(name: str) -> Image.Image:
    """Returns a picture of the second layout that the run has to try, of its photograph, and of its six images."""
    run = load_run(name)
    layout = run.read_layout(run.layouts[1])
    source = open_source(run.experiment.data, "val", run.generator.size)
    photograph = next(example["photograph"] for example in source if np.array_equal(example["layout"], layout))
    images = np.asarray(synthesize(run.generator, run.params, layout[None]))[0]
    tiles = [run.label_space.draw(layout), *images[:3], photograph, *images[3:]]
    height, width = run.generator.size
    canvas = Image.new("RGB", (4 * (width + GAP) - GAP, 2 * (height + GAP) - GAP), "white")
    for n, tile in enumerate(tiles):
        canvas.paste(Image.fromarray(tile), (n % 4 * (width + GAP), n // 4 * (height + GAP)))
    return canvas


if __name__ == "__main__":
    main()
