"""The methods that launch.evaluate compares: the photographs themselves, what runs synthesize, and folders of images.

Each method makes images for a batch of held-out examples, and one image of each example is scored. From a collection of k
images, that is the image at (example's number) mod k, a choice that does not depend on the photograph. The best of k and the
assembled image do depend on the photograph, so they are scored under names of their own.
"""

import dataclasses
import functools
import time
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from PIL import Image

from crn_jax.data.examples import Source, full_batches
from crn_jax.data.geometry import alike
from crn_jax.data.photographs import open_photograph
from crn_jax.errors import UserError, counted
from crn_jax.evaluation import DISTANCE_WEIGHTS, Evaluation, evaluation_of
from crn_jax.experiment import Synthesis, require_kind
from crn_jax.generator import Generator, count_parameters
from crn_jax.losses import Perception
from crn_jax.run import Run
from crn_jax.sharding import over_local_devices
from crn_jax.synthesize import synthesize
from launch.cost.dry_run import total_bytes
from launch.evaluation.evaluation_file import at_step

PHOTOGRAPHS = "photographs"
IMAGES = (".png", ".jpg", ".jpeg", ".webp")
SYNTHESIZED = ("_synthesized_image", "_fake_B", "_fake_image")
"""The endings by which pix2pixHD, pix2pix and others tell a synthesized image from what they write beside it."""

Kind = Literal["photographs", "run", "chosen", "images"]
"""Where a method's images come from. Images of the kind "chosen" were chosen by comparing them with the photograph."""


class Batch(NamedTuple):
    """A batch of held-out examples: numbers, names, layouts `[B, H, W]` and photographs uint8 `[B, H, W, 3]`.

    If a run needs them, there are also the ids of instances `[B, H, W]`.
    """

    numbers: Sequence[int]
    names: Sequence[str]
    layout: np.ndarray
    photograph: np.ndarray
    instances: np.ndarray | None = None

    def ids(self, generator: Generator) -> tuple[np.ndarray, ...]:
        """Returns what `synthesize` takes for this generator: layouts, and instances if it takes boundaries."""
        if not generator.boundaries:
            return (self.layout,)
        assert self.instances is not None  # `open_comparison` opens them
        return self.layout, self.instances


@dataclasses.dataclass(frozen=True)
class Examples:
    """The held-out examples of a source that are scored, numbered from 0."""

    source: Source
    indices: Sequence[int]

    @property
    def names(self) -> list[str]:
        """Returns the names of all examples, in order."""
        return [self.source.names[i] for i in self.indices]

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Decodes the examples of these numbers."""
        examples = [self.source[self.indices[n]] for n in numbers]
        keys = ["layout", "photograph"] + ["instances"] * self.source.has_instances
        arrays = (np.stack([example[key] for example in examples]) for key in keys)
        return Batch(numbers, [self.source.names[self.indices[n]] for n in numbers], *arrays)

    def batches(self, numbers: Sequence[int], size: int) -> Iterator[tuple[Batch, int]]:
        """Decodes `numbers` in batches of one size, and counts the examples of each that do not pad it (see `full_batches`)."""
        for batch, count in full_batches(numbers, size):
            yield self.batch(batch), count


class Made(NamedTuple):
    """A method's images for a batch, uint8 `[B, n, H, W, 3]`, and further measurements `[B]` by the key of their score."""

    images: np.ndarray
    numbers: dict[str, np.ndarray] = {}
    own: np.ndarray | None = None
    """The images before they were resized to the data's size, uint8 `[B, n, h, w, 3]`."""

    def scored(self, batch: Batch) -> np.ndarray:
        """Returns the image of each example that is scored, uint8 `[B, H, W, 3]`."""
        return self._chosen(self.images, batch)

    def as_made(self, batch: Batch) -> np.ndarray:
        """Returns the same images at their own size, uint8 `[B, h, w, 3]`."""
        return self._chosen(self.images if self.own is None else self.own, batch)

    def _chosen(self, images: np.ndarray, batch: Batch) -> np.ndarray:
        return images[np.arange(len(images)), np.array(batch.numbers) % images.shape[1]]


