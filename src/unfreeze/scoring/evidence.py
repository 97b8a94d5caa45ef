"""Evidence: what both models say of photos that they never saw, from a test set or from every photo in its turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unfreeze.evaluation.calibration import Calibration, fit_temperature, photo_losses, softmax
from unfreeze.evaluation.crossfit import widened_gain, widened_scores
from unfreeze.evaluation.metrics import Scores, balanced_accuracy, calibration_scores, score
from unfreeze.evaluation.resampling import FloatArray, Groups
from unfreeze.evaluation.significance import Gain, gain
from unfreeze.inputs import Inputs
from unfreeze.predict import Logits
from unfreeze.scoring.held_out import EvaluationSet, predict_held_out
from unfreeze.training.phase_one import PhaseOne
from unfreeze.training.phase_two import PhaseTwo, chosen
from unfreeze.training.rounds import Round, TrainingData, joined, truth_of, truths_of
from unfreeze.training.search import Trial
from unfreeze.training.selection import Panel
from unfreeze.training.training_features import TrainingFeatures
from unfreeze.verdict import Point, ScoreSheet, TrialSummary

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Evidence:
    """Calibrated probabilities of the same photos by all arms, each of shape (N, C).

    Attributes:
        kind: ``test``: photos that were held out from the start.  ``cross_fitted``: every photo, each by models of the
            folds that it is not in, whose strength, epoch, temperature and even shipping the other folds chose.
        photos: Their indices in the run's ``PhotoSet`` (N,), whatever the protocol.
        truth: Their labels (N,).
        head_only: What the head-only model says.
        two_phase: What the two-phase model says; None where phase 2 didn't run.
        shipped: What the one that ships says; in cross-fitting, the one that would ship by the other folds.
        unscaled: The same without its temperature.
        calibrated_on: Photos that the temperature of what ships was fitted on.
        folds: How many models answered; None for the one that was tested.
    """

    kind: Literal["test", "cross_fitted"]
    photos: Indices
    truth: Indices
    head_only: FloatArray
    two_phase: FloatArray | None
    shipped: FloatArray
    unscaled: FloatArray
    calibrated_on: int
    folds: int | None = None


def collect_predictions(
    inputs: Inputs,
    features: TrainingFeatures,
    test: EvaluationSet | None,
    first: PhaseOne,
    second: PhaseTwo | None,
) -> Evidence:
    """Return both models' predictions for the test images, or, without any, for every image by the models of its fold."""
    if test is None:
        return cross_fitted(features.data, features.folds.validation, first, second)
    labels = np.array([sample.label for sample in inputs.test_samples])
    head_only = predict_held_out(features.backbone, first.final, test, first.poses)
    two_phase = predict_held_out(features.backbone, second.final, test, first.poses) if second is not None else None
    return from_test(inputs.splits.test, labels, head_only, two_phase, first, second)


def from_test(
    photos: Indices,
    labels: Indices,
    head_only: Logits,
    two_phase: Logits | None,
    first: PhaseOne,
    second: PhaseTwo | None,
) -> Evidence:
    """Return the final models' predictions for the test ``photos``, given their logits (N, C)."""
    ours = softmax(head_only, first.temperature)
    ships, shipped, logits = chosen(first, second), ours, head_only
    theirs = None
    if second is not None and two_phase is not None:
        theirs = softmax(two_phase, second.temperature)
        if ships is second:
            shipped, logits = theirs, two_phase
    return Evidence(
        kind="test",
        photos=photos,
        truth=labels,
        head_only=ours,
        two_phase=theirs,
        shipped=shipped,
        unscaled=softmax(logits),
        calibrated_on=ships.calibrated_on,
    )


