"""How the rounds' answers choose: which candidate, how far from phase 1, and whether phase 2 ships.  Arrays in, choice out.

What is said of a round's photos is never chosen by them: for every round, the other rounds choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unfreeze.evaluation.calibration import calibrated_nll, paired_z, significantly_lower

Z_95 = 1.645  # standard errors: 95 % of a normal distribution lie below
IMBALANCE_RATIO = 3.0  # times as many photos of one class as of another: from there on, every class weighs the same

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
Logits = NDArray[np.float32]
LogitsByAlpha = Mapping[
    float, Sequence[Logits]
]  # of a candidate at every alpha, what each round's model says of its photos
FoldIds = Sequence[int]  # rounds


@dataclass(frozen=True)
class Choice:
    """What the judges like best.

    Attributes:
        trial: The candidate's place among those that were tried.
        alpha: How far it goes from phase 1 (0) to phase 2 (1).
    """

    trial: int
    alpha: float


@dataclass(frozen=True)
class SampleScores:
    """What some answers are worth to the judges, photo by photo: weighted log-losses and rights (N,)."""

    losses: Floats
    correct: Floats


@dataclass(frozen=True)
class ModelSelector:
    """Who judges: the rounds' photos.

    Attributes:
        labels: Their labels.
        head_only: What phase 1 says of them.
        class_weights: How much a photo of each class weighs (C,).
    """

    labels: tuple[Indices, ...]
    head_only: tuple[Logits, ...]
    class_weights: Floats

    @classmethod
    def of(cls, head_only: Sequence[Logits], truths: Sequence[Indices], class_counts: Indices) -> ModelSelector:
        """Give every class the same weight where the training images are clearly imbalanced, and every image otherwise.

        Args:
            head_only: The head-only model's logits for each fold's images, each of shape (V, C).
            truths: Their labels.
            class_counts: How many training images each class has (C,).
        """
        counts = class_counts
        present = counts[counts > 0]
        weights = np.ones(len(counts))
        if present.max() > IMBALANCE_RATIO * present.min():
            weights = present.mean() / counts.clip(1)
        return cls(tuple(truths), tuple(head_only), weights)

    @property
    def all_folds(self) -> FoldIds:
        """All rounds."""
        return range(len(self.labels))

    def other_folds(self, own: int) -> FoldIds:
        """Return the rounds that choose for one: the others, or itself where it is the only one."""
        return [r for r in self.all_folds if r != own] or [own]

    def select(self, trials: Sequence[LogitsByAlpha], judges: FoldIds) -> Choice:
        """Return the point with the lowest log-loss of those that are good enough to ship, or of all where none of them is.

        Points near phase 1 gain less, but the judges are the more certain of it.  Without judges, it is the last candidate's
        farthest point.  At least one point is there to choose from.
        """
        if not judges:
            last = max(number for number, answers in enumerate(trials) if answers)
            return Choice(last, max(trials[last]))
        heard = {
            (trial, alpha): self.validation_scores(said, judges)
            for trial, answers in enumerate(trials)
            for alpha, said in answers.items()
        }
        before = self.validation_scores(self.head_only, judges)
        good = [option for option, after in heard.items() if significantly_better(before, after)]
        return Choice(*min(good or heard, key=lambda option: float(heard[option].losses.mean())))

    def accepts(self, answers: Sequence[Logits], judges: FoldIds) -> bool:
        """Tell whether something else is good enough to ship instead of head-only, by what it says of the rounds' photos."""
        return not judges or significantly_better(
            self.validation_scores(self.head_only, judges), self.validation_scores(answers, judges)
        )

    def z_score(self, answers: Sequence[Logits]) -> float:
        """Return by how many standard errors the log-loss of something else is below head-only's, to all judges."""
        before, after = (
            self.validation_scores(self.head_only, self.all_folds),
            self.validation_scores(answers, self.all_folds),
        )
        return paired_z(after.losses, before.losses)

    def should_continue(self, trials: Sequence[LogitsByAlpha], judges: FoldIds) -> bool:
        """Tell whether to try a deeper candidate: the last one is certain to be better than all before it, all the way.

        What isn't good enough to ship is no reason to spend twice its time.  Where it was best halfway, the pretrained
        weights are worth staying near to: more of them need not move.
        """
        if not judges or not trials:
            return bool(judges)
        *earlier, last = ([self.validation_scores(said, judges) for said in answers.values()] for answers in trials)
        known = [
            self.validation_scores(self.head_only, judges),
            *(verdicts for answers in earlier for verdicts in answers),
        ]
        return _lowest_loss(last) is last[-1] and significantly_lower(
            _lowest_loss(last).losses, _lowest_loss(known).losses, Z_95
        )

    def validation_scores(self, answers: Sequence[Logits], judges: FoldIds) -> SampleScores:
        """Return what some answers are worth to the judges, photo by photo."""
        said = np.concatenate([answers[r] for r in judges])
        truth = np.concatenate([self.labels[r] for r in judges])
        weights = self.class_weights[truth]
        return SampleScores(calibrated_nll(said, truth) * weights, (said.argmax(axis=1) == truth) * weights)


def _lowest_loss(heard: Sequence[SampleScores]) -> SampleScores:
    return min(heard, key=lambda verdicts: float(verdicts.losses.mean()))


def significantly_better(before: SampleScores, after: SampleScores) -> bool:
    """Tell whether what came after is better: its log-loss is lower for certain, and it is not clearly less often right.

    Few photos say more by log-loss than by accuracy: it counts how far from a mistake each of them is.
    """
    wrong_before, wrong_after = before.correct.max() - before.correct, before.correct.max() - after.correct
    return significantly_lower(after.losses, before.losses, Z_95) and not significantly_lower(wrong_before, wrong_after)
