"""Synthesizes from many layouts, on all devices of this process.

While one batch is synthesized, the next one is read and the one before it is written. Each device takes whole images. If an
image does not fit into the memory of one device, several devices take a band of its rows each.
"""

import collections
import functools
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from crn_jax.data.examples import full_batches
from crn_jax.data.instances import numbered, read_instances
from crn_jax.errors import UserError
from crn_jax.run import Run
from crn_jax.settings import ShardingConfig
from crn_jax.sharding import make_mesh
from crn_jax.synthesize import abstract_ids, compile_synthesize, synthesize_on
from launch.common.output import made_by
from launch.common.profiler import Profiler
from launch.cost.dry_run import total_bytes
from launch.synthesis.layouts import Fitted

MAX_BATCH = 16
"""The default batch size on an accelerator. It is smaller for large layouts: a batch has at most 1024 * 2048 pixels."""

_PIXELS = 1024 * 2048
_SHEET = "synthesized, "  # how the note in a contact sheet begins
_NOTE = re.compile(rf"{_SHEET}.*|.*, step \d+; [0-9a-f]+", re.DOTALL)

Item = TypeVar("Item")
Result = TypeVar("Result")


class Job(NamedTuple):
    """One layout to synthesize from."""

    path: Path
    """The file of the layout."""
    instances: Path | None
    """The file of its instances, if the run takes instance boundaries."""
    fitted: Fitted
    targets: list[Path]
    """The images to write."""
    made: str
    """A note in each image that says how it was made. It tells whether an existing image is up to date."""

    @property
    def is_done(self) -> bool:
        """Whether all images exist already, whole and made from the same layout in the same way."""
        return all(made_by(target) == (self.made, True) for target in self.targets)

    def count_replaced(self) -> int:
        """Counts the images that launch.synthesize made in another way, and that this job replaces."""
        notes = (made_by(target)[0] for target in self.targets)
        return sum(note != self.made and _is_own(note) for note in notes)


class Synthesized(NamedTuple):
    """The images of one job, which the device may still be computing."""

    job: Job
    ids: tuple[np.ndarray, ...]
    """The layout `[H, W]` as the generator got it, and its instances if the generator takes instance boundaries."""
    batch: "Batch"
    """The images of the whole batch."""
    row: int
    """The row of the batch that belongs to this job."""

    def images(self) -> np.ndarray:
        """Waits for the images, and returns them: uint8 `[k, H, W, 3]`."""
        return self.batch.images()[self.row]


class Batch:
    """The images `[B, k, H, W, 3]` of a batch, which several threads write. JAX does not let them all fetch one array."""

    def __init__(self, on_devices: jax.Array):
        self._on_devices, self._fetching = on_devices, threading.Lock()

    def images(self) -> np.ndarray:
        """Waits for the images, and returns them: uint8 `[B, k, H, W, 3]`."""
        with self._fetching:
            return np.asarray(self._on_devices)


def synthesize_all(
    run: Run, jobs: list[Job], batch_size: int | None, write: Callable[[Synthesized], Result], profiler: Profiler
) -> Iterator[Result]:
    """Synthesizes from all layouts, in batches of one size, and calls `write` for each job in a thread.

    Yields:
      The results of `write`.

    Raises:
      UserError: if a layout cannot be read, or if the device has too little memory for a size. The message names it.
    """

    def read(job: Job) -> tuple[Job, tuple[np.ndarray, ...]]:
        layout = job.fitted.layout(run.label_space.read(job.path), run.label_space)
        if job.instances is None:
            return job, (layout,)
        instances = read_instances(job.instances, job.path, job.fitted.shape)
        return job, (layout, numbered(job.fitted.instances(instances), job.instances))

    by_size: dict[tuple[int, int], list[Job]] = {}
    for job in jobs:
        by_size.setdefault(job.fitted.size, []).append(job)
    numbers = itertools.count(1)
    with profiler, ThreadPoolExecutor(os.cpu_count()) as pool:
        for size, these in by_size.items():
            function, count = compile_for(run, min(batch_size or _default_batch(size), len(these)), size, len(these))
            layouts = ahead(pool, read, these, 2 * count)
            yield from ahead(pool, write, _batches(function, count, layouts, profiler, numbers), 2 * count)


