"""Keeps strangers out: what stands between the network and the page's server.

A page of another site could send requests to this machine. Its name could even be made to point here (DNS rebinding), and the
browser would then take this server for that site. Therefore a request has to name this machine as its host, and must not come
from another site. Requests from other machines have to know a token, the first part of every path.
"""

import ipaddress
import secrets
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # an address holds the token
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def needs_token(host: str) -> bool:
    """Returns whether a server on this address can be reached from other machines."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def new_token() -> str:
    """Returns a token that nobody guesses."""
    return secrets.token_urlsafe(24)


class Guard:
    """Lets a request through to the app if it comes from the page itself, and adds the headers that confine the page."""

    def __init__(self, app: ASGIApp, host: str, token: str | None):
        self._app, self._token = app, token
        self._names = {*LOOPBACK, host.lower()} if token is None else {*LOOPBACK, host.lower(), *_own_names()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # there are no web sockets here

        async def send_confined(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        path = self._without_token(scope["path"])
        if path is None:
            problem: str | None = "The token is missing or wrong. Use the whole address that launch.paint has printed."
        else:
            problem = self._refusal(Headers(scope=scope), path)
        app: ASGIApp = JSONResponse({"error": problem}, 403) if problem else self._app
        if path == "" and not problem:
            app = RedirectResponse(f"/{self._token}/")
        await app({**scope, "path": path or "/"}, receive, send_confined)

    def _without_token(self, path: str) -> str | None:
        """Returns a path without the token that it has to begin with, or None if it does not.

        It is "" for the token alone. The page's own addresses would not have the token if the page were shown there.
        """
        if self._token is None:
            return path or "/"
        _, given, *rest = path.split("/", 2)
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            return None
        return f"/{rest[0]}" if rest else ""

    def _refusal(self, headers: Headers, path: str) -> str | None:
        """Returns why a request is refused, or None."""
        if len(headers.getlist("host")) != 1 or not self._is_own(_name(headers["host"])):
            return "This server answers only to its own name. Use the address that launch.paint has printed."
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != headers["host"].lower():
            return "This request comes from the page of another site."
        is_linked = path in ("", "/")  # any site may have a link to the page
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_linked:
            return "This request comes from the page of another site."
        return None

    def _is_own(self, name: str) -> bool:
        if name in self._names:
            return True
        try:  # nobody can make a number point elsewhere
            return self._token is not None and bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def _name(host: str) -> str:
    """Returns the name or number in a Host header, without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _own_names() -> set[str]:
    """Returns the names of this machine under which others may reach it: with and without its domain, and by mDNS."""
    name = socket.gethostname().lower()
    return {name, f"{name}.local", socket.getfqdn().lower()}
