"""Synthesizes while somebody paints: one layout at a time, and of each page only the newest layout waits."""

import asyncio
import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from launch.painting.painted_run import PaintedRun

MOST_WAITING = 32
"""The number of pages that may wait at the same time."""

Rendered = tuple[np.ndarray, np.ndarray]
"""Images uint8 `[k, h, w, 3]`, and the layout `[h, w]` that they were made of."""


class Superseded(Exception):
    """A newer layout of the same page has taken the place of this one."""


class Busy(Exception):
    """Too many pages wait."""


@dataclasses.dataclass(frozen=True)
class _Waiting:
    run: PaintedRun
    layout: np.ndarray
    rendered: asyncio.Future[Rendered]


class Renders:
    """Renders layouts in turn. Each page has one turn after the other, however many layouts it sends."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "render")
        self._waiting: dict[str, _Waiting] = {}  # by the page, in the order of their turns
        self._worker: asyncio.Task[None] | None = None

    async def render(self, page: str, run: PaintedRun, layout: np.ndarray) -> Rendered:
        """Synthesizes from a layout when it is the page's turn.

        Raises:
          Superseded: if the page sends a newer layout in the meantime.
          Busy: if too many pages wait.
        """
        rendered: asyncio.Future[Rendered] = asyncio.get_running_loop().create_future()
        older = self._waiting.get(page)
        if older is None and len(self._waiting) >= MOST_WAITING:
            raise Busy
        self._waiting[page] = _Waiting(run, layout, rendered)  # an older one hands over its turn
        if older and not older.rendered.done():
            older.rendered.set_exception(Superseded())
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await rendered

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            job = self._waiting.pop(next(iter(self._waiting)))
            if job.rendered.done():  # its request was cancelled
                continue
            try:
                result = await loop.run_in_executor(self._thread, job.run.images, job.layout)
            except Exception as error:
                if not job.rendered.done():
                    job.rendered.set_exception(error)
            else:
                if not job.rendered.done():
                    job.rendered.set_result(result)
