"""What the phases train on, computed once: activations at the boundaries that trainings start from."""

from __future__ import annotations

from collections.abc import Mapping

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.training.features.activations import Activations
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.demand import ActivationRequest, compute
from unfreeze.training.folds import TrainingSet
from unfreeze.training.recipes import Recipe

Sources = Mapping[int, Activations]  # what crosses each boundary that a training starts from


def training_requests(
    backbone: Backbone, renderer: Renderer, data: TrainingSet, recipe: Recipe
) -> tuple[ActivationRequest, ...]:
    """Return what the phases train on: activations at phase 2's boundaries, and phase 1's features."""
    orientations, first = recipe.orientations(renderer), recipe.cache_boundary
    views = data.requested_views(recipe.n_cached_views, orientations)
    boundaries = sorted({candidate.plan.boundary for candidate in recipe.candidates} - {first})
    requests = [
        ActivationRequest(renderer, first, views, "reading training photos"),
        *(
            ActivationRequest(renderer, boundary, views, f"computing up to {backbone.depths()[boundary]}", first)
            for boundary in boundaries
        ),
    ]
    if recipe.head_uses_features:
        views = data.requested_views(recipe.n_feature_views, orientations)
        requests.append(ActivationRequest(renderer, backbone.head_boundary, views, "computing features", first))
    return tuple(requests)


def compute_activations(
    store: FeatureCache, backbone: Backbone, renderer: Renderer, data: TrainingSet, recipe: Recipe
) -> tuple[Sources, Activations]:
    """Compute ``training_requests``, and return them by boundary, and those that phase 1 trains on."""
    sources = compute(store, backbone, training_requests(backbone, renderer, data, recipe))
    return sources, sources[backbone.head_boundary if recipe.head_uses_features else recipe.cache_boundary]
