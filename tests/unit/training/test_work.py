from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support import new_store, papers, planned, tiny_cnn

from unfreeze.config import TrainConfig
from unfreeze.training.activations import keep, keep_or_render
from unfreeze.training.gather import gather
from unfreeze.training.phase_one import phase_one
from unfreeze.training.recipes import choose
from unfreeze.training.work import Work, count_work

pytestmark = pytest.mark.usefixtures("one_thread")

NO_WORK = Work(views=0, onward=0, tried=(), head_learned=0, unsolved=True, validated=(), unread=0, asked=0)


def test_auto_above_a_boundary(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, epochs=3, depth=backbone.depths()[3])
    store = new_store()
    # All four folds judge, as 24 photos are fewer than are wanted: 4 x 18 photos and then 24 are learned from.  The folds'
    # photos are answered after each of 3 epochs, and then in both poses at 4 points, of which the last epoch has done one.
    # Every photo is counted in two poses: the plain one and its mirror image.
    expected = Work(
        views=24 * 9, onward=24 * 3, tried=(3 * (72 + 24),), head_learned=0, unsolved=True,
        validated=((3 + 7) * 24,), unread=2 * 6 + 10, asked=2 * 2 * 6 + 2 * 16,
    )  # fmt: skip
    assert count_work(store, backbone, [own], data, recipe, papers(own), 10) == expected
    source = keep_or_render(store, backbone, own, recipe.kept_from, {0: (0, 1), 5: (0,)}, "test")
    assert count_work(store, backbone, [own], data, recipe, papers(own), 10).views == 24 * 9 - 3
    keep(store, backbone, source, backbone.head_boundary, {0: (1,)}, "test")
    held = replace(expected, views=24 * 9 - 3, onward=24 * 3 - 1)
    assert count_work(store, backbone, [own], data, recipe, papers(own), 10) == held
    deeper = choose(TrainConfig(photos=Path(), epochs=3, depth=backbone.depths()[4]), backbone, 24, 3)
    keep_or_render(store, backbone, own, recipe.kept_from, data.views(8, recipe.poses(own)), "test")
    work = count_work(store, backbone, [own], data, deeper, papers(own), 10)
    assert (work.views, work.onward) == (0, 24 * 9 + 24 * 3 - 1)
    keep_or_render(store, backbone, papers(own), recipe.boundary, dict.fromkeys(range(6), (0,)), "test")
    lowered = replace(backbone, precision=torch.bfloat16)  # the exam is in float32 whatever training computes in
    for either in (backbone, lowered):
        assert count_work(store, either, [own], data, recipe, papers(own), 10).unread == 0
    assert count_work(store, lowered, [own], data, recipe, papers(own), 10).views == 24 * 9


def test_the_features_that_an_anchor_holds_to_are_counted(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, epochs=3, depth="layer3", anchor=1.0)
    assert count_work(new_store(), backbone, [own], data, recipe, papers(own), 0).onward == 24 * 9


def test_every_candidate_is_counted_by_itself(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, epochs=3, depth="layer3")
    (way,) = recipe.candidates
    both = replace(recipe, candidates=(way, replace(way, schedule=replace(way.schedule, epochs=5))))
    work = count_work(new_store(), backbone, [own], data, both, papers(own), 0)
    assert work.tried == (3 * (72 + 24), 5 * (72 + 24))
    assert work.validated == ((3 + 7) * 24, (5 + 7) * 24)


@pytest.mark.parametrize("enough", [400, 10])
@pytest.mark.parametrize(
    ("settings", "poses"), [({}, 1), ({"recipe": "head-only"}, 1), ({"recipe": "head-only", "tta": False}, 2)]
)
def test_another_way_to_augment_adds_a_pose_of_some_photos_and_the_first_ways_own_where_nobody_else_asks_for_it(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], poses: int, enough: int
) -> None:
    monkeypatch.setattr("unfreeze.training.augmentation.ENOUGH", enough)
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, **settings)
    turned = replace(own, augmentation=recipe.augmentations[1])
    alone, both = (
        count_work(new_store(), backbone, renderers, data, recipe, papers(own), 0)
        for renderers in ([own], [own, turned])
    )
    added = poses * min(enough, 24)
    assert both == replace(alone, views=alone.views + added, onward=alone.onward + (added if recipe.candidates else 0))


def test_head_only_takes_pixels_to_the_head(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, recipe="head-only")
    assert count_work(new_store(), backbone, [own], data, recipe, papers(own), 0) == replace(
        NO_WORK, views=3 * 24, unread=2 * 6, asked=2 * 6 + 2 * 6
    )


def test_where_everything_trains_only_the_features_are_kept(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, depth="all", epochs=2)
    assert count_work(new_store(), backbone, [own], data, recipe, papers(own), 0) == replace(
        NO_WORK, views=3 * 24, tried=(2 * (72 + 24),), validated=((2 + 7) * 24,), asked=2 * 2 * 6 + 2 * 6
    )


def test_classic_learns_twice(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, recipe="classic", epochs=2, head_epochs=5)
    work = count_work(new_store(), backbone, [own], data, recipe, papers(own), 0)
    assert not work.unsolved
    assert (work.head_learned, work.tried) == (5 * (18 + 24), (2 * (18 + 24),))
    assert work.validated == (2 * 6,)
    assert work.views == 24 * 6  # the plain view, and one for each epoch of phase 1


def test_validation_named_by_the_user_is_the_only_training(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, epochs=3, depth="layer3")
    named = replace(data, train=np.arange(20), val=np.arange(20, 24), fold=np.arange(20) % 4)
    work = count_work(new_store(), backbone, [own], named, recipe, papers(own), 0)
    assert (work.views, work.tried, work.validated) == (20 * 9 + 2 * 4, (3 * 20,), ((3 + 7) * 4,))


@pytest.mark.parametrize("settings", [{}, {"recipe": "head-only"}])
def test_a_head_that_was_solved_before_is_not_counted(photos: tuple[Path, ...], settings: dict[str, object]) -> None:
    backbone, store = tiny_cnn(), new_store()
    own, data, recipe = planned(photos, backbone, **settings)
    _, at_head = gather(store, backbone, own, data, recipe)
    assert count_work(store, backbone, [own], data, recipe, papers(own), 0).unsolved
    phase_one(store, backbone, at_head, data, recipe, 0)
    assert not count_work(store, backbone, [own], data, recipe, papers(own), 0).unsolved
