from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
import torch

from unfreeze.planning.timing import Lap, SystemClock, Timer

CPU = torch.device("cpu")


@dataclass
class FakeClock:
    """Stands still while nothing works."""

    now: float = 0.0
    computed: float = 0.0
    computed_by_all: float = 0.0

    def wall(self) -> float:
        return self.now

    def thread(self) -> float:
        return self.computed

    def process(self) -> float:
        return self.computed_by_all

    def work(self, wall: float, thread: float, process: float | None = None) -> None:
        self.now += wall
        self.computed += thread
        self.computed_by_all += thread if process is None else process


@pytest.fixture(autouse=True)
def _threads() -> Iterable[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(threads)


Step = tuple[float, float]  # seconds that pass, and those that the leading thread computes for


def steps(clock: FakeClock, together: list[Step], alone: list[Step]) -> tuple[Callable[[Lap], None], list[int]]:
    """Return a run whose steps take this on four threads and on one, and the threads that each run had."""
    threads: list[int] = []

    def run(lap: Lap) -> None:
        threads.append(torch.get_num_threads())
        for step in alone if threads[-1] == 1 else together:
            lap()
            clock.work(*step)
        lap()

    return run, threads


def test_the_fastest_step_counts_without_the_one_that_warms_up() -> None:
    clock = FakeClock()
    run, threads = steps(clock, [(0.1, 0.1), (0.5, 0.5), (0.3, 0.3), (0.4, 0.4)], [])
    assert Timer(CPU, clock).seconds_per_step(run) == pytest.approx(0.3)
    assert threads == [4]


def test_a_single_step_counts_as_it_is() -> None:
    clock = FakeClock()
    assert Timer(CPU, clock).seconds_per_step(steps(clock, [(0.7, 0.7)], [])[0]) == pytest.approx(0.7)


def test_a_step_of_which_one_was_left_in_peace_is_not_run_again() -> None:
    clock = FakeClock()
    run, threads = steps(clock, [(9.0, 1.0), (9.0, 0.5), (0.5, 0.45)], [])
    assert Timer(CPU, clock).seconds_per_step(run) == pytest.approx(0.5)
    assert threads == [4]


def test_a_disturbed_step_is_timed_by_its_own_seconds_on_one_thread() -> None:
    clock = FakeClock()
    run, threads = steps(clock, [(9.0, 3.0)] * 3, [(8.0, 1.6), (4.0, 1.2), (6.0, 1.4)])
    timer = Timer(CPU, clock)
    assert timer.seconds_per_step(run) == pytest.approx(1.2 / math.sqrt(4))
    assert threads == [4, 1]
    assert torch.get_num_threads() == 4
    timer.seconds_per_step(run)  # the machine is busy: what waits for its threads isn't tried again
    assert threads == [4, 1, 1]


def test_a_single_threads_own_seconds_need_no_second_run() -> None:
    torch.set_num_threads(1)
    clock = FakeClock()
    run, threads = steps(clock, [], [(9.0, 1.0), (3.0, 0.9)])
    assert Timer(CPU, clock).seconds_per_step(run) == pytest.approx(0.9)
    assert threads == [1]


def test_a_clock_that_is_too_coarse_tells_nothing() -> None:
    clock = FakeClock()
    run, _ = steps(clock, [(0.01, 0.0)] * 2, [(0.02, 0.0)] * 2)
    assert Timer(CPU, clock).seconds_per_step(run) == pytest.approx(0.02 / math.sqrt(4))
    assert Timer(CPU, clock).seconds_once(lambda: clock.work(0.01, 0.0)) == pytest.approx(0.01)


def test_what_a_card_takes_is_told_by_the_time_that_passes() -> None:
    clock = FakeClock()
    run, threads = steps(clock, [(0.4, 0.0)] * 3, [])
    timer = Timer(torch.device("mps"), clock)
    assert timer.seconds_per_step(run) == pytest.approx(0.4)
    assert threads == [4]
    assert timer.seconds_once(lambda: clock.work(2.0, 0.1)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("wall", "process", "expected", "disturbed"),
    [
        (1.0, 3.5, 1.0, False),
        (1.0, 1.0, 1.0, False),
        (1.0, 0.9, 1.0, False),  # a file was waited for
        (9.0, 3.0, 1.5, True),
    ],
)
def test_what_can_not_be_done_again_counts_what_all_threads_computed_for(
    wall: float, process: float, expected: float, disturbed: bool
) -> None:
    clock = FakeClock()
    timer = Timer(CPU, clock)
    assert timer.seconds_once(lambda: clock.work(wall, 0.0, process)) == pytest.approx(expected)
    assert timer.disturbed == disturbed


def test_the_machines_clocks_run() -> None:
    clock = SystemClock()
    before = clock.wall(), clock.thread(), clock.process()
    for _ in range(100):
        torch.randn(100, 100) @ torch.randn(100, 100)
    after = clock.wall(), clock.thread(), clock.process()
    assert all(last > first for first, last in zip(before, after, strict=True))
