"""The images that training may see, and their folds: train on some of the images, validate on the others."""

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
from unfreeze.predict import Logits
from unfreeze.views import PLAIN, PLAIN_ONLY, Views

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class TrainingSet:
    """The images that training may see, numbered from 0; test images are not among them.

    Attributes:
        labels: The class of each image (N,).
        train: The indices of the training images.
        val: The indices of the user's validation images; empty where the user gave none.
        fold: The cross-validation fold of each image of ``train``.
        n_classes: The number of classes.
        ids: The index of each image in the run's ``PhotoSet``, under which predictions are written.
    """

    labels: Tensor
    train: Indices
    val: Indices
    fold: NDArray[np.int64]
    n_classes: int
    ids: Indices

    @classmethod
    def of(cls, samples: Sequence[Sample], splits: Splits, classes: int) -> TrainingSet:
        """Number ``samples``, which are the images of ``splits.train_and_val``, from 0."""
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
        """Return the same set with at most ``count`` training images, evenly spaced."""
        some = np.linspace(0, len(self.train) - 1, min(count, len(self.train)), dtype=np.int64)
        return replace(self, train=self.train[some], fold=self.fold[some])

    def requested_views(self, count: int, views: Views = PLAIN_ONLY) -> dict[int, Sequence[int]]:
        """Return the views that training reads: ``count`` of training images, and evaluation ``views`` of every image."""
        others = [view for view in views if view != PLAIN]
        train: dict[int, Sequence[int]] = dict.fromkeys(self.train.tolist(), (*range(count), *others))
        return train | dict.fromkeys(self.val.tolist(), (PLAIN, *others))


@dataclass(frozen=True)
class Fold:
    """Train on ``train`` and validate on ``val``; ``fold`` is the index of ``val``, None if no cross-validation fold."""

    train: Indices
    val: Indices
    fold: int | None


@dataclass(frozen=True)
class Folds:
    """The trainings of a phase: the validation folds and a final fit on all training images.

    Attributes:
        validation: The folds that are validated on.
        final: The fit on all training images; None where a validation fold's training is that already, because the user
            gave a validation set.
    """

    validation: tuple[Fold, ...]
    final: Fold | None

    @classmethod
    def of(cls, data: TrainingSet, min_validation_images: int) -> Folds:
        """Return the user's validation set as the only fold, or enough folds to validate on ``min_validation_images``."""
        validation = _validation_folds(data, min_validation_images)
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


def _validation_folds(data: TrainingSet, min_validation_images: int) -> tuple[Fold, ...]:
    if not min_validation_images:
        return ()
    if len(data.val):
        return (Fold(data.train, data.val, None),)
    n_folds = int(data.fold.max()) + 1
    count = min(n_folds, math.ceil(min_validation_images * n_folds / len(data.train)))
    return tuple(Fold(data.train[data.fold != f], data.train[data.fold == f], f) for f in range(count))


def fold_labels(folds: Sequence[Fold], data: TrainingSet) -> Indices:
    """Return the labels of the validation images of all ``folds``, concatenated (N,)."""
    images = np.concatenate([fold.val for fold in folds]) if folds else data.train[:0]
    labels: Indices = data.labels[torch.from_numpy(images)].numpy()
    return labels


def labels_by_fold(folds: Sequence[Fold], data: TrainingSet) -> list[Indices]:
    """Return the labels of each fold's validation images, each of shape (V,)."""
    return [fold_labels((fold,), data) for fold in folds]


def concat_folds(fold_logits: Sequence[Logits], n_classes: int) -> Logits:
    """Return the logits of all folds as one array, shape (N, C)."""
    return np.concatenate(fold_logits) if fold_logits else np.empty((0, n_classes), np.float32)
