from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from fastapi import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unfreeze.serve import limits as module
from unfreeze.serve.limits import Limits, LimitsMiddleware

SCOPE = {"type": "http", "method": "POST", "path": "/", "headers": []}
PIECE = bytes(1000)


async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(60)


def ask(app: ASGIApp, limits: Limits, pieces: Iterable[bytes], headers: dict[str, str] | None = None) -> list[Message]:
    """Send a body in pieces; return what comes back."""
    left, sent = iter(pieces), []

    async def receive() -> Message:
        await asyncio.sleep(0)
        piece = next(left, None)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(message: Message) -> None:
        sent.append(message)

    named = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    asyncio.run(LimitsMiddleware(app, limits)({**SCOPE, "headers": named}, receive, send))
    return sent


def test_a_body_of_the_limit_passes_and_of_one_byte_more_does_not() -> None:
    passed = ask(read_all, Limits(upload=3000), [PIECE] * 3)
    assert (passed[0]["status"], passed[1]["body"]) == (200, b"3000")
    with pytest.raises(HTTPException):
        ask(read_all, Limits(upload=2999), [PIECE] * 3)


@pytest.mark.parametrize("pieces", [3, 40])
def test_a_body_without_a_length_is_counted_as_it_comes(pieces: int) -> None:
    """The exception passes through whatever reads the body, as FastAPI does, and is answered there."""
    taken = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while (message := await receive())["more_body"]:
                taken.append(message["body"])
        except HTTPException as error:
            await PlainTextResponse(error.detail, error.status_code, error.headers)(scope, receive, send)

    sent = ask(app, Limits(upload=2500), [PIECE] * pieces)
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]
    assert b"More than 0.0025 MB" in sent[1]["body"]
    assert len(taken) == 2
    assert [message.get("more_body", False) for message in sent[1:]] == [True, False]


def test_a_length_that_is_announced_is_refused_unread() -> None:
    sent = ask(never, Limits(upload=2500), [PIECE] * 3, {"content-length": "3000"})
    assert sent[0]["status"] == 413


def test_a_refused_upload_that_never_ends_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER", 0.05)
    sent = ask(never, Limits(upload=10), iter(lambda: PIECE, b""), {"content-length": "3000"})
    assert (sent[0]["status"], sent[-1].get("more_body", False)) == (413, False)


def test_what_takes_too_long_is_broken_off() -> None:
    sent = ask(never, Limits(seconds=0.05), [])
    assert sent[0]["status"] == 504
    assert b"longer than 0.05 seconds" in sent[1]["body"]


def test_a_body_that_comes_too_slowly_is_broken_off() -> None:
    sent = ask(read_all, Limits(seconds=0.05), iter(lambda: b"", None))
    assert sent[0]["status"] == 504


def test_an_answer_that_has_begun_is_not_followed_by_another() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(60)

    assert [message.get("status") for message in ask(app, Limits(seconds=0.05), [])] == [200]


def test_other_scopes_pass() -> None:
    passed = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["type"])

    asyncio.run(LimitsMiddleware(app, Limits())({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert passed == ["lifespan"]