def cross_fitted(data: TrainingData, rounds: Sequence[Round], first: PhaseOne, second: PhaseTwo | None) -> Evidence:
    """Return what the rounds' models say, each of its own fold; the rounds are all folds."""
    truths = truths_of(rounds, data)
    head_only = _scaled(first.validation, truths)
    shipped, logits = list(head_only), list(first.validation)
    two_phase = None
    if second is not None:
        two_phase = _scaled(second.validation, truths)
        for number in np.flatnonzero(second.rounds_not_worse):
            shipped[number], logits[number] = two_phase[number], second.validation[number]
    photos = data.ids[np.concatenate([each.val for each in rounds])]
    order = np.argsort(photos)
    return Evidence(
        kind="cross_fitted",
        photos=photos[order],
        truth=np.concatenate(truths)[order],
        head_only=np.concatenate(head_only)[order],
        two_phase=np.concatenate(two_phase)[order] if two_phase is not None else None,
        shipped=np.concatenate(shipped)[order],
        unscaled=softmax(np.concatenate(logits))[order],
        calibrated_on=len(photos),
        folds=len(rounds),
    )


def score_sheet(evidence: Evidence, groups: Groups, temperature: float, seed: int) -> ScoreSheet:
    """Score every arm, and say what its temperature did to the one that ships."""

    def scored(answers: FloatArray) -> Scores:
        found = score(evidence.truth, answers, groups=groups, seed=seed)
        return found if evidence.folds is None else widened_scores(found, evidence.folds)

    head_only = scored(evidence.head_only)
    two_phase = scored(evidence.two_phase) if evidence.two_phase is not None else None
    if evidence.shipped is evidence.head_only:
        shipped = head_only
    elif evidence.shipped is evidence.two_phase and two_phase is not None:
        shipped = two_phase
    else:
        shipped = scored(evidence.shipped)
    ece_before, loss_before = calibration_scores(evidence.truth, evidence.unscaled)
    calibration = Calibration(
        temperature=temperature,
        n=evidence.calibrated_on,
        ece_before=ece_before,
        ece_after=shipped.ece,
        log_loss_before=loss_before,
        log_loss_after=shipped.log_loss,
    )
    return ScoreSheet(
        protocol=evidence.kind, head_only=head_only, two_phase=two_phase, shipped=shipped, calibration=calibration
    )


def paired_gain(evidence: Evidence, groups: Groups, seed: int) -> Gain | None:
    """Compare the two-phase model with the head-only one; None where phase 2 didn't run."""
    if evidence.two_phase is None:
        return None
    found = gain(evidence.truth, evidence.head_only, evidence.two_phase, groups=groups, seed=seed)
    return found if evidence.folds is None else widened_gain(found, evidence.folds)


def searched(
    data: TrainingData, rounds: Sequence[Round], first: PhaseOne, second: PhaseTwo
) -> tuple[TrialSummary, ...]:
    """Return what the rounds' photos say of everything that was tried, at every point between the phases."""
    truth, ends = truth_of(rounds, data), {0.0: first.validation}
    panel = Panel.of(first.validation, truths_of(rounds, data), data.class_counts)

    def point(alpha: float, logits: Sequence[Logits]) -> Point:
        found = joined(logits, data.classes)
        correct = (found.argmax(axis=1) == truth).astype(float)
        return Point(
            alpha=alpha,
            accuracy=float(correct.mean()),
            balanced_accuracy=balanced_accuracy(truth, correct),
            log_loss=float(photo_losses(found, truth).mean()),
            z=panel.certainty(logits),
        )

    def summary(trial: Trial) -> TrialSummary:
        points = ends | dict(trial.answers) if rounds else {}
        return TrialSummary(
            depth=trial.candidate.depth,
            lr=trial.candidate.lr,
            points=tuple(point(alpha, logits) for alpha, logits in points.items()),
            seconds=trial.seconds,
        )

    return tuple(summary(trial) for trial in second.trials)


def _scaled(answers: Sequence[Logits], truths: Sequence[Indices]) -> list[FloatArray]:
    """Return each round's probabilities at the temperature that suits the other rounds."""
    found = []
    for own, said in enumerate(answers):
        others = [number for number in range(len(answers)) if number != own]
        temperature = fit_temperature(
            np.concatenate([answers[number] for number in others]),
            np.concatenate([truths[number] for number in others]),
        )
        found.append(softmax(said, temperature))
    return found
