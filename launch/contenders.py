"""What launch.evaluate scores: the photographs themselves, what runs synthesize, and folders of images.

Each contender makes images of a batch of held-out examples. Scored is one image an example: of a collection of k images the one
at (example's number) mod k, so that no choice has seen the photograph; the best of k and the assembled image, which have,
are scored as contenders of their own.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from crn_jax.cascade import count_parameters
from crn_jax.data.sources import open_photograph
from crn_jax.errors import UserError
from crn_jax.evaluation import DISTANCE_WEIGHTS, make_eval_step
from crn_jax.synthesize import Run, synthesize
from launch.dry_run import total_bytes

PHOTOGRAPHS = "photographs"


class Batch(NamedTuple):
    """Held-out examples: their numbers and names, layouts `[B, H, W]`, photographs uint8 `[B, H, W, 3]`."""

    numbers: Sequence[int]
    names: Sequence[str]
    layout: np.ndarray
    photograph: np.ndarray


class Made(NamedTuple):
    """What a contender makes of a batch: images uint8 `[B, n, H, W, 3]`, and further numbers `[B]` by their score's key."""

    images: np.ndarray
    numbers: dict[str, np.ndarray] = {}

    def scored(self, batch: Batch) -> np.ndarray:
        """The image that stands for each example, `[B, H, W, 3]`."""
        return self.images[np.arange(len(self.images)), np.array(batch.numbers) % self.images.shape[1]]


@dataclasses.dataclass(frozen=True)
class Contender:
    """Who makes images; `make` gives those of each of its `names`, `resources` what it takes (see `resources_of`)."""

    kind: str
    names: tuple[str, ...]
    about: str
    make: Callable[[Batch], dict[str, Made]]
    resources: Callable[[Batch], dict[str, float]] = lambda batch: {}


def photographs() -> Contender:
    """The held-out photographs: the ceiling of every score."""
    return Contender(PHOTOGRAPHS, (PHOTOGRAPHS,), "the real ones", lambda batch: {PHOTOGRAPHS: Made(batch.photograph[:, None])})


def images_of_folder(name: str, folder: Path, examples: Sequence[str], size: tuple[int, int]) -> Contender:
    """Images from anywhere, in files named after the examples: NAME.png, or NAME_ and anything behind it.

    Raises:
      UserError: naming what is missing; or, when it is read, an image of another size.
    """
    files = files_of(folder, examples)

    def make(batch: Batch) -> dict[str, Made]:
        images = []
        for example in batch.names:
            image = np.asarray(open_photograph(files[example]))
            if image.shape[:2] != size:
                raise UserError(
                    f"{files[example]} is {image.shape[0]}x{image.shape[1]}, but the examples are {size[0]}x{size[1]}: give "
                    f"images of that size."
                )
            images.append(image)
        return {name: Made(np.stack(images)[:, None])}

    return Contender("images", (name,), str(folder), make)


def files_of(folder: Path, examples: Sequence[str]) -> dict[str, Path]:
    """The file of each example in a folder.

    Raises:
      UserError: naming the folder and examples that have no file there, or several.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder.")
    stems = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")}
    files, problems = {}, []
    for name in examples:
        found = [name] if name in stems else [stem for stem in stems if stem.startswith(f"{name}_")]
        if len(found) == 1:
            files[name] = stems[found[0]]
        else:
            problems.append(f"{name} ({', '.join(found) or 'no file'})")
    if problems:
        raise UserError(
            f"{folder}: {len(problems)} of {len(examples)} examples do not have one image each, such as "
            f"{'; '.join(problems[:3])}. Files are named after the examples: {examples[0]}.png, or {examples[0]}_*.png."
        )
    return files


def run_of(name: str, run: Run, vgg_params: dict) -> Contender:
    """What a trained run synthesizes. With k > 1, also the best of k and the assembled image, as the photograph tells them."""
    config, k = run.experiment.generator, run.experiment.generator.num_images
    about = f"step {run.step:,}, k = {k}, {count_parameters(run.params):,} parameters"

    def one(batch: Batch) -> dict[str, Made]:
        return {name: Made(np.asarray(synthesize(config, run.params, batch.layout)))}

    evaluate = make_eval_step(run.experiment.objective(steps_per_epoch=1))

    def several(batch: Batch) -> dict[str, Made]:
        arrays = {"layout": batch.layout, "photograph": batch.photograph}
        terms, images, collection = jax.tree.map(np.asarray, evaluate(run.params, vgg_params, arrays))
        best = images[np.arange(len(images)), (terms @ DISTANCE_WEIGHTS).argmin(1)]
        between = np.float64(collection.pairwise_terms)
        numbers = {"between": between @ DISTANCE_WEIGHTS, "between_pixels": between[:, 0]}
        made = Made(images, numbers), Made(best[:, None]), Made(collection.assembled[:, None])
        return dict(zip(names, made))

    names = (name,) if k == 1 else (name, f"{name}, best of {k}", f"{name}, assembled")
    return Contender("run", names, about, one if k == 1 else several, lambda batch: resources_of(run, batch))


def resources_of(run: Run, batch: Batch, repeats: int = 5) -> dict[str, float]:
    """Of synthesizing a batch: layouts a second (the median), compilation aside; parameters; and peak bytes, by the compiler's
    analysis and, where the device keeps one, by its own counter (since the process began)."""
    config = run.experiment.generator
    lowered = jax.jit(synthesize, static_argnums=0).lower(config, run.params, jax.numpy.asarray(batch.layout))
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(synthesize(config, run.params, batch.layout))
        seconds.append(time.perf_counter() - began)
    resources = {
        "images_per_second": len(batch.layout) / float(np.median(seconds[1:])),
        "parameters": count_parameters(run.params),
        "peak_bytes": total_bytes(lowered.compile().memory_analysis()),
    }
    counted = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return resources | ({"peak_bytes_in_use": counted} if counted else {})
