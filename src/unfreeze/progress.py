"""Progress where a bar can't be drawn: plain lines for logs, and one line that changes in a notebook."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from importlib import import_module
from typing import Any, TypeVar

from unfreeze.screen import echo

LINE_SECONDS = 60.0  # between two lines of a log
REFRESH_SECONDS = 0.25  # between two changes of a notebook's line
WIDTH = 30  # characters of a notebook's bar
T = TypeVar("T")


class PlainProgress:
    """Lines for a log: one when a phase begins, and one a minute, over all phases and threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._phase = ""
        self._said = clock()

    def track(self, items: Iterable[T], description: str, total: int | None, *, announce: bool = True) -> Generator[T]:
        """Yield ``items``, and print lines on how far they are.

        Args:
            items: The items.
            description: The phase; one that follows itself begins once.
            total: The number of items, if known.
            announce: Whether the beginning is worth a line.
        """
        started = self._clock()
        if announce:
            self._begin(description)
        for done, item in enumerate(items):
            if done:
                self._go_on(description, done, total, self._clock() - started)
            yield item

    def _begin(self, description: str) -> None:
        with self._lock:
            is_new, self._phase = description != self._phase, description
            if is_new:
                self._said = self._clock()
                echo(description)

    def _go_on(self, description: str, done: int, total: int | None, seconds: float) -> None:
        with self._lock:
            if self._clock() - self._said < LINE_SECONDS:
                return
            self._said = self._clock()
            echo(f"{description}: {_how_far(done, total, seconds)}")


def notebook_bar(items: Iterable[T], description: str, total: int | None) -> Generator[T]:
    """Yield ``items``, and show in the notebook's cell how far they are; the line disappears at the end."""
    display: Any = import_module("IPython.display")  # of the notebook that this process serves
    started = shown = time.monotonic()
    line = display.display({"text/plain": description}, raw=True, display_id=True)
    try:
        for done, item in enumerate(items):
            now = time.monotonic()
            if done and line is not None and now - shown >= REFRESH_SECONDS:
                shown = now
                text = f"{description} {_bar(done, total)}{_how_far(done, total, now - started)}"
                line.update({"text/plain": text}, raw=True)
            yield item
    finally:
        if line is not None:
            line.update({"text/plain": ""}, raw=True)


def _bar(done: int, total: int | None) -> str:
    if not total:
        return ""
    filled = min(WIDTH, round(WIDTH * done / total))
    return f"{'█' * filled}{'░' * (WIDTH - filled)} "


def _how_far(done: int, total: int | None, seconds: float) -> str:
    if not total or done >= total:
        return f"{done} done"
    left = seconds / done * (total - done)
    shown = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min" if left < 6000 else f"{left / 3600:.1f} h"
    return f"{done} of {total}, about {shown} left"
