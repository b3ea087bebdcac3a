"""The commands' names, what each does, and how a person types them: `crn train`, or `python -m launch.train` in a clone."""

import ast
import importlib.metadata
import os
import re
import shlex
import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[1]

COMMANDS = tuple(sorted(file.stem for file in _FOLDER.glob("[a-z]*.py")))

_MENTIONED = re.compile(rf"(?<![\w./])(?:python -m )?launch\.({'|'.join(COMMANDS)})\b")


def typed_as_crn() -> bool:
    """Returns whether commands are typed as `crn NAME` here, because a wheel is installed or `crn` has started this process."""
    return _FOLDER.parent.name == "_commands" or Path(sys.argv[0]).stem == "crn"


def as_typed(text: str) -> str:
    """Returns a text with the commands that it mentions written as a person types them here."""
    return _MENTIONED.sub(r"crn \1", text) if typed_as_crn() else text


def command_line(name: str, *arguments: str | Path) -> str:
    """Returns the line that runs a command, as a person types it here. A shell reads exactly these arguments from it.

    A Path that begins with a dash is written so that it is not taken for an option.
    """
    words = (f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in arguments)
    return " ".join([as_typed(f"python -m launch.{name}"), *map(quoted, words)])


def as_argument(folder: str) -> str | Path:
    """Returns a folder as `command_line` takes it, which leaves the address of a bucket as it is."""
    from crn_jax.buckets import address_of, is_bucket  # it imports NumPy, which a list of commands does not need

    return address_of(folder) if is_bucket(folder) else Path(folder)


def quoted(word: str) -> str:
    """Returns a word as a shell reads it. Line breaks, and bytes that are no text, are written as their numbers."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = (
        f"\\{character}" if character in "\\'" else character if character.isprintable() else _octal(character)
        for character in word
    )
    return f"$'{''.join(escaped)}'"


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


def version() -> str:
    """Returns the version of crn_jax, or "(not installed)" for a clone that was not installed."""
    try:
        return importlib.metadata.version("crn_jax")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def summary(name: str) -> str:
    """Returns one line that says what a command does: the first line of its file, without the usage."""
    docstring = ast.get_docstring(ast.parse((_FOLDER / f"{name}.py").read_text("utf-8"))) or ""
    return docstring.partition("\n")[0].partition(": `")[0].rstrip(".") + "."


def slug(name: str) -> str:
    """Turns a name into the name of a folder."""
    return re.sub(r"[^\w.]+", "_", name).strip("_")
