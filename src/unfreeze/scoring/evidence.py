"""Both models' predictions for images that they were not trained on: a test set, or all images by cross-fitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unfreeze.evaluation.calibration import Calibration, calibrated_nll, fit_temperature, softmax
from unfreeze.evaluation.crossfit import widened_gain, widened_scores
from unfreeze.evaluation.expected_gain import Posterior
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
    """Calibrated probabilities of the same images by both models, each of shape (N, C).

    Attributes:
        protocol: ``test``: images that were held out from the start.  ``cross_fitted``: all images, each predicted by
            the models of its fold, whose penalty, epoch, alpha, temperature and shipping were chosen on the other folds.
        image_ids: Indices in the run's ``PhotoSet`` (N,), in both protocols.
        labels: Labels of the images (N,).
        head_only: Probabilities by the head-only model.
        two_phase: Probabilities by the two-phase model; None where phase 2 didn't run.
        shipped: Probabilities by the model that ships; cross-fitted, by the model that the other folds select.
        uncalibrated: The same at temperature 1.
        n_calibration: The number of images that the shipped model's temperature was fitted on.
        n_folds: The number of cross-fitted models; None for a test set.
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
    phase1: HeadOnlyResult,
    phase2: TwoPhaseResult | None,
) -> HeldOutPredictions:
    """Return both models' predictions for the test images, or without any, for all images by their folds' models."""
    if test is None:
        return cross_fitted(features.data, features.folds.validation, phase1, phase2)
    labels = np.array([sample.label for sample in inputs.test_samples])
    head_only = predict_held_out(features.backbone, phase1.state, test, phase1.views)
    two_phase = predict_held_out(features.backbone, phase2.state, test, phase1.views) if phase2 is not None else None
    return from_test(inputs.splits.test, labels, head_only, two_phase, phase1, phase2)


def from_test(
    image_ids: Indices,
    labels: Indices,
    head_only: Logits,
    two_phase: Logits | None,
    phase1: HeadOnlyResult,
    phase2: TwoPhaseResult | None,
) -> HeldOutPredictions:
    """Return the final models' predictions for the test images, from their logits (N, C)."""
    head_only_probs = softmax(head_only, phase1.temperature)
    shipped, shipped_probs, shipped_logits = select_shipped(phase1, phase2), head_only_probs, head_only
    two_phase_probs = None
    if phase2 is not None and two_phase is not None:
        two_phase_probs = softmax(two_phase, phase2.temperature)
        if shipped is phase2:
            shipped_probs, shipped_logits = two_phase_probs, two_phase
    return HeldOutPredictions(
        protocol="test",
        image_ids=image_ids,
        labels=labels,
        head_only=head_only_probs,
        two_phase=two_phase_probs,
        shipped=shipped_probs,
        uncalibrated=softmax(shipped_logits),
        n_calibration=shipped.n_calibration,
    )


def cross_fitted(
    data: TrainingSet, folds: Sequence[Fold], phase1: HeadOnlyResult, phase2: TwoPhaseResult | None
) -> HeldOutPredictions:
    """Return the predictions of each fold's models for the fold's images; ``folds`` are all folds."""
    labels = labels_by_fold(folds, data)
    head_only = _calibrated_by_other_folds(phase1.fold_logits, labels)
    shipped, logits = list(head_only), list(phase1.fold_logits)
    two_phase = None
    if phase2 is not None:
        two_phase = _calibrated_by_other_folds(phase2.fold_logits, labels)
        for fold in np.flatnonzero(phase2.fold_accepted):
            shipped[fold], logits[fold] = two_phase[fold], phase2.fold_logits[fold]
    image_ids = data.ids[np.concatenate([fold.val for fold in folds])]
    order = np.argsort(image_ids)
    return HeldOutPredictions(
        protocol="cross_fitted",
        image_ids=image_ids[order],
        labels=np.concatenate(labels)[order],
        head_only=np.concatenate(head_only)[order],
        two_phase=np.concatenate(two_phase)[order] if two_phase is not None else None,
        shipped=np.concatenate(shipped)[order],
        uncalibrated=softmax(np.concatenate(logits))[order],
        n_calibration=len(image_ids),
        n_folds=len(folds),
    )


