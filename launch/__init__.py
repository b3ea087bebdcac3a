"""The commands; `python -m launch` lists them."""

import contextlib
import os
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[1])


def prepare() -> None:
    """Prepares the process of a command, before it imports what takes long, or what the working folder may hide.

    Of several modules of one name, that of this project counts, then Python's or an installed one, and at last one in the
    working folder, which `python -m` puts first.
    """
    working = ""
    with contextlib.suppress(FileNotFoundError):  # the folder has been removed
        working = os.getcwd()
    front = [folder for folder in sys.path[:2] if folder not in ("", working, _ROOT)]
    sys.path[:] = [_ROOT, *front, *sys.path[2:], working]
    from launch.common import interruption, standard_streams

    interruption.leave_at_ctrl_c()
    standard_streams.set_up()


if sys.argv[:1] == ["-m"]:  # `python -m launch.NAME` has imported this file, and looks for NAME next
    prepare()
elif sys.path[0] != _ROOT:  # the commands import the configs.py beside launch/, also where the working folder holds another one
    sys.path.insert(0, _ROOT)
