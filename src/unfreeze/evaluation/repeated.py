"""Gains that were measured several times: over seeds that divide the photos anew, and over several comparisons."""

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
        mean: Positive is better.
        ci95: Its 95 % interval; None where there is but one repetition.
        p_value: Two-sided, of no gain; None likewise.
    """

    mean: float
    ci95: Interval | None
    p_value: float | None


def corrected_t(gains: Sequence[float], n_train: int, n_test: int) -> RepeatedGain:
    """Test the mean gain over random divisions of the same photos into training and test set.

    The divisions overlap, so that the gains' own spread is too small by far.  Nadeau & Bengio (2003), "Inference for the
    generalization error", section 3: its variance is taken 1/J + n_test/n_train times instead of 1/J.

    Args:
        gains: One of each of J divisions.
        n_train: Photos that trained in each.
        n_test: Photos that were scored in each.
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
    """Return p-values for several comparisons at once, in their order (Holm 1979): all claims below 5 % hold together."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return [float(value) for value in adjusted]
