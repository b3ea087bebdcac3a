"""Reads JSON files, so that whatever may be wrong in a file is told with its place.

JSON is UTF-8 text. Here it must be of a bounded size, nest a few dozen levels deep, and name nothing twice, since Python would
silently take the last. NaN and infinities, which are no JSON, are read only where they are asked for.
"""

import collections
import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from crn_jax.checksums import unsealed
from crn_jax.errors import UserError, some

_BYTES = 1 << 26
_LINE_BYTES = 1 << 20
_DEPTH = 50


def read_json(path: str | Path, remedy: str, form: Any = dict, *, nan: bool = False, sealed: bool = True) -> Any:
    """Reads a JSON file, and checks the form of its value, as `check` does, and its own checksum, if it has one.

    Args:
      path: the file.
      remedy: a sentence that tells what to do with a damaged file.
      form: what the value must be; an object unless another form is given.
      nan: allows NaN and infinities.
      sealed: whether crn_jax writes such files, with their checksum. The file of a person may end with
        what looks like a damaged one.

    Raises:
      UserError: if the file cannot be read, or holds something else. The message names file, place and remedy.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror}). {remedy}") from error
    with _in_words(path, remedy):
        value = _parse(data, nan)
        try:
            value = unsealed(value) if sealed and isinstance(value, dict) else value
        except ValueError as error:
            raise ValueError(f"the file is damaged: {error}.") from error
        check(value, form)
        return value


def parse_json(data: bytes | str, where: str | Path, remedy: str, form: Any = dict, *, nan: bool = False) -> Any:
    """Returns the value of a JSON text, as `read_json` does. `nan` allows NaN and infinities.

    Raises:
      UserError: if it is something else. The message begins with `where`, and names place and remedy.
    """
    with _in_words(where, remedy):
        value = _parse(data, nan)
        check(value, form)
        return value


@contextlib.contextmanager
def _in_words(where: str | Path, remedy: str) -> Iterator[None]:
    """Turns what is wrong with a JSON text into a `UserError`."""
    try:
        yield
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where}: {place}: this is not JSON ({error.msg}). {remedy}".rstrip()) from error
    except UnicodeDecodeError as error:
        text = f"this is no text in UTF-8, so no JSON ({error.reason} at byte {error.start})"
        raise UserError(f"{where}: {text}. {remedy}".rstrip()) from error
    except RecursionError as error:
        raise UserError(f"{where}: the JSON is nested too deeply. {remedy}".rstrip()) from error
    except ValueError as error:
        raise UserError(f"{where}: {error} {remedy}".rstrip()) from error


def read_sound_lines(
    path: Path,
    form: Any,
    note: Callable[[str], None] = lambda text: None,
    possible: Callable[[Any], bool] = lambda line: True,
) -> list[Any]:
    """Returns the lines of a log that a program writes as JSON lines; none if there is no file.

    A last line that was cut short by a kill is left out. Lines that are damaged are left out as well, such as those that a loss
    of power filled with zeros. `note` is then called with a sentence that says which.

    Args:
      path: the file.
      form: what every line must be, as `check` takes it.
      note: a function that is called if lines are damaged.
      possible: a function that says whether a line of this form makes sense. It is damaged if not.

    Raises:
      UserError: if the file cannot be read.
    """
    try:
        lines = list(read_json_lines(path, form))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror}).") from error
    sound = {number: line for number, line in lines if line is not None and possible(line)}
    if damaged := [str(number) for number, _ in lines if number not in sound]:
        several = f"{len(damaged)} lines are" if len(damaged) > 1 else "1 line is"
        note(f"{path}: {several} damaged and left out: {some(damaged)}.")
    return list(sound.values())


def read_json_lines(path: str | Path, form: Any = dict) -> Iterator[tuple[int, Any]]:
    """Yields each line of a file of JSON lines with its number, counted from 1, and None for a line that is damaged.

    A last line without a line break, which was cut short as it was written, is left out. NaN and infinities are allowed.
    """
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(_LINE_BYTES):
            number += 1
            whole = line.endswith(b"\n")
            while not line.endswith(b"\n") and (line := file.readline(_LINE_BYTES)):
                pass  # the rest of a line that is too long
            if not whole and not line:
                return
            try:
                yield number, parse_json(line, "", "", form, nan=True) if whole else None
            except UserError:
                yield number, None


def check(value: Any, form: Any, name: str = "") -> None:
    """Checks that a value has a form.

    Args:
      value: the value of a JSON text.
      form: a type; float stands for every number. A tuple of forms, any of which will do; None stands for null. A list with one
        form, for a list of such. A dict of forms by name, for an object: a name that ends in `?` may be missing, and the name
        `*` stands for all others, which else may be anything.
      name: the name of the value in messages.

    Raises:
      ValueError: if the value has another form. The message names the field and its value.
    """
    if isinstance(form, tuple):
        if not any(_fits(value, one) for one in form):
            raise _wrong(name, form, value)
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise _wrong(name, list, value)
        for i, item in enumerate(value):
            check(item, form[0], f"{name}[{i}]")
    elif isinstance(form, dict):
        if not isinstance(value, dict):
            raise _wrong(name, dict, value)
        names = {key.removesuffix("?"): one for key, one in form.items()}
        if missing := [key for key in form if key[-1] not in "?*" and key not in value]:
            raise ValueError(f"{_inside(name, missing[0])} is missing.")
        for key, item in value.items():
            if key in names or "*" in form:
                check(item, names.get(key, form.get("*")), _inside(name, key))
    elif not _fits(value, form):
        raise _wrong(name, form, value)


def shown(value: Any) -> str:
    """Returns a value as JSON, shortened to 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _parse(data: bytes | str, nan: bool) -> Any:
    if len(data) > _BYTES:
        raise ValueError(f"the file has over {_BYTES:,} bytes, which is too large for what it is.")
    # Some editors of Windows begin a file with a byte order mark.
    text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
    value = json.loads(text, object_pairs_hook=_object, parse_constant=None if nan else _refused, parse_int=_whole)
    _check_depth(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        [(key, _)] = collections.Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{shown(key)} is there twice. Remove one.")
    return fields


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON.")


def _whole(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"a number has {len(digits):,} digits.")
    return int(digits)


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEPTH):
        if not level:
            return
        inside = (item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer))
        level = [item for item in inside if isinstance(item, dict | list)]
    raise RecursionError


_KINDS: dict[Any, str] = {
    dict: "an object in braces",
    list: "a list",
    str: "a text in quotes",
    bool: "true or false",
    None: "null",
}
_KINDS |= {int: "a whole number", float: "a number"}


def _fits(value: Any, form: Any) -> bool:
    if form is object:
        return True
    if form is None or isinstance(value, bool):
        return value is form if form is None else form is bool
    if form is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, form)


def _wrong(name: str, form: Any, value: Any) -> ValueError:
    kinds = " or ".join(_KINDS[one] for one in (form if isinstance(form, tuple) else (form,)))
    return ValueError(f"{name + ': ' if name else ''}{kinds} is needed, got {shown(value)}.")


def _inside(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
