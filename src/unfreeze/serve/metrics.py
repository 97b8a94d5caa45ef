"""Prometheus counters of the requests served, one registry per application."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Summary
from prometheus_client.exposition import choose_encoder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ENCODE, CONTENT_TYPE = choose_encoder("")  # the plain text format
SERIES = (
    "unfreeze_predict_requests_total",
    "unfreeze_predict_photos_total",
    "unfreeze_predict_seconds_sum",
    "unfreeze_predict_seconds_count",
)
"""Exported series: without creation times, which prometheus_client can leave out only for a whole process."""


class Metrics:
    """Counters since the start of the server.

    Attributes:
        requests: Finished prediction requests, by HTTP status.
        photos: Images predicted.
        seconds: Duration of each prediction request, from its first line to the end of its response, queueing included.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "unfreeze_predict_requests",
            "Answered requests for predictions, by HTTP status.",
            ["status"],
            registry=self._registry,
        )
        self.photos = Counter("unfreeze_predict_photos", "Photos that were predicted.", registry=self._registry)
        self.seconds = Summary(
            "unfreeze_predict_seconds",
            "Time from a request's first line to the end of its response.",
            registry=self._registry,
        )

    def encode(self) -> bytes:
        """Return the counters in the format of ``CONTENT_TYPE``."""
        return ENCODE(self._registry.restricted_registry(SERIES))


class MetricsMiddleware:
    """Counts and times the requests to one path (ASGI middleware)."""

    def __init__(self, app: ASGIApp, metrics: Metrics, path: str) -> None:
        self.app = app
        self.metrics = metrics
        self.path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and count its status when it ends."""
        if scope["type"] != "http" or scope["path"] != self.path:
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500  # an unhandled error becomes a 500 outside this middleware

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note_status)
        finally:
            self.metrics.requests.labels(str(status)).inc()
            self.metrics.seconds.observe(time.perf_counter() - start)
