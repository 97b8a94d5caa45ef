"""Phase 1: train a head on the frozen backbone, validate it on every fold, and fit it on all training images.

Where the folds' predictions are the evidence, because there is no test set, every choice that affects a fold's predictions
(augmentation, orientations, penalty) is made on the other folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.evaluation.calibration import fit_temperature
from unfreeze.evaluation.selection import ModelSelector
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
from unfreeze.training.recipes import ByGradient, Recipe, Solved


@dataclass(frozen=True)
class HeadOnlyResult:
    """The head-only models, and what they predict for the images that they were not trained on.

    Attributes:
        state: The head-only model, trained on all training images.
        orientations: The orientations of an image whose logits every final model of this run averages.
        fold_logits: The logits of each validation fold's images by the fold's model, each of shape (V, C).
        temperature: Divides the logits so that the probabilities are calibrated (see ``calibration.py``).
        n_calibration: The number of images that it was fitted on: out-of-fold predictions.
        fold_states: The head-only model of every validation fold.
        fold_orientations: The orientations that each validation fold's models average, chosen by the other folds.
        phase2_init: The model that phase 2 starts from.
        fold_inits: The same for every validation fold.
        history: A row an epoch; a solved head has none.
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

    The head is solved, or trained by gradient where the recipe has a schedule for it.
    """
    if isinstance(recipe.head, Solved):
        return _solved(features, recipe)
    return _by_gradient(features, recipe.head)


def _by_gradient(features: TrainingFeatures, how: ByGradient) -> HeadOnlyResult:
    backbone, data, folds = features.backbone, features.data, features.folds
    start = random_head(backbone, data.n_classes, features.seed)
    tuned = [
        finetune(
            backbone, start, features.of(fold).for_head, data.labels, how.plan, how.schedule,
            phase="phase 1", train=fold.train, val=fold.val, seed=features.seed,
        )
        for fold in folds.trainings
    ]  # fmt: skip
    final, validated = tuned[-1], tuned[: len(folds.validation)]
    validation = tuple(each.val_logits for each in validated)
    states = tuple(each.state for each in validated)
    return HeadOnlyResult(
        state=final.state,
        orientations=IDENTITY_ONLY,
        fold_logits=validation,
        temperature=fit_temperature(concat_folds(validation, data.n_classes), fold_labels(folds.validation, data)),
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
    panel = ModelSelector.of(plain, [labels[mask] for mask in masks], data.class_counts)
    # Averaging over orientations multiplies the cost of inference: require the same significance as for shipping phase 2.
    takes_all = panel.accepts(averaged, panel.all_folds)
    takes = [takes_all for _ in panel.all_folds]
    if recipe.cross_fit:
        takes = [_averages_for(fold, by_fold[fold], masks, labels, data) for fold in panel.all_folds]

    out_of_fold = np.empty_like(final.plain)
    for fold, mask in enumerate(masks):
        out_of_fold[mask] = averaged[fold] if takes[fold] else plain[fold]
    orientations = final.orientations if takes_all else IDENTITY_ONLY
    if folds.final is None:  # the user gave a validation set
        (given,) = folds.validation
        seen = features_at_head(features.final, given.val, orientations).mean(dim=1)
        validation = [final.fit.head.logits(seen).numpy()]
        finals, starts, fold_poses = [final.fit.head], [final.fit.init_for_phase2], [orientations]
    else:
        count = len(folds.validation)
        validation = [out_of_fold[mask] for mask in masks[:count]]
        finals = [each.fit.fold_heads[fold] for fold, each in enumerate(by_fold[:count])]
        starts = [each.fit.fold_inits[fold] for fold, each in enumerate(by_fold[:count])]
        fold_poses = [each.orientations if takes[fold] else IDENTITY_ONLY for fold, each in enumerate(by_fold[:count])]
    return HeadOnlyResult(
        state=head_state(final.fit.head),
        orientations=orientations,
        fold_logits=tuple(validation),
        temperature=fit_temperature(out_of_fold, labels),
        n_calibration=len(labels),
        fold_states=tuple(map(head_state, finals)),
        fold_orientations=tuple(fold_poses),
        phase2_init=head_state(final.fit.init_for_phase2),
        fold_inits=tuple(map(head_state, starts)),
        history=(),
    )


@dataclass(frozen=True)
class _Solution:
    """A solved head with the out-of-fold logits (N, C) of plain views, and of the mean over ``orientations``."""

    fit: HeadFit
    orientations: tuple[Orientation, ...]
    plain: Logits
    averaged: Logits


def _averages_for(
    fold: int, solution: _Solution, masks: Sequence[NDArray[np.bool_]], labels: Indices, data: TrainingSet
) -> bool:
    """Tell whether the images of the other folds choose to average over orientations, in the augmentation of this fold."""
    panel = ModelSelector.of([solution.plain[m] for m in masks], [labels[m] for m in masks], data.class_counts)
    return panel.accepts([solution.averaged[mask] for mask in masks], panel.other_folds(fold))


def _fit(features: TrainingFeatures, activations: FoldActivations, recipe: Recipe) -> _Solution:
    data, at_head = features.data, activations.for_head
    assert isinstance(at_head, CachedActivations), "a solved head is fitted on cached features"
    orientations = recipe.orientations(activations.renderer)
    views = recipe.head_views(activations.renderer)
    fit = fit_head_cached(features.cache, features.backbone, at_head, data, views, recipe.smoothing)
    plain = averaged = fit.out_of_fold.astype(np.float32)
    if orientations != IDENTITY_ONLY:  # otherwise rounding alone would differ, and could pass for a gain
        averaged = out_of_fold_tta_logits(fit.fold_heads, features_at_head(activations, data.train, orientations), data)
    return _Solution(fit, orientations, plain, averaged)


def features_at_head(activations: FoldActivations, images: Indices, orientations: Sequence[Orientation]) -> Tensor:
    """Return pooled features, shape (N, orientations, D)."""
    assert isinstance(activations.for_head, CachedActivations), "a solved head is fitted on cached features"
    return pooled_features(activations.for_head, images.tolist(), orientations)


def head_state(head: Linear) -> ModelState:
    """Return a solved head as a model on the pretrained backbone."""
    return ModelState([], {"weight": head.weight.float(), "bias": head.bias.float()})
