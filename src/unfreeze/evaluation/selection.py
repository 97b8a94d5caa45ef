"""Model selection by validation logits: which candidate, at which alpha, and whether phase 2 ships.  Arrays in, choice out.

The option with the highest expected gain is selected (see ``expected_gain.py``): the validation images' differences to
head-only, shrunk to what was measured on other data sets.
Nested selection: choices that affect a fold's predictions are made on the other folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unfreeze.evaluation.calibration import calibrated_nll, paired_z
from unfreeze.evaluation.expected_gain import OptionChoice, Posterior, Prior, choose_option, dependence
from unfreeze.evaluation.prior import WEAK_PRIOR, phase2_option

WORTH_ANOTHER_SEARCH = 0.5  # points that a deeper candidate is expected to add: it doubles the time of phase 2
IMBALANCE_RATIO = 3.0  # from this ratio of the largest class to the smallest on, every class has the same weight

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
Logits = NDArray[np.float32]
LogitsByAlpha = Mapping[float, Sequence[Logits]]  # a candidate's validation logits (V, C) of each fold at every alpha
FoldIds = Sequence[int]


@dataclass(frozen=True)
class TrialLogits:
    """A candidate's validation logits.

    Attributes:
        depth: The class of its depth, as ``prior.depth_class`` names it.
        by_alpha: The logits of each fold's images at every alpha; empty where the candidate failed.
    """

    depth: str
    by_alpha: LogitsByAlpha

    def up_to(self, largest: float) -> TrialLogits:
        """Return the logits at alphas up to the largest that may ship."""
        return replace(self, by_alpha={alpha: logits for alpha, logits in self.by_alpha.items() if alpha <= largest})


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
class ModelSelector:
    """Compare models with head-only on the validation images of some folds.

    Attributes:
        labels: The labels of each fold's images, each of shape (V,).
        head_only: The head-only model's logits of them, each of shape (V, C).
        class_weights: The weight of an image of each class (C,).
        n_train: The number of training images, those of the folds included.
        prior: What other data sets have taught of the options.
    """

    labels: tuple[Indices, ...]
    head_only: tuple[Logits, ...]
    class_weights: Floats
    n_train: int
    prior: Prior = WEAK_PRIOR

    @classmethod
    def of(
        cls,
        head_only: Sequence[Logits],
        labels: Sequence[Indices],
        class_counts: Indices,
        prior: Prior = WEAK_PRIOR,
    ) -> ModelSelector:
        """Give every class the same weight where the training images are clearly imbalanced, and every image otherwise.

        Args:
            head_only: The head-only model's logits for each fold's images, each of shape (V, C).
            labels: Their labels, each of shape (V,).
            class_counts: How many training images each class has (C,).
            prior: What other data sets have taught of the options.
        """
        counts = class_counts
        present = counts[counts > 0]
        weights = np.ones(len(counts))
        if present.max() > IMBALANCE_RATIO * present.min():
            weights = present.mean() / counts.clip(1)
        return cls(tuple(labels), tuple(head_only), weights, int(counts.sum()), prior)

    @property
    def all_folds(self) -> FoldIds:
        """The indices of all folds."""
        return range(len(self.labels))

    def other_folds(self, fold: int) -> FoldIds:
        """Return the indices of the folds that choose for ``fold``: the others, or itself where it is the only one."""
        return [other for other in self.all_folds if other != fold] or [fold]

    def choose(self, options: Sequence[tuple[str, Sequence[Logits]]], folds: FoldIds) -> OptionChoice:
        """Choose between head-only and options, each a name in the prior and the logits (V, C) of every fold.

        Without folds, the prior alone decides.
        """
        return choose_option(
            self.losses(self.head_only, folds),
            [(name, self.losses(logits, folds)) for name, logits in options],
            self.prior,
            widening=dependence([len(self.labels[fold]) for fold in folds], self.n_train),
        )

    def expected(self, trial: TrialLogits, folds: FoldIds) -> dict[float, Posterior]:
        """Return the expected gain over head-only of a candidate at every alpha."""
        options = [(phase2_option(trial.depth, alpha), logits) for alpha, logits in trial.by_alpha.items()]
        return dict(zip(trial.by_alpha, self.choose(options, folds).posteriors, strict=True))

    def select(self, trials: Sequence[TrialLogits], folds: FoldIds) -> Choice:
        """Return the point with the highest expected accuracy, be it below head-only's; one trial must have logits."""
        expected = {
            Choice(number, alpha): gain.points
            for number, trial in enumerate(trials)
            for alpha, gain in self.expected(trial, folds).items()
        }
        return max(expected, key=lambda choice: expected[choice])

    def accepts(self, trial: TrialLogits, alpha: float, folds: FoldIds) -> bool:
        """Tell whether a candidate ships at an alpha: it is expected to be better than head-only."""
        return self.expected(trial, folds)[alpha].ships

    def z_score(self, logits: Sequence[Logits]) -> float:
        """Return by how many standard errors a model's mean log-loss is below head-only's on all folds."""
        return paired_z(self.losses(logits, self.all_folds), self.losses(self.head_only, self.all_folds))

    def should_continue(self, trials: Sequence[TrialLogits], next_depth: str, folds: FoldIds) -> bool:
        """Tell whether to try a deeper candidate: it is expected to gain clearly more than the last one, and than head-only.

        What the last candidate gains beyond its prior, or falls short of it, is expected of the next one, too.

        Args:
            trials: The candidates so far, those that failed left out.
            next_depth: The class of the next candidate's depth.
            folds: The folds that decide; without any, no more than one candidate is worth training.
        """
        if not folds or not trials:
            return bool(folds)
        last = trials[-1]
        alphas, expected = list(last.by_alpha), self.expected(last, folds)

        def by_prior(depth: str) -> float:
            return max(self.prior.of(phase2_option(depth, alpha)).points for alpha in alphas)

        additional = by_prior(next_depth) - by_prior(last.depth)
        return additional >= WORTH_ANOTHER_SEARCH and max(gain.points for gain in expected.values()) + additional > 0

    def losses(self, logits: Sequence[Logits], folds: FoldIds) -> Floats:
        """Return the class-weighted log-losses (N,) of a model's logits, given for every fold (V, C), in ``folds``."""
        if not folds:
            return np.empty(0)
        pooled = np.concatenate([logits[fold] for fold in folds])
        labels = np.concatenate([self.labels[fold] for fold in folds])
        losses: Floats = calibrated_nll(pooled, labels) * self.class_weights[labels]
        return losses
