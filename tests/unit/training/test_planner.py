from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support import new_store, renderer, tiny_cnn, tiny_vit

from unfreeze.config import TrainConfig
from unfreeze.data.loaders import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.runtime import Stopwatch
from unfreeze.training.activations import crossings, keep, keep_or_render
from unfreeze.training.finetune import Indices
from unfreeze.training.planner import Deadline, Forecast, Speed, Work, count_up, count_work, duration, measure_speed
from unfreeze.training.recipes import Recipe, choose
from unfreeze.training.rounds import TrainingData

pytestmark = pytest.mark.usefixtures("one_thread")

NO_WORK = Work(views=0, onward=0, tried=(), learned=(), head_learned=0, validated=(), unread=0, asked=0)
BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])


def planned(photos: tuple[Path, ...], backbone: Backbone, **settings: object) -> tuple[Renderer, TrainingData, Recipe]:
    """24 photos to learn from in 4 folds, 6 to test on."""
    data = TrainingData(torch.arange(30) % 3, np.arange(24), np.arange(0), np.arange(24) % 4, 3)
    recipe = choose(TrainConfig(photos=Path(), **settings), backbone, 24, 3)  # type: ignore[arg-type]
    return replace(renderer(photos), augmentation=recipe.augmentations[0]), data, recipe


def papers(own: Renderer) -> Renderer:
    return replace(own, paths=own.paths[24:], digests=own.digests[24:])


def test_work_times_speed() -> None:
    work = Work(
        views=1000, onward=500, tried=(200, 400), learned=(100, 200), head_learned=0, validated=(200, 500), unread=100,
        asked=400,
    )  # fmt: skip
    speed = Speed(view=0.01, read=0.02, building=1.0, photo=0.001, learned=(0.1, 0.2), head_learned=9.0, solved=2.0)
    counted = count_up(work, speed)
    assert counted.tries == pytest.approx((20.2, 80.5))
    assert counted.finals == pytest.approx((10, 40))
    assert (counted.features, counted.head, counted.exam) == pytest.approx((10.5, 2.0, 3.4))
    assert count_up(replace(work, unread=0), speed).exam == pytest.approx(0.4)


FORECAST = Forecast(features=10.5, head=2.0, tries=(20.2, 80.5), finals=(50.0, 40.0), exam=3.4)


@pytest.mark.parametrize(("tried", "expected"), [(0, 0.0), (1, 70.2), (2, 150.7)])
def test_phase_two_takes_every_try_and_the_slowest_final(tried: int, expected: float) -> None:
    assert FORECAST.seconds(tried) == pytest.approx({"features": 10.5, "head": 2.0, "finetune": expected, "exam": 3.4})


def test_the_forecast_says_what_the_first_try_takes_and_what_all_may_take() -> None:
    said = "this will take about 86 s: features 10 s, phase 1 2 s, phase 2 70 s, scoring 3 s"
    assert FORECAST.sentence() == f"{said}; up to 3 min if deeper layers turn out to be worth it"
    assert replace(FORECAST, tries=(20.2,), finals=(50.0,)).sentence() == said


def test_what_takes_no_time_is_not_listed() -> None:
    assert Forecast(0.2, 0.1, (0,), (0,), 0.4).sentence() == "this will take about 1 s"


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
    ahead = 10.5 + 2.0 + 20.2 + 50.0 + 3.4
    assert Deadline(FORECAST, (ahead + 34) / 60, begun(seconds_ago)).time_left(0) is expected


@pytest.mark.parametrize(("seconds_ago", "expected"), [(0, True), (33, True), (35, False)])
def test_another_try_leaves_time_for_the_slowest_final_and_for_scoring(seconds_ago: float, expected: bool) -> None:
    ahead = 80.5 + 50.0 + 3.4
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


# What is left to compute


