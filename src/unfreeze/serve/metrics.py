"""What has been served so far, for Prometheus: a few counters, which need no library."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

FORMAT = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of Prometheus' text format."""


class Metrics:
    """Counts since the server began.

    Attributes:
        requests: Answered predictions, by HTTP status.
        seconds: Spent on them, waiting included.
        photos: That were answered.
    """

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self.seconds = 0.0
        self.photos = 0

    def text(self) -> str:
        """Return them in Prometheus' text format."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield "# HELP unfreeze_predict_requests_total Answered requests for predictions, by HTTP status."
        yield "# TYPE unfreeze_predict_requests_total counter"
        for status, count in sorted(self.requests.items()):
            yield f'unfreeze_predict_requests_total{{status="{status}"}} {count}'
        yield "# HELP unfreeze_predict_photos_total Photos that were predicted."
        yield "# TYPE unfreeze_predict_photos_total counter"
        yield f"unfreeze_predict_photos_total {self.photos}"
        yield "# HELP unfreeze_predict_seconds Time from a request's first line to the end of its answer."
        yield "# TYPE unfreeze_predict_seconds summary"
        yield f"unfreeze_predict_seconds_sum {self.seconds:.6f}"
        yield f"unfreeze_predict_seconds_count {self.requests.total()}"


class Counted:
    """Counts the requests to one path."""

    def __init__(self, app: ASGIApp, metrics: Metrics, path: str) -> None:
        self.app = app
        self.metrics = metrics
        self.path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on (ASGI)."""
        if scope["type"] != "http" or scope["path"] != self.path:
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500  # what an error of ours becomes, further out

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        finally:
            self.metrics.requests[status] += 1
            self.metrics.seconds += time.perf_counter() - began
