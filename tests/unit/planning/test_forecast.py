from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.backbones import tiny_cnn
from tests.support.training import new_store, papers, planned

from unfreeze.planning.forecast import Deadline, Forecast, duration, forecast_run, openvino_tip
from unfreeze.runtime import Stopwatch
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.demand import compute, held_out_request
from unfreeze.training.features.training_features import compute_features
from unfreeze.training.phase_one import train_head

pytestmark = pytest.mark.usefixtures("one_thread")


class CountingClock:
    """Goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self.reads = itertools.count()

    def wall(self) -> float:
        return float(next(self.reads))

    thread = process = wall


def forecast(store: FeatureCache, photos: tuple[Path, ...], **settings: object) -> Forecast:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, **settings)
    return forecast_run(store, backbone, [own], data, recipe, papers(own), clock=CountingClock())


def test_a_run_whose_activations_and_head_are_kept_has_steps_and_scoring_ahead(photos: tuple[Path, ...]) -> None:
    backbone, store = tiny_cnn(), new_store()
    own, data, recipe = planned(photos, backbone, epochs=2, depth="layer3")
    cold = forecast(store, photos, epochs=2, depth="layer3")
    assert min(cold.features, cold.head, *cold.tries, cold.evaluation) > 0
    train_head(compute_features(store, backbone, [own], data, recipe, 0), recipe)
    compute(store, backbone, [held_out_request(papers(own), recipe.boundary, recipe.evaluation_views(own))])
    warm = forecast(store, photos, epochs=2, depth="layer3")
    assert (warm.features, warm.head) == (0, 0)
    assert 0 < warm.evaluation < cold.evaluation
    assert warm.tries[0] > 0


def test_twice_the_epochs_take_nearly_twice_the_time(photos: tuple[Path, ...]) -> None:
    (once,), (twice,) = (forecast(new_store(), photos, epochs=n, depth="layer3").tries for n in (40, 80))
    assert 1.8 * once < twice < 2 * once


def test_a_head_only_run_has_no_candidates(photos: tuple[Path, ...]) -> None:
    found = forecast(new_store(), photos, recipe="head-only")
    assert found.tries == ()
    assert found.features > 0


FORECAST = Forecast(features=10.5, head=2.0, tries=(70.2, 80.5), evaluation=3.4)


@pytest.mark.parametrize(("tried", "expected"), [(0, 0.0), (1, 70.2), (2, 150.7)])
def test_phase_two_takes_every_try(tried: int, expected: float) -> None:
    assert FORECAST.seconds(tried) == pytest.approx(
        {"features": 10.5, "head": 2.0, "finetune": expected, "evaluation": 3.4}
    )


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


def test_an_extra_that_would_halve_the_wait_is_named_where_it_would() -> None:
    frozen = Forecast(features=40, head=5, tries=(10.0,), evaluation=10)
    assert "unfreeze[openvino]" in (openvino_tip(frozen, "cpu", is_installed=False) or "")
    assert openvino_tip(frozen, "cpu", is_installed=True) is None
    assert openvino_tip(frozen, "cuda", is_installed=False) is None
    assert openvino_tip(replace(frozen, tries=(60.0,)), "cpu", is_installed=False) is None
    assert openvino_tip(replace(frozen, features=10), "cpu", is_installed=False) is None
