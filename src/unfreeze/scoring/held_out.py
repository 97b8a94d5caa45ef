"""Evaluation sets: activations of held-out images above the frozen stages, and the models' logits for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.inputs import Inputs
from unfreeze.models.backbone import Backbone
from unfreeze.models.state import ModelState, loaded
from unfreeze.orientations import IDENTITY_ONLY, Orientation
from unfreeze.predict import Logits, predict_logits
from unfreeze.runtime import progress_bar
from unfreeze.training.features.activations import EVALUATION_BATCH, Activations
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.demand import ActivationRequest, compute, held_out_request
from unfreeze.training.recipe import Recipe

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

    def batches(self, description: str, orientation: Orientation = Orientation.IDENTITY) -> Iterator[Tensor]:
        """Yield pixels or activations of the images in one orientation, ``EVALUATION_BATCH`` images at a time."""
        images = self.images.tolist()
        batches = self.activations.batches(images, [orientation] * len(images), EVALUATION_BATCH)
        return progress_bar(batches, description, total=-(-len(images) // EVALUATION_BATCH))

    def features_below(self, orientation: Orientation) -> Tensor | None:
        """Return the features that the head reads from stages below the boundary, shape (N, D); None if it reads none."""
        images = self.images.tolist()
        return self.activations.features_below(images, [orientation] * len(images))


def evaluation_set(
    cache: FeatureCache, backbone: Backbone, request: ActivationRequest, labels: Indices | None = None
) -> EvaluationSet:
    """Compute the requested activations of held-out images."""
    activations = compute(cache, backbone, [request])[request.boundary]
    return EvaluationSet(activations, np.arange(len(request.renderer.paths)), labels)


def open_test_set(
    inputs: Inputs, recipe: Recipe, renderer: Renderer, orientations: Sequence[Orientation]
) -> EvaluationSet | None:
    """Compute the activations of the test images in every orientation; None without test images."""
    if not inputs.test_samples:
        return None
    request = held_out_request(
        renderer.for_samples(inputs.test_samples), recipe.boundary, orientations, "reading test photos"
    )
    return evaluation_set(inputs.cache, inputs.backbone, request)


def predict_held_out(
    backbone: Backbone, state: ModelState, held_out: EvaluationSet, orientations: Sequence[Orientation] = IDENTITY_ONLY
) -> Logits:
    """Return a model's logits for held-out images, shape (N, C): the mean over ``orientations``."""
    with loaded(backbone, state) as head:
        by_orientation = [
            predict_logits(
                backbone,
                head,
                held_out.batches("predicting test photos", orientation),
                held_out.boundary,
                below=held_out.features_below(orientation),
            )
            for orientation in orientations
        ]
    mean: Logits = np.stack(by_orientation).mean(axis=0)
    return mean
