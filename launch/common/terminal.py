"""What all commands share: the console, errors without a traceback, the compilation cache, and a bar while data is opened."""

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
from launch.common.ending import end_all
from launch.common.exit_status import FAILED, LOST, USER_ERROR
from launch.common.names import as_typed
from launch.common.processes import several_processes


def silence(descriptor: int) -> None:
    """Discards from now on what is written to a file descriptor."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        """Prints; a text that mentions a command names it as a person types it here."""
        super().print(*(as_typed(text) if isinstance(text, str) else text for text in objects), **options)

    def on_broken_pipe(self) -> None:
        """Goes on without output when its reader is gone, where rich would end the training."""
        silence(sys.stdout.fileno())


console = _Console(highlight=False, soft_wrap=True)


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Sets up a command's process, and turns errors that a person can mend into a message and an exit status.

    Such errors are a `UserError`, a file that may not be read or written, and a platform in JAX_PLATFORMS that is not there.
    exit_status.py lists the statuses. If there are several processes, ending.py ends all of them with the status of the first
    that fails.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax logs each failure many times before it raises it
    logging.getLogger("jax").setLevel(logging.ERROR)
    for name in ("xla_bridge", "distributed"):  # they also tell of a GPU that is not used
        logging.getLogger(f"jax._src.{name}").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="orbax")
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(Path(pooch.os_cache("crn_jax")) / "xla")
    jax.config.update("jax_compilation_cache_dir", cache)
    try:
        yield
    except Exception as error:
        if several_processes() and _is_lost_contact(error):
            show_error(
                f"Another process of this run has ended, or the connection to it has failed. The output of that process says "
                f"why. This process ends, too. The same command goes on from the last checkpoint, on any number of devices and "
                f"processes. ({error})"
            )
            _leave(LOST)
        if isinstance(error, UserError | PermissionError):
            show_error(str(error))
            _leave(USER_ERROR, str(error))
        if isinstance(error, RuntimeError | AssertionError) and (problem := missing_platform()):
            show_error(problem)
            sys.exit(USER_ERROR)
        if not several_processes():
            raise
        traceback.print_exc()
        _leave(FAILED, f"An error in the program, whose traceback that process has printed: {error!r}"[:2000])


def missing_platform() -> str | None:
    """Returns a sentence that says which platform in JAX_PLATFORMS is not there; None if JAX has devices, or was not told."""
    asked = jax.config.values["jax_platforms"]
    if not asked:
        return None
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts if the plug-in of a platform that it knows is not installed
        reason = f" JAX says: {error}" if str(error) else ""
        return (
            f"JAX finds no devices of the platform '{asked}' that the variable JAX_PLATFORMS names. Unset the variable, or "
            f"install JAX for that platform.{reason}"
        )
    return None


def keep_compiled_in(folder: Path) -> None:
    """Makes several processes keep what they compile in a run's folder, unless JAX_COMPILATION_CACHE_DIR says where.

    Only the first process writes to the cache. If the processes had different caches, one of them could compile a program
    alone, and on GPUs it would then wait for hours for the first to tell it the fastest kernels.
    """
    if several_processes() and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))


def show_error(message: str) -> None:
    """Prints an error. If there are several processes, the number of this one comes first."""
    console.quiet = False
    console.print(f"[bold red]error{f' in process {jax.process_index()}' if several_processes() else ''}:[/] ", end="")
    console.print(message, markup=False)


def opened(data: DataConfig, split: Split, size: tuple[int, int], label_space: LabelSpace | None = None) -> Source:
    """Opens a split of the data by `open_source`, with a progress bar if its cache has to be built."""
    with rich.progress.Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"caching {split}", visible=False)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, visible=True)

        return open_source(data, split, size, show, label_space)


def _is_lost_contact(error: BaseException) -> bool:
    """Tells whether an error, or its cause, comes from a lost process.

    Collectives and the coordination service raise errors of many types, which only their text tells apart.
    """
    signs = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")
    return any(sign in str(error) for sign in signs) or (error.__cause__ is not None and _is_lost_contact(error.__cause__))


def _leave(status: int, message: str | None = None) -> None:
    """Ends the process with a status. With a message, all processes of the run end with it; else JAX notices the loss."""
    if several_processes():
        sys.stdout.flush()
        sys.stderr.flush()
        if message is not None:
            end_all(status, message)
        os._exit(status)  # without JAX's shutdown, which waits for processes that may be waiting for this one
    sys.exit(status)


def describe_devices(mesh: Mesh) -> str:
    """Describes a mesh in words, such as '8 x NVIDIA H100 80GB HBM3 (data 2 x spatial 4, 2 processes)'."""
    devices = mesh.devices.flat
    split = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    processes = len({device.process_index for device in devices})
    several = f", {processes} processes" if processes > 1 else ""
    return f"{mesh.size} x {devices[0].device_kind} ({split}{several})"
