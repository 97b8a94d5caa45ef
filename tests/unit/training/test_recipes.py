from __future__ import annotations

import itertools

import pytest
from tests.support import tiny_cnn, tiny_vit

from unfreeze.config import make_config
from unfreeze.errors import ConfigError
from unfreeze.models.backbone import Backbone
from unfreeze.training.recipes import Recipe, choose

pytestmark = pytest.mark.usefixtures("one_thread")


def chosen(backbone: Backbone, photos: int = 60, **settings: object) -> Recipe:
    return choose(make_config({"photos": "x", **settings}), backbone, photos, 3)


def test_head_only_has_no_second_phase() -> None:
    for recipe in (chosen(tiny_cnn(), recipe="head-only"), chosen(tiny_cnn(), depth="head")):
        assert recipe.plan is None
        assert recipe.schedule is None
        assert recipe.head_plan is None
        assert recipe.tuned_from == 5
        assert recipe.boundary == 4  # the original classifier needs the last stage's output before pooling
        assert recipe.head_on_features


@pytest.mark.parametrize(("depth", "boundary"), [("all", 0), ("stem", 0), ("layer2", 2), ("layer4", 4)])
def test_depth_decides_what_trains(depth: str, boundary: int) -> None:
    recipe = chosen(tiny_cnn(), depth=depth)
    assert recipe.plan is not None
    assert [row.trainable for row in recipe.plan.rows] == [index >= boundary for index in range(5)]
    assert recipe.tuned_from == recipe.boundary == recipe.plan.boundary == boundary
    assert recipe.schedule is not None
    assert (recipe.schedule.views is None) == (boundary == 0)  # kept views where there are activations to keep


def test_an_unknown_depth_is_refused() -> None:
    with pytest.raises(ConfigError, match="--depth"):
        chosen(tiny_cnn(), depth="layer9")


def test_batch_norm_in_train_mode_leaves_nothing_to_keep() -> None:
    recipe = chosen(tiny_cnn(), depth="layer3", bn="train")
    assert recipe.plan is not None
    assert recipe.plan.boundary == recipe.boundary == 0
    assert recipe.tuned_from == 3
    assert [row.bn for row in recipe.plan.rows] == ["train"] * 5


def test_more_photos_train_more_stages() -> None:
    few, many = chosen(tiny_cnn(), 60), chosen(tiny_cnn(), 30_000)
    assert 0 < few.tuned_from < 5
    assert many.tuned_from == 0


@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
def test_settings_win_over_the_tables(make: object) -> None:
    backbone = tiny_cnn() if make is tiny_cnn else tiny_vit()
    recipe = chosen(backbone, lr=0.00123, epochs=7, batch_size=9, views=5)
    assert recipe.plan is not None
    assert recipe.schedule is not None
    assert recipe.plan.rows[-1].lr == 0.00123
    assert (recipe.schedule.epochs, recipe.schedule.batch_size, recipe.schedule.views) == (7, 9, 5)
    assert recipe.views == 5


def test_lower_stages_learn_more_slowly() -> None:
    recipe = chosen(tiny_cnn(), depth="all")
    assert recipe.plan is not None
    rates = [row.lr for row in recipe.plan.rows]
    assert all(low < high for low, high in itertools.pairwise(rates))
    assert recipe.plan.head_lr >= rates[-1]


def test_classic_is_the_textbooks_recipe() -> None:
    recipe = chosen(tiny_cnn(), recipe="classic", epochs=3, head_epochs=2)
    assert recipe.head_plan is not None
    assert recipe.plan is not None
    assert recipe.head_schedule is not None
    assert recipe.schedule is not None
    assert recipe.head_plan.boundary == 5
    assert recipe.head_on_features
    assert recipe.boundary == recipe.tuned_from == recipe.plan.boundary == 0
    assert len({row.lr for row in recipe.plan.rows}) == 1
    assert 10 <= recipe.head_plan.head_lr / recipe.plan.head_lr <= 1000
    assert (recipe.head_schedule.epochs, recipe.schedule.epochs) == (2, 3)
    assert recipe.views == 3  # phase 1 draws a new view in each of its epochs, after the plain one
    assert {recipe.head_schedule.optimizer, recipe.schedule.optimizer} == {"adam"}
    assert not recipe.choose_epoch


def test_classic_with_batch_norm_in_train_mode_trains_its_head_on_photos() -> None:
    recipe = chosen(tiny_cnn(), recipe="classic", bn="train")
    assert recipe.head_plan is not None
    assert recipe.head_plan.boundary == 0
    assert not recipe.head_on_features
    assert not any(row.trainable for row in recipe.head_plan.rows)


def test_fresh_views_are_kept_with_the_others() -> None:
    recipe = chosen(tiny_cnn(), depth="layer3", views=3, fresh_views=2, epochs=4)
    assert recipe.schedule is not None
    assert recipe.views == 3  # what phase 1 sees
    assert recipe.schedule.fresh == 2
    assert recipe.kept_views == 3 + 2 * 3
    assert chosen(tiny_cnn(), depth="layer3", views=3).kept_views == 3
    with pytest.raises(ConfigError, match="--fresh-views"):
        chosen(tiny_cnn(), views=2, fresh_views=3)
