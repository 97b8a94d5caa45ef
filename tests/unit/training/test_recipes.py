from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.support.backbones import tiny_cnn, tiny_vit

from unfreeze.config import make_config
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.data.rendering.transforms import Augmentation
from unfreeze.errors import ConfigError
from unfreeze.evaluation.prior import UNKNOWN_PHASE_TWO, WEAK_PRIOR, packaged_prior
from unfreeze.models.backbone import Backbone
from unfreeze.orientations import Orientation
from unfreeze.preprocessing import Fit
from unfreeze.training.recipe import LR_BACKOFF, ByGradient, Candidate, Recipe, Solved
from unfreeze.training.recipes import COLOR_JITTER, LIGHT_AUG, ROTATION_AUG, recipe_for
from unfreeze.views import PLAIN, PLAIN_ONLY, SQUEEZE, EvaluationView, Views, tiles

pytestmark = pytest.mark.usefixtures("one_thread")


def chosen(backbone: Backbone, photos: int = 60, **settings: object) -> Recipe:
    return recipe_for(make_config({"photos": "x", **settings}), backbone, photos, 3)


def only(recipe: Recipe) -> Candidate:
    (found,) = recipe.candidates
    return found


def test_head_only_has_no_second_phase() -> None:
    for recipe in (chosen(tiny_cnn(), recipe="head-only"), chosen(tiny_cnn(), depth="head")):
        assert recipe.candidates == ()
        assert recipe.alphas == ()
        assert recipe.max_forgetting is None
        assert recipe.head == Solved()
        assert recipe.cache_boundary == 0
        assert recipe.boundary == 4  # the original classifier needs the last stage's output before pooling
        assert recipe.head_uses_features


@pytest.mark.parametrize(("depth", "boundary"), [("all", 0), ("stem", 0), ("layer2", 2), ("layer4", 4)])
def test_depth_decides_what_trains(depth: str, boundary: int) -> None:
    recipe = chosen(tiny_cnn(), depth=depth)
    way = only(recipe)
    assert [row.trainable for row in way.plan.rows] == [index >= boundary for index in range(5)]
    assert way.boundary == recipe.boundary == way.plan.boundary == boundary
    assert way.depth == ("all" if depth == "stem" else depth)
    assert (way.schedule.n_views is None) == (boundary == 0)  # kept views where there are activations to keep


def test_an_unknown_depth_is_refused() -> None:
    with pytest.raises(ConfigError, match="--depth"):
        chosen(tiny_cnn(), depth="layer9")


def test_batch_norm_in_train_mode_leaves_nothing_to_keep() -> None:
    recipe = chosen(tiny_cnn(), depth="layer3", bn="train")
    way = only(recipe)
    assert way.plan.boundary == recipe.boundary == recipe.cache_boundary == 0
    assert way.boundary == 3
    assert [row.bn for row in way.plan.rows] == ["train"] * 5


@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
@pytest.mark.parametrize("photos", [60, 300, 30_000])
def test_the_search_goes_downwards_from_the_head_and_tries_nothing_twice(
    make: Callable[[], Backbone], photos: int
) -> None:
    recipe = chosen(make(), photos)
    ways = [(way.boundary, way.lr) for way in recipe.candidates]
    boundaries = [boundary for boundary, _ in ways]
    assert len(ways) == len(set(ways)) > 0
    assert boundaries == sorted(boundaries, reverse=True)
    assert boundaries[0] < 5
    assert boundaries[-1] == recipe.boundary


def test_more_photos_train_more_stages() -> None:
    few, many = chosen(tiny_cnn(), 60), chosen(tiny_cnn(), 30_000)
    assert min(way.boundary for way in few.candidates) > 0
    assert min(way.boundary for way in many.candidates) == 0


@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
def test_settings_win_over_the_tables(make: Callable[[], Backbone]) -> None:
    recipe = chosen(make(), 300, lr=0.00123, epochs=7, batch_size=9, views=5)
    assert recipe.candidates
    for way in recipe.candidates:
        assert way.lr == 0.00123
        assert (way.schedule.epochs, way.schedule.batch_size, way.schedule.n_views) == (7, 9, 5)
    assert len({way.boundary for way in recipe.candidates}) == len(recipe.candidates)
    assert recipe.n_head_views == 5


def test_lower_stages_learn_more_slowly() -> None:
    way = only(chosen(tiny_cnn(), depth="all"))
    rates = [row.lr for row in way.plan.rows]
    assert all(low < high for low, high in itertools.pairwise(rates))
    assert way.plan.head_lr >= rates[-1] == way.lr


