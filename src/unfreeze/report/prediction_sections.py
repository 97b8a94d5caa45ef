"""The report's sections on what the shipped model answers: confusion, single classes, reliability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unfreeze.evaluation.metrics import ECE_BINS, correct_predictions
from unfreeze.evaluation.per_class import confusion_matrix
from unfreeze.evaluation.resampling import FloatArray, IntArray
from unfreeze.report import plots
from unfreeze.report.elements import Part, Plot, Section, Table, Text, estimate
from unfreeze.report.run_data import RunData
from unfreeze.verdict import counted

LARGEST_MATRIX = 40  # classes; above it, nobody finds a cell
PAIRS = 20
BINS = 10


@dataclass(frozen=True)
class Bins:
    """Answers by how sure they are, in bins (lower, upper] of equal width; 0 in a bin that is empty.

    Attributes:
        counts: Answers in each bin (B,).
        confidence: Their mean probability (B,).
        accuracy: The share that is right (B,).
    """

    counts: FloatArray
    confidence: FloatArray
    accuracy: FloatArray


def confusion(run: RunData) -> Section | None:
    """Which classes are taken for which."""
    if run.predictions is None or run.answers is None:
        return None
    classes = run.verdict.data.classes
    counts = confusion_matrix(run.predictions.labels, run.answers)
    rates = counts / counts.sum(axis=1, keepdims=True).clip(1)
    parts: list[Part] = [Text(f"The {run.arm} model, which ships, on {run.seen}.")]
    if len(classes) > LARGEST_MATRIX:
        pairs = _confused(counts, rates, classes)
        if not pairs:
            return Section("Confusion", (*parts, Text("It takes no class for another.")))
        table = Table(
            caption=f"The {len(pairs)} pairs that are confused most, of {len(classes)} classes",
            header=("label", "answer", "photos", "of the label's"),
            rows=pairs,
        )
        return Section("Confusion", (*parts, table))
    table = Table(
        caption="Photos by label (row) and answer (column), and their share of the row",
        header=("label", *classes),
        rows=tuple(
            (name, *(f"{count} ({rate * 100:.0f} %)" if count else "0" for count, rate in zip(*both, strict=True)))
            for name, both in zip(classes, zip(counts, rates, strict=True), strict=True)
        ),
    )
    alt = "The confusion matrix as a heatmap, dark where much of a label's photos is; the table above has the numbers."
    drawn = Plot("confusion", alt, plots.heatmap(rates, counts, classes), wide=len(classes) > plots.WRITTEN)
    return Section("Confusion", (*parts, table, drawn))


def _confused(counts: IntArray, rates: FloatArray, classes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    wrong = counts - np.diag(np.diag(counts))
    order = np.lexsort((-rates.ravel(), -wrong.ravel()))[:PAIRS]
    found = [divmod(int(place), len(classes)) for place in order if wrong.flat[place]]
    return tuple(
        (classes[row], classes[column], str(counts[row, column]), f"{rates[row, column] * 100:.0f} %")
        for row, column in found
    )


def classes(run: RunData) -> Section | None:
    """Precision, recall and F1 of every class, the weakest first."""
    named = list(zip(run.verdict.data.classes, run.scores.per_class, strict=False))
    if not named:
        return None
    named.sort(key=lambda row: (row[1].f1 is None, row[1].f1, row[1].n, row[0]))
    table = Table(
        caption=f"The {run.arm} model on {run.seen}, the lowest F1 first, with 95 % intervals",
        header=("class", "photos", "recall", "precision", "F1"),
        rows=tuple(
            (
                name,
                str(of.n),
                estimate(of.recall, of.recall_ci95),
                estimate(of.precision, of.precision_ci95),
                estimate(of.f1, of.f1_ci95),
            )
            for name, of in named
        ),
    )
    return Section("Classes", (table,))


def reliability(run: RunData) -> Section | None:
    """Whether the model is as sure as it is right."""
    if run.predictions is None or run.answers is None:
        return None
    bins = binned(run.predictions.labels, run.answers)
    filled = np.flatnonzero(bins.counts)
    table = Table(
        caption=f"Answers of the {run.arm} model by how sure they are",
        header=("probability", "photos", "mean probability", "right"),
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
    alt = "How often answers are right against how sure they are, with the number of photos; the table has the numbers."
    parts: list[Part] = [
        Plot("reliability", alt, plots.reliability(bins.confidence, bins.accuracy, bins.counts)),
        table,
    ]
    found = run.verdict.scores.calibration
    if found is not None:
        fitted = f", fitted on {counted(found.n, 'photo')} that are no test photos"
        if run.verdict.scores.protocol == "cross_fitted":
            fitted = "; those of each fold here by what suits the other folds"
        said = (
            f"The model's logits are divided by {found.temperature:.2f}{fitted}: calibration error "
            f"{found.ece_before:.3f} -> {found.ece_after:.3f}, log-loss {found.log_loss_before:.3f} -> "
            f"{found.log_loss_after:.3f}. (The error is of {ECE_BINS} bins; {BINS} are shown.)"
        )
        parts.insert(0, Text(said))
    return Section("Reliability", tuple(parts))


def binned(labels: IntArray, answers: FloatArray) -> Bins:
    """Sort answers (N, C) into bins by the probability of the most probable class."""
    confidence, right = answers.max(axis=1), correct_predictions(labels, answers)
    places = np.digitize(confidence, np.arange(1, BINS) / BINS, right=True)
    counts = np.bincount(places, minlength=BINS).astype(np.float64)
    means = [np.bincount(places, values, minlength=BINS) / counts.clip(1) for values in (confidence, right)]
    return Bins(counts, *means)
