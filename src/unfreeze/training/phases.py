"""The two phases on a user's photos: validated on held-out training photos, then trained on all of them.

Phase 2 is first tried in rounds: train on some photos, judge on others.  The rounds say after which epoch to stop, and
whether phase 2 is worth having at all.  What may ship is then trained on every training photo.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.data.transforms import PLAIN_VIEW
from unfreeze.models.backbone import Backbone, Head, Tensors
from unfreeze.predict import Probabilities
from unfreeze.training.activations import Activations, Cached, features
from unfreeze.training.finetune import EpochRow, Indices, Tuned, Weights, choose_epoch, finetune, judge
from unfreeze.training.fit_head import Linear, fit_head
from unfreeze.training.recipes import Recipe


@dataclass(frozen=True)
class TrainingData:
    """The photos that training may see: the test photos are not among them.

    Attributes:
        labels: Of every photo, indexed by photo.
        train: Photos to learn from.
        val: Photos to choose by; empty where the user named none.
        fold: The cross-validation fold of each photo of ``train``.
        classes: How many there are.
    """

    labels: Tensor
    train: Indices
    val: Indices
    fold: NDArray[np.int64]
    classes: int

    def views(self, count: int) -> dict[int, Sequence[int]]:
        """Return the views that training asks for: ``count`` of photos to learn from, the plain one of others."""
        learn: dict[int, Sequence[int]] = dict.fromkeys(self.train.tolist(), range(count))
        return learn | dict.fromkeys(self.val.tolist(), range(1))


@dataclass(frozen=True)
class Round:
    """Learn from ``train``, judge on ``val``; ``fold`` is the fold that ``val`` is, or None for the user's own."""

    train: Indices
    val: Indices
    fold: int | None


@dataclass(frozen=True)
class PhaseOne:
    """How phase 1 went.

    Attributes:
        final: The head-only model.
        validation: What every round's head-only model says of the round's photos, each of shape (V, C).
        start: The model that phase 2 goes on from.
        round_starts: The same for every round.
        history: A row an epoch; a solved head has none.
    """

    final: Weights
    validation: tuple[Probabilities, ...]
    start: Weights
    round_starts: tuple[Weights, ...]
    history: tuple[EpochRow, ...]


@dataclass(frozen=True)
class PhaseTwo:
    """The two-phase model, and whether it held its own against head-only on the rounds' photos."""

    final: Weights
    not_worse: bool
    history: tuple[EpochRow, ...]


def validation_rounds(data: TrainingData, judges: int) -> tuple[Round, ...]:
    """Return the user's own validation as the only round, or as many folds as give ``judges`` photos to judge by."""
    if len(data.val):
        return (Round(data.train, data.val, None),)
    folds = int(data.fold.max()) + 1
    count = min(folds, max(1, math.ceil(judges * folds / len(data.train))))
    return tuple(Round(data.train[data.fold != f], data.train[data.fold == f], f) for f in range(count))


def phase_one(backbone: Backbone, source: Activations, data: TrainingData, recipe: Recipe, seed: int) -> PhaseOne:
    """Train the head on the frozen backbone: solved, or by gradient where the recipe says so.

    Args:
        backbone: Pretrained.
        source: Pooled features of the training and validation photos; activations at or below the boundary of the
            recipe's ``head_plan`` where that moves more than the head.
        data: The photos.
        recipe: How.
        seed: Decides the order of photos, where there is one.
    """
    rounds = validation_rounds(data, recipe.judges)
    if recipe.head_plan is None or recipe.head_schedule is None:
        assert isinstance(source, Cached), "a solved head is fitted on kept features"
        return _solved(source, data, rounds, recipe)
    head_plan, head_schedule = recipe.head_plan, recipe.head_schedule
    pretrained = backbone.snapshot(head_plan.boundary)

    def train(train: Indices, val: Indices) -> Tuned:
        backbone.restore(pretrained)
        head = new_head(backbone, data.classes, seed)
        return finetune(
            backbone, head, source, data.labels, head_plan, head_schedule,
            phase="phase 1", train=train, val=val, seed=seed, keep="last",
        )  # fmt: skip

    tried = [train(each.train, each.val) for each in rounds]
    final = tried[0] if len(data.val) else train(data.train, data.val)
    backbone.restore(pretrained)
    return PhaseOne(
        final=final.weights,
        validation=tuple(tuned.validation[-1] for tuned in tried),
        start=final.weights,
        round_starts=tuple(tuned.weights for tuned in tried),
        history=final.history,
    )


