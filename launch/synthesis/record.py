"""What launch.synthesize has made in a folder, so that it goes on without opening the images and layouts there again.

Each process adds lines to a hidden file of its own. A line names the files that belong to a layout, with the size and the times
of each, and it holds as long as these are the same on disk. Without a line nothing is lost: the images say themselves how they
were made. A few images are looked at quickly, so only large calls leave such a file.
"""

import json
import os
from pathlib import Path
from typing import Any

FEWEST = 1000
"""The smallest number of layouts that is recorded."""


class Record:
    """The record in the folder `out`.

    Args:
      out: the folder of the images.
      means: what all images of a call depend on, besides the layouts. Lines by other means do not count.
      process: the number of this process, whose file `add` continues.
      count: the number of layouts of the call.
    """

    def __init__(self, out: Path, means: str, process: int, count: int):
        self._means, self._file = means, out / f".synthesized.{process}.jsonl"
        self._adds = count >= FEWEST
        self._known = dict[str, Any]()
        for file in out.glob(".synthesized.*.jsonl"):
            for line in file.read_text("utf-8", errors="replace").splitlines():
                try:
                    means, *known = json.loads(line)
                except ValueError:  # the process was killed while it wrote the line
                    continue
                if means == self._means:
                    self._known[json.dumps(known)] = None

    def has(self, layout: Path, images: list[Path]) -> bool:
        """Returns whether these images were made of this layout, and no file has changed since then."""
        return _line(layout, images) in self._known

    def add(self, layout: Path, images: list[Path]) -> None:
        """Records that these images were made of this layout."""
        if self._adds and (line := _line(layout, images)) is not None:
            with open(self._file, "a", encoding="utf-8") as file:
                file.write(f"\n[{json.dumps(self._means)}, {line[1:]}")


def _line(layout: Path, images: list[Path]) -> str | None:
    """Returns the names, sizes and times of files as JSON, or None if one is not there."""
    try:
        facts = [(path, path.stat()) for path in (layout, *images)]
    except OSError:
        return None
    return json.dumps([[os.path.abspath(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for path, stat in facts])
