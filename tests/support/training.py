"""What training is given: divided photos, schedules, recipes, features, and a search that phase 1 has prepared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from tests.support.photos import CLASSES, CROPS, renderer
from torch import Tensor

from unfreeze.config import TrainConfig
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.evaluation.selection import ModelSelector
from unfreeze.models.backbone import Backbone
from unfreeze.models.freezing import StagePlan, plan_from
from unfreeze.models.state import ModelState
from unfreeze.training.features.activations import Activations, activations_at
from unfreeze.training.features.cache import FeatureCache, open_cache
from unfreeze.training.features.training_features import FoldActivations, TrainingFeatures
from unfreeze.training.finetune.loop import FineTuneResult, Indices, finetune
from unfreeze.training.folds import Folds, TrainingSet, labels_by_fold
from unfreeze.training.phase_one import train_head
from unfreeze.training.recipe import ByGradient, Candidate, Recipe, Solved
from unfreeze.training.recipes import recipe_for
from unfreeze.training.schedule import Schedule
from unfreeze.training.search import SearchContext, Trial, run_trial, search

Array = NDArray[np.float64]
ALPHAS = (0.25, 0.5, 1.0)


def new_store() -> FeatureCache:
    """Return an empty store of its own, which goes when it is let go of."""
    return open_cache(None, 0)


@dataclass(frozen=True)
class Task:
    """Drawn photos and what training may know of them: the first ``train``, then ``val``; the rest is the test set."""

    renderer: Renderer
    data: TrainingSet
    test: np.ndarray[tuple[int], np.dtype[np.int64]]


def task(paths: Sequence[Path], *, train: int, val: int = 0, folds: int = 3, seed: int = 0) -> Task:
    """Divide drawn photos."""
    indices = np.arange(len(paths))
    data = TrainingSet(
        labels=torch.arange(len(paths)) % CLASSES,
        train=indices[:train],
        val=indices[train : train + val],
        fold=indices[:train] // CLASSES % folds,
        n_classes=CLASSES,
        ids=indices[: train + val],
    )
    return Task(renderer(paths, seed), data, indices[train + val :])


def schedule(
    *,
    epochs: int = 3,
    batch_size: int = 5,
    views: int | None = 2,
    fresh: int = 0,
    weight_decay: float = 0.01,
    warmup: float = 0.2,
    cosine: bool = True,
    clip: float | None = 1.0,
    smoothing: float = 0.0,
) -> Schedule:
    """Return a short schedule."""
    return Schedule(
        epochs=epochs,
        batch_size=batch_size,
        n_views=views,
        new_views_per_epoch=fresh,
        optimizer="adamw",
        weight_decay=weight_decay,
        warmup=warmup,
        cosine=cosine,
        clip=clip,
        smoothing=smoothing,
    )


def candidate(backbone: Backbone, boundary: int = 3, *, lr: float = 0.02, how: Schedule | None = None) -> Candidate:
    """Return a way to unfreeze."""
    plan = plan_from(backbone, boundary, lr=lr, head_lr=lr, decay=0.8)
    return Candidate(backbone.depths()[boundary], boundary, plan, how or schedule(epochs=4))


def recipe(
    backbone: Backbone,
    *candidates: Candidate,
    solved: bool = True,
    judges: int = 100,
    alphas: tuple[float, ...] = (1.0,),
    max_forgetting: float | None = None,
    averages: bool = False,
) -> Recipe:
    """Return a recipe that tries the candidates (none given: one), and goes all the way unless ``alphas`` says otherwise."""
    candidates = candidates or (candidate(backbone),)
    return Recipe(
        name="test",
        augmentations=(CROPS,),
        n_head_views=2,
        head=Solved() if solved else ByGradient(plan_from(backbone, 5, lr=0.0, head_lr=0.02), schedule(epochs=2)),
        candidates=candidates,
        alphas=alphas,
        max_forgetting=max_forgetting,
        allow_tta=averages,
        min_validation_images=judges,
        boundary=min(each.plan.boundary for each in candidates),
    )


def planned(photos: tuple[Path, ...], backbone: Backbone, **settings: object) -> tuple[Renderer, TrainingSet, Recipe]:
    """Return what renders 30 photos, of which 24 are learned from, in 4 folds, and what ``auto`` does with them."""
    data = TrainingSet(torch.arange(30) % 3, np.arange(24), np.arange(0), np.arange(24) % 4, 3, np.arange(24))
    recipe = recipe_for(TrainConfig(photos=Path(), **settings), backbone, 24, 3)  # type: ignore[arg-type]
    return replace(renderer(photos), augmentation=recipe.augmentations[0]), data, recipe


def papers(own: Renderer) -> Renderer:
    """Return what renders the 6 photos that ``planned`` leaves for testing."""
    return replace(own, paths=own.paths[24:], digests=own.digests[24:])


def at(backbone: Backbone, given: Task, boundary: int) -> Activations:
    """Return what crosses a boundary of a task's photos, of two views of each."""
    return activations_at(new_store(), backbone, given.renderer, boundary, given.data.requested_views(2), "test")


