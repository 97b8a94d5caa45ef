"""Images that training never sees, at the boundary above the frozen stages, and the models' logits for them."""

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
        activations: What crosses the boundary below which no model differs from the pretrained network.
        images: Their indices in ``activations``.
        labels: Their labels in the original task (N,), where they are reference images.
    """

    activations: Activations
    images: Indices
    labels: Indices | None = None

    @property
    def boundary(self) -> int:
        """The first stage that still has to run."""
        return self.activations.boundary

    def batches(self, description: str, orientation: Orientation = Orientation.IDENTITY) -> Iterator[Tensor]:
        """Yield the images in one orientation, or what crosses the boundary of them, ``EVALUATION_BATCH`` at a time."""
        images = self.images.tolist()
        batches = self.activations.batches(images, [orientation] * len(images), EVALUATION_BATCH)
        return progress_bar(batches, description, total=-(-len(images) // EVALUATION_BATCH))


def evaluation_set(
    cache: FeatureCache, backbone: Backbone, request: ActivationRequest, labels: Indices | None = None
) -> EvaluationSet:
    """Compute what a request for held-out images asks for."""
    activations = compute(cache, backbone, [request])[request.boundary]
    return EvaluationSet(activations, np.arange(len(request.renderer.paths)), labels)


def open_test_set(
    inputs: Inputs, recipe: Recipe, renderer: Renderer, orientations: Sequence[Orientation]
) -> EvaluationSet | None:
    """Compute what the models need of the test images in every orientation; None where there are none."""
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
        by_pose = [
            predict_logits(backbone, head, held_out.batches("predicting test photos", orientation), held_out.boundary)
            for orientation in orientations
        ]
    mean: Logits = np.stack(by_pose).mean(axis=0)
    return mean
