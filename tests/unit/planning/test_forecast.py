from __future__ import annotations

import time
from dataclasses import replace

import pytest
from unfreeze.training.planner import Deadline, Forecast, count_up, duration
from unfreeze.training.speed import Speed
from unfreeze.training.work import Work

from unfreeze.runtime import Stopwatch

pytestmark = pytest.mark.usefixtures("one_thread")


def test_work_times_speed() -> None:
    work = Work(
        views=1000, onward=500, tried=(200, 400), head_learned=0, unsolved=True, validated=(200, 500), unread=100,
        asked=400,
    )  # fmt: skip
    speed = Speed(
        view=0.01, read=0.02, building=1.0, timed=10, photo=0.001, learned=(0.1, 0.2), head_learned=9.0,
        solved=2.0,
    )  # fmt: skip
    counted = count_up(work, speed)
    assert counted.tries == pytest.approx((20.2, 80.5))
    assert (counted.features, counted.head, counted.exam) == pytest.approx((10.4, 2.0, 3.4))
    assert count_up(replace(work, unread=0), speed).exam == pytest.approx(0.4)
    assert count_up(replace(work, views=5, onward=0), speed).features == 0


FORECAST = Forecast(features=10.5, head=2.0, tries=(70.2, 80.5), exam=3.4)


@pytest.mark.parametrize(("tried", "expected"), [(0, 0.0), (1, 70.2), (2, 150.7)])
def test_phase_two_takes_every_try(tried: int, expected: float) -> None:
    assert FORECAST.seconds(tried) == pytest.approx({"features": 10.5, "head": 2.0, "finetune": expected, "exam": 3.4})


def test_the_forecast_says_what_the_first_try_takes_and_what_all_may_take() -> None:
    said = "this will take about 86 s: features 10 s, phase 1 2 s, phase 2 70 s, scoring 3 s"
    assert FORECAST.sentence() == f"{said}; up to 3 min if deeper layers turn out to be worth it"
    assert replace(FORECAST, tries=(70.2,)).sentence() == said


def test_what_takes_no_time_is_not_listed() -> None:
    assert Forecast(0.2, 0.1, (0,), 0.4).sentence() == "this will take about 1 s"


def test_a_run_that_ends_with_the_head_has_no_phase_two_to_wait_for() -> None:
    ended = FORECAST.without_phase_two()
    assert ended.seconds(0)["finetune"] == 0
    assert ended.sentence() == "this will take about 16 s: features 10 s, phase 1 2 s, scoring 3 s"


# How long it may take


def begun(seconds_ago: float) -> Stopwatch:
    return Stopwatch(started=time.perf_counter() - seconds_ago)


def test_without_a_deadline_there_is_always_time() -> None:
    assert Deadline(FORECAST, None, begun(1e9)).time_left(1)


@pytest.mark.parametrize(("seconds_ago", "expected"), [(0, True), (33, True), (35, False)])
def test_before_the_first_try_everything_lies_ahead(seconds_ago: float, expected: bool) -> None:
    ahead = 10.5 + 2.0 + 70.2 + 3.4
    assert Deadline(FORECAST, (ahead + 34) / 60, begun(seconds_ago)).time_left(0) is expected


@pytest.mark.parametrize(("seconds_ago", "expected"), [(0, True), (33, True), (35, False)])
def test_another_try_leaves_time_for_scoring(seconds_ago: float, expected: bool) -> None:
    ahead = 80.5 + 3.4
    assert Deadline(FORECAST, (ahead + 34) / 60, begun(seconds_ago)).time_left(1) is expected


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.01, "1 s"),
        (59.4, "59 s"),
        (99, "99 s"),
        (100, "2 min"),
        (5940, "99 min"),
        (6000, "1 h 40 min"),
        (7200, "2 h 0 min"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
