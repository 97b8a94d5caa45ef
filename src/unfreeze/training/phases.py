"""The two phases on a user's photos: validated on held-out training photos, then trained on all of them.

Phase 2 is first tried in rounds: train on some photos, judge on others.  The rounds say after which epoch to stop, and
whether phase 2 is worth having at all.  What may ship is then trained on every training photo.

Where there are several rounds, what is said of a round's photos is never chosen by them: the other rounds choose.  So with a
round for every fold, the answers are evidence as good as a test set's (``evidence.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.data.loaders import Renderer
from unfreeze.data.sources import Sample
from unfreeze.data.splits import Splits
from unfreeze.data.transforms import PLAIN_VIEW
from unfreeze.evaluation.calibration import fit_temperature
from unfreeze.models.backbone import Backbone, Head, Tensors
from unfreeze.predict import Logits
from unfreeze.training.activations import Activations, Cached, features, keep, keep_or_render
from unfreeze.training.finetune import EpochRow, Indices, Tuned, Weights, choose_epoch, finetune, judge
from unfreeze.training.fit_head import Linear, fit_head
from unfreeze.training.recipes import Recipe
from unfreeze.training.store import Store


@dataclass(frozen=True)
class TrainingData:
    """The photos that training may see.  It knows no others: photos are numbered among these, from 0.

    Attributes:
        labels: Of every one of them, indexed by photo.
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

    @classmethod
    def of(cls, samples: Sequence[Sample], splits: Splits, classes: int) -> TrainingData:
        """Number the photos of ``splits.learning``, which ``samples`` are, from 0."""
        labels = torch.tensor([sample.label for sample in samples])
        count = len(splits.train)
        return cls(labels, np.arange(count), np.arange(count, len(samples)), splits.fold[splits.train], classes)

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
        validation: What every round's head-only model says of the round's photos: logits, each of shape (V, C).
        temperature: Makes the model as sure as it is right (see ``calibration.py``).
        calibrated_on: Photos that it was fitted on: answers of models that never saw them.
        start: The model that phase 2 goes on from.
        round_starts: The same for every round.
        history: A row an epoch; a solved head has none.
    """

    final: Weights
    validation: tuple[Logits, ...]
    temperature: float
    calibrated_on: int
    start: Weights
    round_starts: tuple[Weights, ...]
    history: tuple[EpochRow, ...]


@dataclass(frozen=True)
class PhaseTwo:
    """The two-phase model, and whether it held its own against head-only on the rounds' photos.

    Attributes:
        final: The two-phase model.
        validation: As in ``PhaseOne``, after the epoch that the other rounds choose.
        temperature: Likewise.
        calibrated_on: Likewise.
        not_worse: Whether it ships.
        rounds_not_worse: For every round, whether it would ship by what the other rounds say.
        round_finals: The model of every round after its last epoch.
        history: A row an epoch.
    """

    final: Weights
    validation: tuple[Logits, ...]
    temperature: float
    calibrated_on: int
    not_worse: bool
    rounds_not_worse: tuple[bool, ...]
    round_finals: tuple[Weights, ...]
    history: tuple[EpochRow, ...]


def validation_rounds(data: TrainingData, judges: int) -> tuple[Round, ...]:
    """Return the user's validation as the only round, or as many folds as give ``judges`` photos to judge by (0: none)."""
    if not judges:
        return ()
    if len(data.val):
        return (Round(data.train, data.val, None),)
    folds = int(data.fold.max()) + 1
    count = min(folds, math.ceil(judges * folds / len(data.train)))
    return tuple(Round(data.train[data.fold != f], data.train[data.fold == f], f) for f in range(count))


