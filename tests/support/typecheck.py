"""The run-time checker of annotations: beartype, for which an `int` is a `float`, as type checkers have it (PEP 484)."""

from collections.abc import Callable

from beartype import BeartypeConf, beartype


def checked(function: Callable) -> Callable:
    """The function, which checks what it is given and returns.

    Fields of dataclasses are not checked: they hold no arrays, and tests use the dtype `float64`, which no command offers.
    """
    return function if function.__name__ == "__init__" else beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
