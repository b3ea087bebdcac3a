"""The commands' names, what each does, and how a person types them: `crn train`, or `python -m launch.train` in a clone."""

import ast
import importlib.metadata
import re
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
