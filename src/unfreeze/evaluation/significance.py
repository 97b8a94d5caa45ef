"""Paired comparison of two models on the same images: the gain, its intervals and its significance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unfreeze.evaluation.metrics import balanced, check_predictions, class_columns, correct_predictions, log_losses
from unfreeze.evaluation.resampling import FloatArray, Groups, IntArray, Interval, bootstrap, group_codes

SIGNIFICANCE = 0.05
USUAL_DISCORDANCE = 0.1  # fraction of images that only one model has correct, assumed where none is observed


@dataclass(frozen=True, slots=True)
class Gain:
    """Gain of the model ``after`` over ``before``: differences after minus before; fractions, but the log-loss in nats.

    Attributes:
        n: The number of images.
        accuracy: Gain in accuracy; positive is better.
        accuracy_ci95: Paired bootstrap over images, or over groups.
        balanced_accuracy: Gain in the mean recall over the classes present; positive is better.
        balanced_accuracy_ci95: Paired bootstrap over images within classes, or over groups.
        log_loss: Change of the log-loss; NEGATIVE is better.
        log_loss_ci95: Paired bootstrap.
        fixed: The number of images that are wrong before and correct after.
        broken: The number of images that are correct before and wrong after.
        p_value: Two-sided p-value of the null hypothesis that before and after are equally accurate.
        test: The test behind ``p_value``.  McNemar's exact test assumes independent images; groups have a test of their
            own, and cross-fitted predictions a correction (see ``crossfit.py``).
        proven: Whether the interval of the accuracy gain lies above 0 and p < 0.05.  Both are required, as the
            bootstrap is too narrow where few images changed.
        detectable: The smallest gain that so many images show with a power of 80 %, at the observed discordance; None
            with groups or too few images.
        needed_n: The number of images that show the observed gain with a power of 80 %; None with groups or no gain.
    """

    n: int
    accuracy: float
    accuracy_ci95: Interval
    balanced_accuracy: float
    balanced_accuracy_ci95: Interval
    log_loss: float
    log_loss_ci95: Interval
    fixed: int
    broken: int
    p_value: float
    test: Literal["mcnemar_exact", "group_sign_flip", "mcnemar_cross_fitted", "sign_flip_cross_fitted"]
    proven: bool
    detectable: float | None = None
    needed_n: int | None = None


def gain(
    labels: IntArray, before: FloatArray, after: FloatArray, *, groups: Groups | None = None, seed: int = 0
) -> Gain:
    """Compare two models on the same images.

    Args:
        labels: Class indices (N,).
        before: Probabilities of the model before (N, C), rows summing to 1.
        after: Probabilities of the model after (N, C).
        groups: Group of each image (N,), such as the patient; an image with None is a group of its own.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: There are no images, the shapes don't fit, or these aren't labels and probabilities.
    """
    check_predictions(labels, before)
    check_predictions(labels, after)
    n = len(labels)
    change = correct_predictions(labels, after) - correct_predictions(labels, before)
    loss = log_losses(labels, after) - log_losses(labels, before)
    classes = class_columns(labels)
    n_class, change_class = classes.sum(0, keepdims=True), change[None] @ classes
    fixed, broken = int((change > 0).sum()), int((change < 0).sum())

    columns = np.column_stack([np.ones(n), change, loss])
    accuracy_ci, loss_ci = bootstrap(columns, lambda sums: sums[:, 1:] / sums[:, :1], groups=groups, seed=seed)
    columns = np.hstack([classes, classes * change[:, None]])
    [balanced_ci] = bootstrap(columns, _balanced_change, groups=groups, strata=labels, seed=seed)

    codes = group_codes(groups, n)
    p_value = mcnemar_exact(fixed, broken) if codes is None else sign_flip_exact(np.bincount(codes, change).astype(int))
    discordance = (fixed + broken) / n or USUAL_DISCORDANCE
    smallest = detectable_gain(n, discordance) if codes is None else math.inf
    return Gain(
        n=n,
        accuracy=(fixed - broken) / n,
        accuracy_ci95=accuracy_ci,
        balanced_accuracy=float(balanced(n_class, change_class)[0]),
        balanced_accuracy_ci95=balanced_ci,
        log_loss=float(loss.mean()),
        log_loss_ci95=loss_ci,
        fixed=fixed,
        broken=broken,
        p_value=p_value,
        test="mcnemar_exact" if codes is None else "group_sign_flip",
        proven=is_proven(accuracy_ci, p_value),
        detectable=smallest if smallest < math.inf else None,
        needed_n=needed_n((fixed - broken) / n, discordance) if fixed > broken and codes is None else None,
    )


def changed(labels: IntArray, before: FloatArray, after: FloatArray) -> tuple[IntArray, IntArray]:
    """Return the indices of fixed and of broken images, those first whose label's probability moved most."""
    own = np.arange(len(labels))
    moved = after[own, labels] - before[own, labels]
    correct_before, correct_after = correct_predictions(labels, before) == 1, correct_predictions(labels, after) == 1
    fixed = np.flatnonzero(~correct_before & correct_after)
    broken = np.flatnonzero(correct_before & ~correct_after)
    return fixed[np.argsort(-moved[fixed], kind="stable")], broken[np.argsort(moved[broken], kind="stable")]


