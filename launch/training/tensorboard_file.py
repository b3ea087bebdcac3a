"""The file of numbers and pictures that TensorBoard shows."""

import time
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog


class TensorBoardFile:
    """A new file in a folder, for a run that goes on from `first_step`. It hides later steps of an earlier try.

    tensorboardX's SummaryWriter would not do: its thread dies of a full disk, and a later call then blocks for ever.
    """

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(exist_ok=True)
        self._events = EventsWriter(str(folder / "events"))
        self._add(first_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Writes numbers by their names, and brings the file to disk."""
        for name, value in numbers.items():
            self._add(step, summary=summary.scalar(name, value))
        self._events.flush()

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture, uint8 `[H, W, 3]`."""
        self._add(step, summary=summary.image(name, image, dataformats="HWC"))

    def _add(self, step: int, **content) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))

    def close(self) -> None:
        """Writes out what is still buffered."""
        self._events.close()
