"""The server of the page: what it answers to the requests of launch/pages/paint/engine.js.

Layouts travel as the bytes of their class ids, row by row, and images as their RGB bytes, so nothing is lost on the way.
"""

import asyncio
import base64
import contextlib
import dataclasses
import functools
import json
import mimetypes
import secrets
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from crn_jax.data.labels.indexed import READINGS, AmbiguousPalette
from crn_jax.errors import UserError
from launch.painting.guard import Guard
from launch.painting.painted_run import PaintedRun, about_canvas
from launch.painting.renders import Busy, Renders, Superseded
from launch.painting.results import synthesize_command
from launch.painting.scenes import about_scenes, held_out_layouts
from launch.painting.uploads import MAX_BYTES, labelled_photograph, opened_layout
from launch.segmentation.labeller import Labeller

PAGES = Path(__file__).parents[1] / "pages"
BODY_SECONDS = 60.0
"""The time within which the body of a request has to arrive."""
_SHARED = ("layout_file.js", "png.js")  # the parts of the folder's own engine that write layout files
_SMALL = 1 << 16  # bytes of a request that holds no picture

Handler = Callable[[Request], Awaitable[Response]]


@dataclasses.dataclass(frozen=True)
class Studio:
    """What the page paints with. The first run decides classes and size of the canvas."""

    runs: Sequence[PaintedRun]
    labeller: Labeller | None = None
    renders: Renders = dataclasses.field(default_factory=Renders)
    session: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))
    """A text by which a page notices that the server was restarted."""
    _looking: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the canvas in pixels."""
        return self.runs[0].run.generator.size

    @functools.cached_property
    def _layouts(self) -> list[np.ndarray]:
        return held_out_layouts(self.runs[0].run)

    def layouts(self) -> list[np.ndarray]:
        """Returns the held-out layouts, which are read once."""
        with self._looking:
            return self._layouts

    def about(self) -> dict[str, Any]:
        """Describes runs, classes and canvas as JSON."""
        return about_canvas(self.runs[0].run) | {
            "session": self.session,
            "runs": [run.about() for run in self.runs],
            "photographs": self.labeller is not None,
            "command": True,
            "max_upload": MAX_BYTES,
        }

    def scenes(self) -> dict[str, Any]:
        """Describes what there is to start from, and the objects to stamp, as JSON."""
        return about_scenes(self.layouts(), self.runs[0].run.label_space.classes, self.size)


class Answers:
    """What the server answers: one method for each of the page's requests."""

    def __init__(self, studio: Studio):
        space = studio.runs[0].run.label_space
        self._studio, self._space = studio, space
        self._dtype = np.dtype(space.dtype).newbyteorder("<")
        self._pages = _files()
        self._decoding = asyncio.Semaphore(1)  # a large picture takes a gigabyte while it is decoded

    async def page(self, request: Request) -> Response:
        """Sends the page, or one of its files."""
        name = request.path_params.get("name", "index.html")
        if name not in self._pages:
            raise HTTPException(404, f"There is no file {name} here.")
        return Response(self._pages[name], media_type=_media_type(name))

    async def about(self, _: Request) -> Response:
        """Describes runs, classes and canvas."""
        return JSONResponse(self._studio.about())

    async def scenes(self, _: Request) -> Response:
        """Describes what there is to start from, and the objects to stamp."""
        return JSONResponse(await run_in_threadpool(self._studio.scenes))

    async def held_out(self, request: Request) -> Response:
        """Sends a held-out layout."""
        layouts, number = await run_in_threadpool(self._studio.layouts), request.path_params["number"]
        if number >= len(layouts):
            raise HTTPException(404, f"There is no held-out layout {number}.")
        return _raw(layouts[number].astype(self._dtype).tobytes())

    async def render(self, request: Request) -> Response:
        """Sends the images of the layout in the body, and the class ids that they were made from."""
        painted = self._painted(request.path_params["run"])
        layout = await self._layout(request)
        if painted.state != "ready":
            return JSONResponse({"error": painted.problem or "The run is being compiled."}, 503)
        try:
            images, given = await self._studio.renders.render(request.query_params.get("page", "")[:64], painted, layout)
        except Superseded:
            return Response(status_code=204)
        except Busy:
            return JSONResponse({"error": "Too many pages paint at the same time. Close some of them."}, 503)
        return _raw(images.tobytes() + given.astype(self._dtype).tobytes())

    async def open_file(self, request: Request) -> Response:
        """Sends the layout of the file in the body: a layout, or a photograph that the segmenter labels."""
        kind, reading = request.path_params["kind"], request.query_params.get("read")
        if kind not in ("layout", "photograph"):
            raise HTTPException(404, f"The page opens layouts and photographs, no {kind}.")
        name = Path(request.query_params.get("name", "")[:200]).name or "The file"
        if reading not in (None, *READINGS):
            raise HTTPException(400, f"A palette PNG holds {' or '.join(READINGS)}, not {reading}.")
        content = await _body(request, MAX_BYTES)
        run, labeller = self._studio.runs[0].run, self._studio.labeller
        if kind == "photograph":
            if labeller is None:
                raise HTTPException(400, "Photographs need a segmenter: start launch.paint with --segmenter RUN.")
            decode = functools.partial(labelled_photograph, run, labeller, content, name)
        else:
            decode = functools.partial(opened_layout, run, content, name, reading)
        async with self._decoding:
            layout, notes = await run_in_threadpool(decode)
        return JSONResponse({"layout": _base64(layout.astype(self._dtype)), "notes": notes})

    async def command(self, request: Request) -> Response:
        """Sends the command line that makes the image which the page shows."""
        fields = _fields(await _body(request, _SMALL))
        painted = self._painted(fields.get("run"))
        count, class_ids = painted.run.generator.num_images, {str(n): n for n in range(self._space.num_classes)}
        index: Any = fields.get("index")
        picks = fields.get("picks")
        if not isinstance(picks, dict) or not picks.keys() <= class_ids.keys():
            last = self._space.num_classes - 1
            raise HTTPException(400, f"Picks are numbers of classes, 0 to {last}, with the images for them.")
        if any(type(image) is not int or not 0 <= image < count for image in (index, *picks.values())):
            raise HTTPException(400, f"This run makes {count} images, 0 to {count - 1}.")
        chosen = {class_ids[name]: image for name, image in picks.items()}
        file = Path(str(fields.get("file", ""))[:200]).name.encode(errors="replace").decode() or "LAYOUT.png"
        return JSONResponse({"command": synthesize_command(painted, index, chosen, file)})

    def of_this_session(self, handler: Handler) -> Handler:
        """Refuses what a page asks that has not noticed that the server was started again."""

        async def checked(request: Request) -> Response:
            if request.query_params.get("session", self._studio.session) != self._studio.session:
                await _body(request, MAX_BYTES)  # of another size, perhaps
                raise HTTPException(503, "The server was started again, perhaps with other runs. Reload the page.")
            return await handler(request)

        return checked

    def _painted(self, number: Any) -> PaintedRun:
        if type(number) is not int or not 0 <= number < len(self._studio.runs):
            raise HTTPException(404, f"There is no run {number} here.")
        return self._studio.runs[number]

    async def _layout(self, request: Request) -> np.ndarray:
        size, num_classes = self._studio.size, self._space.num_classes
        expected = size[0] * size[1] * self._dtype.itemsize
        content = await _body(request, expected)
        if len(content) != expected:
            raise HTTPException(400, f"A layout has {expected:,} bytes here, not {len(content):,}. Reload the page.")
        layout = np.frombuffer(content, self._dtype).reshape(size).astype(self._space.dtype)
        if layout.max() >= num_classes:
            raise HTTPException(400, f"Class id {layout.max()} is out of range: there are {num_classes} classes.")
        return layout


