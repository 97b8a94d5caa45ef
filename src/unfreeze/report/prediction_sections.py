"""The report's sections on the shipped model's predictions: confusion matrix, scores by class, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unfreeze.evaluation.metrics import ECE_BINS, correct_predictions
from unfreeze.evaluation.per_class import confusion_matrix
from unfreeze.evaluation.resampling import FloatArray, IntArray
from unfreeze.report import plots
from unfreeze.report.elements import Part, Plot, Section, Table, Text, estimate
from unfreeze.report.run_data import RunData
from unfreeze.verdict_sentences import counted

MAX_MATRIX_CLASSES = 40  # with more, the most confused pairs are listed instead of the matrix
MAX_PAIRS = 20
BINS = 10


@dataclass(frozen=True)
class Bins:
    """Predictions in B bins (lower, upper] of equal width by the probability of the predicted class.

    Attributes:
        counts: Predictions in each bin (B,).
        confidence: Their mean probability (B,); 0 in an empty bin.
        accuracy: The share of correct ones (B,); 0 in an empty bin.
    """

    counts: FloatArray
    confidence: FloatArray
    accuracy: FloatArray


def confusion(run: RunData) -> Section | None:
    """Return the confusion matrix, or the most confused pairs where there are many classes."""
    if run.predictions is None or run.probabilities is None:
        return None
    classes = run.verdict.data.classes
    counts = confusion_matrix(run.predictions.labels, run.probabilities)
    rates = counts / counts.sum(axis=1, keepdims=True).clip(1)
    parts: list[Part] = [Text(f"The {run.arm} model, which ships, on {run.scored_on}.")]
    if len(classes) > MAX_MATRIX_CLASSES:
        pairs = _most_confused(counts, rates, classes)
        if not pairs:
            return Section("Confusion", (*parts, Text("Every prediction is correct.")))
        table = Table(
            caption=f"The {len(pairs)} most confused pairs of {len(classes)} classes",
            header=("label", "prediction", "photos", "share of the label"),
            rows=pairs,
        )
        return Section("Confusion", (*parts, table))
    table = Table(
        caption="Photos by label (row) and prediction (column), and their share of the row",
        header=("label", *classes),
        rows=tuple(
            (name, *(f"{count} ({rate * 100:.0f} %)" if count else "0" for count, rate in zip(*row, strict=True)))
            for name, row in zip(classes, zip(counts, rates, strict=True), strict=True)
        ),
    )
    alt = "The confusion matrix as a heatmap, dark for a large share of a label's photos; numbers in the table above."
    plot = Plot("confusion", alt, plots.heatmap(rates, counts, classes), wide=len(classes) > plots.MAX_WRITTEN_COUNTS)
    return Section("Confusion", (*parts, table, plot))


def _most_confused(counts: IntArray, rates: FloatArray, classes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return label, prediction, count and share of the largest cells off the diagonal."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.lexsort((-rates.ravel(), -wrong.ravel()))[:MAX_PAIRS]
    cells = [divmod(int(index), len(classes)) for index in order if wrong.flat[index]]
    return tuple(
        (classes[row], classes[column], str(counts[row, column]), f"{rates[row, column] * 100:.0f} %")
        for row, column in cells
    )


def classes(run: RunData) -> Section | None:
    """Return precision, recall and F1 of every class, the lowest F1 first."""
    named = list(zip(run.verdict.data.classes, run.scores.per_class, strict=False))
    if not named:
        return None
    named.sort(key=lambda row: (row[1].f1 is None, row[1].f1, row[1].n, row[0]))
    table = Table(
        caption=f"The {run.arm} model on {run.scored_on}, the lowest F1 first, with 95 % intervals",
        header=("class", "photos", "recall", "precision", "F1"),
        rows=tuple(
            (
                name,
                str(scores.n),
                estimate(scores.recall, scores.recall_ci95),
                estimate(scores.precision, scores.precision_ci95),
                estimate(scores.f1, scores.f1_ci95),
            )
            for name, scores in named
        ),
    )
    return Section("Classes", (table,))


def reliability(run: RunData) -> Section | None:
    """Return the calibration of the shipped model: accuracy against confidence."""
    if run.predictions is None or run.probabilities is None:
        return None
    bins = binned(run.predictions.labels, run.probabilities)
    filled = np.flatnonzero(bins.counts)
    table = Table(
        caption=f"Predictions of the {run.arm} model by their probability",
        header=("probability", "photos", "mean probability", "accuracy"),
        rows=tuple(
            (
                f"{i / BINS:.1f} to {(i + 1) / BINS:.1f}",
                f"{bins.counts[i]:.0f}",
                f"{bins.confidence[i]:.3f}",
                f"{bins.accuracy[i]:.3f}",
            )
            for i in filled
        ),
    )
    alt = "Accuracy against the probability of the prediction, and the number of photos; numbers in the table below."
    parts: list[Part] = [
        Plot("reliability", alt, plots.reliability(bins.confidence, bins.accuracy, bins.counts)),
        table,
    ]
    calibration = run.verdict.scores.calibration
    if calibration is not None:
        fitted = f", fitted on {counted(calibration.n, 'photo')} outside the test set"
        if run.verdict.scores.protocol == "cross_fitted":
            fitted = "; in these figures, each fold's by the temperature fitted on the other folds"
        text = (
            f"The model's logits are divided by a temperature of {calibration.temperature:.2f}{fitted}. "
            f"Calibration error {calibration.ece_before:.3f} -> {calibration.ece_after:.3f}, "
            f"log-loss {calibration.log_loss_before:.3f} -> {calibration.log_loss_after:.3f}. "
            f"(The error uses {ECE_BINS} bins; {BINS} are shown.)"
        )
        parts.insert(0, Text(text))
    return Section("Reliability", tuple(parts))


def binned(labels: IntArray, probabilities: FloatArray) -> Bins:
    """Bin predictions (N, C) by the probability of the most probable class."""
    confidence, correct = probabilities.max(axis=1), correct_predictions(labels, probabilities)
    indices = np.digitize(confidence, np.arange(1, BINS) / BINS, right=True)
    counts = np.bincount(indices, minlength=BINS).astype(np.float64)
    means = [np.bincount(indices, values, minlength=BINS) / counts.clip(1) for values in (confidence, correct)]
    return Bins(counts, *means)