def test_auto_above_a_boundary(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, epochs=3, depth=backbone.depths()[3])
    store = new_store()
    # All four folds judge, as 24 photos are fewer than are wanted: 4 x 18 photos and then 24 are learned from.  The folds'
    # photos are answered after each of 3 epochs, and then in both poses at 4 points, of which the last epoch has done one.
    # Every photo is counted in two poses: the plain one and its mirror image.
    expected = Work(
        views=24 * 9, onward=24 * 5, tried=(3 * 72,), learned=(3 * 24,), head_learned=0, validated=((3 + 7) * 24,),
        unread=2 * 6 + 10, asked=2 * 2 * 6 + 2 * 16,
    )  # fmt: skip
    assert count_work(store, backbone, [own], data, recipe, papers(own), 10) == expected
    source = keep_or_render(store, backbone, own, recipe.kept_from, {0: (0, 1), 5: (0,)}, "test")
    assert count_work(store, backbone, [own], data, recipe, papers(own), 10).views == 24 * 9 - 3
    keep(store, backbone, source, backbone.head_boundary, {0: (1,)}, "test")
    held = replace(expected, views=24 * 9 - 3, onward=24 * 5 - 1)
    assert count_work(store, backbone, [own], data, recipe, papers(own), 10) == held
    deeper = choose(TrainConfig(photos=Path(), epochs=3, depth=backbone.depths()[4]), backbone, 24, 3)
    keep_or_render(store, backbone, own, recipe.kept_from, data.views(8, recipe.poses(own)), "test")
    work = count_work(store, backbone, [own], data, deeper, papers(own), 10)
    assert (work.views, work.onward) == (0, 24 * 9 + 24 * 5 - 1)
    keep_or_render(store, backbone, papers(own), recipe.boundary, dict.fromkeys(range(6), (0,)), "test")
    lowered = replace(backbone, precision=torch.bfloat16)  # the exam is in float32 whatever training computes in
    for either in (backbone, lowered):
        assert count_work(store, either, [own], data, recipe, papers(own), 10).unread == 0
    assert count_work(store, lowered, [own], data, recipe, papers(own), 10).views == 24 * 9


def test_every_candidate_is_counted_by_itself(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, epochs=3, depth="layer3")
    (way,) = recipe.candidates
    both = replace(recipe, candidates=(way, replace(way, schedule=replace(way.schedule, epochs=5))))
    work = count_work(new_store(), backbone, [own], data, both, papers(own), 0)
    assert (work.tried, work.learned) == ((3 * 72, 5 * 72), (3 * 24, 5 * 24))
    assert work.validated == ((3 + 7) * 24, (5 + 7) * 24)


@pytest.mark.parametrize("settings", [{}, {"recipe": "head-only"}])
def test_another_way_to_augment_adds_a_view_and_a_pose_of_each_photo(
    photos: tuple[Path, ...], settings: dict[str, object]
) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, **settings)
    turned = replace(own, augmentation=recipe.augmentations[1])
    alone, both = (
        count_work(new_store(), backbone, renderers, data, recipe, papers(own), 0)
        for renderers in ([own], [own, turned])
    )
    onward = 2 * 24 if recipe.candidates else 0
    assert both == replace(alone, views=alone.views + 2 * 24, onward=alone.onward + onward)


def test_where_phase_one_sees_one_view_no_other_way_is_tried(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, recipe="head-only", views=1)
    turned = replace(own, augmentation=recipe.augmentations[1])
    alone, both = (
        count_work(new_store(), backbone, renderers, data, recipe, papers(own), 0)
        for renderers in ([own], [own, turned])
    )
    assert both == alone


def test_head_only_takes_pixels_to_the_head(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, recipe="head-only")
    assert count_work(new_store(), backbone, [own], data, recipe, papers(own), 0) == replace(
        NO_WORK, views=5 * 24, unread=2 * 6, asked=2 * 6 + 2 * 6
    )


def test_where_everything_trains_only_the_features_are_kept(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, depth="all", epochs=2)
    assert count_work(new_store(), backbone, [own], data, recipe, papers(own), 0) == replace(
        NO_WORK, views=5 * 24, tried=(2 * 72,), learned=(2 * 24,), validated=((2 + 7) * 24,), asked=2 * 2 * 6 + 2 * 6
    )