@dataclasses.dataclass(frozen=True)
class Method:
    """Something that makes images of layouts, under one or several names.

    `make` returns the images for a batch by name, and `resources` measures what making them takes (see `resources_of`).
    """

    names: dict[str, Kind]
    about: str
    make: Callable[[Batch], dict[str, Made]]
    resources: Callable[[Batch], dict[str, float]] = lambda batch: {}
    note: str = ""
    """A sentence on what was done to the images before they are scored."""


def photographs() -> Method:
    """Returns the held-out photographs as a method: its scores are the best that can be reached."""
    return Method({PHOTOGRAPHS: "photographs"}, "the real ones", lambda batch: {PHOTOGRAPHS: Made(batch.photograph[:, None])})


def images_of_folder(name: str, folder: Path, examples: Examples) -> Method:
    """Returns the images of a folder as a method. `files_of` and `results_of_program` say which files these are.

    Images of another size than the data's, but of its shape, are resized by Pillow's bicubic filter.

    Raises:
      UserError: if files are missing or ambiguous, or if the images have another shape. `make` raises it for an image of
        another size than the first.
    """
    folder = results_of_program(folder)
    files, (height, width) = files_of(folder, examples.names, IMAGES, examples.source.names), examples.source.size
    first = files[examples.names[0]]
    w, h = open_photograph(first).size
    if not alike((h, w), (height, width)):
        raise UserError(
            f"{first} is {h}x{w}, but the examples are {height}x{width}. Give images of that size, or of the same shape."
        )

    def make(batch: Batch) -> dict[str, Made]:
        images = []
        for example in batch.names:
            image = open_photograph(files[example])
            if image.size != (w, h):
                raise UserError(
                    f"{files[example]} is {image.height}x{image.width}, but {first.name} beside it is {h}x{w}. Give images "
                    f"of one size."
                )
            images.append(np.asarray(image))
        fitting = np.stack([resized(image, (height, width)) for image in images])
        return {name: Made(fitting[:, None], own=np.stack(images)[:, None])}

    note = f"{name}: its images are {h}x{w}. They are resized to {height}x{width}, except where a protocol names another size."
    return Method({name: "images"}, f"{folder}, {h}x{w}", make, note=note if (h, w) != (height, width) else "")


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image, uint8 `[h, w, 3]`, by Pillow's bicubic filter, which widens where it shrinks."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))


def results_of_program(folder: Path) -> Path:
    """Returns the folder of synthesized images within the results of another program, or `folder` itself.

    SPADE writes images/synthesized_image/NAME.png, OASIS image/NAME.png, CUT images/fake_B/NAME.png, and pix2pixHD
    images/NAME_synthesized_image.jpg.
    """
    if folder.is_dir() and not any(path.suffix.lower() in IMAGES for path in folder.iterdir()):
        for inner in ("images/synthesized_image", "synthesized_image", "images/fake_B", "fake_B", "images", "image"):
            if (folder / inner).is_dir():
                return folder / inner
    return folder


