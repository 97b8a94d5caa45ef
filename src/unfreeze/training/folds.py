"""Which photos training may see, and the rounds that judge it: learn from some of them, answer on the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.data.sources import Sample
from unfreeze.data.splits import Splits
from unfreeze.orientations import IDENTITY_ONLY, Orientation
from unfreeze.predict import Logits

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class TrainingSet:
    """The photos that training may see.  It knows no others: photos are numbered among these, from 0.

    Attributes:
        labels: Of every one of them, indexed by photo.
        train: Photos to learn from.
        val: Photos to choose by; empty where the user named none.
        fold: The cross-validation fold of each photo of ``train``.
        n_classes: How many there are.
        ids: The index of each in the run's ``PhotoSet``, under which predictions are written down.
    """

    labels: Tensor
    train: Indices
    val: Indices
    fold: NDArray[np.int64]
    n_classes: int
    ids: Indices

    @classmethod
    def of(cls, samples: Sequence[Sample], splits: Splits, classes: int) -> TrainingSet:
        """Number the photos of ``splits.train_and_val``, which ``samples`` are, from 0."""
        labels = torch.tensor([sample.label for sample in samples])
        count = len(splits.train)
        return cls(
            labels,
            np.arange(count),
            np.arange(count, len(samples)),
            splits.fold[splits.train],
            classes,
            splits.train_and_val,
        )

    @property
    def train_labels(self) -> Indices:
        """The labels of the images to train on (N,)."""
        labels: Indices = self.labels[torch.from_numpy(self.train)].numpy()
        return labels

    @property
    def class_counts(self) -> Indices:
        """How many images there are to train on of each class (C,)."""
        return np.bincount(self.train_labels, minlength=self.n_classes)

    def subsample(self, count: int) -> TrainingSet:
        """Return the same with so many photos to learn from, spread evenly, if there are more."""
        some = np.linspace(0, len(self.train) - 1, min(count, len(self.train)), dtype=np.int64)
        return replace(self, train=self.train[some], fold=self.fold[some])

    def requested_views(
        self, count: int, orientations: Sequence[Orientation] = IDENTITY_ONLY
    ) -> dict[int, Sequence[int]]:
        """Return the views that training asks for: ``count`` of photos to learn from, and every photo in all ``orientations``."""
        turned = [orientation for orientation in orientations if orientation is not Orientation.IDENTITY]
        learn: dict[int, Sequence[int]] = dict.fromkeys(self.train.tolist(), (*range(count), *turned))
        return learn | dict.fromkeys(self.val.tolist(), (Orientation.IDENTITY, *turned))


@dataclass(frozen=True)
class Fold:
    """Learn from ``train``, judge on ``val``; ``fold`` is the fold that ``val`` is, or None for the user's own."""

    train: Indices
    val: Indices
    fold: int | None


@dataclass(frozen=True)
class Folds:
    """Every training of a phase.

    Attributes:
        validation: The folds that are validated on.
        final: The fit on all training images; None where a validation fold's training is that already, because the user
            gave a validation set.
    """

    validation: tuple[Fold, ...]
    final: Fold | None

    @classmethod
    def of(cls, data: TrainingSet, judges: int) -> Folds:
        """Return the user's validation set as the only fold, or as many folds as give ``judges`` images to validate on."""
        validation = _validation_folds(data, judges)
        complete = bool(len(data.val) and validation)
        return cls(validation, None if complete else Fold(data.train, data.train[:0], None))

    @property
    def trainings(self) -> tuple[Fold, ...]:
        """The validation folds, then the final fit; the last is always trained on all training images."""
        return self.validation if self.final is None else (*self.validation, self.final)

    @property
    def n_validation(self) -> int:
        """How many images are validated on."""
        return sum(len(fold.val) for fold in self.validation)


def _validation_folds(data: TrainingSet, judges: int) -> tuple[Fold, ...]:
    if not judges:
        return ()
    if len(data.val):
        return (Fold(data.train, data.val, None),)
    folds = int(data.fold.max()) + 1
    count = min(folds, math.ceil(judges * folds / len(data.train)))
    return tuple(Fold(data.train[data.fold != f], data.train[data.fold == f], f) for f in range(count))


def fold_labels(rounds: Sequence[Fold], data: TrainingSet) -> Indices:
    """Return the labels of the photos that the rounds judge by, in their order."""
    judges = np.concatenate([each.val for each in rounds]) if rounds else data.train[:0]
    found: Indices = data.labels[torch.from_numpy(judges)].numpy()
    return found


def labels_by_fold(rounds: Sequence[Fold], data: TrainingSet) -> list[Indices]:
    """Return the labels of the photos that each round judges by."""
    return [fold_labels((each,), data) for each in rounds]


def concat_folds(answers: Sequence[Logits], classes: int) -> Logits:
    """Return the rounds' answers as one array, shape (N, C)."""
    return np.concatenate(answers) if answers else np.empty((0, classes), np.float32)