def training_features(
    backbone: Backbone, given: Task, how: Recipe, *, boundaries: Sequence[int] = (), for_head: int = 5
) -> TrainingFeatures:
    """Return what the phases train on: two views at the given boundaries, and those at ``for_head`` for phase 1."""
    by_boundary = {boundary: at(backbone, given, boundary) for boundary in {*boundaries, for_head}}
    activations = FoldActivations(given.renderer, by_boundary, by_boundary[for_head])
    folds = Folds.of(given.data, how.min_validation_images)
    n_folds = int(given.data.fold.max()) + 1
    return TrainingFeatures(new_store(), backbone, given.data, folds, activations, (activations,) * n_folds, seed=0)


def poison(monkeypatch: pytest.MonkeyPatch, which: Callable[[StagePlan, Indices], bool]) -> None:
    """Let the head of those trainings of phase 2 be no number, that a plan and validation photos tell from the others."""

    def poisoned(
        backbone: Backbone,
        start: ModelState,
        source: Activations,
        labels: Tensor,
        plan: StagePlan,
        how: Schedule,
        **rest: Any,
    ) -> FineTuneResult:
        if which(plan, rest["val"]):
            start = replace(start, head={name: torch.full_like(value, torch.nan) for name, value in start.head.items()})
        return finetune(backbone, start, source, labels, plan, how, **rest)

    monkeypatch.setattr("unfreeze.training.search.finetune", poisoned)


@dataclass(frozen=True)
class Setting:
    """What a search needs: phase 1 has been."""

    given: Task
    bench: SearchContext
    panel: ModelSelector

    def search(
        self,
        *candidates: Candidate,
        time_left: Callable[[int], bool] = lambda _: True,
        room_left: Callable[[Trial], bool] = lambda _: True,
    ) -> tuple[Trial, ...]:
        return search(self.bench, candidates, self.panel, time_left, room_left, nested=False).trials

    def try_out(self, asked: Candidate) -> Trial:
        return run_trial(self.bench, asked, "test")


def setting(backbone: Backbone, paths: tuple[Path, ...]) -> Setting:
    given = task(paths, train=18)
    how = recipe(backbone)
    features = training_features(backbone, given, how, boundaries=(2, 3, 4))
    first = train_head(features, how)
    rounds = features.folds.validation
    features = replace(features, folds=Folds(rounds, None))  # no final fit: nothing validates it
    return Setting(
        given=given,
        bench=SearchContext(features, first, backbone.snapshot(2), ALPHAS),
        panel=ModelSelector.of(first.fold_logits, labels_by_fold(rounds, given.data), given.data.class_counts),
    )


def blobs(count: int, dimension: int, classes: int, *, views: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return overlapping clouds, shape (count, views, dimension), and their labels."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centers = torch.randn(classes, dimension, generator=random, dtype=torch.float64)
    plain = centers[labels] + 1.5 * torch.randn(count, dimension, generator=random, dtype=torch.float64)
    noise = 0.3 * torch.randn(count, views, dimension, generator=random, dtype=torch.float64)
    noise[:, 0] = 0
    return plain[:, None] + noise, labels


def by_sklearn(features: Tensor, labels: Tensor, classes: int, strength: float) -> tuple[Array, Any]:
    """Return scikit-learn's weights, of zero mean over the classes, and its model."""
    # With two classes scikit-learn fits one weight vector w, where softmax has -w / 2 and w / 2: half the penalty.
    c = (2 if classes == 2 else 1) / (len(labels) * strength)
    model = LogisticRegression(C=c, tol=1e-9, max_iter=10_000).fit(features.numpy(), labels.numpy())
    coefficients = np.vstack([-model.coef_, model.coef_]) / 2 if classes == 2 else model.coef_
    return coefficients - coefficients.mean(axis=0), model


def centred(weight: Tensor) -> Array:
    values: Array = (weight - weight.mean(dim=0)).numpy()
    return values
