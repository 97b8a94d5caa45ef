"""Which augmentation suits the photos: solved heads on a few views of each tell, before anything else is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unfreeze.data.rendering.device_renderer import choose_renderer
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.data.sources import Sample
from unfreeze.evaluation.calibration import calibrated_nll, significantly_lower
from unfreeze.evaluation.resampling import FloatArray, IntArray
from unfreeze.evaluation.selection import Z_95
from unfreeze.models.backbone import Backbone
from unfreeze.predict import Logits
from unfreeze.training.features.activations import CachedActivations, pooled_features
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.demand import ActivationRequest, compute
from unfreeze.training.folds import TrainingSet
from unfreeze.training.head.head_cache import fit_head_cached
from unfreeze.training.head.regularisation_path import Linear
from unfreeze.training.recipes import Recipe

PROBE_ORIENTATIONS = 2  # orientations, the plain one included, that tell whether photos may be turned so
MAX_PROBE_IMAGES = (
    400  # photos to tell it by: 200 found it on all aerial photos, too, with less to spare (benchmarks/RESULTS.md)
)


def make_renderers(recipe: Recipe, backbone: Backbone, samples: Sequence[Sample], seed: int) -> list[Renderer]:
    """Return what renders the photos, for each way to augment that the recipe knows."""
    plain = Renderer((), backbone.network.preprocessing, None, seed).for_samples(samples)
    return [
        choose_renderer(replace(plain, augmentation=augmentation), backbone.device, reused=recipe.boundary == 0)
        for augmentation in recipe.augmentations
    ]


@dataclass(frozen=True)
class SelectedRenderers:
    """The renderer that all training images choose, and for each fold the one that the other folds choose."""

    final: Renderer
    by_fold: tuple[Renderer, ...]


def select_augmentation(
    store: FeatureCache, backbone: Backbone, renderers: Sequence[Renderer], data: TrainingSet, recipe: Recipe
) -> SelectedRenderers:
    """Return the renderer with which a solved head is best: the first, unless another is significantly better.

    Turned views help in two ways that are measured together: the head learns from them, and its logits are averaged over
    them.  Where the folds' predictions are the evidence, the choice is nested: the other folds choose for a fold.
    """
    folds = range(int(data.fold.max()) + 1)
    if len(renderers) == 1:
        return SelectedRenderers(renderers[0], tuple(renderers[0] for _ in folds))
    some = data.subsample(MAX_PROBE_IMAGES)
    labels = some.train_labels
    at_head = compute(store, backbone, probe_requests(backbone, renderers, data, recipe))[backbone.head_boundary]
    assert isinstance(at_head, CachedActivations), "features are kept"

    def losses(renderer: Renderer) -> FloatArray:
        orientations = renderer.tta_orientations[:PROBE_ORIENTATIONS]
        fit = fit_head_cached(store, backbone, at_head, some, orientations)
        return calibrated_nll(
            out_of_fold_tta_logits(fit.fold_heads, pooled_features(at_head, some.train.tolist(), orientations), some),
            labels,
        )

    by_renderer = [losses(renderer) for renderer in renderers]
    final = first_or_significantly_lower(by_renderer)
    by_fold = select_nested(by_renderer, some.fold, len(folds)) if recipe.cross_fit else [final for _ in folds]
    return SelectedRenderers(renderers[final], tuple(renderers[option] for option in by_fold))


def select_nested(losses: Sequence[FloatArray], fold: IntArray, n_folds: int) -> list[int]:
    """Return for every fold the index of the option that the images of the other folds choose.

    Args:
        losses: Of each option, the losses of the same images by models that weren't trained on them, each of shape (N,).
        fold: The fold of each image (N,).
        n_folds: How many there are; an option is chosen for a fold that has no image, too.
    """
    return [first_or_significantly_lower([each[fold != own] for each in losses]) for own in range(n_folds)]


def first_or_significantly_lower(losses: Sequence[FloatArray]) -> int:
    """Return the index of the option to take, given each option's losses of the same images, each of shape (N,).

    The first is taken unless a later one's mean loss is significantly lower (paired, one-sided 5 %).
    """
    best = 0
    for option in range(1, len(losses)):
        if significantly_lower(losses[option], losses[best], Z_95):
            best = option
    return best


def probe_requests(
    backbone: Backbone, renderers: Sequence[Renderer], data: TrainingSet, recipe: Recipe
) -> tuple[ActivationRequest, ...]:
    """Return what ``select_augmentation`` needs: of each renderer the plain view, and another orientation.

    Where there is a single renderer, nothing is asked for.  Plain views are the same in the eyes of every renderer.
    """
    if len(renderers) < 2:
        return ()
    orientations = tuple(
        dict.fromkeys(
            orientation for renderer in renderers for orientation in renderer.tta_orientations[:PROBE_ORIENTATIONS]
        )
    )
    views = dict.fromkeys(data.subsample(MAX_PROBE_IMAGES).train.tolist(), orientations)
    first = recipe.cache_boundary
    return (
        ActivationRequest(renderers[0], first, views, "reading training photos"),
        ActivationRequest(renderers[0], backbone.head_boundary, views, "computing features", first),
    )


def out_of_fold_tta_logits(fold_heads: Sequence[Linear], found: Tensor, data: TrainingSet) -> Logits:
    """Return each training photo's logits by the head of the other folds (N, C), the mean over its orientations (N, orientations, D)."""
    mean = found.mean(dim=1)  # the head is linear
    answers = np.empty((len(mean), data.n_classes), np.float32)
    for fold, head in enumerate(fold_heads):
        own = data.fold == fold
        answers[own] = head.logits(mean[torch.from_numpy(own)]).numpy()
    return answers
