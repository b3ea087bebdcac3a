"""The errors that a person can act on, and what their messages say of names and numbers: a suggestion, the first of many, or a
number with its noun."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """An error in files, weights, folders or settings, whose message says what is wrong, where, and what to do."""


class UnrepeatableStep(UserError):
    """The error that a training step, computed twice from the same state, gave different bits."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean 'X'?` if `name` resembles a known name, else an empty string."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def some(names: list[str]) -> str:
    """Lists the first five names, and says how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def counted(n: int, noun: str) -> str:
    """Returns a number with its noun, such as "1 photograph" or "1,000 photographs"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