def gather(
    store: Store, backbone: Backbone, renderer: Renderer, data: TrainingData, recipe: Recipe
) -> tuple[Activations, Activations]:
    """Compute what the phases train on: activations at phase 2's boundary, and what phase 1 trains on."""
    views = data.views(recipe.kept_views)
    source = keep_or_render(store, backbone, renderer, recipe.kept_from, views, "reading training photos")
    if not recipe.head_on_features:
        return source, source
    views = data.views(recipe.views)
    return source, keep(store, backbone, source, backbone.head_boundary, views, "computing features")


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
    final = tried[0] if tried and len(data.val) else train(data.train, data.train[:0])
    backbone.restore(pretrained)
    validation = tuple(tuned.validation[-1] for tuned in tried)
    return PhaseOne(
        final=final.weights,
        validation=validation,
        temperature=fit_temperature(_joined(validation, data.classes), truth_of(rounds, data)),
        calibrated_on=sum(len(each.val) for each in rounds),
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
    truths = [truth_of((each,), data) for each in rounds]
    by_epoch = list(zip(*(tuned.validation for tuned in tried), strict=True))  # of each epoch, every round's answers

    def best_epoch(judges: Sequence[int]) -> int:
        if not recipe.choose_epoch or not judges:
            return schedule.epochs
        answers = [np.concatenate([answers[r] for r in judges]) for answers in by_epoch]
        return choose_epoch(answers, np.concatenate([truths[r] for r in judges]))

    everyone = list(range(len(rounds)))
    others = [[r for r in everyone if r != own] or [own] for own in everyone]
    validation = tuple(by_epoch[best_epoch(others[own]) - 1][own] for own in everyone)

    def ships(judges: Sequence[int]) -> bool:
        truth = np.concatenate([truths[r] for r in judges])
        before = judge(np.concatenate([first.validation[r] for r in judges]), truth)
        return not_worse(before, judge(np.concatenate([validation[r] for r in judges]), truth))

    trainings = list(tried)
    if not (tried and len(data.val)):
        trainings.append(train(first.start, data.train, data.train[:0], "phase 2", stop_after=best_epoch(everyone)))
    backbone.restore(pretrained)
    return PhaseTwo(
        final=trainings[-1].weights,
        validation=validation,
        temperature=fit_temperature(_joined(validation, data.classes), truth_of(rounds, data)),
        calibrated_on=sum(len(each.val) for each in rounds),
        not_worse=ships(everyone) if everyone else True,
        rounds_not_worse=tuple(ships(others[own]) for own in everyone),
        round_finals=tuple(tuned.weights for tuned in tried),
        history=tuple(row for tuned in trainings for row in tuned.history),
    )


def not_worse(before: tuple[float, float], after: tuple[float, float]) -> bool:
    """Compare (log-loss, accuracy): accuracy decides, and log-loss where it ties."""
    (loss_before, accuracy_before), (loss_after, accuracy_after) = before, after
    return accuracy_after > accuracy_before or (accuracy_after == accuracy_before and loss_after <= loss_before)


def chosen(first: PhaseOne, second: PhaseTwo | None) -> PhaseOne | PhaseTwo:
    """Return the phase whose model ships."""
    return second if second is not None and second.not_worse else first


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
    if rounds and len(data.val):
        plain = features(at_head, data.val.tolist(), (PLAIN_VIEW,))[:, 0]
        validation, starts = [fit.head.logits(plain).numpy()], [fit.start]
    else:
        validation = [fit.out_of_fold[data.fold == fold] for fold in range(len(rounds))]
        starts = list(fit.fold_starts[: len(rounds)])
    learned = data.labels[torch.from_numpy(data.train)].numpy()
    return PhaseOne(
        final=Weights([], head_weights(fit.head)),
        validation=tuple(answers.astype(np.float32) for answers in validation),
        temperature=fit_temperature(fit.out_of_fold, learned),
        calibrated_on=len(learned),
        start=Weights([], head_weights(fit.start)),
        round_starts=tuple(Weights([], head_weights(head)) for head in starts),
        history=(),
    )


def head_weights(head: Linear) -> Tensors:
    """Return a solved head as a ``Head``'s state."""
    return {"weight": head.weight.float(), "bias": head.bias.float()}


def truth_of(rounds: Sequence[Round], data: TrainingData) -> Indices:
    """Return the labels of the photos that the rounds judge by, in their order."""
    judges = np.concatenate([each.val for each in rounds]) if rounds else data.train[:0]
    found: Indices = data.labels[torch.from_numpy(judges)].numpy()
    return found


def _joined(answers: Sequence[Logits], classes: int) -> Logits:
    return np.concatenate(answers) if answers else np.empty((0, classes), np.float32)
