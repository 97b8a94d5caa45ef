"""Scores of every class against the rest, each with a 95 % interval.

The values are computed from the counts that the intervals of recall, precision and F1 need, not by scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unfreeze.evaluation.proportions import f1_interval, interval_union, logit_interval, mean_of, wilson
from unfreeze.evaluation.ranking import mann_whitney_interval, roc_auc_and_ap, roc_auc_and_ap_in_resamples, sensitivity
from unfreeze.evaluation.resampling import FloatArray, Groups, IntArray, Interval, bootstrap, group_codes

Estimate = tuple[float | None, Interval | None]
UNDEFINED: Estimate = (None, None)


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Scores of one class against the rest, fractions with 95 % intervals; each None where it is undefined.

    Attributes:
        n: The number of images of the class.
        predicted: The number of images that were predicted as the class.
        recall: Fraction of the class's images that were predicted as it (sensitivity); Wilson's interval.
        precision: Fraction of the images predicted as the class that are of it; Wilson's interval.
        f1: Harmonic mean of recall and precision; see ``proportions.f1_interval``.
        roc_auc: Area under the ROC curve of its probability; Newcombe's interval (``ranking.mann_whitney_interval``).
        pr_auc: Average precision of its probability; Wilson's interval with n trials (Boyd, Eng & Page 2013 recommend a
            binomial interval).
        sensitivity_at_95: Recall at the threshold with a specificity of 95 %; of two classes only.
    """

    n: int
    predicted: int
    recall: float | None = None
    recall_ci95: Interval | None = None
    precision: float | None = None
    precision_ci95: Interval | None = None
    f1: float | None = None
    f1_ci95: Interval | None = None
    roc_auc: float | None = None
    roc_auc_ci95: Interval | None = None
    pr_auc: float | None = None
    pr_auc_ci95: Interval | None = None
    sensitivity_at_95: float | None = None
    sensitivity_at_95_ci95: Interval | None = None


def confusion_matrix(labels: IntArray, probabilities: FloatArray) -> IntArray:
    """Return the number of images by label (row) and predicted class (column), shape (C, C)."""
    n_classes = probabilities.shape[1]
    pairs = labels * n_classes + probabilities.argmax(1)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes).astype(np.int64)


@dataclass(frozen=True, slots=True)
class PerClassScores:
    """Scores of every class, and their means over the classes.

    Attributes:
        rows: Scores of each class, in the order of the class indices.
        macro_f1: Mean F1 over the classes present.
        roc_auc: Mean area under the ROC curve; of two classes, the area that both share.  None where it is undefined.
        pr_auc: Mean average precision; None where it is undefined.
    """

    rows: tuple[ClassScores, ...]
    macro_f1: tuple[float, Interval]
    roc_auc: tuple[float, Interval] | None
    pr_auc: tuple[float, Interval] | None


def class_scores(
    labels: IntArray, probabilities: FloatArray, *, groups: Groups | None = None, seed: int = 0
) -> PerClassScores:
    """Score every class; for arguments see ``metrics.score``.

    Intervals of means come from standard errors of resamples, as classes are dependent, and are no narrower than those
    computed from the classes' own intervals as if independent: a perfect score has no spread in resamples.
    With groups, no interval is narrower than the one from resampling whole groups.
    """
    classes = np.arange(probabilities.shape[1])
    own = np.asarray(labels[:, None] == classes, dtype=float)
    predicted = np.asarray(probabilities.argmax(1)[:, None] == classes, dtype=float)
    grouped = group_codes(groups, len(labels)) is not None
    columns = np.hstack([own, predicted, own * predicted])
    present = np.unique(labels)
    rates = bootstrap(columns, lambda sums: _rates(sums, present), groups=groups, seed=seed)
    roc, average = roc_auc_and_ap_in_resamples(own, probabilities, groups=groups, seed=seed)
    rows = tuple(
        _class_scores(
            own[:, k],
            predicted[:, k],
            probabilities[:, k],
            rates[k : -1 : len(classes)]
            if grouped
            else [(1.0, 0.0)] * 3,  # empty intervals, which leave a union unchanged
            (_spread(roc[:, k]), _spread(average[:, k])) if grouped else (0.0, 0.0),
            binary=len(classes) == 2,
        )
        for k in classes
    )
    means = mean_of([(row.f1, row.f1_ci95) for row in rows if row.n and row.f1 is not None and row.f1_ci95])
    return PerClassScores(
        rows=rows,
        macro_f1=(means[0], interval_union(means[1], rates[-1])),
        roc_auc=_mean([(row.roc_auc, row.roc_auc_ci95) for row in rows][: 1 if len(rows) == 2 else None], roc),
        pr_auc=_mean([(row.pr_auc, row.pr_auc_ci95) for row in rows], average),
    )


def _mean(parts: list[tuple[float | None, Interval | None]], resampled: FloatArray) -> tuple[float, Interval] | None:
    known = [(value, interval) for value, interval in parts if value is not None and interval is not None]
    if not known:
        return None
    defined = [k for k, (value, _) in enumerate(parts) if value is not None]
    mean, interval = mean_of(known)
    return mean, interval_union(interval, logit_interval(mean, _spread(_nanmean(resampled[:, defined]))))


def _nanmean(values: FloatArray) -> FloatArray:
    """Return the mean of each row without its NaNs; NaN where the row has nothing else."""
    with np.errstate(invalid="ignore"):
        means: FloatArray = np.nansum(values, axis=1) / (~np.isnan(values)).sum(1)
    return means


def _spread(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if len(known) > 1 else 0.0


def _class_scores(
    own: FloatArray,
    predicted: FloatArray,
    scores: FloatArray,
    group_intervals: list[Interval],
    errors: tuple[float, float],
    *,
    binary: bool,
) -> ClassScores:
    n, n_predicted, n_correct = int(own.sum()), int(predicted.sum()), int((own * predicted).sum())
    recall = precision = f1 = roc = average = at_95 = UNDEFINED
    if n:
        recall = n_correct / n, interval_union(wilson(n_correct, n), group_intervals[0])
    if n_predicted:
        precision = n_correct / n_predicted, interval_union(wilson(n_correct, n_predicted), group_intervals[1])
    if n or n_predicted:
        f1_ci = f1_interval(n_correct, n_predicted - n_correct, n - n_correct)
        f1 = 2 * n_correct / (n + n_predicted), interval_union(f1_ci, group_intervals[2])
    if 0 < n < len(own):
        area, mean_precision = (float(values[0]) for values in roc_auc_and_ap(own, scores))
        area_ci = interval_union(mann_whitney_interval(area, n, len(own) - n), logit_interval(area, errors[0]))
        average_ci = interval_union(wilson(mean_precision * n, n), logit_interval(mean_precision, errors[1]))
        roc, average = (area, area_ci), (mean_precision, average_ci)
        if binary:
            at_95 = sensitivity(own, scores)
    return ClassScores(n, n_predicted, *recall, *precision, *f1, *roc, *average, *at_95)


def _rates(sums: FloatArray, present: IntArray) -> FloatArray:
    """Return recall, precision and F1 of all classes from the sums of R resamples, and the mean F1 of those present.

    An undefined value is 0.
    """
    own, predicted, correct = np.split(sums, 3, axis=1)
    f1 = 2 * correct / (own + predicted).clip(1)
    return np.hstack([correct / own.clip(1), correct / predicted.clip(1), f1, f1[:, present].mean(1, keepdims=True)])
