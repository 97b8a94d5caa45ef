"""Phase 1: train a head on the frozen backbone, validate it on every fold, and fit it on all training images.

Nested selection, where the folds' predictions replace a test set: every choice that affects a fold's predictions
(augmentation, views, penalty) is made on the other folds.
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
from unfreeze.predict import Logits
from unfreeze.training.augmentation import out_of_fold_tta_logits
from unfreeze.training.features.activations import CachedActivations, pooled_features
from unfreeze.training.features.training_features import FoldActivations, TrainingFeatures
from unfreeze.training.finetune.loop import EpochRow, Indices, finetune
from unfreeze.training.folds import TrainingSet, concat_folds, fold_labels
from unfreeze.training.head.head_cache import fit_head_cached
from unfreeze.training.head.regularisation_path import HeadFit, Linear, Standardisation
from unfreeze.training.recipe import ByGradient, Recipe, Solved
from unfreeze.training.view_sets import name_of
from unfreeze.views import PLAIN_ONLY, Views


@dataclass(frozen=True)
class HeadOnlyResult:
    """The head-only models, and what they predict for the images that they were not trained on.

    Attributes:
        state: The head-only model, trained on all training images.
        views: The views of an image whose logits every final model of this run averages.
        fold_logits: The logits of each validation fold's images by the fold's model, each of shape (V, C).
        temperature: Divides the logits so that the probabilities are calibrated (see ``calibration.py``).
        n_calibration: The number of images that the temperature was fitted on: out-of-fold predictions.
        fold_states: The head-only model of every validation fold.
        fold_views: The views that each validation fold's models average, chosen by the other folds.
        phase2_init: The model that phase 2 starts from.
        fold_inits: The model that phase 2 starts from on every validation fold.
        history: One row per epoch; a solved head has none.
    """

    state: ModelState
    views: Views
    fold_logits: tuple[Logits, ...]
    temperature: float
    n_calibration: int
    fold_states: tuple[ModelState, ...]
    fold_views: tuple[Views, ...]
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
        views=PLAIN_ONLY,
        fold_logits=fold_logits,
        temperature=fit_temperature(concat_folds(fold_logits, data.n_classes), fold_labels(folds.validation, data)),
        n_calibration=folds.n_validation,
        fold_states=states,
        fold_views=tuple(PLAIN_ONLY for _ in states),
        phase2_init=final.state,
        fold_inits=states,
        history=final.history,
    )


def _solved(features: TrainingFeatures, recipe: Recipe) -> HeadOnlyResult:
    data, folds = features.data, features.folds
    fits = {id(each): solve_head(features, each, recipe) for each in (features.final, *features.by_fold)}
    final = fits[id(features.final)]
    by_fold = [fits[id(each)] for each in features.by_fold]
    masks = [data.fold == fold for fold in range(len(by_fold))]
    labels = data.train_labels
    options = [
        [fit.logits[option][mask] for fit, mask in zip(by_fold, masks, strict=True)]
        for option in range(len(final.view_sets))
    ]
    choice = _choose_views(final.view_sets, options, masks, data, recipe, range(len(masks)))
    fold_choice = [choice for _ in masks]
    if recipe.cross_fit:
        fold_choice = [_choose_for(fold, solution, masks, data, recipe) for fold, solution in enumerate(by_fold)]

    out_of_fold = np.empty_like(final.logits[0])
    for fold, mask in enumerate(masks):
        out_of_fold[mask] = options[fold_choice[fold]][fold]
    views = final.view_sets[choice]
    if folds.final is None:  # the user gave a validation set
        (given,) = folds.validation
        val_features = features_at_head(features.final, given.val, views).mean(dim=1)
        fold_logits = [final.fit.head.logits(val_features).numpy()]
        states, inits = [final.state(final.fit.head)], [final.state(final.fit.init_for_phase2)]
        fold_views = [views]
    else:
        count = len(folds.validation)
        solutions = list(enumerate(by_fold[:count]))
        fold_logits = [out_of_fold[mask] for mask in masks[:count]]
        states = [each.state(each.fit.fold_heads[fold]) for fold, each in solutions]
        inits = [each.state(each.fit.fold_inits[fold]) for fold, each in solutions]
        fold_views = [each.view_sets[fold_choice[fold]] for fold, each in solutions]
    return HeadOnlyResult(
        state=final.state(final.fit.head),
        views=views,
        fold_logits=tuple(fold_logits),
        temperature=fit_temperature(out_of_fold, labels),
        n_calibration=len(labels),
        fold_states=tuple(states),
        fold_views=tuple(fold_views),
        phase2_init=final.state(final.fit.init_for_phase2),
        fold_inits=tuple(inits),
        history=(),
    )


@dataclass(frozen=True)
class Solution:
    """A solved head, and its out-of-fold logits (N, C) by the mean over each set of views."""

    fit: HeadFit
    view_sets: tuple[Views, ...]
    logits: tuple[Logits, ...]

    def state(self, head: Linear) -> ModelState:
        """Return one of the fit's heads as a model on the pretrained backbone."""
        return head_state(head, self.fit.standardisation)