def _batches(
    function: Callable[..., jax.Array],
    count: int,
    layouts: Iterator[tuple[Job, tuple[np.ndarray, ...]]],
    profiler: Profiler,
    numbers: Iterator[int],
) -> Iterator[Synthesized]:
    images: Batch | None = None
    for batch, filled in full_batches(layouts, count):  # else a smaller last batch would compile the function again
        with profiler.step(next(numbers), images.images if images else None):
            images = Batch(function(*(np.stack(arrays) for arrays in zip(*(ids for _, ids in batch)))))
        yield from (Synthesized(job, ids, images, i) for i, (job, ids) in enumerate(batch[:filled]))


def _default_batch(size: tuple[int, int]) -> int:
    """Returns the default batch size: 1 on a CPU, because one image keeps it busy and fills its caches."""
    return 1 if jax.devices()[0].platform == "cpu" else max(1, min(MAX_BATCH, _PIXELS // (size[0] * size[1])))


def ahead(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
    """Yields the function's results in order. Threads compute up to `count` results ahead."""
    pending: collections.deque[Future[Result]] = collections.deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > count:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def compile_for(run: Run, each: int, size: tuple[int, int], total: int) -> tuple[Callable[..., jax.Array], int]:
    """Compiles the function from layouts `[B, H, W]`, and perhaps instances, to images for all devices of this process.

    Args:
      run: the run.
      each: the number of layouts that a device takes at a time.
      size: the height and width of the layouts.
      total: the number of layouts in all. More devices than layouts are of no use.

    Returns:
      the function, and the size B of its batches.

    Raises:
      UserError: if the size does not fit the network, or into the devices' memory, though all of them share an image.
    """
    shape, devices, generator = f"{size[0]}x{size[1]}", jax.local_devices(), run.generator
    for rows in (n for n in range(1, len(devices) + 1) if len(devices) % n == 0 and size[0] % n == 0):
        groups = min(len(devices) // rows, -(-total // each))
        count, dtype = each * groups, np.dtype(run.label_space.dtype)
        mesh = make_mesh(ShardingConfig((groups, rows)), count, size[0], devices)
        try:
            if mesh.size == 1:
                function = compile_synthesize(generator, run.params, (count, *size), dtype)
                params = jax.device_put(run.params, devices[0])
            else:
                split = synthesize_on(mesh, generator)
                function = split.compile(run.params, *abstract_ids(generator, (count, *size), dtype))
                params = split.place(run.params)
        except ValueError as error:
            raise UserError(f"Images of {shape} cannot be made: {error}") from error
        share = mesh.size if devices[0].platform == "cpu" else 1  # CPU devices have one memory
        needed, there = total_bytes(function.memory_analysis()), device_bytes() // share
        if needed <= there:
            return functools.partial(function, params), count
    together = f"{rows} devices together take {each} at a time" if rows > 1 else f"{each} at a time"
    raise UserError(
        f"{together}, images of {shape} need {needed / 1e9:.1f} GB, but {devices[0].device_kind} has {there / 1e9:.1f} GB. "
        f"Tiles would not fit together, because layers are normalized over the whole image. "
        f"Give {'a smaller --batch_size, ' * (each > 1)}smaller layouts, or --fit run."
    )


def device_bytes() -> int:
    """Returns the memory in bytes of the device, or of this machine if the device has none of its own."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return limit or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def image_note(name: str, step: int, digest: str) -> str:
    """Returns the note in an image: the run's experiment and step, and a digest of all that the image depends on."""
    return f"{name}, step {step}; {digest}"


def sheet_note(name: str) -> str:
    """Returns the note in the contact sheet of this name."""
    return f"{_SHEET}{name}"


def is_foreign(path: Path) -> bool:
    """Tells whether `path` is anything but a picture, whole or damaged, that launch.synthesize made.

    Layouts of launch.segment have a note, too, and are foreign: to make one again may take a photograph that is gone.
    """
    return os.path.lexists(path) and not _is_own(made_by(path)[0])


def _is_own(note: str | None) -> bool:
    """Tells whether a note is one of launch.synthesize."""
    return note is not None and _NOTE.fullmatch(note) is not None
