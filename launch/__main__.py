"""Cascaded Refinement Networks: photographs from semantic layouts.

Usage: crn COMMAND [ARGUMENT ...]
       crn COMMAND --help
"""

import importlib
import sys

from crn_jax.errors import did_you_mean
from launch.common.names import COMMANDS, summary, typed_as_crn, version


def main() -> None:
    """Runs the command that the first argument names, with the other arguments. Lists the commands if there is no argument."""
    program = "crn" if typed_as_crn() else "python -m launch"
    name, *arguments = sys.argv[1:] or [""]
    if name in ("", "-h", "--help"):
        print((__doc__ or "").replace("crn", program))
        for command in COMMANDS:
            print(f"  {command:<16}{summary(command)}")
        print(f"\n  {'--version':<16}Prints the version.")
        print(f"  --tyro-write-completion {{bash,zsh,fish}} FILE\n  {'':<16}Writes a file that completes commands in a shell.")
        sys.exit(0 if name else 2)
    if name == "--version":
        print("crn_jax", version())
    elif name == "--tyro-write-completion":
        from launch.common.completion import write_completion  # it imports all commands

        write_completion(arguments)
    elif name in COMMANDS:
        sys.argv[1:] = arguments
        importlib.import_module(f"launch.{name}").main()
    else:
        print(
            f"error: There is no command '{name}'.{did_you_mean(name, COMMANDS)} Known: {', '.join(COMMANDS)}.", file=sys.stderr
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