def files_of(folder: Path, examples: Sequence[str], suffixes: Sequence[str], others: Sequence[str] = ()) -> dict[str, Path]:
    """Returns the file of each example in a folder. Its stem is the example's name, or that name, an underscore and more.

    A file belongs to the longest name that fits, of the examples and of `others`, which need no file themselves. Of several
    such files, the one counts whose stem ends as programs mark what they synthesize (`SYNTHESIZED`).

    Raises:
      UserError: if there is no such folder, or if examples have no file in it, or several files.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder.")
    owned: dict[str, list[Path]] = {composed(name): [] for name in (*examples, *others)}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and (name := _owner(composed(path.stem), owned)):
            owned[name].append(path)
    files, problems = {}, []
    for name in examples:
        paths = owned[composed(name)]
        paths = [path for path in paths if composed(path.stem) == composed(name)] or paths
        if len(paths) > 1:
            paths = [path for path in paths if path.stem.endswith(SYNTHESIZED)] or paths
        if len(paths) == 1:
            files[name] = paths[0]
        else:
            problems.append(f"{name} ({', '.join(path.name for path in paths) or 'no file'})")
    if problems:
        raise UserError(
            f"{folder} must hold one image of each example. It does not for {len(problems)} of "
            f"{counted(len(examples), 'example')}, such as {'; '.join(problems[:3])}. "
            f"Files are named after the examples: {examples[0]}.png, or {examples[0]}_*.png."
        )
    return files


def composed(name: str) -> str:
    """Returns a name with each letter and its accent as one character. macOS may store "é" as two."""
    return unicodedata.normalize("NFC", name)


def _owner(stem: str, names: Collection[str]) -> str | None:
    """Returns the longest of the names that is the stem, or its beginning before an underscore."""
    while stem not in names:
        stem, underscore, _ = stem.rpartition("_")
        if not underscore:
            return None
    return stem


def run_of(name: str, run: Run, vgg_params: dict) -> Method:
    """Returns a trained run as a method. With k > 1 it also makes the best of k and the assembled image."""
    experiment = require_kind(run.experiment, Synthesis, f"The run {name}")
    config, k = experiment.generator, experiment.generator.num_images

    synthesized = over_local_devices(functools.partial(synthesize, config))
    compare = over_local_devices(functools.partial(compared, config, experiment.perception))

    def one(batch: Batch) -> dict[str, Made]:
        return {name: Made(np.asarray(synthesized(run.params, *batch.ids(config))))}

    def several(batch: Batch) -> dict[str, Made]:
        images = np.asarray(synthesized(run.params, *batch.ids(config)))
        arrays = {"layout": batch.layout, "photograph": batch.photograph}
        evaluation = compare(vgg_params, arrays, images)
        terms, _, collection = jax.tree.map(np.asarray, evaluation)
        best = images[np.arange(len(images)), (terms @ DISTANCE_WEIGHTS).argmin(1)]
        between = np.asarray(collection.pairwise_terms, np.float64)
        numbers = {"between": between @ DISTANCE_WEIGHTS, "between_pixels": between[:, 0]}
        made = Made(images, numbers), Made(best[:, None]), Made(collection.assembled[:, None])
        return dict(zip(names, made))

    names: dict[str, Kind] = {name: "run"}
    names |= {f"{name}, best of {k}": "chosen", f"{name}, assembled": "chosen"} if k > 1 else {}
    return Method(
        names, f"{at_step(run.step)}k = {k}", several if k > 1 else one, lambda batch: resources_of(config, run.params, batch)
    )


@jax.default_matmul_precision("highest")  # by default GPUs round to 10 bits, TPUs to 7
@functools.partial(jax.jit, static_argnums=(0, 1))
def compared(generator: Generator, perception: Perception, vgg_params: dict, batch: dict, images: jax.Array) -> Evaluation:
    """Compares collections, uint8 `[B, k, H, W, 3]`, with the photographs, in float32 whatever dtype the run computes in."""
    exact = dataclasses.replace(perception, dtype="float32")
    return evaluation_of(generator, exact, vgg_params, batch, images.astype(jax.numpy.float32))


def resources_of(generator: Generator, params: dict, batch: Batch, repeats: int = 5) -> dict[str, float]:
    """Measures what synthesizing a batch takes.

    Returns:
      `layouts_per_second`, the median over `repeats` without compilation; the number of `parameters`; `peak_bytes` by the
      compiler's analysis; and `peak_bytes_in_use` since the process began, if the device counts them.
    """
    ids = [jax.numpy.asarray(array) for array in batch.ids(generator)]
    compiled = jax.jit(synthesize, static_argnums=0).lower(generator, params, *ids).compile()
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(compiled(params, *ids))
        seconds.append(time.perf_counter() - began)
    resources = {
        "layouts_per_second": len(batch.layout) / float(np.median(seconds[1:])),
        "parameters": count_parameters(params),
        "peak_bytes": total_bytes(compiled.memory_analysis()),
    }
    counted = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return resources | ({"peak_bytes_in_use": counted} if counted else {})
