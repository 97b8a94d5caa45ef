"""The one thread that computes, and the bounded queue before it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class BusyError(Exception):
    """Every place in the queue is taken."""


class Worker:
    """One thread, so that requests don't fight for the cores or for memory: photos are decoded one at a time, too.

    Args:
        places: Calls that wait or are worked on; more are refused.
    """

    def __init__(self, places: int) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._places = threading.BoundedSemaphore(places)

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call; cancelled before its turn, it is never made.

        Raises:
            BusyError: There is no place left.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError
        future = self._thread.submit(work, *args, **kwargs)
        future.add_done_callback(lambda _: self._places.release())
        return future

    def close(self) -> None:
        """Let the call in progress end, and drop those that wait."""
        self._thread.shutdown(cancel_futures=True)