def phase_two(
    backbone: Backbone, source: Activations, data: TrainingData, recipe: Recipe, first: PhaseOne, seed: int
) -> PhaseTwo:
    """Unfreeze as the recipe's plan says and go on from phase 1; leaves the backbone as it was pretrained."""
    assert recipe.plan is not None
    assert recipe.schedule is not None
    plan, schedule = recipe.plan, recipe.schedule
    rounds = validation_rounds(data, recipe.judges)
    pretrained = backbone.snapshot(recipe.boundary)

    def train(start: Weights, train: Indices, val: Indices, phase: str, stop_after: int | None = None) -> Tuned:
        head = new_head(backbone, data.classes, seed)
        start.install(backbone, head, pretrained)
        return finetune(
            backbone, head, source, data.labels, plan, schedule,
            phase=phase, train=train, val=val, seed=seed, stop_after=stop_after,
            keep="best" if recipe.choose_epoch and len(data.val) else "last",
        )  # fmt: skip

    tried = [
        train(start, each.train, each.val, f"phase 2, validating {number} of {len(rounds)}")
        for number, (start, each) in enumerate(zip(first.round_starts, rounds, strict=True), 1)
    ]
    truth = data.labels[torch.from_numpy(np.concatenate([each.val for each in rounds]))].numpy()
    by_epoch = [np.concatenate(answers) for answers in zip(*(tuned.validation for tuned in tried), strict=True)]
    epoch = choose_epoch(by_epoch, truth) if recipe.choose_epoch else schedule.epochs
    trainings = list(tried)
    if not len(data.val):
        trainings.append(train(first.start, data.train, data.val, "phase 2", stop_after=epoch))
    final = trainings[-1]
    backbone.restore(pretrained)
    before, after = judge(np.concatenate(first.validation), truth), judge(by_epoch[epoch - 1], truth)
    history = tuple(row for tuned in trainings for row in tuned.history)
    return PhaseTwo(final.weights, not_worse(before, after), history)


def not_worse(before: tuple[float, float], after: tuple[float, float]) -> bool:
    """Compare (log-loss, accuracy): accuracy decides, and log-loss where it ties."""
    (loss_before, accuracy_before), (loss_after, accuracy_after) = before, after
    return accuracy_after > accuracy_before or (accuracy_after == accuracy_before and loss_after <= loss_before)


def new_head(backbone: Backbone, classes: int, seed: int) -> Head:
    """Return a head with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Head(backbone.feature_dim, classes).to(backbone.device)


def _solved(at_head: Cached, data: TrainingData, rounds: tuple[Round, ...], recipe: Recipe) -> PhaseOne:
    train = data.train.tolist()
    found = features(at_head, train, range(recipe.views))
    smoothing = recipe.schedule.smoothing if recipe.schedule is not None else 0.0
    fit = fit_head(found, data.labels[torch.from_numpy(data.train)], data.fold, data.classes, smoothing)
    if len(data.val):
        plain = features(at_head, data.val.tolist(), (PLAIN_VIEW,))[:, 0]
        validation, starts = [fit.head.probabilities(plain).numpy()], [fit.start]
    else:
        validation = [fit.out_of_fold[data.fold == fold] for fold in range(len(rounds))]
        starts = list(fit.fold_starts[: len(rounds)])
    return PhaseOne(
        final=Weights([], head_weights(fit.head)),
        validation=tuple(answers.astype(np.float32) for answers in validation),
        start=Weights([], head_weights(fit.start)),
        round_starts=tuple(Weights([], head_weights(head)) for head in starts),
        history=(),
    )


def head_weights(head: Linear) -> Tensors:
    """Return a solved head as a ``Head``'s state."""
    return {"weight": head.weight.float(), "bias": head.bias.float()}
