"""The choice of the augmentation by cross-validating solved heads on a few views, before all others are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unfreeze.data.rendering.device_renderer import choose_renderer
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.data.sources import Sample
from unfreeze.evaluation.calibration import calibrated_nll
from unfreeze.evaluation.expected_gain import Prior, choose_option, dependence
from unfreeze.evaluation.resampling import FloatArray, IntArray
from unfreeze.models.backbone import Backbone
from unfreeze.predict import Logits
from unfreeze.training.features.activations import CachedActivations, pooled_features
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.demand import ActivationRequest, compute
from unfreeze.training.folds import TrainingSet
from unfreeze.training.head.head_cache import fit_head_cached
from unfreeze.training.head.regularisation_path import Linear
from unfreeze.training.recipe import Recipe

Options = Sequence[tuple[str, FloatArray]]
PROBE_ORIENTATIONS = 2  # identity and one more label-preserving orientation of each augmentation
MAX_PROBE_IMAGES = 400  # 200 selected the same on all aerial photos, by a smaller margin (benchmarks/RESULTS.md)


def make_renderers(recipe: Recipe, backbone: Backbone, samples: Sequence[Sample], seed: int) -> list[Renderer]:
    """Return a renderer of ``samples`` for each augmentation of the recipe."""
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
    """Return the renderer with which a solved head is expected to be best: the first, unless another gains on it.

    Turned views help in two ways, measured together: the head is fitted on them, and its logits are averaged over them.
    Where the folds' predictions are the evidence, the choice is nested: the other folds choose for a fold.
    """
    folds = range(int(data.fold.max()) + 1)
    if len(renderers) == 1:
        return SelectedRenderers(renderers[0], tuple(renderers[0] for _ in folds))
    some = data.subsample(MAX_PROBE_IMAGES)
    labels = some.train_labels
    at_head = compute(store, backbone, probe_requests(backbone, renderers, data, recipe))[backbone.head_boundary]
    assert isinstance(at_head, CachedActivations), "features are cached"

    def losses(renderer: Renderer) -> FloatArray:
        orientations = renderer.tta_orientations[:PROBE_ORIENTATIONS]
        fit = fit_head_cached(store, backbone, at_head, some, orientations)
        return calibrated_nll(
            out_of_fold_tta_logits(fit.fold_heads, pooled_features(at_head, some.train.tolist(), orientations), some),
            labels,
        )

    baseline, *others = map(losses, renderers)
    options = [
        (f"augmentation:{_symmetry(renderer)}", each) for renderer, each in zip(renderers[1:], others, strict=True)
    ]
    final = choose_on_folds(baseline, options, recipe.prior, some.fold, folds)
    by_fold = (
        select_nested(baseline, options, recipe.prior, some.fold, len(folds))
        if recipe.cross_fit
        else [final for _ in folds]
    )
    return SelectedRenderers(renderers[final], tuple(renderers[option] for option in by_fold))


def _symmetry(renderer: Renderer) -> str:
    return renderer.augmentation.symmetry if renderer.augmentation is not None else "none"


def select_nested(baseline: FloatArray, options: Options, prior: Prior, fold: IntArray, n_folds: int) -> list[int]:
    """Return for every fold the option that the images of the other folds choose: 0 for the baseline.

    Args:
        baseline: The baseline's out-of-fold losses (N,).
        options: Each option's name and its losses of the same images (N,).
        prior: The gains that are expected of the options.
        fold: The fold of each image (N,).
        n_folds: The number of folds; an option is chosen for a fold without images, too.
    """
    return [
        choose_on_folds(baseline, options, prior, fold, [other for other in range(n_folds) if other != left_out])
        for left_out in range(n_folds)
    ]


def choose_on_folds(baseline: FloatArray, options: Options, prior: Prior, fold: IntArray, folds: Sequence[int]) -> int:
    """Return the option that the images of ``folds`` choose; for the arguments see ``select_nested``."""
    mask = np.isin(fold, folds)
    return choose_option(
        baseline[mask],
        [(name, losses[mask]) for name, losses in options],
        prior,
        widening=dependence([int((fold == each).sum()) for each in folds], len(fold)),
    ).index


def probe_requests(
    backbone: Backbone, renderers: Sequence[Renderer], data: TrainingSet, recipe: Recipe
) -> tuple[ActivationRequest, ...]:
    """Return the requests of ``select_augmentation``: the plain view and each renderer's next orientation.

    A single renderer needs none.  Orientations do not depend on the augmentation: the first renderer serves all.
    """
    if len(renderers) < 2:
        return ()
    orientations = tuple(
        dict.fromkeys(
            orientation for renderer in renderers for orientation in renderer.tta_orientations[:PROBE_ORIENTATIONS]
        )
    )
    views = dict.fromkeys(data.subsample(MAX_PROBE_IMAGES).train.tolist(), orientations)
    boundary = recipe.cache_boundary
    return (
        ActivationRequest(renderers[0], boundary, views, "reading training photos"),
        ActivationRequest(renderers[0], backbone.head_boundary, views, "computing features", boundary),
    )


def out_of_fold_tta_logits(fold_heads: Sequence[Linear], features: Tensor, data: TrainingSet) -> Logits:
    """Return out-of-fold logits (N, C) of training images, averaged over the K views of ``features`` (N, K, D)."""
    mean = features.mean(dim=1)  # the head is linear
    logits = np.empty((len(mean), data.n_classes), np.float32)
    for fold, head in enumerate(fold_heads):
        mask = data.fold == fold
        logits[mask] = head.logits(mean[torch.from_numpy(mask)]).numpy()
    return logits