def score_sheet(predictions: HeldOutPredictions, groups: Groups, temperature: float, seed: int) -> ScoreSheet:
    """Score both models and the shipped one, and measure the effect of the shipped one's temperature."""

    def scores_of(probabilities: FloatArray) -> Scores:
        scores = score(predictions.labels, probabilities, groups=groups, seed=seed)
        return scores if predictions.n_folds is None else widened_scores(scores, predictions.n_folds)

    head_only = scores_of(predictions.head_only)
    two_phase = scores_of(predictions.two_phase) if predictions.two_phase is not None else None
    if predictions.shipped is predictions.head_only:
        shipped = head_only
    elif predictions.shipped is predictions.two_phase and two_phase is not None:
        shipped = two_phase
    else:
        shipped = scores_of(predictions.shipped)
    ece_before, log_loss_before = calibration_scores(predictions.labels, predictions.uncalibrated)
    calibration = Calibration(
        temperature=temperature,
        n=predictions.n_calibration,
        ece_before=ece_before,
        ece_after=shipped.ece,
        log_loss_before=log_loss_before,
        log_loss_after=shipped.log_loss,
    )
    return ScoreSheet(
        protocol=predictions.protocol,
        head_only=head_only,
        two_phase=two_phase,
        shipped=shipped,
        calibration=calibration,
    )


def paired_gain(predictions: HeldOutPredictions, groups: Groups, seed: int) -> Gain | None:
    """Return the two-phase model's gain over the head-only one; None where phase 2 didn't run."""
    if predictions.two_phase is None:
        return None
    paired = gain(predictions.labels, predictions.head_only, predictions.two_phase, groups=groups, seed=seed)
    return paired if predictions.n_folds is None else widened_gain(paired, predictions.n_folds)


def summarise_trials(
    data: TrainingSet, folds: Sequence[Fold], phase1: HeadOnlyResult, phase2: TwoPhaseResult
) -> tuple[TrialSummary, ...]:
    """Return the validation scores and the expected gain of every candidate at every alpha."""
    labels, at_phase1 = fold_labels(folds, data), {0.0: phase1.fold_logits}
    selector = ModelSelector.of(phase1.fold_logits, labels_by_fold(folds, data), data.class_counts)

    def point(alpha: float, fold_logits: Sequence[Logits], expected: Posterior | None) -> Point:
        logits = concat_folds(fold_logits, data.n_classes)
        correct = (logits.argmax(axis=1) == labels).astype(float)
        return Point(
            alpha=alpha,
            accuracy=float(correct.mean()),
            balanced_accuracy=balanced_accuracy(labels, correct),
            log_loss=float(calibrated_nll(logits, labels).mean()),
            z=selector.z_score(fold_logits),
            expected=expected.points / 100 if expected is not None else None,
            expected_spread=expected.points_spread / 100 if expected is not None else None,
            p_worse=expected.p_worse if expected is not None else None,
        )

    def summary(trial: Trial, expected: Mapping[float, Posterior]) -> TrialSummary:
        logits_by_alpha = at_phase1 | dict(trial.val_logits_by_alpha) if folds else {}
        return TrialSummary(
            depth=trial.candidate.depth,
            lr=trial.candidate.lr,
            points=tuple(
                point(alpha, fold_logits, expected.get(alpha)) for alpha, fold_logits in logits_by_alpha.items()
            ),
            seconds=trial.seconds,
        )

    expected = phase2.expected or tuple({} for _ in phase2.trials)
    return tuple(map(summary, phase2.trials, expected))


def _calibrated_by_other_folds(fold_logits: Sequence[Logits], labels: Sequence[Indices]) -> list[FloatArray]:
    """Return each fold's probabilities, calibrated by the temperature that is fitted on the other folds."""
    probabilities = []
    for fold, logits in enumerate(fold_logits):
        others = [other for other in range(len(fold_logits)) if other != fold]
        temperature = fit_temperature(
            np.concatenate([fold_logits[other] for other in others]),
            np.concatenate([labels[other] for other in others]),
        )
        probabilities.append(softmax(logits, temperature))
    return probabilities
