"""Priors of options whose gain in accuracy is proportional to that in log-loss."""

from __future__ import annotations

from unfreeze.evaluation.expected_gain import OptionPrior


def linear(mean: float, spread: float) -> OptionPrior:
    """Return a prior with 40 points a nat, give or take 2 points."""
    return OptionPrior(mean=mean, spread=spread, points=40 * mean, points_per_nat=40.0, points_spread=2.0)
