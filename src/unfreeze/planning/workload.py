"""What a run has left to compute, counted from the requests that it will execute: what the cache holds costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.training.augmentation import probe_requests
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.demand import CacheMisses, cache_misses, held_out_request
from unfreeze.training.features.gather import training_requests
from unfreeze.training.folds import Folds, TrainingSet
from unfreeze.training.head.head_cache import is_head_cached
from unfreeze.training.recipe import ByGradient, Recipe


@dataclass(frozen=True)
class Workload:
    """What is left to compute, in images or views.

    Attributes:
        training: Activations of training images.
        held_out: Activations of test and reference images.
        n_head_train_images: Images times epochs that phase 1 trains on, on all folds, where its head isn't solved.
        n_head_val_images: Forward passes of its validation images through the backbone.
        needs_head_fit: Whether phase 1's head is solved, and isn't in the cache.
        n_train_steps_images: Of each candidate, images times epochs that it trains on, on all folds and on all images.
        n_val_images: Of each candidate, forward passes that judge it: of validation images, and of reference images.
        n_heldout_forward: Forward passes of test and reference images above the boundary.
    """

    training: tuple[CacheMisses, ...]
    held_out: tuple[CacheMisses, ...]
    n_head_train_images: int
    n_head_val_images: int
    needs_head_fit: bool
    n_train_steps_images: tuple[int, ...]
    n_val_images: tuple[int, ...]
    n_heldout_forward: int

    @property
    def n_views(self) -> int:
        """Training views that go from pixels through frozen stages."""
        return _count(self.training, from_pixels=True)

    @property
    def n_to_head(self) -> int:
        """Training views that go from cached activations on to a deeper boundary, most of them to the head."""
        return _count(self.training, from_pixels=False)

    @property
    def n_heldout_pixels(self) -> int:
        """Views of test and reference images that go from pixels through frozen stages."""
        return _count(self.held_out, from_pixels=True)

    @property
    def n_forward(self) -> int:
        """Forward passes of images from the shallowest cached boundary on."""
        return self.n_to_head + self.n_head_val_images + sum(self.n_val_images) + self.n_heldout_forward


def _count(misses: Sequence[CacheMisses], *, from_pixels: bool) -> int:
    return sum(len(each.pairs) for each in misses if (each.start == 0) == from_pixels)


def count_workload(
    store: FeatureCache,
    backbone: Backbone,
    renderers: Sequence[Renderer],
    data: TrainingSet,
    recipe: Recipe,
    test: Renderer,
    reference: Renderer | None = None,
) -> Workload:
    """Count what a run has to compute.

    Args:
        store: What it holds costs nothing.
        backbone: Pretrained.
        renderers: The training images; the augmentation of the first is taken to be the one that will be chosen.
        data: The images that training may see.
        recipe: What will be done.
        test: The test images; none where every image trains.
        reference: Images of the original task.

    Images are taken to be shown in all the orientations that phase 1 may choose.
    """
    renderer = renderers[0]
    orientations = recipe.orientations(renderer)
    all_folds = Folds.of(data, recipe.min_validation_images)
    folds, trainings = all_folds.validation, all_folds.trainings
    requests = (
        *probe_requests(backbone, renderers, data, recipe),
        *training_requests(backbone, renderer, data, recipe),
    )
    held_out = [held_out_request(test, recipe.boundary, orientations)]
    if reference is not None:
        held_out.append(held_out_request(reference, recipe.boundary))
    n_test, n_reference = len(test.paths), len(reference.paths) if reference is not None else 0
    n_budget = n_reference if recipe.max_forgetting is not None else 0  # before a deeper one, or a model is chosen
    head = recipe.head.schedule if isinstance(recipe.head, ByGradient) else None
    missing = tuple(cache_misses(store, backbone, held_out))
    return Workload(
        training=tuple(cache_misses(store, backbone, requests)),
        held_out=missing,
        n_head_train_images=sum(head.n_images(len(fold.train)) for fold in trainings) if head is not None else 0,
        n_head_val_images=(
            sum(head.n_images(len(fold.val)) for fold in folds)
            if head is not None and not recipe.head_uses_features
            else 0
        ),
        needs_head_fit=head is None
        and not is_head_cached(store, backbone, renderer, data, recipe.head_views(renderer), recipe.smoothing),
        n_train_steps_images=tuple(each.n_train_images(trainings) for each in recipe.candidates),
        n_val_images=tuple(
            each.n_val_images(folds, recipe.alphas, orientations) + n_budget for each in recipe.candidates
        ),
        n_heldout_forward=(
            n_test * len(orientations) * (1 + bool(recipe.candidates))
            + _n_looks(backbone, recipe, n_test, n_reference, sum(len(fold.val) for fold in folds))
            + _count(missing, from_pixels=False)
        ),
    )


def _n_looks(backbone: Backbone, recipe: Recipe, n_test: int, n_reference: int, n_val: int) -> int:
    """Return the forward passes that ask the original classifier, before and after."""
    if not backbone.network.num_classes:
        return 0
    own = n_test or (n_val if recipe.candidates else 0)
    return 2 * (own + n_reference)


def order_by_cache_hits(
    store: FeatureCache, backbone: Backbone, renderers: Sequence[Renderer], data: TrainingSet, recipe: Recipe
) -> list[Renderer]:
    """Return the renderers, the one that an earlier run seems to have chosen first: the cache holds most of its views."""
    if len(renderers) < 2:
        return list(renderers)

    def n_missing(renderer: Renderer) -> int:
        misses = cache_misses(store, backbone, training_requests(backbone, renderer, data, recipe))
        return sum(len(each.pairs) for each in misses)

    return sorted(renderers, key=n_missing)
