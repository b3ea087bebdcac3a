"""The methods that launch.evaluate compares: the photographs themselves, what runs synthesize, and folders of images.

Each method makes images of a batch of held-out examples, and one image an example is scored. A collection of k images is
scored by the image at (example's number) mod k, a choice that does not depend on the photograph. The best of k and the
assembled image do depend on it, so they are scored under names of their own.
"""

import dataclasses
import functools
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np

from crn_jax.data.examples import Source, full_batches
from crn_jax.data.sources import open_photograph
from crn_jax.errors import UserError
from crn_jax.evaluation import DISTANCE_WEIGHTS, Evaluation, evaluation_of
from crn_jax.generator import Generator, count_parameters
from crn_jax.losses import Perception
from crn_jax.run import Run
from crn_jax.synthesize import synthesize
from launch.cost.dry_run import total_bytes

PHOTOGRAPHS = "photographs"

Kind = Literal["photographs", "run", "chosen", "images"]
"""chosen: with the photograph's help, which the others do without."""


class Batch(NamedTuple):
    """Held-out examples: their numbers and names, layouts `[B, H, W]`, photographs uint8 `[B, H, W, 3]`."""

    numbers: Sequence[int]
    names: Sequence[str]
    layout: np.ndarray
    photograph: np.ndarray


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of a source that are scored, numbered from 0."""

    source: Source
    indices: Sequence[int]

    @property
    def names(self) -> list[str]:
        """The names of all examples."""
        return [self.source.names[i] for i in self.indices]

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Decodes some, by their numbers."""
        examples = [self.source[self.indices[n]] for n in numbers]
        arrays = (np.stack([example[key] for example in examples]) for key in ("layout", "photograph"))
        return Batch(numbers, [self.source.names[self.indices[n]] for n in numbers], *arrays)

    def batches(self, numbers: Sequence[int], size: int) -> Iterator[tuple[Batch, int]]:
        """Decodes all of `numbers` as `full_batches`, each with the number of its examples that are not copies."""
        for batch, count in full_batches(numbers, size):
            yield self.batch(batch), count


class Made(NamedTuple):
    """What a method makes of a batch: images uint8 `[B, n, H, W, 3]`, and further numbers `[B]` by their score's key."""

    images: np.ndarray
    numbers: dict[str, np.ndarray] = {}

    def scored(self, batch: Batch) -> np.ndarray:
        """The image that stands for each example, `[B, H, W, 3]`."""
        return self.images[np.arange(len(self.images)), np.array(batch.numbers) % self.images.shape[1]]


@dataclasses.dataclass(frozen=True)
class Method:
    """What makes images of layouts; `make` gives those of each name, `resources` what it takes (see `resources_of`)."""

    names: dict[str, Kind]
    about: str
    make: Callable[[Batch], dict[str, Made]]
    resources: Callable[[Batch], dict[str, float]] = lambda batch: {}


def photographs() -> Method:
    """The held-out photographs: the ceiling of every score."""
    return Method({PHOTOGRAPHS: "photographs"}, "the real ones", lambda batch: {PHOTOGRAPHS: Made(batch.photograph[:, None])})


def images_of_folder(name: str, folder: Path, examples: Examples) -> Method:
    """Images from anywhere, in files named after the examples: NAME.png, or NAME_ and anything behind it.

    Raises:
      UserError: naming what is missing; or, when it is read, an image of another size.
    """
    files, (height, width) = files_of(folder, examples.names, (".png", ".jpg", ".jpeg", ".webp")), examples.source.size

    def make(batch: Batch) -> dict[str, Made]:
        images = []
        for example in batch.names:
            image = np.asarray(open_photograph(files[example]))
            if image.shape[:2] != (height, width):
                raise UserError(
                    f"{files[example]} is {image.shape[0]}x{image.shape[1]}, but the examples are {height}x{width}: give "
                    f"images of that size."
                )
            images.append(image)
        return {name: Made(np.stack(images)[:, None])}

    return Method({name: "images"}, str(folder), make)


