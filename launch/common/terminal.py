"""What all commands share: the console, errors without a traceback, and bars that show progress.

This file imports no JAX, so that help and wrong options need not wait for it.
"""

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import rich.progress
import rich.text
from rich.console import Console

from crn_jax.data.examples import Source
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.sources import DataConfig, Split, open_source
from crn_jax.errors import UnrepeatableStep, UserError
from launch.common.exit_status import FAILED, INTERRUPTED, LOST, UNREPEATABLE, USER_ERROR
from launch.common.interruption import WORD, leave, tidying_up
from launch.common.names import as_typed

if TYPE_CHECKING:
    from jax.sharding import Mesh

Item = TypeVar("Item")


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        """Prints; a text that mentions a command names it as a person types it here."""
        super().print(*(as_typed(text) if isinstance(text, str) else text for text in objects), **options)

    @property
    def encoding(self) -> str:
        """The encoding of stdout, by which rich chooses the signs that it draws with."""
        return (getattr(self.file, "encoding", None) or "utf-8").lower()


# A string is shown as it is, in tables, too: a name with brackets or colons is no markup and no emoji. `Text` has styles.
console = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def progress_bar(*more: rich.progress.ProgressColumn) -> rich.progress.Progress:
    """Returns a bar that is gone when it is done, with further columns. It shows descriptions as they are."""
    words = rich.progress.TextColumn("{task.description}", style="progress.description", markup=False)
    columns = [words, *rich.progress.Progress.get_default_columns()[1:], *more]
    return rich.progress.Progress(*columns, console=console, transient=True)


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yields the items, and shows how many of `total` are done."""
    with progress_bar() as progress:
        yield from progress.track(items, total, description=description)


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Turns errors that a person can mend into a message and an exit status.

    Such errors are a `UserError`, what the operating system refuses to do with a file, such as one whose name is too long, and
    a platform in JAX_PLATFORMS that is not there. exit_status.py lists the statuses. If there are several processes, ending.py
    ends all of them with the status of the first that fails.
    """
    try:
        with tidying_up():
            yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, leave)  # a second one does not wait for threads that are still busy
        console.quiet = False
        console.print(WORD)
        _leave(INTERRUPTED)
    except Exception as error:
        if _one_of_several() and _is_lost_contact(error):
            from launch.common.ending import end_all, let_news_come_first

            let_news_come_first()
            message = (
                "Another process of this run has ended, or the connection to it has failed. The output of that process says "
                "why. This process ends, too. The same command goes on from the last checkpoint, on any number of devices and "
                f"processes. ({error})"
            )
            show_error(message)
            sys.stdout.flush()
            sys.stderr.flush()
            end_all(LOST, message, lost=1)  # others may be waiting for this process, and would not notice the loss
        if isinstance(error, UserError) or is_of_the_system(error):
            show_error(str(error))
            _leave(UNREPEATABLE if isinstance(error, UnrepeatableStep) else USER_ERROR, str(error))
        if isinstance(error, RuntimeError | AssertionError) and (problem := missing_platform(error)):
            show_error(problem)
            sys.exit(USER_ERROR)
        if not _one_of_several():
            raise
        sys.stderr.write(traceback.format_exc())  # at once: lines of other processes must not come between
        _leave(FAILED, f"An error in the program, whose traceback that process has printed: {error!r}"[:2000])


def is_of_the_system(error: Exception) -> bool:
    """Tells whether the operating system refused to do something with a file that it names, or has no room for it."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
    return isinstance(error, OSError) and (error.filename is not None or error.errno in full)


def missing_platform(error: Exception | None = None) -> str | None:
    """Returns a sentence that says which platform in JAX_PLATFORMS is not there; None if JAX has devices, or was not told.

    JAX tells of a platform that follows another one, as in cpu,tpu, only once. `error` is what it raised then.
    """
    import jax

    asked = jax.config.values["jax_platforms"]
    if not asked:
        return None
    try:
        if error and "Unable to initialize backend" in str(error):
            raise error
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts if the plug-in of a platform that it knows is not installed
        reason = f" JAX says: {error}" if str(error) else ""
        return (
            f"JAX finds no devices of the platform '{asked}' that the variable JAX_PLATFORMS names. Unset the variable, or "
            f"install JAX for that platform.{reason}"
        )
    return None


def show_error(message: str) -> None:
    """Prints an error. If there are several processes, the number of this one comes first."""
    console.quiet = False
    who = ""
    if _one_of_several():
        import jax

        who = f" in process {jax.process_index()}"
    # One print: another thread may end its progress bar meanwhile, whose line must not come between.
    console.print(rich.text.Text.assemble((f"error{who}: ", "bold red"), as_typed(message)))


def opened(
    data: DataConfig,
    split: Split,
    size: tuple[int, int],
    label_space: LabelSpace | None = None,
    instances: bool = False,
) -> Source:
    """Opens a split of the data by `open_source`, with a progress bar while they are copied, or their cache is built."""
    with progress_bar() as progress:
        task = progress.add_task(f"preparing {split}", visible=False)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, visible=True)

        return open_source(data, split, size, show, label_space, instances)


def _one_of_several() -> bool:
    """Tells whether this process has joined others. Until JAX is imported, it has not."""
    if "jax" not in sys.modules:
        return False
    from launch.common.processes import several_processes

    try:
        return several_processes()
    except (RuntimeError, AssertionError):  # JAX has no devices, which `missing_platform` tells
        return False


def _is_lost_contact(error: BaseException) -> bool:
    """Tells whether an error, or its cause, comes from a lost process.

    Collectives and the coordination service raise errors of many types, which only their text tells apart.
    """
    signs = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")
    return any(sign in str(error) for sign in signs) or (error.__cause__ is not None and _is_lost_contact(error.__cause__))


def _leave(status: int, message: str | None = None) -> None:
    """Ends the process with a status. With a message, all processes of the run end with it; else JAX notices the loss."""
    if _one_of_several():
        from launch.common.ending import end_all

        sys.stdout.flush()
        sys.stderr.flush()
        if message is not None:
            end_all(status, message)
        os._exit(status)  # without JAX's shutdown, which waits for processes that may be waiting for this one
    sys.exit(status)


def describe_devices(mesh: "Mesh") -> str:
    """Describes a mesh in words, such as '8 x NVIDIA H100 80GB HBM3 (data 2 x spatial 4, 2 processes)'."""
    devices = mesh.devices.flat
    split = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    processes = len({device.process_index for device in devices})
    several = f", {processes} processes" if processes > 1 else ""
    return f"{mesh.size} x {devices[0].device_kind} ({split}{several})"
