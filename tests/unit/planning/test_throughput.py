from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.support.backbones import tiny_cnn, tiny_vit
from tests.support.training import new_store, papers, planned

from unfreeze.models.backbone import Backbone
from unfreeze.training.activations import BATCH
from unfreeze.training.augmentation import suited
from unfreeze.training.finetune import Indices
from unfreeze.training.gather import gather
from unfreeze.training.side_by_side import pace
from unfreeze.training.speed import _a_view, measure_reading, measure_speed
from unfreeze.training.store import Store
from unfreeze.training.work import Work, count_work, likeliest_first

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])


@BACKBONES
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"anchor": 1.0},
        {"recipe": "head-only"},
        {"depth": "all"},
        {"recipe": "classic"},
        {"recipe": "classic", "bn": "train"},
    ],
)
def test_timing_leaves_the_backbone_as_it_was(
    photos: tuple[Path, ...], make: Callable[[], Backbone], settings: dict[str, object]
) -> None:
    backbone = make()
    own, data, recipe = planned(photos, backbone, **settings)
    work = replace(count_work(new_store(), backbone, [own], data, recipe, papers(own), 0), views=10)
    before, drawn = backbone.fingerprint(), torch.get_rng_state()
    speed = measure_speed(new_store(), backbone, [own], data, recipe, work)
    assert backbone.fingerprint() == before
    assert torch.equal(torch.get_rng_state(), drawn)
    assert speed.view > 0
    assert speed.photo >= 0
    assert (speed.solved > 0) == (recipe.head_plan is None)
    assert len(speed.learned) == len(recipe.candidates)


@pytest.mark.usefixtures("four_threads")
def test_trainings_that_run_side_by_side_take_less(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone)
    work = count_work(new_store(), backbone, [own], data, recipe, papers(own), 0)
    monkeypatch.setattr("unfreeze.training.speed._a_learned_photo", lambda *_: 3.0)
    asked: list[int] = []

    def two(_backbone: Backbone, _source: object, _plan: object, _batch_size: int, trainings: int) -> int:
        asked.append(trainings)
        return 2

    monkeypatch.setattr("unfreeze.training.speed.how_many", two)
    speed = measure_speed(new_store(), backbone, [own], data, recipe, work)
    assert set(asked) == {5}  # four rounds and all photos
    assert speed.learned == pytest.approx((3 * pace(5, 2, 4),) * len(recipe.candidates))


def test_where_nothing_is_left_to_read_nothing_is_read(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone)
    absent = replace(own, paths=tuple(Path("gone") / path.name for path in own.paths))
    work = replace(count_work(new_store(), backbone, [own], data, recipe, papers(own), 0), views=0, unread=0)
    assert measure_speed(new_store(), backbone, [absent], data, recipe, work).view == 0


@pytest.mark.parametrize(("precision", "read"), [(torch.float32, 1), (torch.bfloat16, 2)])
def test_the_exams_photos_are_timed_where_they_are_computed_otherwise(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, precision: torch.dtype, read: int
) -> None:
    timed: list[torch.dtype] = []

    def noted(store: Store, backbone: Backbone, *rest: object) -> tuple[float, float, int]:
        timed.append(backbone.precision)
        _a_view(store, backbone, *rest)  # type: ignore[arg-type]  # tells whether the backbone bears its precision
        return 0.5 if len(timed) == 1 else 0.25, 3.0, 48

    monkeypatch.setattr("unfreeze.training.speed._a_view", noted)
    backbone = replace(tiny_cnn(), precision=precision)
    own, data, recipe = planned(photos, backbone, recipe="head-only")
    work = replace(count_work(new_store(), backbone, [own], data, recipe, papers(own), 0), unread=10**6)
    speed = measure_speed(new_store(), backbone, [own], data, recipe, work)
    speed = measure_reading(new_store(), backbone, papers(own), recipe, work, speed)
    assert timed == [precision, torch.float32][:read]
    assert (speed.view, speed.read, speed.building, speed.timed) == (
        0.5,
        *((0.5, 3.0) if read == 1 else (0.25, 3.0)),
        48,
    )


@pytest.mark.parametrize(
    "settings", [{}, {"anchor": 1.0}, {"recipe": "head-only"}, {"recipe": "head-only", "tta": False}]
)
def test_views_that_are_timed_are_some_that_the_run_asks_for_and_are_kept(
    photos: tuple[Path, ...], settings: dict[str, object]
) -> None:
    backbone, store = tiny_cnn(), new_store()
    own, data, recipe = planned(photos, backbone, **settings)
    both = [own, replace(own, augmentation=recipe.augmentations[1])]

    def left() -> Work:
        return count_work(store, backbone, both, data, recipe, papers(own), 0)

    first = left()
    speed = measure_speed(store, backbone, both, data, recipe, first)
    assert speed.timed == 3 * BATCH
    assert left() == replace(first, views=first.views - speed.timed)
    renderer = suited(store, backbone, both, data, recipe)
    gather(store, backbone, renderer, data, recipe)
    likely = likeliest_first(store, backbone, both, data, recipe)
    assert likely[0] is renderer
    done = count_work(store, backbone, likely, data, recipe, papers(own), 0)
    assert (done.views, done.onward) == (0, 0)


def test_an_exam_that_alone_is_left_is_timed_on_its_own_photos(photos: tuple[Path, ...]) -> None:
    backbone, store = tiny_cnn(), new_store()
    own, data, recipe = planned(photos, backbone, recipe="head-only")
    gather(store, backbone, own, data, recipe)
    work = count_work(store, backbone, [own], data, recipe, papers(own), 0)
    assert (work.views, work.unread) == (0, 12)
    speed = measure_speed(store, backbone, [own], data, recipe, work)
    speed = measure_reading(store, backbone, papers(own), recipe, work, speed)
    assert (speed.view, speed.timed) == (0, 0)
    assert speed.read > 0
    assert count_work(store, backbone, [own], data, recipe, papers(own), 0).unread == 0


@pytest.mark.parametrize("epochs", [3, 40])
def test_a_forecast_trains_on_fewer_photos_than_it_speaks_of(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    timed: list[int] = []

    def counted(*arguments: object, train: Indices, **rest: object) -> None:
        timed.append(len(train))

    monkeypatch.setattr("unfreeze.training.speed.finetune", counted)
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, recipe="classic", epochs=epochs, head_epochs=epochs)
    work = count_work(new_store(), backbone, [own], data, recipe, papers(own), 0)
    measure_speed(new_store(), backbone, [own], data, recipe, work)
    ahead = work.head_learned + sum(work.tried)
    assert 0 < sum(timed) < ahead / 2
    assert len(timed) == (4 if epochs == 3 else 6)
