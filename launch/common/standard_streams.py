"""The streams of a command's process, which take every text on every terminal, pipe and disk.

A character that a terminal's encoding lacks is replaced, and a stream that cannot be written to is not written to any more. A
training of days does not end because of a line that nobody can read.
"""

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, TextIO

ERRORS = "crn_jax.terminal"
"""The name of the error handler that replaces what an encoding lacks (see `codecs.register_error`)."""

_PLAIN = {
    **{"λ": "lambda", "Σ": "sum", "Φ": "Phi", "·": "*", "×": "x", "−": "-", "±": "+-", "²": "^2", "…": "...", "█": "#"},
    **dict.fromkeys("─━═╸╺╌┄", "-"),
    **dict.fromkeys("│┃║╎┆", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯╔╗╚╝╠╣╦╩╬┏┓┗┛┡┩┢┪┣┫┳┻╋╇╈", "+"),
}


def silence(descriptor: int) -> None:
    """Discards from now on what is written to a file descriptor."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replaces what an encoding lacks: our own signs by words, a byte of a file's name by that byte, all else by its number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    parts = bytearray()
    for character in error.object[error.start : error.end]:
        if "\udc80" <= character <= "\udcff":  # the file system's encoding could not decode this byte
            parts.append(ord(character) - 0xDC00)
        else:
            parts += _PLAIN.get(character, character.encode("ascii", "backslashreplace").decode()).encode()
    return bytes(parts), error.end


class _Lasting(io.FileIO):
    """A standard stream that goes on into nowhere when it cannot be written to any more."""

    def write(self, data: Any) -> int:
        """Writes all bytes, or discards them and those that follow. A reason that is no fault of the reader's is told once.

        Another program may have made the terminal or the pipe non-blocking. Then it waits until there is room.
        """
        try:
            rest = memoryview(data).cast("B")
            while rest:
                written = super().write(rest)
                if written is None:
                    select.select([], [self], [])
                rest = rest[written or 0 :]
            return len(data)
        except OSError as error:
            silence(self.fileno())
            if error.errno not in (errno.EPIPE, errno.EIO):  # the reader, or the terminal, is gone
                told = f"What follows cannot be shown: {self.name} cannot be written ({error.strerror}).\n"
                with contextlib.suppress(OSError):
                    os.write(3 - self.fileno(), told.encode())
            return len(data)


def set_up() -> None:
    """Makes stdout and stderr of this process take every text, whatever they are connected to."""
    codecs.register_error(ERRORS, replaced)
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:  # a closed stream's number would go to the next file that is opened
        pass
    os.close(free)
    for name, number in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, _lasting(getattr(sys, name), name, number))


def _lasting(stream: TextIO | None, name: str, number: int) -> TextIO:
    """Returns a stream that takes the place of Python's own, which is None if it was closed before Python started."""
    raw = _Lasting(number, "w", closefd=False)
    raw.name = f"<{name}>"
    if not isinstance(stream, io.TextIOWrapper):
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", ERRORS)
    stream.flush()
    lines, at_once = stream.line_buffering, stream.write_through  # `python -u` writes at once
    buffer: Any = raw if at_once else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, stream.encoding, ERRORS, line_buffering=lines, write_through=at_once)
