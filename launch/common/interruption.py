"""What Ctrl-C does: it ends a command at any moment with one word and the status `INTERRUPTED`, without a traceback.

While Python imports the modules of a command, Ctrl-C ends the process at once, because there is nothing to tidy up. From then
on Python raises KeyboardInterrupt, so that half-written files are removed, and `command` in terminal.py catches it. A training
within its loop is saved instead, by `stop_signals.Stop`.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from launch.common.exit_status import INTERRUPTED

WORD = "Interrupted."


def leave(number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
    """Ends the process at once."""
    with contextlib.suppress(OSError):
        os.write(1, f"{WORD}\n".encode())
    os._exit(INTERRUPTED)


def leave_at_ctrl_c() -> None:
    """Makes Ctrl-C end this process at once, unless it is ignored here, as it is for what a shell runs in the background."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


@contextlib.contextmanager
def tidying_up() -> Iterator[None]:
    """Within the block, Ctrl-C raises KeyboardInterrupt in a process that `leave_at_ctrl_c` has prepared."""
    before = signal.getsignal(signal.SIGINT)
    if before is not leave:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
