"""Whether the second model is better than the first: both answer for the same images, so every test is a paired one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unfreeze.evaluation.metrics import balanced, check_predictions, class_columns, correct_predictions, log_losses
from unfreeze.evaluation.resampling import FloatArray, Groups, IntArray, Interval, bootstrap, group_codes

SIGNIFICANCE = 0.05
USUAL_DISCORDANCE = 0.1  # share of images that one model has right and the other wrong, where none says otherwise


@dataclass(frozen=True, slots=True)
class Gain:
    """What ``after`` gained over ``before``: always after minus before; fractions, except for the log-loss in nats.

    Attributes:
        n: Images compared.
        accuracy: Gain in accuracy; positive is better.
        accuracy_ci95: Paired bootstrap over images, or over groups.
        balanced_accuracy: Gain in the mean recall over the classes present; positive is better.
        balanced_accuracy_ci95: The same bootstrap, within classes where there are no groups.
        log_loss: Change of the log-loss; NEGATIVE is better.
        log_loss_ci95: Paired bootstrap.
        fixed: Images that were wrong before and are right after.
        broken: Images that were right before and are wrong after.
        p_value: Two-sided, of the null hypothesis that before and after are equally accurate.
        test: What gave ``p_value``: McNemar's exact test takes images for independent, so that groups have a test of
            their own, and cross-fitted answers a correction (see ``crossfit.py``).
        proven: The interval of the accuracy gain lies above 0, and p < 0.05.  Both are asked for, as the bootstrap is
            too narrow where few images changed.
        detectable: The smallest gain that so many images show four times in five, where as large a share of them changes;
            absent where groups are, or too few images.
        needed_n: How many images would show the gain that was seen four times in five; absent likewise, and where
            there was none.
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
        before: Probabilities of the first model (N, C), rows summing to 1.
        after: Probabilities of the second model (N, C).
        groups: What images belong together (N,), such as the patient; None is an image on its own.
        seed: Of the bootstrap.

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
    changed = (fixed + broken) / n or USUAL_DISCORDANCE
    smallest = detectable_gain(n, changed) if codes is None else math.inf
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
        needed_n=needed_n((fixed - broken) / n, changed) if fixed > broken and codes is None else None,
    )


def changed(labels: IntArray, before: FloatArray, after: FloatArray) -> tuple[IntArray, IntArray]:
    """Return which images ``after`` fixed and which it broke, those first whose own class's probability moved most."""
    own = np.arange(len(labels))
    moved = after[own, labels] - before[own, labels]
    was, now = correct_predictions(labels, before) == 1, correct_predictions(labels, after) == 1
    fixed, broken = np.flatnonzero(~was & now), np.flatnonzero(was & ~now)
    return fixed[np.argsort(-moved[fixed], kind="stable")], broken[np.argsort(moved[broken], kind="stable")]


def is_proven(accuracy_ci: Interval, p_value: float) -> bool:
    """Return whether a gain is called proven."""
    return accuracy_ci[0] > 0 and p_value < SIGNIFICANCE


def mcnemar_exact(fixed: int, broken: int) -> float:
    """Return the two-sided exact p-value of McNemar's test (1947) for independent images; 1 where none changed."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(fixed, broken), fixed + broken, 0.5)))


def sign_flip_exact(net: IntArray) -> float:
    """Return the two-sided exact p-value of Fisher's sign-flip test (1935, section 21) for independent groups.

    Were the models equally good, before and after could be swapped in any group.  The p-value is the share of all
    swaps that give as large a sum; with groups of one image this is McNemar's exact test.

    Args:
        net: Images fixed less images broken in each group (G,).
    """
    sizes = np.abs(net[net != 0])
    total = int(sizes.sum())
    # share[k] of the swaps so far have k images in the groups that count as gains
    share = np.zeros(total + 1)
    share[0] = 1.0
    for size in sizes:
        share /= 2
        share[size:] += share[:-size].copy()
    sums = np.abs(2 * np.arange(total + 1) - total)
    return min(1.0, float(share[sums >= abs(net.sum())].sum()))


def needed_n(gain: float, discordance: float = USUAL_DISCORDANCE, power: float = 0.8) -> int:
    """Return how many independent images McNemar's test needs to find ``gain`` at the two-sided 5 % level.

    Connor (1987), "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43.
    A normal approximation; the exact test wants a few images more.

    Args:
        gain: Gain in accuracy, a fraction above 0.
        discordance: Fraction of images that one model has right and the other wrong; never less than ``gain``.
        power: Chance of finding the gain.
    """
    if not (0 < gain <= 1 and 0 < discordance <= 1 and 0 < power < 1):
        raise ValueError(f"gain {gain}, discordance {discordance} and power {power} must be fractions above 0")
    return math.ceil(_connor(gain, discordance, power))


def detectable_gain(n: int, discordance: float = USUAL_DISCORDANCE, power: float = 0.8) -> float:
    """Return the smallest gain in accuracy, a fraction, that ``n`` images would show: the inverse of ``needed_n``.

    Infinite below 6 images: McNemar's exact test then has p > 0.05 whatever the images say.
    """
    from scipy.optimize import brentq

    if n < 6:
        return math.inf
    return float(brentq(lambda gain: _connor(gain, discordance, power) - n, 1e-9, 1.0))


def _connor(gain: float, discordance: float, power: float) -> float:
    from scipy.special import ndtri

    changed = max(gain, discordance)
    z_alpha, z_power = ndtri(1 - SIGNIFICANCE / 2), ndtri(power)
    return float((z_alpha * math.sqrt(changed) + z_power * math.sqrt(changed - gain**2)) ** 2 / gain**2)


def _balanced_change(sums: FloatArray) -> FloatArray:
    per_class, change_class = np.split(sums, 2, axis=1)
    return balanced(per_class, change_class)[:, None]
