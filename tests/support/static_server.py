"""A web server of this process for a folder of files, the one of `python -m http.server`."""

import contextlib
import dataclasses
import functools
import http.server
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path


@dataclasses.dataclass
class StaticServer:
    """What a server is reached by, and what it was asked."""

    address: str
    """The address of the folder, which ends with a slash."""
    asked: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    """The path and the status of every answer."""


@contextlib.contextmanager
def serving(folder: Path, headers: Mapping[str, str] | None = None) -> Iterator[StaticServer]:
    """Serves a folder until the block ends. `headers` are added to each answer."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            super().end_headers()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            served.asked.append((self.path, int(code)))

        def log_message(self, *_) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        served = StaticServer(f"http://127.0.0.1:{server.server_port}/")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield served
        server.shutdown()
