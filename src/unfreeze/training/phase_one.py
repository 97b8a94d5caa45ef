"""Phase 1: train a head on the frozen backbone, validate it on every fold, and fit it on all training images.

Nested selection, where the folds' predictions replace a test set: every choice that affects a fold's predictions
(augmentation, orientations, penalty) is made on the other folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.evaluation.calibration import fit_temperature
from unfreeze.evaluation.selection import FoldIds, ModelSelector
from unfreeze.models.state import ModelState, random_head
from unfreeze.orientations import IDENTITY_ONLY, Orientation
from unfreeze.predict import Logits
from unfreeze.training.augmentation import out_of_fold_tta_logits
from unfreeze.training.features.activations import CachedActivations, pooled_features
from unfreeze.training.features.training_features import FoldActivations, TrainingFeatures
from unfreeze.training.finetune.loop import EpochRow, Indices, finetune
from unfreeze.training.folds import TrainingSet, concat_folds, fold_labels
from unfreeze.training.head.head_cache import fit_head_cached
from unfreeze.training.head.regularisation_path import HeadFit, Linear
from unfreeze.training.recipe import ByGradient, Recipe, Solved


@dataclass(frozen=True)
class HeadOnlyResult:
    """The head-only models, and what they predict for the images that they were not trained on.

    Attributes:
        state: The head-only model, trained on all training images.
        orientations: The orientations of an image whose logits every final model of this run averages.
        fold_logits: The logits of each validation fold's images by the fold's model, each of shape (V, C).
        temperature: Divides the logits so that the probabilities are calibrated (see ``calibration.py``).
        n_calibration: The number of images that the temperature was fitted on: out-of-fold predictions.
        fold_states: The head-only model of every validation fold.
        fold_orientations: The orientations that each validation fold's models average, chosen by the other folds.
        phase2_init: The model that phase 2 starts from.
        fold_inits: The model that phase 2 starts from on every validation fold.
        history: One row per epoch; a solved head has none.
    """

    state: ModelState
    orientations: tuple[Orientation, ...]
    fold_logits: tuple[Logits, ...]
    temperature: float
    n_calibration: int
    fold_states: tuple[ModelState, ...]
    fold_orientations: tuple[tuple[Orientation, ...], ...]
    phase2_init: ModelState
    fold_inits: tuple[ModelState, ...]
    history: tuple[EpochRow, ...]


def train_head(features: TrainingFeatures, recipe: Recipe) -> HeadOnlyResult:
    """Train the head on the frozen backbone, once for every validation fold and once on all training images.

    The head is solved, or trained by gradient, as ``recipe.head`` is.
    """
    if isinstance(recipe.head, Solved):
        return _solved(features, recipe)
    return _by_gradient(features, recipe.head)


def _by_gradient(features: TrainingFeatures, head: ByGradient) -> HeadOnlyResult:
    backbone, data, folds = features.backbone, features.data, features.folds
    start = random_head(backbone, data.n_classes, features.seed)
    tuned = [
        finetune(
            backbone, start, features.of(fold).for_head, data.labels, head.plan, head.schedule,
            phase="phase 1", train=fold.train, val=fold.val, seed=features.seed,
        )
        for fold in folds.trainings
    ]  # fmt: skip
    final, validated = tuned[-1], tuned[: len(folds.validation)]
    fold_logits = tuple(each.val_logits for each in validated)
    states = tuple(each.state for each in validated)
    return HeadOnlyResult(
        state=final.state,
        orientations=IDENTITY_ONLY,
        fold_logits=fold_logits,
        temperature=fit_temperature(concat_folds(fold_logits, data.n_classes), fold_labels(folds.validation, data)),
        n_calibration=folds.n_validation,
        fold_states=states,
        fold_orientations=tuple(IDENTITY_ONLY for _ in states),
        phase2_init=final.state,
        fold_inits=states,
        history=final.history,
    )


def _solved(features: TrainingFeatures, recipe: Recipe) -> HeadOnlyResult:
    data, folds = features.data, features.folds
    fits = {id(each): _fit(features, each, recipe) for each in (features.final, *features.by_fold)}
    final = fits[id(features.final)]
    by_fold = [fits[id(each)] for each in features.by_fold]
    masks = [data.fold == fold for fold in range(len(by_fold))]
    plain = [fit.plain[mask] for fit, mask in zip(by_fold, masks, strict=True)]
    averaged = [fit.averaged[mask] for fit, mask in zip(by_fold, masks, strict=True)]
    labels = data.train_labels
    selector = ModelSelector.of(plain, [labels[mask] for mask in masks], data.class_counts, recipe.prior)
    averages = any(fit.orientations != IDENTITY_ONLY for fit in by_fold)
    tta = averages and _is_chosen(selector, averaged, selector.all_folds)
    fold_tta = [tta for _ in selector.all_folds]
    if recipe.cross_fit:
        fold_tta = [_accepts_tta(fold, by_fold[fold], masks, labels, data, recipe) for fold in selector.all_folds]

    out_of_fold = np.empty_like(final.plain)
    for fold, mask in enumerate(masks):
        out_of_fold[mask] = averaged[fold] if fold_tta[fold] else plain[fold]
    orientations = final.orientations if tta else IDENTITY_ONLY
    if folds.final is None:  # the user gave a validation set
        (given,) = folds.validation
        val_features = features_at_head(features.final, given.val, orientations).mean(dim=1)
        fold_logits = [final.fit.head.logits(val_features).numpy()]
        heads, inits, fold_orientations = [final.fit.head], [final.fit.init_for_phase2], [orientations]
    else:
        count = len(folds.validation)
        solutions = list(enumerate(by_fold[:count]))
        fold_logits = [out_of_fold[mask] for mask in masks[:count]]
        heads = [each.fit.fold_heads[fold] for fold, each in solutions]
        inits = [each.fit.fold_inits[fold] for fold, each in solutions]
        fold_orientations = [each.orientations if fold_tta[fold] else IDENTITY_ONLY for fold, each in solutions]
    return HeadOnlyResult(
        state=head_state(final.fit.head),
        orientations=orientations,
        fold_logits=tuple(fold_logits),
        temperature=fit_temperature(out_of_fold, labels),
        n_calibration=len(labels),
        fold_states=tuple(map(head_state, heads)),
        fold_orientations=tuple(fold_orientations),
        phase2_init=head_state(final.fit.init_for_phase2),
        fold_inits=tuple(map(head_state, inits)),
        history=(),
    )


@dataclass(frozen=True)
class _Solution:
    """A solved head, and the out-of-fold logits (N, C) of plain views and of the mean over ``orientations``."""

    fit: HeadFit
    orientations: tuple[Orientation, ...]
    plain: Logits
    averaged: Logits


def _accepts_tta(
    fold: int,
    solution: _Solution,
    masks: Sequence[NDArray[np.bool_]],
    labels: Indices,
    data: TrainingSet,
    recipe: Recipe,
) -> bool:
    """Tell whether the other folds' images choose averaging over orientations, given the solution for this fold."""
    plain = [solution.plain[mask] for mask in masks]
    selector = ModelSelector.of(plain, [labels[mask] for mask in masks], data.class_counts, recipe.prior)
    return solution.orientations != IDENTITY_ONLY and _is_chosen(
        selector, [solution.averaged[mask] for mask in masks], selector.other_folds(fold)
    )


