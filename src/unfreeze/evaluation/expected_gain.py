"""The expected gain of an option: what many data sets have taught, and what this one's validation images say.

An option (averaged views, a head on several stages, phase 2 at a depth and an alpha) is compared with a baseline.  Its
true gain, the mean reduction of the log-loss of images that nothing was fitted on, is taken to be drawn from a normal
distribution over data sets (``OptionPrior``); the validation images measure it with an error.  Both together give its
posterior distribution (normal-normal shrinkage; Efron & Morris 1973; Gelman et al. 2013, section 2.5), and that the expected
gain in accuracy: few images measure log-loss far better than accuracy.  The option with the highest expected accuracy is
chosen: nothing has to be significant, and a small change of the losses changes the expectation a little.
Whether a gain is proven is another question (``significance.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from unfreeze.evaluation.resampling import FloatArray

USUAL_LOSS = 0.5
"""Nats: head-only's mean log-loss where the prior was fitted: 0.25 to 0.95 (benchmarks/scores-2026-11-30.csv)."""


@dataclass(frozen=True, slots=True)
class OptionPrior:
    """The distribution of an option's true gain over data sets.

    Attributes:
        mean: The mean reduction of the log-loss, in nats per image.
        spread: Its standard deviation between data sets, measurement error taken out.
        points: The mean gain in accuracy, in percentage points.
        points_per_nat: By how much that is higher where the reduction is higher by one nat.
        points_spread: The standard deviation of a data set's gain in accuracy about that line, in points.
    """

    mean: float
    spread: float
    points: float
    points_per_nat: float
    points_spread: float

    def scaled(self, factor: float) -> OptionPrior:
        """Return the distribution of gains that are smaller by a factor."""
        return replace(
            self,
            mean=self.mean * factor,
            spread=self.spread * factor,
            points=self.points * factor,
            points_spread=self.points_spread * factor,
        )


class Prior(Protocol):
    """What is known of options before a data set's own images are asked; see ``prior.py`` for the packaged table."""

    def of(self, option: str) -> OptionPrior:
        """Return the prior of an option by its name, a weak one for options that are not known."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """The expected gain of an option on this data set.

    Attributes:
        mean: The expected reduction of the log-loss, in nats per image.
        sd: Its standard deviation.
        points: The expected gain in accuracy, in percentage points.
        points_spread: Its standard deviation.
        p_worse: The probability that the accuracy is lower.
    """

    mean: float
    sd: float
    points: float
    points_spread: float
    p_worse: float

    @property
    def ships(self) -> bool:
        """Whether the option is expected to be more accurate than the baseline.

        It is worse with a probability below one half then.  A limit on that probability alone would be a step, at which
        float noise decides.
        """
        return self.points > 0


@dataclass(frozen=True, slots=True)
class OptionChoice:
    """The chosen one of a baseline and some options.

    Attributes:
        index: 0 for the baseline, otherwise the option's number, counted from 1.
        posteriors: The expected gain of each option over the baseline, in the order of the options.
    """

    index: int
    posteriors: tuple[Posterior, ...]


def choose_option(
    baseline_losses: FloatArray, options: Sequence[tuple[str, FloatArray]], prior: Prior, *, widening: float = 1.0
) -> OptionChoice:
    """Choose the option with the highest expected accuracy, or the baseline if none is expected to gain anything.

    Args:
        baseline_losses: Out-of-fold losses of the validation images (N,), in nats; without images the prior alone decides.
        options: The name of each option and its losses of the same images (N,).
        prior: What is known of the options by their names.
        widening: Ratio of the standard errors to those of independent images (see ``dependence``).
    """
    room = headroom(baseline_losses)
    posteriors = tuple(
        posterior(baseline_losses - losses, prior.of(name).scaled(room), widening) for name, losses in options
    )
    best = max(range(len(posteriors)), key=lambda option: posteriors[option].points, default=None)
    return OptionChoice(best + 1 if best is not None and posteriors[best].ships else 0, posteriors)


def headroom(baseline_losses: FloatArray) -> float:
    """Return the factor on the gains of other data sets where the baseline leaves little to gain: 0 to 1.

    A loss can't be reduced by more than it is: at a ceiling of accuracy, gains are small.
    """
    return min(1.0, float(baseline_losses.mean()) / USUAL_LOSS) if len(baseline_losses) else 1.0


def posterior(reductions: FloatArray, prior: OptionPrior, widening: float = 1.0) -> Posterior:
    """Return the distribution of an option's gain, given each image's reduction of the loss (N,), in nats."""
    if not len(reductions):
        return posterior_of(0.0, math.inf, prior)
    return posterior_of(float(reductions.mean()), standard_error(reductions) * widening, prior)


def posterior_of(measured: float, error: float, prior: OptionPrior) -> Posterior:
    """Return the distribution of an option's gain, measured in nats with a standard error; infinite: not measured."""
    variance = prior.spread**2
    share = variance / (variance + error**2) if variance else 0.0  # of the measurement in the posterior mean
    mean = prior.mean + share * (measured - prior.mean)
    sd = math.sqrt(variance * (1 - share))
    points = prior.points + prior.points_per_nat * (mean - prior.mean)
    points_spread = math.hypot(prior.points_per_nat * sd, prior.points_spread)
    return Posterior(mean, sd, points, points_spread, _below_zero(points, points_spread))


def standard_error(reductions: FloatArray) -> float:
    """Return the standard error of the mean of paired differences (N,), N > 0.

    One more image without any difference is counted, so that few images that agree don't pass for certainty: for one
    image the standard error is half of its difference (compare ``calibration.LAPLACE_PSEUDO_ERROR``).
    """
    return float(np.append(reductions, 0.0).std(ddof=1)) / math.sqrt(len(reductions) + 1)


def dependence(validation_images: Sequence[int], n_train: int) -> float:
    """Return the ratio of the standard error of a mean over folds to that of independent images.

    The correction is that of Nadeau & Bengio (2003, section 3; see ``crossfit.py``) for J folds: the variance
    1 / J becomes 1 / J + n_val / n_train.  A single set of validation images is scored by one model and needs none.

    Args:
        validation_images: The number of validation images of each fold.
        n_train: The number of all training images, those of the folds included.
    """
    if len(validation_images) < 2:
        return 1.0
    per_fold = sum(validation_images) / len(validation_images)
    return math.sqrt(1 + len(validation_images) * per_fold / max(n_train - per_fold, 1.0))


def _below_zero(mean: float, sd: float) -> float:
    """Return the probability that a normal variable is below 0; 1/2 for a constant of 0."""
    if not sd:
        return 0.5 if mean == 0 else float(mean < 0)
    return math.erfc(mean / sd / math.sqrt(2)) / 2
