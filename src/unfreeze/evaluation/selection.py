"""Model selection by validation logits: which candidate, at which alpha, and whether phase 2 ships.  Arrays in, choice out.

Nested selection: choices that affect a fold's predictions are made on the other folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unfreeze.evaluation.calibration import calibrated_nll, paired_z, significantly_lower

Z_95 = 1.645  # standard errors: 95 % of a normal distribution lie below
IMBALANCE_RATIO = 3.0  # from this ratio of the largest class to the smallest on, every class has the same weight

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
Logits = NDArray[np.float32]
LogitsByAlpha = Mapping[float, Sequence[Logits]]  # a candidate's validation logits (V, C) of each fold at every alpha
FoldIds = Sequence[int]


@dataclass(frozen=True)
class Choice:
    """The selected point between phase 1 and phase 2.

    Attributes:
        trial: The index of the candidate's trial.
        alpha: The weight of phase 2 in the interpolation: 0 is phase 1, 1 is phase 2.
    """

    trial: int
    alpha: float


@dataclass(frozen=True)
class SampleScores:
    """A model's scores per validation image: class-weighted log-losses and correctness, each of shape (N,)."""

    losses: Floats
    correct: Floats


@dataclass(frozen=True)
class ModelSelector:
    """Compare models with head-only on the validation images of some folds.

    Attributes:
        labels: The labels of each fold's images, each of shape (V,).
        head_only: The head-only model's logits of them, each of shape (V, C).
        class_weights: The weight of an image of each class (C,).
    """

    labels: tuple[Indices, ...]
    head_only: tuple[Logits, ...]
    class_weights: Floats

    @classmethod
    def of(cls, head_only: Sequence[Logits], labels: Sequence[Indices], class_counts: Indices) -> ModelSelector:
        """Give every class the same weight where the training images are clearly imbalanced, and every image otherwise.

        Args:
            head_only: The head-only model's logits for each fold's images, each of shape (V, C).
            labels: Their labels, each of shape (V,).
            class_counts: How many training images each class has (C,).
        """
        counts = class_counts
        present = counts[counts > 0]
        weights = np.ones(len(counts))
        if present.max() > IMBALANCE_RATIO * present.min():
            weights = present.mean() / counts.clip(1)
        return cls(tuple(labels), tuple(head_only), weights)

    @property
    def all_folds(self) -> FoldIds:
        """The indices of all folds."""
        return range(len(self.labels))

    def other_folds(self, fold: int) -> FoldIds:
        """Return the indices of the folds that choose for ``fold``: the others, or itself where it is the only one."""
        return [other for other in self.all_folds if other != fold] or [fold]

    def select(self, trials: Sequence[LogitsByAlpha], folds: FoldIds) -> Choice:
        """Return the point with the lowest log-loss of those significantly better than head-only, or of all if none is.

        Small alphas improve less but more consistently.  Without folds, the last candidate's largest alpha is selected.
        At least one trial must have logits.
        """
        if not folds:
            last = max(trial for trial, by_alpha in enumerate(trials) if by_alpha)
            return Choice(last, max(trials[last]))
        scores = {
            (trial, alpha): self.validation_scores(logits, folds)
            for trial, by_alpha in enumerate(trials)
            for alpha, logits in by_alpha.items()
        }
        head_only = self.validation_scores(self.head_only, folds)
        better = [option for option, after in scores.items() if significantly_better(head_only, after)]
        return Choice(*min(better or scores, key=lambda option: float(scores[option].losses.mean())))

    def accepts(self, logits: Sequence[Logits], folds: FoldIds) -> bool:
        """Tell whether a model is significantly better than head-only on the images of ``folds``; True without folds."""
        return not folds or significantly_better(
            self.validation_scores(self.head_only, folds), self.validation_scores(logits, folds)
        )

    def z_score(self, logits: Sequence[Logits]) -> float:
        """Return by how many standard errors a model's mean log-loss is below head-only's on all folds."""
        head_only = self.validation_scores(self.head_only, self.all_folds)
        return paired_z(self.validation_scores(logits, self.all_folds).losses, head_only.losses)

    def should_continue(self, trials: Sequence[LogitsByAlpha], folds: FoldIds) -> bool:
        """Tell whether to try a deeper candidate: the last one is significantly better than all before it, at alpha 1.

        A deeper candidate takes about twice the time, which a gain that is too small to ship does not justify.  Where a
        smaller alpha was best, the pretrained weights are worth staying near to: training more of them cannot help.
        """
        if not folds or not trials:
            return bool(folds)
        *earlier, last = ([self.validation_scores(logits, folds) for logits in trial.values()] for trial in trials)
        known = [self.validation_scores(self.head_only, folds), *(scores for trial in earlier for scores in trial)]
        return _lowest_loss(last) is last[-1] and significantly_lower(
            _lowest_loss(last).losses, _lowest_loss(known).losses, Z_95
        )

    def validation_scores(self, logits: Sequence[Logits], folds: FoldIds) -> SampleScores:
        """Return the scores of a model's logits, given for every fold (V, C), on the images of ``folds``."""
        pooled = np.concatenate([logits[fold] for fold in folds])
        labels = np.concatenate([self.labels[fold] for fold in folds])
        weights = self.class_weights[labels]
        return SampleScores(calibrated_nll(pooled, labels) * weights, (pooled.argmax(axis=1) == labels) * weights)


def _lowest_loss(options: Sequence[SampleScores]) -> SampleScores:
    return min(options, key=lambda scores: float(scores.losses.mean()))


def significantly_better(before: SampleScores, after: SampleScores) -> bool:
    """Tell whether ``after`` has a significantly lower log-loss and no significantly lower accuracy.

    Few images show a difference in log-loss sooner than in accuracy: it measures each image's distance from an error.
    """
    wrong_before, wrong_after = before.correct.max() - before.correct, before.correct.max() - after.correct
    return significantly_lower(after.losses, before.losses, Z_95) and not significantly_lower(wrong_before, wrong_after)