def _is_chosen(selector: ModelSelector, averaged: Sequence[Logits], folds: FoldIds) -> bool:
    """Tell whether averaging over orientations is expected to gain over plain views."""
    return selector.choose([("views:orientations", averaged)], folds).index == 1


def _fit(features: TrainingFeatures, activations: FoldActivations, recipe: Recipe) -> _Solution:
    data, at_head = features.data, activations.for_head
    assert isinstance(at_head, CachedActivations), "a solved head is fitted on cached features"
    orientations = recipe.orientations(activations.renderer)
    views = recipe.head_views(activations.renderer)
    fit = fit_head_cached(features.cache, features.backbone, at_head, data, views, recipe.smoothing)
    plain = averaged = fit.out_of_fold.astype(np.float32)
    if orientations != IDENTITY_ONLY:  # with one orientation only rounding would differ, which could count as a gain
        averaged = out_of_fold_tta_logits(fit.fold_heads, features_at_head(activations, data.train, orientations), data)
    return _Solution(fit, orientations, plain, averaged)


def features_at_head(activations: FoldActivations, images: Indices, orientations: Sequence[Orientation]) -> Tensor:
    """Return pooled features, shape (N, orientations, D)."""
    assert isinstance(activations.for_head, CachedActivations), "a solved head is fitted on cached features"
    return pooled_features(activations.for_head, images.tolist(), orientations)


def head_state(head: Linear) -> ModelState:
    """Return a solved head as a model on the pretrained backbone."""
    return ModelState([], {"weight": head.weight.float(), "bias": head.bias.float()})
