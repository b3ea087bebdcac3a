"""What the commands share: the console, errors without a traceback, the compilation cache."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import absl.logging
import jax
import pooch
from rich.console import Console

from crn_jax.errors import UserError

console = Console(highlight=False, soft_wrap=True)


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Sets up a command's process, and turns a `UserError` into a message and exit status 2."""
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax logs each failure many times over before it raises it
    logging.getLogger("jax").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="orbax")
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(Path(pooch.os_cache("crn_jax")) / "xla")
    jax.config.update("jax_compilation_cache_dir", cache)
    try:
        yield
    except UserError as error:
        console.print("[bold red]error:[/] ", end="")
        console.print(str(error), markup=False)
        sys.exit(2)
