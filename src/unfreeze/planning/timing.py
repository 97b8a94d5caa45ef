"""Undisturbed time of a piece of work, measured even while other processes use the cores."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch

MIN_CPU_SHARE = 0.8  # CPU time / wall time of a step's main thread; below, another process used its core

Lap = Callable[[], None]
"""Called before each step and after the last."""


class Clock(Protocol):
    """A source of time, in seconds."""

    def wall(self) -> float:
        """Return wall time."""

    def thread(self) -> float:
        """Return the CPU time of this thread."""

    def process(self) -> float:
        """Return the CPU time of all threads of this process."""


class SystemClock:
    """The clocks of the operating system."""

    def wall(self) -> float:
        """Return wall time."""
        return time.perf_counter()

    def thread(self) -> float:
        """Return the CPU time of this thread."""
        return time.thread_time()

    def process(self) -> float:
        """Return the CPU time of all threads of this process."""
        return time.process_time()


class Span(NamedTuple):
    """Seconds of wall time, and of CPU time of the thread and the process."""

    wall: float
    thread: float
    process: float


@dataclass
class Timer:
    """Measures the seconds of torch's work.

    A step on several threads waits for the slowest of them: while another process uses a core, it takes many times as
    long, and waiting threads use CPU time.  CPU time measures the work itself on one thread only; n threads take 1 /
    sqrt(n) of it, see ``parallel_slowdown``.

    Attributes:
        device: Computes the work; a GPU's work doesn't show in CPU time.
        clock: Read before and after each step.
        disturbed: Whether any measurement was disturbed; from then on, steps are timed on one thread.
    """

    device: torch.device
    clock: Clock
    disturbed: bool = False

    def seconds_per_step(self, run: Callable[[Lap], object]) -> float:
        """Return the seconds of the fastest step of ``run``, without the first one, a warm-up.

        If the measurement was disturbed, ``run`` is run again, on one thread.
        """
        threads = torch.get_num_threads()
        if not self.disturbed:
            step = self._fastest(run)
            self.disturbed = self.device.type == "cpu" and step.thread < MIN_CPU_SHARE * step.wall
            if not self.disturbed:
                return step.wall
            if threads == 1:
                return step.thread or step.wall  # 0 if the clock is too coarse for a step
        torch.set_num_threads(1)
        try:
            step = self._fastest(run)
        finally:
            torch.set_num_threads(threads)
        return (step.thread or step.wall) / math.sqrt(threads)

    def seconds_once(self, work: Callable[[], object]) -> float:
        """Return the seconds of ``work``, which can't be repeated and may start threads."""
        start = self._now()
        work()
        span = _since(start, self._now())
        if self.device.type != "cpu" or not 0 < span.process < span.wall:
            return span.wall
        self.disturbed |= span.process < MIN_CPU_SHARE * span.wall
        return span.process / math.sqrt(torch.get_num_threads()) if self.disturbed else span.wall

    def _fastest(self, run: Callable[[Lap], object]) -> Span:
        laps: list[Span] = []
        run(lambda: laps.append(self._now()))
        steps = [_since(start, end) for start, end in pairwise(laps)]
        return min(steps[1:] or steps)

    def _now(self) -> Span:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return Span(self.clock.wall(), self.clock.thread(), self.clock.process())


def _since(start: Span, end: Span) -> Span:
    return Span(*(after - before for before, after in zip(start, end, strict=True)))