def is_proven(accuracy_ci: Interval, p_value: float) -> bool:
    """Return whether a gain is proven: its interval lies above 0, and its p-value is below ``SIGNIFICANCE``."""
    return accuracy_ci[0] > 0 and p_value < SIGNIFICANCE


def mcnemar_exact(fixed: int, broken: int) -> float:
    """Return the two-sided exact p-value of McNemar's test (1947) for independent images; 1 if none changed."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(fixed, broken), fixed + broken, 0.5)))


def sign_flip_exact(net: IntArray) -> float:
    """Return the two-sided exact p-value of Fisher's sign-flip test (1935, section 21) for independent groups.

    Under the null hypothesis, before and after are exchangeable in every group.  The p-value is the fraction of all
    exchanges with as large an absolute sum; with groups of one image this is McNemar's exact test.

    Args:
        net: The number of fixed minus broken images in each group (G,).
    """
    sizes = np.abs(net[net != 0])
    total = int(sizes.sum())
    # probability[k]: fraction of the exchanges so far with k images in the groups with a positive sign
    probability = np.zeros(total + 1)
    probability[0] = 1.0
    for size in sizes:
        probability /= 2
        probability[size:] += probability[:-size].copy()
    sums = np.abs(2 * np.arange(total + 1) - total)
    return min(1.0, float(probability[sums >= abs(net.sum())].sum()))


def needed_n(gain: float, discordance: float = USUAL_DISCORDANCE, power: float = 0.8) -> int:
    """Return the number of independent images with which McNemar's test detects ``gain`` at the two-sided 5 % level.

    Connor (1987), "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43.
    This is a normal approximation; the exact test needs a few images more.

    Args:
        gain: Gain in accuracy, a fraction above 0.
        discordance: Fraction of images that only one model has correct; values below ``gain`` count as ``gain``.
        power: Probability of detecting the gain.
    """
    if not (0 < gain <= 1 and 0 < discordance <= 1 and 0 < power < 1):
        raise ValueError(f"gain {gain}, discordance {discordance} and power {power} must be fractions above 0")
    return math.ceil(_connor(gain, discordance, power))


def detectable_gain(n: int, discordance: float = USUAL_DISCORDANCE, power: float = 0.8) -> float:
    """Return the smallest gain in accuracy, a fraction, that ``n`` images can show: the inverse of ``needed_n``.

    It is infinite below 6 images, where the p-value of McNemar's exact test can't be below 0.05.
    """
    from scipy.optimize import brentq

    if n < 6:
        return math.inf
    return float(brentq(lambda gain: _connor(gain, discordance, power) - n, 1e-9, 1.0))


def _connor(gain: float, discordance: float, power: float) -> float:
    from scipy.special import ndtri

    discordance = max(gain, discordance)
    z_alpha, z_power = ndtri(1 - SIGNIFICANCE / 2), ndtri(power)
    return float((z_alpha * math.sqrt(discordance) + z_power * math.sqrt(discordance - gain**2)) ** 2 / gain**2)


def _balanced_change(sums: FloatArray) -> FloatArray:
    n_class, change_class = np.split(sums, 2, axis=1)
    return balanced(n_class, change_class)[:, None]
