"""The remaining work of a run, counted from the requests that it will execute: cached results cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.training.augmentation import probe_requests
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.demand import (
    ActivationRequest,
    CacheMisses,
    cache_misses,
    held_out_request,
    held_out_views,
)
from unfreeze.training.features.gather import training_requests
from unfreeze.training.folds import Folds, TrainingSet
from unfreeze.training.forgetting_budget import MAX_MEASUREMENTS
from unfreeze.training.head.head_cache import is_head_cached
from unfreeze.training.recipe import ByGradient, Recipe
from unfreeze.views import Views


@dataclass(frozen=True)
class Workload:
    """The remaining work, in images or views.

    Attributes:
        training: Missing activations of training images.
        held_out: Missing activations of test and reference images.
        n_head_train_images: Images times epochs of phase 1's trainings, in all folds, if its head is not solved.
        n_head_val_images: Forward passes of phase 1's validation images through the backbone.
        needs_head_fit: Whether the head of phase 1 is solved and not cached.
        n_train_steps_images: Images times epochs of each candidate's trainings: of all folds and of the final fit.
        n_val_images: Forward passes that validate each candidate: of validation and, under a forgetting budget, at most so
            many of reference images.
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
        """Training views to compute from pixels through frozen stages."""
        return _count(self.training, from_pixels=True)

    @property
    def n_to_head(self) -> int:
        """Training views to compute from cached activations to a deeper boundary, usually the head's."""
        return _count(self.training, from_pixels=False)

    @property
    def n_heldout_pixels(self) -> int:
        """Views of test and reference images to compute from pixels through frozen stages."""
        return _count(self.held_out, from_pixels=True)

    @property
    def n_forward(self) -> int:
        """Forward passes of images from the shallowest cached boundary on."""
        return self.n_to_head + self.n_head_val_images + sum(self.n_val_images) + self.n_heldout_forward


def _count(misses: Sequence[CacheMisses], *, from_pixels: bool) -> int:
    return sum(len(miss.pairs) for miss in misses if (miss.start == 0) == from_pixels)


def count_workload(
    cache: FeatureCache,
    backbone: Backbone,
    renderers: Sequence[Renderer],
    data: TrainingSet,
    recipe: Recipe,
    test: Renderer,
    reference: Renderer | None = None,
) -> Workload:
    """Count the work of a run.

    The first renderer's augmentation is assumed to be selected, and predictions to average over the largest set of views
    that phase 1 may select.

    Args:
        cache: Its content is not counted.
        backbone: Pretrained.
        renderers: The training images, one renderer for each augmentation that the run may select.
        data: Training and validation images.
        recipe: Settings of both phases.
        test: The test images; without any if every image trains.
        reference: Images of the original task.
    """
    renderer = renderers[0]
    view_sets = recipe.view_sets(renderer)
    views = max(view_sets, key=len)
    all_folds = Folds.of(data, recipe.min_validation_images)
    folds, trainings = all_folds.validation, all_folds.trainings
    requests = (
        *probe_requests(backbone, renderers, data, recipe),
        *training_requests(backbone, renderer, data, recipe),
    )
    held_out = [_test_request(cache, backbone, test, recipe.boundary, view_sets)]
    if reference is not None:
        held_out.append(held_out_request(reference, recipe.boundary))
    n_test, n_reference = len(test.paths), len(reference.paths) if reference is not None else 0
    n_val = sum(len(fold.val) for fold in folds)
    # Under a forgetting budget, at most so many models are measured, and one more alpha is validated.
    n_budget = MAX_MEASUREMENTS * n_reference + len(views) * n_val if recipe.max_forgetting is not None else 0
    head = recipe.head.schedule if isinstance(recipe.head, ByGradient) else None
    heldout_misses = tuple(cache_misses(cache, backbone, held_out))
    return Workload(
        training=tuple(cache_misses(cache, backbone, requests)),
        held_out=heldout_misses,
        n_head_train_images=sum(head.n_images(len(fold.train)) for fold in trainings) if head is not None else 0,
        n_head_val_images=(
            sum(head.n_images(len(fold.val)) for fold in folds)
            if head is not None and not recipe.head_uses_features
            else 0
        ),
        needs_head_fit=head is None
        and not is_head_cached(cache, backbone, renderer, data, recipe.head_views(renderer), recipe.smoothing),
        n_train_steps_images=tuple(candidate.n_train_images(trainings) for candidate in recipe.candidates),
        n_val_images=tuple(
            candidate.n_val_images(folds, recipe.alphas, views) + n_budget for candidate in recipe.candidates
        ),
        n_heldout_forward=(
            n_test * len(views) * (1 + bool(recipe.candidates))
            + _n_original_task(backbone, recipe, n_test, n_reference, n_val)
            + _count(heldout_misses, from_pixels=False)
        ),
    )


def _n_original_task(backbone: Backbone, recipe: Recipe, n_test: int, n_reference: int, n_val: int) -> int:
    """Return the forward passes for predictions of the original classifier, before and after fine-tuning."""
    if not backbone.network.num_classes:
        return 0
    n_task = n_test or (n_val if recipe.candidates else 0)
    return 2 * (n_task + n_reference)


def _test_request(
    cache: FeatureCache, backbone: Backbone, test: Renderer, boundary: int, view_sets: Sequence[Views]
) -> ActivationRequest:
    """Return the request for the test images in the largest set of views, or in the largest that an earlier run used."""
    by_size = sorted(view_sets, key=len, reverse=True)
    requests = [held_out_request(test, boundary, held_out_views(backbone, views)) for views in by_size]
    cached = (request for request in requests if not cache_misses(cache, backbone, [request]))
    return next(cached, requests[0])


def order_by_cache_hits(
    cache: FeatureCache, backbone: Backbone, renderers: Sequence[Renderer], data: TrainingSet, recipe: Recipe
) -> list[Renderer]:
    """Sort the renderers by missing views: an earlier run has cached most views of the augmentation it selected."""
    if len(renderers) < 2:
        return list(renderers)

    def n_missing(renderer: Renderer) -> int:
        misses = cache_misses(cache, backbone, training_requests(backbone, renderer, data, recipe))
        return sum(len(miss.pairs) for miss in misses)

    return sorted(renderers, key=n_missing)
