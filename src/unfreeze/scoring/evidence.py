"""HeldOutPredictions: what both models say of photos that they never saw, from a test set or from every photo in its turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unfreeze.evaluation.calibration import Calibration, calibrated_nll, fit_temperature, softmax
from unfreeze.evaluation.crossfit import widened_gain, widened_scores
from unfreeze.evaluation.metrics import Scores, balanced_accuracy, calibration_scores, score
from unfreeze.evaluation.resampling import FloatArray, Groups
from unfreeze.evaluation.selection import ModelSelector
from unfreeze.evaluation.significance import Gain, gain
from unfreeze.inputs import Inputs
from unfreeze.predict import Logits
from unfreeze.scoring.held_out import EvaluationSet, predict_held_out
from unfreeze.training.features.training_features import TrainingFeatures
from unfreeze.training.folds import Fold, TrainingSet, concat_folds, fold_labels, labels_by_fold
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.phase_two import TwoPhaseResult, select_shipped
from unfreeze.training.search import Trial
from unfreeze.verdict import Point, ScoreSheet, TrialSummary

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class HeldOutPredictions:
    """Calibrated probabilities of the same photos by all arms, each of shape (N, C).

    Attributes:
        protocol: ``test``: photos that were held out from the start.  ``cross_fitted``: every photo, each by models of the
            folds that it is not in, whose strength, epoch, temperature and even shipping the other folds chose.
        image_ids: Their indices in the run's ``PhotoSet`` (N,), whatever the protocol.
        labels: Their labels (N,).
        head_only: What the head-only model says.
        two_phase: What the two-phase model says; None where phase 2 didn't run.
        shipped: What the one that ships says; in cross-fitting, the one that would ship by the other folds.
        uncalibrated: The same without its temperature.
        n_calibration: Photos that the temperature of what ships was fitted on.
        n_folds: How many models answered; None for the one that was tested.
    """

    protocol: Literal["test", "cross_fitted"]
    image_ids: Indices
    labels: Indices
    head_only: FloatArray
    two_phase: FloatArray | None
    shipped: FloatArray
    uncalibrated: FloatArray
    n_calibration: int
    n_folds: int | None = None


def collect_predictions(
    inputs: Inputs,
    features: TrainingFeatures,
    test: EvaluationSet | None,
    first: HeadOnlyResult,
    second: TwoPhaseResult | None,
) -> HeldOutPredictions:
    """Return both models' predictions for the test images, or, without any, for every image by the models of its fold."""
    if test is None:
        return cross_fitted(features.data, features.folds.validation, first, second)
    labels = np.array([sample.label for sample in inputs.test_samples])
    head_only = predict_held_out(features.backbone, first.state, test, first.orientations)
    two_phase = (
        predict_held_out(features.backbone, second.state, test, first.orientations) if second is not None else None
    )
    return from_test(inputs.splits.test, labels, head_only, two_phase, first, second)


def from_test(
    photos: Indices,
    labels: Indices,
    head_only: Logits,
    two_phase: Logits | None,
    first: HeadOnlyResult,
    second: TwoPhaseResult | None,
) -> HeldOutPredictions:
    """Return the final models' predictions for the test ``photos``, given their logits (N, C)."""
    ours = softmax(head_only, first.temperature)
    ships, shipped, logits = select_shipped(first, second), ours, head_only
    theirs = None
    if second is not None and two_phase is not None:
        theirs = softmax(two_phase, second.temperature)
        if ships is second:
            shipped, logits = theirs, two_phase
    return HeldOutPredictions(
        protocol="test",
        image_ids=photos,
        labels=labels,
        head_only=ours,
        two_phase=theirs,
        shipped=shipped,
        uncalibrated=softmax(logits),
        n_calibration=ships.n_calibration,
    )


