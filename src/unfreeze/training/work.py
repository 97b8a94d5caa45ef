"""What a run has left to compute, counted: what the store holds costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unfreeze.data.loaders import Renderer
from unfreeze.models.backbone import Backbone, in_float32
from unfreeze.poses import UPRIGHT
from unfreeze.training.activations import missing, nearest
from unfreeze.training.augmentation import tried_views
from unfreeze.training.kept_heads import is_kept
from unfreeze.training.recipes import Recipe
from unfreeze.training.rounds import TrainingData, trainings_of, validation_rounds
from unfreeze.training.store import Store


@dataclass(frozen=True)
class Work:
    """What is left to compute, in photos or views; what the store holds doesn't count.

    Attributes:
        views: Training views that go from pixels through the frozen stages.
        onward: Kept views that go on to the head.
        tried: Of each candidate, photos times epochs that it trains on, in its rounds and on all photos.
        head_learned: The same of phase 1, where it isn't solved.
        unsolved: Whether phase 1 is one that is solved, and its head isn't kept.
        validated: Of each candidate, photos times epochs that it is judged on.
        unread: Test and reference photos that go from pixels through the frozen stages.
        asked: Test and reference photos times the questions they are asked.
    """

    views: int
    onward: int
    tried: tuple[int, ...]
    head_learned: int
    unsolved: bool
    validated: tuple[int, ...]
    unread: int
    asked: int


def count_work(
    store: Store,
    backbone: Backbone,
    renderers: Sequence[Renderer],
    data: TrainingData,
    recipe: Recipe,
    test: Renderer,
    reference: int,
) -> Work:
    """Count what a run has to compute.

    Args:
        store: What it holds costs nothing.
        backbone: Pretrained.
        renderers: The photos; the first way to render them is taken to be the one that will be chosen.
        data: The photos that training may see.
        recipe: What will be done.
        test: The test photos.
        reference: How many photos of the original task there are; the store is taken to hold them if it holds the test
            photos.

    Photos are taken to be shown in all the poses that phase 1 may choose.
    """
    renderer = renderers[0]
    poses = recipe.poses(renderer)
    rounds = validation_rounds(data, recipe.judges)
    tried = sum(len(each.train) for each in trainings_of(data, recipe.judges))
    judged = sum(len(each.val) for each in rounds)
    epochs = [each.schedule.epochs for each in recipe.candidates]
    head_epochs = recipe.head_schedule.epochs if recipe.head_schedule is not None else 0
    pixels, onward = _gathered(store, backbone, renderer, data, recipe)
    added = only_tried(renderers, data, recipe)
    turned = len(missing(store, backbone, renderer, recipe.kept_from or backbone.head_boundary, added))
    turned_onward = len(missing(store, backbone, renderer, backbone.head_boundary, added)) if recipe.kept_from else 0
    scored = len(test.paths) + reference
    plain = dict.fromkeys(range(len(test.paths)), UPRIGHT)
    unread = bool(recipe.boundary and missing(store, in_float32(backbone), test, recipe.boundary, plain))
    return Work(
        views=pixels + turned,
        onward=onward + turned_onward,
        tried=tuple(each * tried for each in epochs),
        head_learned=head_epochs * tried,
        unsolved=recipe.head_plan is None
        and not is_kept(store, backbone, renderer, data, recipe.learned(renderer), recipe.smoothing),
        validated=tuple((each + len(recipe.alphas) * len(poses) - 1) * judged for each in epochs),
        unread=(scored + len(test.paths) * (len(poses) - 1)) * unread,
        asked=len(test.paths) * len(poses) * (1 + bool(recipe.candidates))
        + 2 * scored * (backbone.network.outputs > 0),
    )


def likeliest_first(
    store: Store, backbone: Backbone, renderers: Sequence[Renderer], data: TrainingData, recipe: Recipe
) -> list[Renderer]:
    """Return the renderers, the one that an earlier run seems to have chosen first: the store holds most of its views."""
    boundary = recipe.kept_from or backbone.head_boundary

    def absent(renderer: Renderer) -> int:
        wanted = data.views(recipe.kept_views, recipe.poses(renderer))
        return len(missing(store, backbone, renderer, boundary, wanted))

    return sorted(renderers, key=absent) if len(renderers) > 1 else list(renderers)


def _gathered(
    store: Store, backbone: Backbone, renderer: Renderer, data: TrainingData, recipe: Recipe
) -> tuple[int, int]:
    """Count the views that ``gather`` computes from pixels, and those that it takes on to the head."""
    head, poses = backbone.head_boundary, recipe.poses(renderer)
    views = data.views(recipe.feature_views, poses)
    onward = len(missing(store, backbone, renderer, head, views)) if recipe.head_on_features else 0
    if not recipe.kept_from:
        return (0, onward) if nearest(store, backbone, renderer, head, views) else (onward, 0)
    kept = data.views(recipe.kept_views, poses)
    pixels = len(missing(store, backbone, renderer, recipe.kept_from, kept))
    return (0, onward + pixels) if nearest(store, backbone, renderer, recipe.kept_from, kept) else (pixels, onward)


def only_tried(renderers: Sequence[Renderer], data: TrainingData, recipe: Recipe) -> dict[int, Sequence[int]]:
    """Return the views that only the trial of renderers asks for."""
    wanted = data.views(recipe.views, recipe.poses(renderers[0]))
    tried = tried_views(renderers, data)
    return {photo: [view for view in views if view not in wanted[photo]] for photo, views in tried.items()}
