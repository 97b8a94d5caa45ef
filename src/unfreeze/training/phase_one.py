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
from unfreeze.models.freezing import StagePlan
from unfreeze.models.state import ModelState, random_head
from unfreeze.poses import UPRIGHT, Pose
from unfreeze.predict import Logits
from unfreeze.training.activations import Cached
from unfreeze.training.activations import features as pooled_features
from unfreeze.training.augmentation import out_of_fold_tta_logits
from unfreeze.training.finetune import EpochRow, Indices, Schedule, finetune
from unfreeze.training.fit_head import HeadFit, Linear
from unfreeze.training.kept_heads import kept_head
from unfreeze.training.recipes import Recipe
from unfreeze.training.rounds import TrainingData, joined, truth_of
from unfreeze.training.selection import Panel
from unfreeze.training.training_features import FoldActivations, TrainingFeatures


@dataclass(frozen=True)
class PhaseOne:
    """The head-only models, and what they predict for the images that they were not trained on.

    Attributes:
        final: The head-only model, trained on all training images.
        poses: The orientations of an image whose logits every final model of this run averages.
        validation: The logits of each validation fold's images by the fold's model, each of shape (V, C).
        temperature: Divides the logits so that the probabilities are calibrated (see ``calibration.py``).
        calibrated_on: The number of images that it was fitted on: out-of-fold predictions.
        round_finals: The head-only model of every validation fold.
        round_poses: The orientations that each validation fold's models average, chosen by the other folds.
        start: The model that phase 2 starts from.
        round_starts: The same for every validation fold.
        history: A row an epoch; a solved head has none.
    """

    final: ModelState
    poses: tuple[Pose, ...]
    validation: tuple[Logits, ...]
    temperature: float
    calibrated_on: int
    round_finals: tuple[ModelState, ...]
    round_poses: tuple[tuple[Pose, ...], ...]
    start: ModelState
    round_starts: tuple[ModelState, ...]
    history: tuple[EpochRow, ...]


def phase_one(features: TrainingFeatures, recipe: Recipe) -> PhaseOne:
    """Train the head on the frozen backbone, once for every validation fold and once on all training images.

    The head is solved, or trained by gradient where the recipe has a schedule for it.
    """
    if recipe.head_plan is None or recipe.head_schedule is None:
        return _solved(features, recipe)
    return _by_gradient(features, recipe.head_plan, recipe.head_schedule)


def _by_gradient(features: TrainingFeatures, plan: StagePlan, schedule: Schedule) -> PhaseOne:
    backbone, data, folds = features.backbone, features.data, features.folds
    start = random_head(backbone, data.classes, features.seed)
    tuned = [
        finetune(
            backbone, start, features.of(fold).for_head, data.labels, plan, schedule,
            phase="phase 1", train=fold.train, val=fold.val, seed=features.seed,
        )
        for fold in folds.trainings
    ]  # fmt: skip
    final, validated = tuned[-1], tuned[: len(folds.validation)]
    validation = tuple(each.validation for each in validated)
    states = tuple(each.state for each in validated)
    return PhaseOne(
        final=final.state,
        poses=UPRIGHT,
        validation=validation,
        temperature=fit_temperature(joined(validation, data.classes), truth_of(folds.validation, data)),
        calibrated_on=folds.n_validation,
        round_finals=states,
        round_poses=tuple(UPRIGHT for _ in states),
        start=final.state,
        round_starts=states,
        history=final.history,
    )