def files_of(folder: Path, examples: Sequence[str], suffixes: Sequence[str]) -> dict[str, Path]:
    """The file of each example in a folder: its stem is the example's name, or else begins with that and an underscore.

    Raises:
      UserError: naming the folder and examples that have no file there, or several.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder.")
    owned: dict[str, list[Path]] = {name: [] for name in examples}
    longest_first = sorted(owned, key=len, reverse=True)
    for path in sorted(folder.iterdir()):
        stem = unicodedata.normalize("NFC", path.stem)  # macOS takes letters apart
        exact = stem if stem in owned else None
        name = exact or next((name for name in longest_first if stem.startswith(f"{name}_")), None)
        if name and path.suffix.lower() in suffixes:
            owned[name].append(path)
    files, problems = {}, []
    for name, paths in owned.items():
        paths = [path for path in paths if unicodedata.normalize("NFC", path.stem) == name] or paths
        if len(paths) == 1:
            files[name] = paths[0]
        else:
            problems.append(f"{name} ({', '.join(path.name for path in paths) or 'no file'})")
    if problems:
        raise UserError(
            f"{folder}: {len(problems)} of {len(examples)} examples do not have one image each, such as "
            f"{'; '.join(problems[:3])}. Files are named after the examples: {examples[0]}.png, or {examples[0]}_*.png."
        )
    return files


def run_of(name: str, run: Run, vgg_params: dict) -> Method:
    """What a trained run synthesizes. With k > 1, also the best of k and the assembled image, as the photograph tells them."""
    config, k = run.experiment.generator, run.experiment.generator.num_images

    def one(batch: Batch) -> dict[str, Made]:
        return {name: Made(np.asarray(synthesize(config, run.params, batch.layout)))}

    def several(batch: Batch) -> dict[str, Made]:
        images = np.asarray(synthesize(config, run.params, batch.layout))
        arrays = {"layout": batch.layout, "photograph": batch.photograph}
        evaluation = compared(config, run.experiment.perception, vgg_params, arrays, images)
        terms, _, collection = jax.tree.map(np.asarray, evaluation)
        best = images[np.arange(len(images)), (terms @ DISTANCE_WEIGHTS).argmin(1)]
        between = np.float64(collection.pairwise_terms)
        numbers = {"between": between @ DISTANCE_WEIGHTS, "between_pixels": between[:, 0]}
        made = Made(images, numbers), Made(best[:, None]), Made(collection.assembled[:, None])
        return dict(zip(names, made))

    names: dict[str, Kind] = {name: "run"}
    names |= {f"{name}, best of {k}": "chosen", f"{name}, assembled": "chosen"} if k > 1 else {}
    return Method(names, f"step {run.step:,}, k = {k}", several if k > 1 else one, lambda batch: resources_of(run, batch))


@jax.default_matmul_precision("highest")  # by default GPUs round to 10 bits, TPUs to 7
@functools.partial(jax.jit, static_argnums=(0, 1))
def compared(generator: Generator, perception: Perception, vgg_params: dict, batch: dict, images: jax.Array) -> Evaluation:
    """Collections uint8 `[B, k, H, W, 3]` and the photographs, in float32 whatever a run computes in: as single images are."""
    exact = dataclasses.replace(perception, dtype="float32")
    return evaluation_of(generator, exact, vgg_params, batch, images.astype(jax.numpy.float32))


def resources_of(run: Run, batch: Batch, repeats: int = 5) -> dict[str, float]:
    """Of synthesizing a batch: layouts a second (the median), compilation aside; parameters; peak bytes, by the compiler's
    analysis; and, where the device keeps a counter, its largest use since the process began."""
    layout = jax.numpy.asarray(batch.layout)
    compiled = jax.jit(synthesize, static_argnums=0).lower(run.experiment.generator, run.params, layout).compile()
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(compiled(run.params, layout))
        seconds.append(time.perf_counter() - began)
    resources = {
        "layouts_per_second": len(batch.layout) / float(np.median(seconds[1:])),
        "parameters": count_parameters(run.params),
        "peak_bytes": total_bytes(compiled.memory_analysis()),
    }
    counted = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return resources | ({"peak_bytes_in_use": counted} if counted else {})
