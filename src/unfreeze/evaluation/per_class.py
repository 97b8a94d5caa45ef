"""Scores of every class against the rest, each with a 95 % interval.

The intervals need the counts behind recall, precision and F1, so the points are computed from them, not by scikit-learn.
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
    """Scores of one class against the rest, fractions with 95 % intervals; each absent where it is undefined.

    Attributes:
        n: Images of the class.
        predicted: Images that were given it.
        recall: Share of its images that were given it (sensitivity); Wilson's interval.
        precision: Share of the images that were given it that are of it; Wilson's interval.
        f1: Harmonic mean of the two; Wilson's interval of the share right among all images involved, carried through.
        roc_auc: Area under the ROC curve of its probability; Newcombe's interval (``ranking.mann_whitney_interval``).
        pr_auc: Average precision of its probability; Wilson's interval of a share of its images (Boyd, Eng & Page 2013
            recommend a binomial one).
        sensitivity_at_95: Of two classes only: its recall at the threshold that leaves 95 % of the other class alone.
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
    """Return how many images of each class (row) were given each class (column), shape (C, C)."""
    classes = probabilities.shape[1]
    pairs = labels * classes + probabilities.argmax(1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Classes:
    """Every class by itself, and the means over those that are there.

    Attributes:
        rows: A row a class, in their order.
        macro_f1: Mean F1.
        roc_auc: Mean area under the ROC curve; of two classes, the one that both have.  None where it is undefined.
        pr_auc: Mean average precision.  None likewise.
    """

    rows: tuple[ClassScores, ...]
    macro_f1: tuple[float, Interval]
    roc_auc: tuple[float, Interval] | None
    pr_auc: tuple[float, Interval] | None


def class_scores(
    labels: IntArray, probabilities: FloatArray, *, groups: Groups | None = None, seed: int = 0
) -> Classes:
    """Score every class; for arguments see ``metrics.score``.

    Intervals of means come from standard errors of resamples, as classes depend on each other, and are no narrower than
    those that the classes' own give when taken for independent: a perfect score has no spread.
    With groups, none is narrower than what resampling whole groups gives.
    """
    classes = np.arange(probabilities.shape[1])
    own = np.asarray(labels[:, None] == classes, dtype=float)
    answered = np.asarray(probabilities.argmax(1)[:, None] == classes, dtype=float)
    grouped = group_codes(groups, len(labels)) is not None
    columns = np.hstack([own, answered, own * answered])
    present = np.unique(labels)
    rates = bootstrap(columns, lambda sums: _rates(sums, present), groups=groups, seed=seed)
    roc, average = roc_auc_and_ap_in_resamples(own, probabilities, groups=groups, seed=seed)
    rows = tuple(
        _one(
            own[:, k],
            answered[:, k],
            probabilities[:, k],
            rates[k : -1 : len(classes)] if grouped else [(1.0, 0.0)] * 3,  # the hull with these changes nothing
            (_spread(roc[:, k]), _spread(average[:, k])) if grouped else (0.0, 0.0),
            binary=len(classes) == 2,
        )
        for k in classes
    )
    means = mean_of([(row.f1, row.f1_ci95) for row in rows if row.n and row.f1 is not None and row.f1_ci95])
    return Classes(
        rows=rows,
        macro_f1=(means[0], interval_union(means[1], rates[-1])),
        roc_auc=_mean([(row.roc_auc, row.roc_auc_ci95) for row in rows][: 1 if len(rows) == 2 else None], roc),
        pr_auc=_mean([(row.pr_auc, row.pr_auc_ci95) for row in rows], average),
    )


def _mean(parts: list[tuple[float | None, Interval | None]], drawn: FloatArray) -> tuple[float, Interval] | None:
    known = [(value, interval) for value, interval in parts if value is not None and interval is not None]
    if not known:
        return None
    defined = [k for k, (value, _) in enumerate(parts) if value is not None]
    middle, interval = mean_of(known)
    return middle, interval_union(interval, logit_interval(middle, _spread(_nanmean(drawn[:, defined]))))


def _nanmean(values: FloatArray) -> FloatArray:
    """Return the mean of each row's numbers; NaN where it has none."""
    with np.errstate(invalid="ignore"):
        found: FloatArray = np.nansum(values, axis=1) / (~np.isnan(values)).sum(1)
    return found


def _spread(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if len(known) > 1 else 0.0


def _one(
    own: FloatArray,
    answered: FloatArray,
    scores: FloatArray,
    widest: list[Interval],
    errors: tuple[float, float],
    *,
    binary: bool,
) -> ClassScores:
    n, predicted, right = int(own.sum()), int(answered.sum()), int((own * answered).sum())
    recall = precision = f1 = roc = average = share = UNDEFINED
    if n:
        recall = right / n, interval_union(wilson(right, n), widest[0])
    if predicted:
        precision = right / predicted, interval_union(wilson(right, predicted), widest[1])
    if n or predicted:
        f1 = 2 * right / (n + predicted), interval_union(f1_interval(right, predicted - right, n - right), widest[2])
    if 0 < n < len(own):
        area, mean_precision = (float(found[0]) for found in roc_auc_and_ap(own, scores))
        area_ci = interval_union(mann_whitney_interval(area, n, len(own) - n), logit_interval(area, errors[0]))
        average_ci = interval_union(wilson(mean_precision * n, n), logit_interval(mean_precision, errors[1]))
        roc, average = (area, area_ci), (mean_precision, average_ci)
        if binary:
            share = sensitivity(own, scores)
    return ClassScores(n, predicted, *recall, *precision, *f1, *roc, *average, *share)


def _rates(sums: FloatArray, present: IntArray) -> FloatArray:
    """Return recall, precision and F1 of all classes from the sums of R resamples, and the mean F1 of those present.

    One that is undefined counts as 0.
    """
    own, answered, right = np.split(sums, 3, axis=1)
    f1 = 2 * right / (own + answered).clip(1)
    return np.hstack([right / own.clip(1), right / answered.clip(1), f1, f1[:, present].mean(1, keepdims=True)])
