"""Scores of a classifier on labelled images, each with a 95 % interval.

Point values are means of the columns that the bootstrap resamples.  Tests compare them with scikit-learn's, which isn't
used: importing it adds 1.2 to 1.7 s of CPU time, and it has no ECE.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unfreeze.evaluation.per_class import ClassScores, class_scores, confusion_matrix
from unfreeze.evaluation.proportions import balanced_interval, interval_union, kappa_interval, wilson
from unfreeze.evaluation.resampling import FloatArray, Groups, IntArray, Interval, bootstrap, group_codes

EPSILON = float(np.finfo(np.float32).eps)
"""Probabilities are clipped to this for the log-loss: a float32 softmax can't resolve less (15.9 nats at most)."""

ECE_BINS = 15
"""Guo et al. (2017), "On calibration of modern neural networks", table 1."""

MAX_CONFUSION_CLASSES = 100
"""With more classes the scores have no confusion matrix, whose size is the square of their number."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one model; fractions, except for the log-loss in nats.

    Attributes:
        n: The number of images.
        accuracy: Fraction whose most probable class is the label.
        accuracy_ci95: Wilson's interval; with groups, see ``score``.
        balanced_accuracy: Mean recall over the classes that are present.
        balanced_accuracy_ci95: Price and Bonett's interval; with groups, see ``score``.
        log_loss: Mean of -log p(label), with p no less than ``EPSILON``.
        log_loss_ci95: Bootstrap interval.
        ece: Expected calibration error of the top class in 15 equal bins (Guo et al. 2017, equation 3).
        ece_ci95: Conservative interval.  The ECE of a sample is biased upwards, and that of a resample more so, so that
            a percentile interval nearly always misses a well calibrated model.  The upper end is the percentile
            interval's; the lower end is the ECE minus the 97.5 % quantile of the L1 distance between the bins of
            resample and sample, which bounds the error of the ECE by the triangle inequality.
        macro_f1: Mean F1 over the classes that are present.
        kappa: Cohen's kappa (1960).
        roc_auc: Area under the ROC curve; of more than two classes the mean of each against the rest.
        pr_auc: Average precision, the mean over the classes.
        per_class: Scores of each class, in the order of the class indices.
        confusion: Counts by label (row) and predicted class (column); None above ``MAX_CONFUSION_CLASSES`` classes.

    The last five are None where they are undefined, as the areas are with a single class.
    """

    n: int
    accuracy: float
    accuracy_ci95: Interval
    balanced_accuracy: float
    balanced_accuracy_ci95: Interval
    log_loss: float
    log_loss_ci95: Interval
    ece: float
    ece_ci95: Interval
    macro_f1: float | None = None
    macro_f1_ci95: Interval | None = None
    kappa: float | None = None
    kappa_ci95: Interval | None = None
    roc_auc: float | None = None
    roc_auc_ci95: Interval | None = None
    pr_auc: float | None = None
    pr_auc_ci95: Interval | None = None
    per_class: tuple[ClassScores, ...] = ()
    confusion: tuple[tuple[int, ...], ...] | None = None

    def rows(self) -> tuple[tuple[str, float, Interval], ...]:
        """Return the name for people, the value and the interval of each defined score."""
        rows = (
            ("accuracy", self.accuracy, self.accuracy_ci95),
            ("balanced accuracy", self.balanced_accuracy, self.balanced_accuracy_ci95),
            ("macro F1", self.macro_f1, self.macro_f1_ci95),
            ("ROC-AUC", self.roc_auc, self.roc_auc_ci95),
            ("PR-AUC", self.pr_auc, self.pr_auc_ci95),
            ("Cohen's kappa", self.kappa, self.kappa_ci95),
            ("log-loss", self.log_loss, self.log_loss_ci95),
            ("calibration error", self.ece, self.ece_ci95),
        )
        return tuple(
            (name, value, interval) for name, value, interval in rows if value is not None and interval is not None
        )


