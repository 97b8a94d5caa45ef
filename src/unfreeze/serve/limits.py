"""What one request may cost: bytes, photos, pixels, seconds, and a place in the queue."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unfreeze.data.decode import Accepted

LINGER = 1.0  # seconds for which a refused upload is still read: closed at once, some systems drop the answer unread


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is taken.

    Attributes:
        upload: Bytes of a request's body.
        photos: In one request.
        accepted: Formats, and width x height: any camera's photos, but no bombs.
        seconds: From a request's first line to its answer.
        places: Requests that wait or are worked on.
    """

    upload: int = 10_000_000
    photos: int = 32
    accepted: Accepted = field(default=Accepted(("JPEG", "PNG", "WEBP", "TIFF"), 64_000_000))
    seconds: float = 30.0
    places: int = 8


class Limited:
    """Bounds the bytes and the seconds of every request, as they come: nobody has to say beforehand how long a body is."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive, send, self.limits.upload)
        try:
            async with asyncio.timeout(self.limits.seconds):
                announced = Headers(scope=scope).get("content-length", "")
                if announced.isdecimal() and int(announced) > self.limits.upload:
                    refusal = body.refuse()
                    await JSONResponse({"detail": refusal.detail}, refusal.status_code, refusal.headers)(
                        scope, body.receive, body.send
                    )
                else:
                    await self.app(scope, body.receive, body.send)
        except TimeoutError:
            if not body.answered:
                detail = f"It took longer than {self.limits.seconds:g} seconds. Send fewer photos, or try again."
                await JSONResponse({"detail": detail}, 504, {"Connection": "close"})(scope, receive, send)


class _Body:
    """A request's body on its way in, counted, and the answer on its way out."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._length = 0
        self._refused = False
        self.answered = False

    def refuse(self) -> HTTPException:
        """Return the refusal, and remember it."""
        self._refused = True
        detail = f"More than {self._limit / 1e6:g} MB are not taken at once. Send a smaller photo, or fewer."
        return HTTPException(413, detail, {"Connection": "close"})

    async def receive(self) -> Message:
        """Return the next piece.

        Raises:
            HTTPException: It is one too many.
        """
        message = await self._receive()
        self._length += len(message.get("body", b""))
        if self._length > self._limit:
            raise self.refuse()
        return message

    async def send(self, message: Message) -> None:
        """Pass the answer on; after a refusal, read on for a while before the connection is closed."""
        self.answered = True
        if self._refused and message["type"] == "http.response.body" and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    while (await self._receive()).get("more_body"):
                        pass
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)