def cross_fitted(
    data: TrainingSet, rounds: Sequence[Fold], first: HeadOnlyResult, second: TwoPhaseResult | None
) -> HeldOutPredictions:
    """Return what the rounds' models say, each of its own fold; the rounds are all folds."""
    truths = labels_by_fold(rounds, data)
    head_only = _calibrated_by_other_folds(first.fold_logits, truths)
    shipped, logits = list(head_only), list(first.fold_logits)
    two_phase = None
    if second is not None:
        two_phase = _calibrated_by_other_folds(second.fold_logits, truths)
        for number in np.flatnonzero(second.fold_accepted):
            shipped[number], logits[number] = two_phase[number], second.fold_logits[number]
    photos = data.ids[np.concatenate([each.val for each in rounds])]
    order = np.argsort(photos)
    return HeldOutPredictions(
        protocol="cross_fitted",
        image_ids=photos[order],
        labels=np.concatenate(truths)[order],
        head_only=np.concatenate(head_only)[order],
        two_phase=np.concatenate(two_phase)[order] if two_phase is not None else None,
        shipped=np.concatenate(shipped)[order],
        uncalibrated=softmax(np.concatenate(logits))[order],
        n_calibration=len(photos),
        n_folds=len(rounds),
    )


def score_sheet(evidence: HeldOutPredictions, groups: Groups, temperature: float, seed: int) -> ScoreSheet:
    """Score every arm, and say what its temperature did to the one that ships."""

    def scored(answers: FloatArray) -> Scores:
        found = score(evidence.labels, answers, groups=groups, seed=seed)
        return found if evidence.n_folds is None else widened_scores(found, evidence.n_folds)

    head_only = scored(evidence.head_only)
    two_phase = scored(evidence.two_phase) if evidence.two_phase is not None else None
    if evidence.shipped is evidence.head_only:
        shipped = head_only
    elif evidence.shipped is evidence.two_phase and two_phase is not None:
        shipped = two_phase
    else:
        shipped = scored(evidence.shipped)
    ece_before, loss_before = calibration_scores(evidence.labels, evidence.uncalibrated)
    calibration = Calibration(
        temperature=temperature,
        n=evidence.n_calibration,
        ece_before=ece_before,
        ece_after=shipped.ece,
        log_loss_before=loss_before,
        log_loss_after=shipped.log_loss,
    )
    return ScoreSheet(
        protocol=evidence.protocol, head_only=head_only, two_phase=two_phase, shipped=shipped, calibration=calibration
    )


def paired_gain(evidence: HeldOutPredictions, groups: Groups, seed: int) -> Gain | None:
    """Compare the two-phase model with the head-only one; None where phase 2 didn't run."""
    if evidence.two_phase is None:
        return None
    found = gain(evidence.labels, evidence.head_only, evidence.two_phase, groups=groups, seed=seed)
    return found if evidence.n_folds is None else widened_gain(found, evidence.n_folds)


def summarise_trials(
    data: TrainingSet, rounds: Sequence[Fold], first: HeadOnlyResult, second: TwoPhaseResult
) -> tuple[TrialSummary, ...]:
    """Return what the rounds' photos say of everything that was tried, at every point between the phases."""
    truth, ends = fold_labels(rounds, data), {0.0: first.fold_logits}
    panel = ModelSelector.of(first.fold_logits, labels_by_fold(rounds, data), data.class_counts)

    def point(alpha: float, logits: Sequence[Logits]) -> Point:
        found = concat_folds(logits, data.n_classes)
        correct = (found.argmax(axis=1) == truth).astype(float)
        return Point(
            alpha=alpha,
            accuracy=float(correct.mean()),
            balanced_accuracy=balanced_accuracy(truth, correct),
            log_loss=float(calibrated_nll(found, truth).mean()),
            z=panel.z_score(logits),
        )

    def summary(trial: Trial) -> TrialSummary:
        points = ends | dict(trial.val_logits_by_alpha) if rounds else {}
        return TrialSummary(
            depth=trial.candidate.depth,
            lr=trial.candidate.lr,
            points=tuple(point(alpha, logits) for alpha, logits in points.items()),
            seconds=trial.seconds,
        )

    return tuple(summary(trial) for trial in second.trials)


def _calibrated_by_other_folds(answers: Sequence[Logits], truths: Sequence[Indices]) -> list[FloatArray]:
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
