"""The command `crn`, which a wheel brings: `crn --help` lists what it does.

The commands lie beside this package in a clone, and in `crn_jax/_commands` where a wheel has put them. They become importable
as `launch` and `configs` in this process alone, so that an environment gets no module of ours but `crn_jax`.
"""

import importlib
import sys
from pathlib import Path


def main() -> None:
    """Runs the command that the command line names."""
    package = Path(__file__).resolve().parent
    installed = package / "_commands"
    sys.path.insert(0, str(installed if installed.is_dir() else package.parent))
    importlib.import_module("launch.__main__").main()


if __name__ == "__main__":
    main()
