"""Many layouts into many images: while one batch is synthesized, the next is read and the one before it is written."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from PIL import Image, PngImagePlugin

from crn_jax.data.examples import full_batches
from crn_jax.data.labels.label_space import open_image
from crn_jax.errors import UserError
from crn_jax.files import replacing
from crn_jax.run import Run
from crn_jax.synthesize import compile_synthesize
from launch.cost.dry_run import total_bytes
from launch.synthesis.layouts import Fitted

MAX_BATCH = 16
"""Layouts at a time on an accelerator, by default; fewer of large ones: no batch has more pixels than one of 1024x2048."""

_PIXELS = 1024 * 2048
_MADE = "crn_jax"  # the text of a PNG that says how it was made

Item, Result = TypeVar("Item"), TypeVar("Result")


class Job(NamedTuple):
    """A layout's file, how it reaches a size, the images to write, and what tells whether those are there already."""

    path: Path
    fitted: Fitted
    targets: list[Path]
    made: str

    @property
    def is_done(self) -> bool:
        """Whether all of its images are there, made of the same layout in the same way."""
        return all(_made(target) == self.made for target in self.targets)


class Synthesized(NamedTuple):
    """What was synthesized for a job: images uint8 `[k, H, W, 3]` of a layout `[H, W]`."""

    job: Job
    layout: np.ndarray
    batch: jax.Array  # [B, k, H, W, 3], perhaps still being computed
    index: int

    def images(self) -> np.ndarray:
        """The images; waits for them."""
        return np.asarray(self.batch)[self.index]


def synthesize_all(
    run: Run, jobs: list[Job], batch_size: int | None, write: Callable[[Synthesized], Result]
) -> Iterator[Result]:
    """Synthesizes from all layouts, those of one size together; yields what `write`, called in threads, returns for each.

    Raises:
      UserError: naming a layout that cannot be read, or a size for which the device has too little memory.
    """

    def read(job: Job) -> tuple[Job, np.ndarray]:
        return job, job.fitted.layout(run.label_space.read(job.path), run.label_space)

    by_size: dict[tuple[int, int], list[Job]] = {}
    for job in jobs:
        by_size.setdefault(job.fitted.size, []).append(job)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for size, these in by_size.items():
            count = min(batch_size or _default_batch(size), len(these))
            layouts = ahead(pool, read, these, 2 * count)
            yield from ahead(pool, write, _batches(run, _compiled(run, count, size), count, layouts), 2 * count)


def _batches(
    run: Run, function: jax.stages.Compiled, count: int, layouts: Iterator[tuple[Job, np.ndarray]]
) -> Iterator[Synthesized]:
    for batch, filled in full_batches(layouts, count):  # a last one of another size would have to be compiled
        images = function(run.params, np.stack([layout for _, layout in batch]))
        yield from (Synthesized(job, layout, images, i) for i, (job, layout) in enumerate(batch[:filled]))


def _default_batch(size: tuple[int, int]) -> int:
    """One on a CPU, which one image keeps busy, and whose caches hold no more."""
    return 1 if jax.devices()[0].platform == "cpu" else max(1, min(MAX_BATCH, _PIXELS // (size[0] * size[1])))


def ahead(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
    """Results of a function in order, of which up to `count` are being computed while one is looked at."""
    pending = collections.deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > count:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _compiled(run: Run, count: int, size: tuple[int, int]) -> jax.stages.Compiled:
    """The function from parameters and layouts `[count, H, W]` to images, if there is memory for it."""
    shape = f"{size[0]}x{size[1]}"
    try:
        function = compile_synthesize(run.experiment.generator, run.params, (count, *size), run.label_space.dtype)
    except ValueError as error:
        raise UserError(f"Images of {shape} cannot be made: {error}") from error
    needed, there = total_bytes(function.memory_analysis()), _device_bytes()
    if needed > there:
        raise UserError(
            f"{count} at a time, images of {shape} need {needed / 1e9:.1f} GB; {jax.devices()[0].device_kind} has "
            f"{there / 1e9:.1f} GB. They are not made in tiles, which would not fit together: layers are normalized over "
            f"the whole image. Give {'a smaller --batch_size, ' * (count > 1)}smaller layouts, or --fit run."
        )
    return function


def _device_bytes() -> int:
    """Memory of the device: its own, or this machine's."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    return limit or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def write_png(image: np.ndarray, path: Path, made: str) -> None:
    """Writes an image uint8 `[H, W, 3]` that says how it was made; a file of that name is there as a whole or not at all."""
    info = PngImagePlugin.PngInfo()
    info.add_text(_MADE, made)
    with replacing(path) as file:
        Image.fromarray(image).save(file, "png", pnginfo=info)


def is_foreign(path: Path) -> bool:
    """Whether an image is there that was not made here; one that is cut short may have been."""
    if not path.exists() or _made(path) is not None:
        return False
    try:
        open_image(path)
    except UserError:
        return False
    return True


def _made(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            return image.info.get(_MADE)
    except OSError:  # not there, or not an image
        return None