def test_slower_is_a_tenth_of_every_rate_and_nothing_else() -> None:
    way = only(chosen(tiny_cnn(), depth="layer3"))
    slower = way.with_lr_scaled()
    assert slower.lr == pytest.approx(LR_BACKOFF * way.lr)
    assert slower.plan.head_lr == pytest.approx(LR_BACKOFF * way.plan.head_lr)
    assert [row.lr for row in slower.plan.rows] == pytest.approx([LR_BACKOFF * row.lr for row in way.plan.rows])
    still = [replace(row, lr=0.0) for row in way.plan.rows]
    assert [replace(row, lr=0.0) for row in slower.plan.rows] == still
    assert replace(slower, plan=way.plan) == way


@pytest.mark.parametrize(
    ("symmetry", "expected"),
    [
        ("none", (replace(LIGHT_AUG, flip=0.0),)),
        ("flip", (LIGHT_AUG,)),
        ("rotate", (ROTATION_AUG,)),
        (None, (LIGHT_AUG, ROTATION_AUG)),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"recipe": "head-only"}, {"depth": "layer3"}])
def test_symmetry_decides_how_views_are_turned(
    symmetry: str | None, expected: tuple[Augmentation, ...], settings: dict[str, Any]
) -> None:
    assert chosen(tiny_cnn(), symmetry=symmetry, **settings).augmentations == expected


@pytest.mark.parametrize(
    ("settings", "augmentation", "expected"),
    [
        ({}, LIGHT_AUG, (0, 1, Orientation.FLIPPED)),
        ({"recipe": "head-only"}, ROTATION_AUG, (0, 1, Orientation.ROT90, Orientation.ROT180, Orientation.ROT270)),
        ({"recipe": "head-only", "views": 1}, LIGHT_AUG, (0, Orientation.FLIPPED)),
        ({"views": 4}, replace(LIGHT_AUG, flip=0.0), (0, 1, 2, 3)),
        ({"tta": False}, ROTATION_AUG, (0, 1)),
    ],
)
def test_a_solved_head_learns_from_few_views_and_every_pose_that_may_be_asked_about(
    settings: dict[str, Any], augmentation: Augmentation, expected: tuple[int, ...]
) -> None:
    backbone = tiny_cnn()
    renderer = Renderer((), backbone.network.preprocessing, augmentation)
    assert chosen(backbone, **settings).head_views(renderer) == expected


@pytest.mark.parametrize("settings", [{}, {"recipe": "head-only"}, {"depth": "layer3"}])
def test_varied_light_changes_the_light_alone(settings: dict[str, Any]) -> None:
    varied = chosen(tiny_cnn(), color_jitter="varied", **settings).augmentations
    assert varied == (replace(LIGHT_AUG, color_jitter=COLOR_JITTER), replace(ROTATION_AUG, color_jitter=COLOR_JITTER))


def test_the_budget_for_forgetting_is_the_users() -> None:
    assert chosen(tiny_cnn()).max_forgetting is None
    assert chosen(tiny_cnn(), reference="there").max_forgetting is None
    assert chosen(tiny_cnn(), max_forgetting=0, reference="there").max_forgetting == 0


def test_the_prior_is_that_of_the_regime_and_the_family() -> None:
    assert chosen(tiny_cnn()).prior == packaged_prior("scarce", "batch norm")
    assert chosen(tiny_vit(), photos=300).prior == packaged_prior("middle", "layer norm")
    assert chosen(tiny_cnn(), recipe="head-only").prior == packaged_prior("scarce", "batch norm")
    assert chosen(tiny_cnn(), recipe="classic").prior == WEAK_PRIOR
    trained = chosen(tiny_cnn(), bn="train").prior  # what it does is not what the table was measured with
    assert trained.of("phase2:top-third:1") == UNKNOWN_PHASE_TWO
    assert trained.of("head:stages") == packaged_prior("scarce", "batch norm").of("head:stages")


def test_auto_may_ship_any_point_up_to_phase_two_itself() -> None:
    alphas = chosen(tiny_cnn()).alphas
    assert list(alphas) == sorted(alphas)
    assert 0 not in alphas
    assert alphas[-1] == 1


def test_without_phase_two_the_recipe_ends_with_the_head() -> None:
    recipe = chosen(tiny_cnn())
    ended = recipe.without_phase_two()
    assert ended.candidates == ()
    assert ended.alphas == ()
    assert ended.cache_boundary == 0
    assert ended.boundary == recipe.boundary  # what was set up for the exam stays right
    assert ended.n_cached_views == recipe.n_head_views


def test_judged_by_all_holds_out_every_photo() -> None:
    recipe = chosen(tiny_cnn())
    assert not recipe.cross_fit
    assert recipe.cross_fit_all(1234) == replace(recipe, min_validation_images=1234, cross_fit=True)


