"""A limit on the memory that images take while they are decoded, for all threads of the process together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MAX_IN_FLIGHT = 3 * 2**28  # bytes: eight readers of camera photos are not slowed, and two large scans take turns
BYTES_PER_PIXEL = 12  # that decoding to RGB takes at most: Pillow stores 4, its copies as many
FREE_SHARE = 0.25  # of the memory that is free; training takes the rest


class DecodeBudget:
    """Bytes that images in decoding may take; who finds too little left waits.

    An image that is larger than the whole budget is decoded while no other is.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, n_bytes: int) -> Iterator[None]:
        """Wait until there is room for ``n_bytes``, and take it for the enclosed block; don't nest these."""
        free = free_memory()
        limit = self._limit if free is None else min(self._limit, round(FREE_SHARE * free))
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0 or self._in_flight + n_bytes <= limit)
            self._in_flight += n_bytes
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= n_bytes
                self._changed.notify_all()


def free_memory(proc: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that this process may still take, by Linux and by its container; None on other systems."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = proc.read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # without a limit the file says "max"
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        found.append(max(0, limit - used))
    return min(found, default=None)


budget = DecodeBudget(MAX_IN_FLIGHT)
