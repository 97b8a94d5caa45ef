"""Evaluation sets: activations of held-out images above the frozen stages, and the models' logits for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.inputs import Inputs
from unfreeze.models.backbone import Backbone
from unfreeze.models.state import ModelState, loaded
from unfreeze.predict import Logits, predict_logits
from unfreeze.runtime import progress_bar
from unfreeze.training.features.activations import EVALUATION_BATCH, Activations, each_in_views, mean_over_views
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.demand import ActivationRequest, compute, held_out_request, held_out_views
from unfreeze.training.recipe import Recipe
from unfreeze.views import PLAIN_ONLY, Views

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class EvaluationSet:
    """Images to evaluate models on.

    Attributes:
        activations: Activations at the boundary below which every model equals the pretrained network.
        images: Indices of the images in ``activations`` (N,).
        labels: Labels in the original task (N,); only for reference images.
    """

    activations: Activations
    images: Indices
    labels: Indices | None = None

    @property
    def boundary(self) -> int:
        """Index of the first stage that runs on the activations."""
        return self.activations.boundary

    def batches(self, description: str, views: Views = PLAIN_ONLY) -> Iterator[Tensor]:
        """Yield pixels or activations of the images' views, image by image, ``EVALUATION_BATCH`` views at a time."""
        batches = self.activations.batches(*each_in_views(self.images.tolist(), views), EVALUATION_BATCH)
        return progress_bar(batches, description, total=-(-len(self.images) * len(views) // EVALUATION_BATCH))

    def features_below(self, views: Views) -> Tensor | None:
        """Return the features that the head reads below the boundary, shape (N * views, D), in order of ``batches``.

        None if it reads none.
        """
        return self.activations.features_below(*each_in_views(self.images.tolist(), views))


def evaluation_set(
    cache: FeatureCache, backbone: Backbone, request: ActivationRequest, labels: Indices | None = None
) -> EvaluationSet:
    """Compute the requested activations of held-out images."""
    activations = compute(cache, backbone, [request])[request.boundary]
    return EvaluationSet(activations, np.arange(len(request.renderer.paths)), labels)


def open_test_set(inputs: Inputs, recipe: Recipe, renderer: Renderer, views: Views) -> EvaluationSet | None:
    """Compute the activations of the test images in ``views``; None without test images."""
    if not inputs.test_samples:
        return None
    request = held_out_request(
        renderer.for_samples(inputs.test_samples),
        recipe.boundary,
        held_out_views(inputs.backbone, views),
        "reading test photos",
    )
    return evaluation_set(inputs.cache, inputs.backbone, request)


def predict_held_out(
    backbone: Backbone, state: ModelState, held_out: EvaluationSet, views: Views = PLAIN_ONLY
) -> Logits:
    """Return a model's logits for held-out images, shape (N, C): the mean over ``views``."""
    with loaded(backbone, state) as head:
        batches, below = held_out.batches("predicting test photos", views), held_out.features_below(views)
        return mean_over_views(predict_logits(backbone, head, batches, held_out.boundary, below=below), views)