def test_classic_is_the_textbooks_recipe() -> None:
    recipe = chosen(tiny_cnn(), recipe="classic", epochs=3, head_epochs=2)
    way = only(recipe)
    assert isinstance(recipe.head, ByGradient)
    assert recipe.head.plan.boundary == 5
    assert recipe.head_uses_features
    assert recipe.boundary == way.boundary == way.plan.boundary == 0
    assert len({row.lr for row in way.plan.rows}) == 1
    assert 10 <= recipe.head.plan.head_lr / way.plan.head_lr <= 1000
    assert (recipe.head.schedule.epochs, way.schedule.epochs) == (2, 3)
    assert recipe.n_head_views == 3  # phase 1 draws a new view in each of its epochs, after the plain one
    assert {recipe.head.schedule.optimizer, way.schedule.optimizer} == {"adam"}
    assert recipe.alphas == (1.0,)
    assert recipe.max_forgetting is None


def test_classic_with_batch_norm_in_train_mode_trains_its_head_on_photos() -> None:
    recipe = chosen(tiny_cnn(), recipe="classic", bn="train")
    assert isinstance(recipe.head, ByGradient)
    assert recipe.head.plan.boundary == 0
    assert not recipe.head_uses_features
    assert not any(row.trainable for row in recipe.head.plan.rows)


def test_fresh_views_are_kept_with_the_others() -> None:
    recipe = chosen(tiny_cnn(), depth="layer3", views=3, new_views=2, epochs=4)
    assert recipe.n_head_views == 3  # what phase 1 sees
    assert only(recipe).schedule.new_views_per_epoch == 2
    assert recipe.n_cached_views == 3 + 2 * 3
    assert chosen(tiny_cnn(), depth="layer3", views=3).n_cached_views == 3
    with pytest.raises(ConfigError, match="--new-views"):
        chosen(tiny_cnn(), views=2, new_views=3)


def test_an_anchor_holds_where_every_view_is_kept_and_an_original_classifier_can_answer() -> None:
    assert only(chosen(tiny_cnn(), depth="layer3")).schedule.distill == 0.0
    assert only(chosen(tiny_cnn(), depth="layer3", distill=2.5)).schedule.distill == 2.5
    backbone = tiny_cnn()
    for silent in (
        replace(backbone, pooled=False),
        replace(backbone, network=replace(backbone.network, num_classes=0)),
    ):
        assert only(chosen(silent, depth="layer3", distill=0.0)).schedule.distill == 0.0
        with pytest.raises(ConfigError, match="no original classifier"):
            chosen(silent, depth="layer3", distill=1.0)


def test_features_are_kept_of_every_view_that_an_anchor_holds() -> None:
    assert chosen(tiny_cnn(), depth="layer3").n_feature_views == 2
    assert chosen(tiny_cnn(), depth="layer3", distill=1.0).n_feature_views == 8
    changed = chosen(tiny_cnn(), depth="layer3", views=3, new_views=2, epochs=4, distill=1.0)
    assert changed.n_feature_views == 3 + 2 * 3
    assert chosen(tiny_cnn(), recipe="head-only").n_feature_views == 2


WIDE = [(900, 150)] * 60


def fitted(backbone: Backbone, fit: Fit) -> Backbone:
    return replace(
        backbone, network=replace(backbone.network, preprocessing=backbone.network.preprocessing.fitted(fit))
    )


def test_the_fit_decides_which_views_are_looked_at() -> None:
    def view_sets(backbone: Backbone, **settings: object) -> tuple[Views, ...]:
        config = make_config({"photos": "x", **settings})
        recipe = recipe_for(config, backbone, 60, 3, WIDE)
        renderer = Renderer((), backbone.network.preprocessing, recipe.augmentations[0])
        assert recipe.evaluation_views(renderer)[0] == PLAIN
        return recipe.view_sets(renderer)

    tiled = tuple(map(EvaluationView.of, tiles((1, 4))))
    whole = EvaluationView.of(SQUEEZE)
    cnn = tiny_cnn()
    assert view_sets(cnn, symmetry="none") == (PLAIN_ONLY, (PLAIN, whole), tiled, (whole,))
    assert view_sets(cnn, tta=False) == (PLAIN_ONLY, (whole,))
    assert view_sets(cnn, fit="tiles") == (tiled,)
    assert view_sets(cnn, symmetry="none", fit="crop") == (PLAIN_ONLY,)
    assert view_sets(cnn, recipe="classic") == (PLAIN_ONLY,)
    fits: tuple[Fit, ...] = ("squash", "pad")
    for fit in fits:
        assert view_sets(fitted(cnn, fit), symmetry="none", fit=fit) == (PLAIN_ONLY,)
        assert view_sets(fitted(cnn, fit), symmetry="none") == (PLAIN_ONLY,)  # a model that was saved with this fit


@pytest.mark.parametrize("settings", [{"recipe": "classic"}, {"tta": False}])
def test_tiles_need_several_views(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="--fit tiles"):
        make_config({"photos": "x", "fit": "tiles", **settings})