def score(labels: IntArray, probabilities: FloatArray, *, groups: Groups | None = None, seed: int = 0) -> Scores:
    """Score predictions.

    Where images share groups, every interval comes from resampling whole groups, and those of the two accuracies are
    no narrower than the ones for independent images, so that the interval of a perfect score has a width.

    Args:
        labels: Class indices (N,).
        probabilities: Probabilities (N, C), rows summing to 1; C may exceed the classes present.
        groups: Group of each image (N,), such as the patient; an image with None is a group of its own.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: There are no images, the shapes don't fit, or these aren't labels and probabilities.
    """
    check_predictions(labels, probabilities)
    n = len(labels)
    correct = correct_predictions(labels, probabilities)
    loss = log_losses(labels, probabilities)
    gaps = calibration_gaps(probabilities, correct)
    classes = class_columns(labels)
    n_class, n_correct = classes.sum(0), correct @ classes
    accuracy, ece = float(correct.mean()), _mean_gap(gaps)

    accuracy_ci = wilson(int(correct.sum()), n)
    balanced_ci = balanced_interval(n_correct, n_class)
    if group_codes(groups, n) is not None:
        columns = np.column_stack([np.ones(n), correct, classes, classes * correct[:, None]])
        by_group = bootstrap(columns, _accuracies, groups=groups, seed=seed)
        accuracy_ci, balanced_ci = interval_union(accuracy_ci, by_group[0]), interval_union(balanced_ci, by_group[1])

    by_class = class_scores(labels, probabilities, groups=groups, seed=seed)
    matrix = confusion_matrix(labels, probabilities)
    chance = float(matrix.sum(0) @ matrix.sum(1)) / n**2

    def loss_and_ece(sums: FloatArray) -> FloatArray:
        n_images, losses, resampled = np.split(sums, [1, 2], axis=1)
        resampled = resampled / n_images
        distance = np.abs(resampled - gaps.mean(0)).sum(1)
        return np.column_stack([losses / n_images, np.abs(resampled).sum(1), distance])

    columns = np.column_stack([np.ones(n), loss, gaps])
    loss_ci, (_, ece_high), (_, distance) = bootstrap(columns, loss_and_ece, groups=groups, seed=seed)
    return Scores(
        n=n,
        accuracy=accuracy,
        accuracy_ci95=accuracy_ci,
        balanced_accuracy=balanced_accuracy(labels, correct),
        balanced_accuracy_ci95=balanced_ci,
        log_loss=float(loss.mean()),
        log_loss_ci95=loss_ci,
        ece=ece,
        ece_ci95=(max(0.0, ece - distance), max(ece, ece_high)),
        macro_f1=by_class.macro_f1[0],
        macro_f1_ci95=by_class.macro_f1[1],
        kappa=(accuracy - chance) / (1 - chance) if chance < 1 else None,
        kappa_ci95=kappa_interval(accuracy_ci, chance) if chance < 1 else None,
        roc_auc=by_class.roc_auc[0] if by_class.roc_auc else None,
        roc_auc_ci95=by_class.roc_auc[1] if by_class.roc_auc else None,
        pr_auc=by_class.pr_auc[0] if by_class.pr_auc else None,
        pr_auc_ci95=by_class.pr_auc[1] if by_class.pr_auc else None,
        per_class=by_class.rows,
        confusion=tuple(tuple(int(count) for count in row) for row in matrix)
        if len(matrix) <= MAX_CONFUSION_CLASSES
        else None,
    )


def calibration_scores(labels: IntArray, probabilities: FloatArray) -> tuple[float, float]:
    """Return the expected calibration error and the log-loss of predictions, without intervals; see ``Scores``."""
    gaps = calibration_gaps(probabilities, correct_predictions(labels, probabilities))
    return _mean_gap(gaps), float(log_losses(labels, probabilities).mean())


def balanced_accuracy(labels: IntArray, correct: FloatArray) -> float:
    """Return the mean recall over the classes present; ``correct`` is 1.0 where the prediction is the label (N,)."""
    classes = class_columns(labels)
    return float((correct @ classes / classes.sum(0)).mean())


def check_predictions(labels: IntArray, probabilities: FloatArray) -> None:
    """Raise ValueError unless ``labels`` (N,) are classes of ``probabilities`` (N, C), and N is at least 1."""
    if labels.ndim != 1 or probabilities.ndim != 2 or len(labels) != len(probabilities) or not probabilities.size:
        raise ValueError(
            f"labels {labels.shape} and probabilities {probabilities.shape} must be (N,) and (N, C), N > 0"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(f"labels must be integers from 0 to {probabilities.shape[1] - 1}")
    # bfloat16 has 8 bits of precision: the rows of its softmax miss 1 by up to half a per cent
    if not np.allclose(probabilities.sum(1), 1, atol=0.01) or probabilities.min() < 0:
        raise ValueError("probabilities must be at least 0, without NaN, and sum to 1 in each row")


def correct_predictions(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Return 1.0 where the most probable class is the label, and 0.0 elsewhere (N,)."""
    return np.asarray(probabilities.argmax(1) == labels, dtype=np.float64)


def log_losses(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Return -log p(label) of each image (N,) in nats, with p no less than ``EPSILON``."""
    own: FloatArray = probabilities[np.arange(len(labels)), labels].astype(float)
    losses: FloatArray = np.log(1 / own.clip(EPSILON, 1))
    return losses


def class_columns(labels: IntArray) -> FloatArray:
    """Return the one-hot labels (N, K) over the K classes that are present."""
    return np.asarray(labels[:, None] == np.unique(labels), dtype=np.float64)


def balanced(per_class: FloatArray, of_class: FloatArray) -> FloatArray:
    """Return the mean over classes (R,) of ``of_class / per_class``, both (R, K).

    A class without images in a resample has no recall there, and is left out of that mean.
    """
    means: FloatArray = (of_class / per_class.clip(1)).sum(1) / (per_class > 0).sum(1)
    return means


def calibration_gaps(probabilities: FloatArray, correct: FloatArray) -> FloatArray:
    """Return accuracy minus confidence (N, 15), each in the column of the bin (lower, upper] of its confidence."""
    confidence = probabilities.max(1).astype(float)
    inner_edges = np.arange(1, ECE_BINS) / ECE_BINS
    gaps = np.zeros((len(correct), ECE_BINS))
    gaps[np.arange(len(correct)), np.digitize(confidence, inner_edges, right=True)] = correct - confidence
    return gaps


def _mean_gap(gaps: FloatArray) -> float:
    """Return the expected calibration error, from ``calibration_gaps``."""
    return float(np.abs(gaps.sum(0)).sum() / len(gaps))


def _accuracies(sums: FloatArray) -> FloatArray:
    n_class, n_correct = np.split(sums[:, 2:], 2, axis=1)
    return np.column_stack([sums[:, 1] / sums[:, 0], balanced(n_class, n_correct)])
