"""Pages in a real browser, by `pytest_plugins = "tests.support.browser"` and the fixtures that it brings.

Pages have to be silent: an error on the console, an exception, or a request to anywhere but the file, or the server that the
page comes from, fails the test.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def chromium() -> str | None:
    """Returns the path of the system's Chromium, if there is one."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


# Playwright keeps an event loop running in this thread: no longer than a module needs it.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    executable = chromium()
    if executable is None:
        pytest.skip(f"needs a browser: none of {', '.join(_NAMES)} is on PATH (Debian, Ubuntu: apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@contextlib.contextmanager
def silent_pages(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Yields a function `open_page(path or address, **settings)`, which opens a file, or a server's page, in a fresh profile.

    Settings are those of Playwright's new_context. `tolerates` is part of a line that may stand on the console.
    """
    contexts, problems = [], []

    def open_path(path: Path | str, tolerates: str | None = None, **settings) -> Page:
        address = path if isinstance(path, str) else path.resolve().as_uri()
        own = ("file:", "data:", "blob:", *([address] if isinstance(path, str) else []))
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(600_000)  # a busy machine may need minutes
        page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
        page.on("console", lambda message: noted(message.type, message.text, tolerates))
        page.on("request", lambda request: request.url.startswith(own) or problems.append(f"request: {request.url}"))
        page.goto(address)
        return page

    def noted(kind: str, text: str, tolerates: str | None) -> None:
        if kind == "error" and not (tolerates and tolerates in text):
            problems.append(f"console: {text}")

    yield open_path
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Page]]:
    """The function of `silent_pages`."""
    with silent_pages(browser) as open_path:
        yield open_path


@pytest.fixture(scope="module")
def open_shared_page(browser) -> Iterator[Callable[..., Page]]:
    """The function of `silent_pages` for pages that stay open until the module's last test."""
    with silent_pages(browser) as open_path:
        yield open_path
