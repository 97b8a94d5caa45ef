"""Origin checks and security headers: a page of another site must not reach the server through a user's browser."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def own_names(host: str) -> frozenset[str]:
    """Return the host names that a server bound to ``host`` accepts in ``Host``; IP addresses are always accepted."""
    return frozenset({"localhost", host.lower(), socket.gethostname().lower()})


def refusal(method: str, headers: Headers, names: frozenset[str]) -> tuple[int, str] | None:
    """Return the HTTP status and message that refuse a request, or None where it is allowed.

    A foreign name in ``Host`` means that its owner resolves it to this machine (DNS rebinding); an IP address can't be
    abused so.
    """
    host = _host_name(headers.get("host", ""))
    if host is None or not (host in names or _is_address(host)):
        return 400, "This server isn't called that. Use its IP address, or localhost."
    if method in ("GET", "HEAD"):
        return None
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    # Browsers send the page's site: recent ones in Sec-Fetch-Site, all of them in Origin.
    foreign = site not in ("same-origin", "none") if site else origin and urlsplit(origin).netloc != headers["host"]
    return (403, "Only this server's own page may send photos from a browser.") if foreign else None


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class OriginGuard:
    """Refuses cross-origin requests and adds security headers to every response (ASGI middleware)."""

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self.app = app
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = refusal(scope["method"], Headers(scope=scope), self.names)
        if refused is None:
            await self.app(scope, receive, send_with_headers)
        else:
            status, detail = refused
            await JSONResponse({"detail": detail}, status)(scope, receive, send_with_headers)
