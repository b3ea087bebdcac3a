"""The one error that a person can act on, and what its messages have in common."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something in the files, weights, folders or settings is wrong; the message says what, where, and the remedy."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'X'?` for a name that is misspelt, else an empty string."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
