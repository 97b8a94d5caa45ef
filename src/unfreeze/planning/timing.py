"""How long a piece of work takes by itself, also while other processes keep the cores busy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch

BUSY = 0.8  # share of a step's time for which the thread that leads it computes; below, something else had its core

Lap = Callable[[], None]
"""Called before each step, and after the last."""


class Clock(Protocol):
    """Where seconds come from."""

    def wall(self) -> float:
        """Return the time."""

    def thread(self) -> float:
        """Return the seconds that this thread has computed for."""

    def process(self) -> float:
        """Return the seconds that all threads of this process have computed for."""


class SystemClock:
    """The machine's clocks."""

    def wall(self) -> float:
        """Return the time."""
        return time.perf_counter()

    def thread(self) -> float:
        """Return the seconds that this thread has computed for."""
        return time.thread_time()

    def process(self) -> float:
        """Return the seconds that all threads of this process have computed for."""
        return time.process_time()


class Span(NamedTuple):
    """Seconds by each clock."""

    wall: float
    thread: float
    process: float


@dataclass
class Timer:
    """Measures seconds of torch's work.

    A step on several threads waits for the slowest of them: while another process has a core, it takes many times what it
    takes alone, and the threads that wait for it count as computing.  CPU seconds are the work's own on one thread only;
    n threads take 1 / sqrt(n) of them, as ``parallel_slowdown`` has it.

    Attributes:
        device: What computes; what a card takes can't be told by the CPU's clocks.
        clock: Read before and after each step.
        disturbed: Whether anything was; from then on steps are timed on one thread alone.
    """

    device: torch.device
    clock: Clock
    disturbed: bool = False

    def seconds_per_step(self, run: Callable[[Lap], object]) -> float:
        """Return what a step of ``run`` takes: the fastest one, without the first, which warms up.

        Where it was disturbed, ``run`` is run again, on one thread.
        """
        threads = torch.get_num_threads()
        if not self.disturbed:
            step = self._fastest(run)
            self.disturbed = self.device.type == "cpu" and step.thread < BUSY * step.wall
            if not self.disturbed:
                return step.wall
            if threads == 1:
                return step.thread or step.wall  # a clock that is too coarse for a step tells nothing
        torch.set_num_threads(1)
        try:
            step = self._fastest(run)
        finally:
            torch.set_num_threads(threads)
        return (step.thread or step.wall) / math.sqrt(threads)

    def seconds_once(self, work: Callable[[], object]) -> float:
        """Return what ``work`` takes, which can't be done again and may have threads of its own."""
        begun = self._now()
        work()
        span = _since(begun, self._now())
        if self.device.type != "cpu" or not 0 < span.process < span.wall:
            return span.wall
        self.disturbed |= span.process < BUSY * span.wall
        return span.process / math.sqrt(torch.get_num_threads()) if self.disturbed else span.wall

    def _fastest(self, run: Callable[[Lap], object]) -> Span:
        laps: list[Span] = []
        run(lambda: laps.append(self._now()))
        steps = [_since(begun, ended) for begun, ended in pairwise(laps)]
        return min(steps[1:] or steps)

    def _now(self) -> Span:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return Span(self.clock.wall(), self.clock.thread(), self.clock.process())


def _since(begun: Span, ended: Span) -> Span:
    return Span(*(after - before for before, after in zip(begun, ended, strict=True)))
