from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support import new_store, renderer, tiny_cnn, tiny_vit

from unfreeze.config import TrainConfig
from unfreeze.data.loaders import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.training.activations import keep, keep_or_render
from unfreeze.training.phases import TrainingData
from unfreeze.training.planner import Forecast, Speed, Work, count_up, count_work, duration, measure_speed
from unfreeze.training.recipes import Recipe, choose

pytestmark = pytest.mark.usefixtures("one_thread")

NO_WORK = Work(views=0, onward=0, learned=0, head_learned=0, validated=0, unread=0, asked=0)
BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])


def planned(photos: tuple[Path, ...], backbone: Backbone, **settings: object) -> tuple[Renderer, TrainingData, Recipe]:
    """24 photos to learn from in 4 folds, 6 to test on."""
    data = TrainingData(torch.arange(30) % 3, np.arange(24), np.arange(0), np.arange(24) % 4, 3)
    recipe = choose(TrainConfig(photos=Path(), **settings), backbone, 24, 3)  # type: ignore[arg-type]
    return replace(renderer(photos), augmentation=recipe.augmentation), data, recipe


def papers(own: Renderer) -> Renderer:
    return replace(own, paths=own.paths[24:], digests=own.digests[24:])


def test_work_times_speed() -> None:
    work = Work(views=1000, onward=500, learned=300, head_learned=0, validated=200, unread=100, asked=400)
    speed = Speed(view=0.01, read=0.02, building=1.0, photo=0.001, learned=0.1, head_learned=9.0, solved=2.0)
    counted = count_up(work, speed)
    assert counted.seconds() == pytest.approx({"features": 10.5, "head": 2.0, "finetune": 30.2, "exam": 3.4})
    assert counted.sentence() == "this will take about 46 s: features 10 s, phase 1 2 s, phase 2 30 s, scoring 3 s"
    assert count_up(replace(work, unread=0), speed).exam == pytest.approx(0.4)


def test_what_takes_no_time_is_not_listed() -> None:
    assert Forecast(0.2, 0.1, 0, 0.4).sentence() == "this will take about 1 s"


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


def test_auto_above_a_boundary(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, epochs=3, depth=backbone.depths()[3])
    store = new_store()
    # All four folds judge, as 24 photos are fewer than are wanted: 4 x 18 photos and then 24 are learned from.
    expected = Work(
        views=96, onward=96, learned=3 * 96, head_learned=0, validated=3 * 24, unread=6 + 10, asked=2 * 6 + 2 * 16
    )
    assert count_work(store, backbone, own, data, recipe, papers(own), 10) == expected
    source = keep_or_render(store, backbone, own, recipe.kept_from, {0: (0, 1), 5: (0,)}, "test")
    assert count_work(store, backbone, own, data, recipe, papers(own), 10).views == 93
    keep(store, backbone, source, backbone.head_boundary, {0: (1,)}, "test")
    assert count_work(store, backbone, own, data, recipe, papers(own), 10) == replace(expected, views=93, onward=95)
    deeper = choose(TrainConfig(photos=Path(), epochs=3, depth=backbone.depths()[4]), backbone, 24, 3)
    keep_or_render(store, backbone, own, recipe.kept_from, data.views(4), "test")
    work = count_work(store, backbone, own, data, deeper, papers(own), 10)
    assert (work.views, work.onward) == (0, 96 + 95)
    keep_or_render(store, backbone, papers(own), recipe.boundary, dict.fromkeys(range(6), (0,)), "test")
    lowered = replace(backbone, precision=torch.bfloat16)  # the exam is in float32 whatever training computes in
    for either in (backbone, lowered):
        assert count_work(store, either, own, data, recipe, papers(own), 10).unread == 0
    assert count_work(store, lowered, own, data, recipe, papers(own), 10).views == 96


def test_head_only_takes_pixels_to_the_head(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, recipe="head-only")
    assert count_work(new_store(), backbone, own, data, recipe, papers(own), 0) == replace(
        NO_WORK, views=96, unread=6, asked=6 + 2 * 6
    )


def test_where_everything_trains_only_the_features_are_kept(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, depth="all", epochs=2)
    assert count_work(new_store(), backbone, own, data, recipe, papers(own), 0) == replace(
        NO_WORK, views=96, learned=2 * 96, validated=2 * 24, asked=2 * 6 + 2 * 6
    )


def test_classic_learns_twice(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, recipe="classic", epochs=2, head_epochs=5)
    work = count_work(new_store(), backbone, own, data, recipe, papers(own), 0)
    assert (work.head_learned, work.learned, work.validated) == (5 * (18 + 24), 2 * (18 + 24), 2 * 6)
    assert work.views == 24 * 6  # the plain view, and one for each epoch of phase 1


def test_validation_named_by_the_user_is_the_only_training(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, epochs=3)
    named = replace(data, train=np.arange(20), val=np.arange(20, 24), fold=np.arange(20) % 4)
    work = count_work(new_store(), backbone, own, named, recipe, papers(own), 0)
    assert (work.views, work.learned, work.validated) == (20 * 4 + 4, 3 * 20, 3 * 4)


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
    before, drawn = backbone.fingerprint(), torch.get_rng_state()
    speed = measure_speed(backbone, own, data, recipe, replace(NO_WORK, views=10))
    assert backbone.fingerprint() == before
    assert torch.equal(torch.get_rng_state(), drawn)
    assert speed.view > 0
    assert speed.photo >= 0
    assert (speed.solved > 0) == (recipe.head_plan is None)


def test_where_nothing_is_left_to_read_nothing_is_read(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone)
    absent = replace(own, paths=tuple(Path("gone") / path.name for path in own.paths))
    assert measure_speed(backbone, absent, data, recipe, NO_WORK).view == 0
