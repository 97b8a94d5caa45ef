"""How long a piece of work takes by itself, also while other processes keep the cores busy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

N_TIMED = 2  # batches or steps, after one that warms up
BUSY = 0.75  # share of its threads' time that a piece of work computes for; below, something else had the cores


class Clock(Protocol):
    """Where seconds come from."""

    def wall(self) -> float:
        """Return the time."""

    def cpu(self) -> float:
        """Return the seconds that all threads of this process have computed for."""


class SystemClock:
    """The machine's clocks."""

    def wall(self) -> float:
        """Return the time."""
        return time.perf_counter()

    def cpu(self) -> float:
        """Return the seconds that all threads of this process have computed for."""
        return time.process_time()


@dataclass(frozen=True)
class Timer:
    """Measures seconds of torch's work.

    A step on several threads waits for the slowest of them: where another process has a core, it takes many times what it
    takes alone, and the threads that wait count as busy.  On one thread, CPU seconds are the work's own; n threads take
    1 / sqrt(n) of them, as where trainings run beside each other (``parallel_slowdown``).

    Attributes:
        device: What computes; what a card takes can't be told by the CPU's clock.
        clock: Read before and after.
    """

    device: torch.device
    clock: Clock

    def seconds(self, work: Callable[[], object]) -> float:
        """Return what ``work`` takes; where it is disturbed it is done again, and once more on one thread."""
        wall, cpu = self._span(work)
        if not self._disturbed(wall, cpu):
            return wall
        wall = min(wall, self._span(work)[0])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            _, cpu = self._span(work)
        finally:
            torch.set_num_threads(threads)
        return min(wall, cpu / math.sqrt(threads)) if cpu else wall

    def seconds_once(self, work: Callable[[], object]) -> float:
        """Return the same of work that can't be done again."""
        wall, cpu = self._span(work)
        return min(wall, cpu / math.sqrt(torch.get_num_threads())) if self._disturbed(wall, cpu) else wall

    def seconds_of_batch(self, work: Callable[[int], object]) -> float:
        """Return the seconds of a batch by itself, after one that warms up; ``work`` takes a number of batches."""
        work(1)
        return self.seconds(lambda: work(1))

    def seconds_per_batch(self, work: Callable[[int], object]) -> float:
        """Return how many seconds one more batch takes: what every call costs once drops out."""
        once = self.seconds_of_batch(work)
        return max(0.0, self.seconds(lambda: work(1 + N_TIMED)) - once) / N_TIMED

    def _span(self, work: Callable[[], object]) -> tuple[float, float]:
        wall, cpu = self.clock.wall(), self.clock.cpu()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock.wall() - wall, self.clock.cpu() - cpu

    def _disturbed(self, wall: float, cpu: float) -> bool:
        """Tell whether the threads computed for much less than the time that passed; a coarse clock may tell nothing."""
        return self.device.type == "cpu" and 0 < cpu < BUSY * torch.get_num_threads() * wall
