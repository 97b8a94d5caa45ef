"""Limits per request: bytes, images, pixels and seconds; and the length of the queue."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unfreeze.data.decode import DecodeLimits

LINGER = 1.0  # seconds for which a refused upload is still read: if closed at once, some systems discard the response


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a request.

    Attributes:
        upload: Bytes of a request's body.
        photos: Images in one request.
        accepted: File formats, and pixels of one image: enough for any camera, too few for a decompression bomb.
        seconds: From a request's first line to its response.
        max_queue: Requests that may wait or run.
    """

    upload: int = 10_000_000
    photos: int = 32
    accepted: DecodeLimits = field(default=DecodeLimits(("JPEG", "PNG", "WEBP", "TIFF"), 64_000_000))
    seconds: float = 30.0
    max_queue: int = 8


class LimitsMiddleware:
    """Limits bytes and seconds of every request while it arrives, with or without Content-Length (ASGI middleware)."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; respond with 413 when its body is too long, with 504 when time is up."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive, send, self.limits.upload)
        try:
            async with asyncio.timeout(self.limits.seconds):
                declared = Headers(scope=scope).get("content-length", "")
                if declared.isdecimal() and int(declared) > self.limits.upload:
                    refusal = body.refuse()
                    await JSONResponse({"detail": refusal.detail}, refusal.status_code, refusal.headers)(
                        scope, body.receive, body.send
                    )
                else:
                    await self.app(scope, body.receive, body.send)
        except TimeoutError:
            if not body.response_started:
                detail = f"It took longer than {self.limits.seconds:g} seconds. Send fewer photos, or try again."
                await JSONResponse({"detail": detail}, 504, {"Connection": "close"})(scope, receive, send)


class _Body:
    """Counts the bytes of a request's body, and delays the end of the response after a refusal."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._length = 0
        self._refused = False
        self.response_started = False

    def refuse(self) -> HTTPException:
        """Return the refusal, and note that the request was refused."""
        self._refused = True
        detail = f"More than {self._limit / 1e6:g} MB are not taken at once. Send a smaller photo, or fewer."
        return HTTPException(413, detail, {"Connection": "close"})

    async def receive(self) -> Message:
        """Return the next part of the body.

        Raises:
            HTTPException: The body exceeds the limit.
        """
        message = await self._receive()
        self._length += len(message.get("body", b""))
        if self._length > self._limit:
            raise self.refuse()
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response; after a refusal, read the body for up to ``LINGER`` seconds before the last."""
        self.response_started = True
        if self._refused and message["type"] == "http.response.body" and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    while (await self._receive()).get("more_body"):
                        pass
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)