def test_classic_learns_twice(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, recipe="classic", epochs=2, head_epochs=5)
    work = count_work(new_store(), backbone, [own], data, recipe, papers(own), 0)
    assert (work.head_learned, work.tried, work.learned) == (5 * (18 + 24), (2 * 18,), (2 * 24,))
    assert work.validated == (2 * 6,)
    assert work.views == 24 * 6  # the plain view, and one for each epoch of phase 1


def test_validation_named_by_the_user_is_the_only_training(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, epochs=3, depth="layer3")
    named = replace(data, train=np.arange(20), val=np.arange(20, 24), fold=np.arange(20) % 4)
    work = count_work(new_store(), backbone, [own], named, recipe, papers(own), 0)
    assert (work.views, work.tried, work.learned, work.validated) == (20 * 9 + 2 * 4, (3 * 20,), (0,), ((3 + 7) * 4,))


@BACKBONES
@pytest.mark.parametrize(
    "settings",
    [{}, {"recipe": "head-only"}, {"depth": "all"}, {"recipe": "classic"}, {"recipe": "classic", "bn": "train"}],
)
def test_timing_leaves_the_backbone_as_it_was(
    photos: tuple[Path, ...], make: Callable[[], Backbone], settings: dict[str, object]
) -> None:
    backbone = make()
    own, data, recipe = planned(photos, backbone, **settings)
    work = replace(count_work(new_store(), backbone, [own], data, recipe, papers(own), 0), views=10)
    before, drawn = backbone.fingerprint(), torch.get_rng_state()
    speed = measure_speed(backbone, own, data, recipe, work)
    assert backbone.fingerprint() == before
    assert torch.equal(torch.get_rng_state(), drawn)
    assert speed.view > 0
    assert speed.photo >= 0
    assert (speed.solved > 0) == (recipe.head_plan is None)
    assert len(speed.learned) == len(recipe.candidates)


def test_where_nothing_is_left_to_read_nothing_is_read(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone)
    absent = replace(own, paths=tuple(Path("gone") / path.name for path in own.paths))
    work = replace(count_work(new_store(), backbone, [own], data, recipe, papers(own), 0), views=0, unread=0)
    assert measure_speed(backbone, absent, data, recipe, work).view == 0


@pytest.mark.parametrize(("precision", "read"), [(torch.float32, 1), (torch.bfloat16, 2)])
def test_the_exams_photos_are_timed_where_they_are_computed_otherwise(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, precision: torch.dtype, read: int
) -> None:
    timed: list[torch.dtype] = []

    def crossed(backbone: Backbone, *rest: object) -> Iterator[torch.Tensor]:
        timed.append(backbone.precision)
        return crossings(backbone, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("unfreeze.training.planner.crossings", crossed)
    backbone = replace(tiny_cnn(), precision=precision)
    own, data, recipe = planned(photos, backbone, recipe="head-only")
    work = replace(count_work(new_store(), backbone, [own], data, recipe, papers(own), 0), unread=10**6)
    speed = measure_speed(backbone, own, data, recipe, work)
    assert timed == [precision, torch.float32][:read]
    assert speed.read > 0
    assert (speed.building > 0) == (read == 1)


@pytest.mark.parametrize("epochs", [3, 40])
def test_a_forecast_trains_on_fewer_photos_than_it_speaks_of(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    timed: list[int] = []

    def counted(*arguments: object, train: Indices, **rest: object) -> None:
        timed.append(len(train))

    monkeypatch.setattr("unfreeze.training.planner.finetune", counted)
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, recipe="classic", epochs=epochs, head_epochs=epochs)
    work = count_work(new_store(), backbone, [own], data, recipe, papers(own), 0)
    measure_speed(backbone, own, data, recipe, work)
    ahead = work.head_learned + sum(work.tried) + sum(work.learned)
    assert 0 < sum(timed) < ahead / 2
    assert len(timed) == (4 if epochs == 3 else 6)
