"""The command `crn`, which a wheel installs: `crn --help` lists its commands.

The code of the commands lies beside this package in a clone, and in `crn_jax/_commands` in a wheel. It becomes importable as
`launch` and `configs` in this process alone, so that `crn_jax` is the only module that a wheel adds to an environment.
"""

import importlib
import sys
from pathlib import Path


def main() -> None:
    """Runs the command that the command line names."""
    package = Path(__file__).resolve().parent
    installed = package / "_commands"
    sys.path.insert(0, str(installed if installed.is_dir() else package.parent))
    importlib.import_module("launch").prepare()
    importlib.import_module("launch.__main__").main()


if __name__ == "__main__":
    main()
