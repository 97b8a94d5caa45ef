"""What the phases train on, computed once: activations at the boundaries that trainings start from."""

from __future__ import annotations

from collections.abc import Mapping

from unfreeze.data.loaders import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.training.activations import Activations, keep, keep_or_render
from unfreeze.training.recipes import Recipe
from unfreeze.training.rounds import TrainingData
from unfreeze.training.store import Store

Sources = Mapping[int, Activations]  # what crosses each boundary that a training starts from


def gather(
    store: Store, backbone: Backbone, renderer: Renderer, data: TrainingData, recipe: Recipe
) -> tuple[Sources, Activations]:
    """Compute what the phases train on: activations at phase 2's boundaries, and what phase 1 trains on."""
    poses = recipe.poses(renderer)
    views = data.views(recipe.kept_views, poses)
    source = keep_or_render(store, backbone, renderer, recipe.kept_from, views, "reading training photos")
    sources = {recipe.kept_from: source}
    for boundary in sorted({each.plan.boundary for each in recipe.candidates} - {recipe.kept_from}):
        sources[boundary] = keep(
            store, backbone, source, boundary, views, f"computing up to {backbone.depths()[boundary]}"
        )
    if not recipe.head_on_features:
        return sources, source
    views = data.views(recipe.feature_views, poses)
    features = keep(store, backbone, source, backbone.head_boundary, views, "computing features")
    return {**sources, backbone.head_boundary: features}, features