def _solved(features: TrainingFeatures, recipe: Recipe) -> PhaseOne:
    data, folds = features.data, features.folds
    fits = {id(each): _fit(features, each, recipe) for each in (features.final, *features.by_fold)}
    final = fits[id(features.final)]
    by_fold = [fits[id(each)] for each in features.by_fold]
    masks = [data.fold == fold for fold in range(len(by_fold))]
    plain = [fit.plain[mask] for fit, mask in zip(by_fold, masks, strict=True)]
    averaged = [fit.averaged[mask] for fit, mask in zip(by_fold, masks, strict=True)]
    labels = data.train_labels
    panel = Panel.of(plain, [labels[mask] for mask in masks], data.class_counts)
    # Averaging over orientations multiplies the cost of inference: require the same significance as for shipping phase 2.
    takes_all = panel.ships(averaged, panel.everyone)
    takes = [takes_all for _ in panel.everyone]
    if recipe.cross_fit:
        takes = [_averages_for(fold, by_fold[fold], masks, labels, data) for fold in panel.everyone]

    out_of_fold = np.empty_like(final.plain)
    for fold, mask in enumerate(masks):
        out_of_fold[mask] = averaged[fold] if takes[fold] else plain[fold]
    poses = final.poses if takes_all else UPRIGHT
    if folds.final is None:  # the user gave a validation set
        (given,) = folds.validation
        seen = activations_at_head(features.final, given.val, poses).mean(dim=1)
        validation = [final.fit.head.logits(seen).numpy()]
        finals, starts, fold_poses = [final.fit.head], [final.fit.start], [poses]
    else:
        count = len(folds.validation)
        validation = [out_of_fold[mask] for mask in masks[:count]]
        finals = [each.fit.fold_heads[fold] for fold, each in enumerate(by_fold[:count])]
        starts = [each.fit.fold_starts[fold] for fold, each in enumerate(by_fold[:count])]
        fold_poses = [each.poses if takes[fold] else UPRIGHT for fold, each in enumerate(by_fold[:count])]
    return PhaseOne(
        final=head_state(final.fit.head),
        poses=poses,
        validation=tuple(validation),
        temperature=fit_temperature(out_of_fold, labels),
        calibrated_on=len(labels),
        round_finals=tuple(map(head_state, finals)),
        round_poses=tuple(fold_poses),
        start=head_state(final.fit.start),
        round_starts=tuple(map(head_state, starts)),
        history=(),
    )


@dataclass(frozen=True)
class _Solution:
    """A solved head with the out-of-fold logits (N, C) of plain views, and of the mean over ``poses``."""

    fit: HeadFit
    poses: tuple[Pose, ...]
    plain: Logits
    averaged: Logits


def _averages_for(
    fold: int, solution: _Solution, masks: Sequence[NDArray[np.bool_]], labels: Indices, data: TrainingData
) -> bool:
    """Tell whether the images of the other folds choose to average over orientations, in the augmentation of this fold."""
    panel = Panel.of([solution.plain[m] for m in masks], [labels[m] for m in masks], data.class_counts)
    return panel.ships([solution.averaged[mask] for mask in masks], panel.others(fold))


def _fit(features: TrainingFeatures, activations: FoldActivations, recipe: Recipe) -> _Solution:
    data, at_head = features.data, activations.for_head
    assert isinstance(at_head, Cached), "a solved head is fitted on cached features"
    poses = recipe.poses(activations.renderer)
    views = recipe.learned(activations.renderer)
    fit = kept_head(features.cache, features.backbone, at_head, data, views, recipe.smoothing)
    plain = averaged = fit.out_of_fold.astype(np.float32)
    if poses != UPRIGHT:  # otherwise rounding alone would differ, and could pass for a gain
        averaged = out_of_fold_tta_logits(fit.fold_heads, activations_at_head(activations, data.train, poses), data)
    return _Solution(fit, poses, plain, averaged)


def activations_at_head(activations: FoldActivations, images: Indices, poses: Sequence[Pose]) -> Tensor:
    """Return pooled features, shape (N, orientations, D)."""
    assert isinstance(activations.for_head, Cached), "a solved head is fitted on cached features"
    return pooled_features(activations.for_head, images.tolist(), poses)


def head_state(head: Linear) -> ModelState:
    """Return a solved head as a model on the pretrained backbone."""
    return ModelState([], {"weight": head.weight.float(), "bias": head.bias.float()})
