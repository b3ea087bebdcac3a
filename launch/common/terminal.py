"""What the commands share: the console, errors without a traceback, the compilation cache, data that takes a while to open."""

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import absl.logging
import jax
import pooch
import rich.progress
from jax.sharding import Mesh
from rich.console import Console

from crn_jax.data.examples import Source
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.sources import DataConfig, Split, open_source
from crn_jax.errors import UserError
from launch.common.exit_status import FAILED, LOST, USER_ERROR
from launch.common.names import as_typed
from launch.common.processes import several_processes


def silence(descriptor: int) -> None:
    """From now on, what is written to it goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        """Prints; commands that a text mentions have the names by which a person types them here."""
        super().print(*(as_typed(text) if isinstance(text, str) else text for text in objects), **options)

    def on_broken_pipe(self) -> None:
        """Whoever read the output is gone; that is no reason to end a training, as rich would."""
        silence(sys.stdout.fileno())


console = _Console(highlight=False, soft_wrap=True)


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Sets up a command's process, and turns a `UserError`, or a file that may not be read, into a message and an exit status.

    The statuses are those of exit_status.py. One of several processes leaves at once; the others notice that it is gone.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax logs each failure many times over before it raises it
    logging.getLogger("jax").setLevel(logging.ERROR)
    for name in ("xla_bridge", "distributed"):  # such as of a GPU that is there but not used
        logging.getLogger(f"jax._src.{name}").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="orbax")
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(Path(pooch.os_cache("crn_jax")) / "xla")
    jax.config.update("jax_compilation_cache_dir", cache)
    try:
        yield
    except Exception as error:
        if several_processes() and _is_lost_contact(error):
            show_error(
                f"Another process of this run has ended, or the connection failed; its own output says why. This one ends. "
                f"The same command goes on from the last checkpoint, on any number of devices and processes. ({error})"
            )
            _leave(LOST)
        if isinstance(error, UserError | PermissionError):
            show_error(str(error))
            _leave(USER_ERROR)
        if not several_processes():
            raise
        traceback.print_exc()
        _leave(FAILED)


def keep_compiled_in(folder: Path) -> None:
    """From now on, several processes keep what they compile in a run's folder, unless the user has said where.

    Only the first of them writes it down. Were it to find something that another one does not, that one would compile alone,
    and on GPUs wait for hours for what the first has to say about the fastest kernels.
    """
    if several_processes() and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))


def show_error(message: str) -> None:
    """Prints an error, with the number of the process where there are several."""
    console.quiet = False
    console.print(f"[bold red]error{f' in process {jax.process_index()}' if several_processes() else ''}:[/] ", end="")
    console.print(message, markup=False)


def opened(data: DataConfig, split: Split, size: tuple[int, int], label_space: LabelSpace | None = None) -> Source:
    """A split of the data, as `open_source`, with a progress bar where a cache has to be built."""
    with rich.progress.Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"caching {split}", visible=False)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, visible=True)

        return open_source(data, split, size, show, label_space)


def _is_lost_contact(error: BaseException) -> bool:
    """Collectives and the coordination service raise errors of many types, which tell only by their text.

    So does a checkpoint that could not be finished without another process, as the cause of its error.
    """
    signs = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")
    return any(sign in str(error) for sign in signs) or (error.__cause__ is not None and _is_lost_contact(error.__cause__))


def _leave(status: int) -> None:
    if several_processes():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # not by way of JAX's shutdown, which waits for the others, who may be waiting for this one
    sys.exit(status)


def describe_devices(mesh: Mesh) -> str:
    """Such as '8 x NVIDIA H100 80GB HBM3 (data 2 x spatial 4, 2 processes)'."""
    devices = mesh.devices.flat
    split = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    processes = len({device.process_index for device in devices})
    several = f", {processes} processes" if processes > 1 else ""
    return f"{mesh.size} x {devices[0].device_kind} ({split}{several})"
