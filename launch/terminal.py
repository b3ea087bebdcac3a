"""What the commands share: the console, errors without a traceback, the compilation cache."""

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import absl.logging
import jax
import pooch
from rich.console import Console

from crn_jax.errors import UserError
from launch.processes import TRY_AGAIN

console = Console(highlight=False, soft_wrap=True)


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Sets up a command's process, and turns a `UserError` into a message and exit status 2.

    One of several processes leaves at once, without waiting for the others, who then notice: it exits with status 75 where
    another was lost.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax logs each failure many times over before it raises it
    logging.getLogger("jax").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="orbax")
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(Path(pooch.os_cache("crn_jax")) / "xla")
    jax.config.update("jax_compilation_cache_dir", cache)
    try:
        yield
    except UserError as error:
        show_error(str(error))
        _leave(2)
    except Exception as error:
        if jax.distributed.is_initialized():
            traceback.print_exc()
            if _lost_another(error):
                show_error(
                    "Another process of this run has ended, or cannot be reached; its own output says why. This one ends as "
                    "well. The same command, on as many processes as there are, goes on from the last checkpoint."
                )
                _leave(TRY_AGAIN)
            _leave(1)
        raise


def show_error(message: str) -> None:
    """Prints an error, with the number of the process where there are several."""
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    console.quiet = False
    console.print(f"[bold red]error{f' in process {jax.process_index()}' if several else ''}:[/] ", end="")
    console.print(message, markup=False)


def _lost_another(error: Exception) -> bool:
    """Collectives fail with errors of many types; what they have in common is where they come from."""
    text = f"{type(error).__name__} {error}"
    return any(sign in text for sign in ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination", "ABORTED"))


def _leave(status: int) -> None:
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # not by way of JAX's shutdown, which waits for the others, who may be waiting for this one
    sys.exit(status)