def application(studio: Studio, host: str, token: str | None = None) -> Guard:
    """Returns the ASGI application.

    Args:
      studio: what the page paints with.
      host: the address that the server listens on.
      token: what the path of each request begins with, if other machines can reach the server.
    """
    answers = Answers(studio)
    app = Starlette(
        routes=[
            Route("/", answers.page),
            Route("/page/{name}", answers.page),
            Route("/about", answers.about),
            Route("/scenes", answers.scenes),
            Route("/layouts/{number:int}", answers.held_out),
            Route("/render/{run:int}", answers.of_this_session(answers.render), methods=["POST"]),
            Route("/open/{kind:str}", answers.of_this_session(answers.open_file), methods=["POST"]),
            Route("/command", answers.of_this_session(answers.command), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _refused, UserError: _refused, ClientDisconnect: _refused, Exception: _failed},
    )
    return Guard(app, host, token)


async def _body(request: Request, most: int) -> bytes:
    """Reads the body of a request.

    Raises:
      HTTPException: if it has more than `most` bytes, or does not arrive within BODY_SECONDS.
    """
    too_large = HTTPException(413, f"The file is too large: at most {most:,} bytes are taken.")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    parts, size = [], 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
            return b"".join(parts)
    raise HTTPException(408, f"The request did not arrive within {BODY_SECONDS:.0f} seconds.")


def _fields(content: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The request is no JSON.") from error
    if not isinstance(fields, dict):
        raise HTTPException(400, "The request is no JSON object.")
    return fields


async def _refused(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 422
    told = error.detail if isinstance(error, HTTPException) else str(error)
    choices = list(READINGS) if isinstance(error, AmbiguousPalette) else []
    return JSONResponse({"error": told, "choices": choices}, status, headers={"Connection": "close"} if status == 413 else None)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"The server has failed: {error!r}"[:2000]}, 500)


def _raw(content: bytes) -> Response:
    return Response(content, media_type="application/octet-stream")


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _media_type(name: str) -> str:
    return mimetypes.types_map.get(Path(name).suffix, "application/octet-stream")


def _files() -> dict[str, bytes]:
    """Reads the files of the page. What is not among them has no address."""
    paths = [PAGES / "style.css", *sorted((PAGES / "paint").iterdir()), *(PAGES / "paint_folder" / name for name in _SHARED)]
    return {path.name: path.read_bytes() for path in paths}
