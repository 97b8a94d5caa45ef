"""The activations that the phases train on, at the boundaries that trainings start from, computed once."""

from __future__ import annotations

from collections.abc import Mapping

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.training.features.activations import Activations
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.demand import ActivationRequest, compute
from unfreeze.training.folds import TrainingSet
from unfreeze.training.recipe import Recipe

Sources = Mapping[int, Activations]  # by the boundary that a training starts from


def training_requests(
    backbone: Backbone, renderer: Renderer, data: TrainingSet, recipe: Recipe
) -> tuple[ActivationRequest, ...]:
    """Return the requests of the phases: activations at phase 2's boundaries, and phase 1's features."""
    evaluated, lowest = recipe.evaluation_views(renderer), recipe.cache_boundary
    views = data.requested_views(recipe.n_cached_views, evaluated)
    boundaries = sorted({candidate.plan.boundary for candidate in recipe.candidates} - {lowest})
    requests = [
        ActivationRequest(renderer, lowest, views, "reading training photos"),
        *(
            ActivationRequest(renderer, boundary, views, f"computing up to {backbone.depths()[boundary]}", lowest)
            for boundary in boundaries
        ),
    ]
    if recipe.head_uses_features:
        views = data.requested_views(recipe.n_feature_views, evaluated)
        requests.append(ActivationRequest(renderer, backbone.head_boundary, views, "computing features", lowest))
    return tuple(requests)


def compute_activations(
    cache: FeatureCache, backbone: Backbone, renderer: Renderer, data: TrainingSet, recipe: Recipe
) -> tuple[Sources, Activations]:
    """Compute ``training_requests``; return the activations by boundary, and those that phase 1 trains on."""
    sources = compute(cache, backbone, training_requests(backbone, renderer, data, recipe))
    return sources, sources[backbone.head_boundary if recipe.head_uses_features else recipe.cache_boundary]
