"""Opens a page to paint layouts on, with their images beside them: `python -m launch.paint [RUN ...]`.

The images follow the brush. Everything stays on this machine, unless --host says otherwise.
"""

import contextlib
import dataclasses
import importlib.util
import os
import socket
import sys
import threading
import webbrowser
from typing import TYPE_CHECKING, Annotated

import tyro

from crn_jax.errors import UserError
from launch.common.jax_setup import set_up_jax
from launch.common.options import read_options
from launch.common.terminal import command, console
from launch.painting.painted_run import compile_in_background, open_runs
from launch.segmentation.labeller import open_labeller

if TYPE_CHECKING:
    import uvicorn

PORT = 8265
"""The first port that is tried."""
_TRIED = 20

_EXTRA = ("starlette", "uvicorn")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Opens a page in the browser to paint layouts on. A trained run makes their images while you paint."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN ...]")] = ("streets",)
    """Runs as launch.synthesize takes them: run folders, artifacts or .safetensors files. The images of several runs are shown
    side by side. RUN@best or RUN@1000 names a checkpoint. Default: streets, which comes with crn_jax."""
    checkpoint: str = "latest"
    """The checkpoint of runs that name none: latest, best (smallest held-out distance), or a number of steps."""
    segmenter: str | None = None
    """What labels photographs to start from: a run of launch.train segmenter_*, with the classes of the run."""
    host: str = "127.0.0.1"
    """The address to listen on. Another one than 127.0.0.1, such as 0.0.0.0, lets other machines in. The page's address then
    holds a token."""
    port: int | None = None
    """The port to listen on; 0 takes any that is free. Default: 8265, or the next one that is free."""
    browser: bool = True
    """Open the page in the browser. --no_browser only prints its address."""


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and serves the page until Ctrl-C."""
    with command():
        asked: Arguments = read_options(Arguments, "paint", arguments)
        set_up_jax()
        server, listening, address = prepare(asked)
        console.print(f"Paint at {address} (Ctrl-C ends it)")
        if asked.browser and can_show_pages():
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
        console.print("Ended.")
        sys.stdout.flush()
        os._exit(0)  # a compilation that is not done yet would hold up the end


def prepare(asked: Arguments) -> "tuple[uvicorn.Server, socket.socket, str]":
    """Loads the runs and begins to compile them.

    Returns:
      the server, the socket that it is to listen on, and the page's address.

    Raises:
      UserError: if the runs cannot be loaded or do not go together, or if the port is taken.
    """
    if missing := [name for name in _EXTRA if importlib.util.find_spec(name) is None]:
        raise UserError(f"The page needs {' and '.join(missing)}. Install the extra: pip install 'crn_jax[paint]'")
    import uvicorn

    from launch.painting.guard import needs_token, new_token
    from launch.painting.server import Studio, application
    from launch.painting.uploads import check_labeller

    runs = open_runs(asked.runs, asked.checkpoint)
    labeller = open_labeller(asked.segmenter, None, "best") if asked.segmenter else None
    if labeller:
        check_labeller(labeller, runs[0].run.label_space)
    listening = listen(asked.host, asked.port)
    token = new_token() if needs_token(asked.host) else None
    compile_in_background(runs)
    settings = uvicorn.Config(
        application(Studio(runs, labeller), asked.host, token),
        http="h11",
        ws="none",
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(settings), listening, address_of(asked.host, listening.getsockname()[1], token)


def listen(host: str, port: int | None) -> socket.socket:
    """Returns a socket that listens on a port of this address, so that the page's address is known before it is served.

    Raises:
      UserError: if there is no such address here, or if the port is taken.
    """
    try:
        family, *_, where = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"--host {host}: this is no address of this machine ({error.strerror or error}).") from error
    if port is not None and not 0 <= port < 1 << 16:
        raise UserError(f"--port {port}: a port is a number from 0 to 65535.")
    problem: OSError | None = None
    for number in range(PORT, PORT + _TRIED) if port is None else (port,):
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((where[0], number))
            listening.listen(128)
            return listening
        except OSError as error:
            listening.close()
            problem = error
    asked = f"--port {port}" if port is not None else f"ports {PORT} to {PORT + _TRIED - 1}"
    assert problem is not None
    raise UserError(f"{asked} at {host}: the server cannot listen there ({problem.strerror}). Choose another --port.")


def address_of(host: str, port: int, token: str | None) -> str:
    """Returns the page's address. A server on all addresses of this machine is reached by the machine's name."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/" + (f"{token}/" if token else "")


def can_show_pages() -> bool:
    """Returns whether a browser has a screen here. On a terminal alone, a text browser would take the terminal over."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    main()