def _choose_for(
    fold: int, solution: Solution, masks: Sequence[NDArray[np.bool_]], data: TrainingSet, recipe: Recipe
) -> int:
    """Return the index of the set of views that the other folds' images choose, given the solution for this fold."""
    options = [[logits[mask] for mask in masks] for logits in solution.logits]
    others = [other for other in range(len(masks)) if other != fold] or [fold]
    return _choose_views(solution.view_sets, options, masks, data, recipe, others)


def _choose_views(
    view_sets: Sequence[Views],
    options: Sequence[Sequence[Logits]],
    masks: Sequence[NDArray[np.bool_]],
    data: TrainingSet,
    recipe: Recipe,
    folds: FoldIds,
) -> int:
    """Return the index of the set of views with the highest expected accuracy, measured against the first.

    Args:
        view_sets: The sets of views.
        options: For each set, the out-of-fold logits of each fold's images, each of shape (V, C).
        masks: Which training images are in each fold.
        data: The training images.
        recipe: Has the prior.
        folds: The folds whose images choose.
    """
    labels = [data.train_labels[mask] for mask in masks]
    selector = ModelSelector.of(options[0], labels, data.class_counts, recipe.prior)
    named = [(f"views:{name_of(views)}", logits) for views, logits in zip(view_sets[1:], options[1:], strict=True)]
    return selector.choose(named, folds).index


def solve_head(features: TrainingFeatures, activations: FoldActivations, recipe: Recipe) -> Solution:
    """Solve the head on the views of one augmentation, or load it, and predict every training image out of fold."""
    data, at_head = features.data, activations.for_head
    assert isinstance(at_head, CachedActivations), "a solved head is fitted on cached features"
    view_sets = recipe.view_sets(activations.renderer)
    views = recipe.head_views(activations.renderer)
    fit = fit_head_cached(features.cache, features.backbone, at_head, data, views, recipe.smoothing)
    logits = tuple(
        fit.out_of_fold.astype(np.float32)
        if averaged_over == PLAIN_ONLY
        else out_of_fold_tta_logits(fit.fold_heads, features_at_head(activations, data.train, averaged_over), data)
        for averaged_over in view_sets
    )
    return Solution(fit, view_sets, logits)


def features_at_head(activations: FoldActivations, images: Indices, views: Views) -> Tensor:
    """Return pooled features, shape (N, views, D)."""
    assert isinstance(activations.for_head, CachedActivations), "a solved head is fitted on cached features"
    return pooled_features(activations.for_head, images.tolist(), views)


def head_state(head: Linear, standardisation: Standardisation | None = None) -> ModelState:
    """Return a solved head as a model on the pretrained backbone; with ``standardisation``, on standardised features."""
    if standardisation is None:
        return ModelState([], {"weight": head.weight.float(), "bias": head.bias.float()})
    weight, bias = standardisation.weights(head)
    tensors = {"weight": weight, "bias": bias, "center": standardisation.center, "scale": standardisation.scale}
    return ModelState([], {name: value.float() for name, value in tensors.items()})
