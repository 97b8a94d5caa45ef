"""Confidence intervals of proportions and of functions of a proportion."""

from __future__ import annotations

import math

import numpy as np

from unfreeze.evaluation.resampling import FloatArray, Interval

Z_975 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


def wilson(successes: float, n: float) -> Interval:
    """Return the 95 % score interval of a proportion (Wilson 1927; Brown, Cai & DasGupta 2001, section 3.1.1)."""
    p, z2 = successes / n, Z_975**2
    centre = (successes + z2 / 2) / (n + z2)
    half = Z_975 * math.sqrt(n) / (n + z2) * math.sqrt(max(0.0, p * (1 - p)) + z2 / (4 * n))
    return 0.0 if successes <= 0 else centre - half, 1.0 if successes >= n else centre + half


def balanced_interval(n_correct: FloatArray, n_class: FloatArray) -> Interval:
    """Return the 95 % interval of the mean recall, from the counts of K classes (K,).

    Price & Bonett (2004), "An improved confidence interval for a linear function of binomial proportions": 2/K
    correct and 2/K wrong images are added to each class.  A bootstrap within the classes would give a class whose few
    images are all correct an interval without width.
    """
    k = len(n_class)
    n = n_class + 4 / k
    recall = (n_correct + 2 / k) / n
    half = Z_975 * math.sqrt((recall * (1 - recall) / n).sum()) / k
    return max(0.0, float(recall.mean()) - half), min(1.0, float(recall.mean()) + half)


def f1_interval(true: float, false_positive: float, false_negative: float) -> Interval:
    """Return the 95 % interval of F1 = 2J / (1 + J), with J = true positives / (true positives + all errors).

    J is a proportion; the ends of Wilson's interval for J are transformed.
    """
    low, high = wilson(true, true + false_positive + false_negative)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def kappa_interval(accuracy_ci: Interval, chance: float) -> Interval:
    """Return the 95 % interval of Cohen's kappa: that of the accuracy, for a fixed agreement by chance."""
    low, high = accuracy_ci
    return (low - chance) / (1 - chance), (high - chance) / (1 - chance)


def mean_of(parts: list[tuple[float, Interval]]) -> tuple[float, Interval]:
    """Return the mean of independent estimates and its 95 % interval.

    Zou & Donner (2008), "Construction of confidence limits about effect measures: a general approach" (MOVER).
    """
    values = np.array([value for value, _ in parts])
    low, high = np.array([interval for _, interval in parts]).T
    mean, k = float(values.mean()), len(parts)
    return mean, (
        max(0.0, mean - math.sqrt(float(((values - low) ** 2).sum())) / k),
        min(1.0, mean + math.sqrt(float(((high - values) ** 2).sum())) / k),
    )


def logit_interval(value: float, error: float) -> Interval:
    """Return the 95 % interval of a fraction from its standard error, symmetric on the logit scale."""
    if not 0 < value < 1 or not error > 0:
        return value, value
    logit, half = math.log(value / (1 - value)), Z_975 * error / (value * (1 - value))
    return 1 / (1 + math.exp(min(half - logit, 700))), 1 / (1 + math.exp(-half - logit))


def interval_union(a: Interval, b: Interval) -> Interval:
    """Return the smallest interval that contains both."""
    return min(a[0], b[0]), max(a[1], b[1])
