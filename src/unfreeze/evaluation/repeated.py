"""Statistics of repeated gains: over random splits of the same images, and over several comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unfreeze.evaluation.resampling import Interval


@dataclass(frozen=True, slots=True)
class RepeatedGain:
    """A mean gain over repetitions, a fraction.

    Attributes:
        mean: Mean gain; positive is better.
        ci95: 95 % interval of the mean; None with one repetition.
        p_value: Two-sided p-value of no gain; None with one repetition.
    """

    mean: float
    ci95: Interval | None
    p_value: float | None


def corrected_t(gains: Sequence[float], n_train: int, n_test: int) -> RepeatedGain:
    """Test the mean gain over random splits of the same images into training and test set.

    The splits overlap, so that the variance of the gains underestimates that of the mean.  Nadeau & Bengio (2003),
    "Inference for the generalization error", section 3, scale it by 1/J + n_test/n_train instead of 1/J.

    Args:
        gains: The gain of each of J splits.
        n_train: The number of training images in each.
        n_test: The number of test images in each.
    """
    mean = float(np.mean(gains))
    if len(gains) < 2:
        return RepeatedGain(mean, None, None)
    from scipy.special import stdtr, stdtrit

    freedom = len(gains) - 1
    error = math.sqrt(float(np.var(gains, ddof=1)) * (1 / len(gains) + n_test / n_train))
    half = float(stdtrit(freedom, 0.975)) * error
    if error == 0:
        return RepeatedGain(mean, (mean, mean), 1.0 if mean == 0 else 0.0)
    return RepeatedGain(mean, (mean - half, mean + half), 2 * float(stdtr(freedom, -abs(mean) / error)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm-adjusted p-values (1979) in the given order, which bound the family-wise error rate."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return [float(value) for value in adjusted]
