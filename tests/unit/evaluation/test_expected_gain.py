from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import norm
from tests.support.priors import linear

from unfreeze.evaluation.crossfit import inflation
from unfreeze.evaluation.expected_gain import (
    OptionPrior,
    choose_option,
    dependence,
    headroom,
    posterior,
    standard_error,
)

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
PRIOR = linear(0.03, 0.05)


@dataclass(frozen=True)
class Same:
    """The same prior for every option."""

    row: OptionPrior

    def of(self, option: str) -> OptionPrior:
        return self.row


def reductions(mean: float, sd: float, count: int, seed: int = 0) -> Floats:
    """Reductions of the loss whose mean and standard deviation are exactly these."""
    noise = np.random.default_rng(seed).normal(size=count)
    found: Floats = mean + sd * (noise - noise.mean()) / noise.std()
    return found


def test_the_posterior_is_that_of_two_normal_distributions_on_a_grid() -> None:
    measured = reductions(0.1, 0.4, 60)
    found = posterior(measured, PRIOR, widening=1.5)
    error = 1.5 * standard_error(measured)
    gains = np.linspace(-1, 1, 200_001)
    density = norm.pdf(gains, PRIOR.mean, PRIOR.spread) * norm.pdf(measured.mean(), gains, error)
    density /= density.sum()
    mean = float((gains * density).sum())
    assert found.mean == pytest.approx(mean, abs=1e-6)
    assert found.sd == pytest.approx(math.sqrt(((gains - mean) ** 2 * density).sum()), abs=1e-6)
    points = np.random.default_rng(0).choice(gains, 400_000, p=density) * 40
    points += np.random.default_rng(1).normal(0, 2, len(points))
    assert found.points == pytest.approx(points.mean(), abs=0.02)
    assert found.points_spread == pytest.approx(points.std(), abs=0.02)
    assert found.p_worse == pytest.approx((points < 0).mean(), abs=0.003)


def test_without_images_the_prior_alone_tells() -> None:
    found = posterior(np.empty(0), PRIOR)
    assert (found.mean, found.sd, found.points) == pytest.approx((0.03, 0.05, 1.2))
    assert found.p_worse == pytest.approx(norm.cdf(-1.2 / math.hypot(2.0, 2.0)))


def test_many_images_decide_and_few_hardly_move_the_prior() -> None:
    harm = [posterior(reductions(-0.05, 0.4, count), PRIOR).mean for count in (2, 40, 100_000)]
    assert harm == sorted(harm, reverse=True)
    assert harm[0] == pytest.approx(0.03, abs=0.01)
    assert harm[-1] == pytest.approx(-0.05, abs=0.001)


def test_few_images_that_agree_are_not_certain() -> None:
    assert standard_error(np.array([0.2])) == pytest.approx(0.1)
    assert standard_error(np.full(3, 0.2)) == pytest.approx(0.05)
    many = reductions(0.1, 0.4, 1000)
    assert standard_error(many) == pytest.approx(many.std() / math.sqrt(1000), rel=0.01)
    assert standard_error(np.zeros(5)) == 0
    assert posterior(np.zeros(5), PRIOR).mean == 0  # the same predictions gain nothing, whatever the prior says


def test_a_certain_prior_is_not_moved() -> None:
    certain = OptionPrior(mean=0.03, spread=0.0, points=1.2, points_per_nat=40.0, points_spread=0.0)
    found = posterior(reductions(-0.5, 0.1, 50), certain)
    assert (found.mean, found.sd, found.points_spread, found.p_worse) == (0.03, 0.0, 0.0, 0.0)


def test_the_option_with_the_highest_expectation_is_chosen_or_none_of_them() -> None:
    baseline = np.ones(80)
    losses = [baseline - reductions(mean, 0.3, 80, seed) for seed, mean in enumerate((0.05, 0.12, -0.4))]
    options = [(str(number), each) for number, each in enumerate(losses)]
    chosen = choose_option(baseline, options, Same(PRIOR))
    assert chosen.index == 2
    assert [each.mean for each in chosen.posteriors] == [posterior(baseline - each, PRIOR).mean for each in losses]
    assert choose_option(baseline, options[2:], Same(PRIOR)).index == 0
    assert choose_option(baseline, [], Same(PRIOR)).index == 0


@pytest.mark.parametrize(("mean", "index"), [(0.01, 1), (-0.01, 0), (0.0, 0)])
def test_without_images_what_gained_elsewhere_is_chosen(mean: float, index: int) -> None:
    nothing = np.empty(0)
    assert choose_option(nothing, [("any", nothing)], Same(linear(mean, 0.1))).index == index


def test_accuracy_decides_where_other_data_sets_gained_it_without_log_loss() -> None:
    baseline = np.ones(80)
    as_good, better = (baseline - reductions(mean, 0.3, 80) for mean in (0.0, 0.1))
    gains = OptionPrior(mean=0.0, spread=0.05, points=1.0, points_per_nat=30.0, points_spread=2.0)
    loses = OptionPrior(mean=0.0, spread=0.05, points=-3.0, points_per_nat=30.0, points_spread=2.0)
    assert choose_option(baseline, [("any", as_good)], Same(gains)).index == 1
    assert choose_option(baseline, [("any", better)], Same(loses)).index == 0
    expected = choose_option(baseline, [("any", better)], Same(gains)).posteriors[0]
    assert expected.points == pytest.approx(1.0 + 30 * expected.mean)
    assert expected.p_worse == pytest.approx(norm.cdf(-expected.points / expected.points_spread))


def test_standard_errors_are_widened_as_those_of_cross_fitted_scores() -> None:
    assert dependence([20] * 5, 100) == pytest.approx(inflation(5))
    assert dependence([10] * 10, 100) == pytest.approx(inflation(10))
    assert dependence([20] * 4, 100) == pytest.approx(math.sqrt(2))  # the other folds of five
    assert dependence([30], 100) == 1
    assert dependence([], 100) == 1


# How good and how stable the choice is


DRAWS, IMAGES, SD = 4000, 60, 0.45  # the spread of an image's difference is that of phase 2 at 20 images a class


def simulated(seed: int) -> tuple[Floats, list[Floats]]:
    """Draw the true gain of each run from the prior, and the reductions of its validation images."""
    random = np.random.default_rng(seed)
    truth = random.normal(PRIOR.mean, PRIOR.spread, DRAWS)
    return truth, [true + random.normal(0, SD, IMAGES) for true in truth]


def chosen_by_expectation(measured: list[Floats]) -> Floats:
    zeros = np.zeros(IMAGES)
    return np.array([choose_option(zeros + 1, [("any", 1 - each)], Same(PRIOR)).index for each in measured])


def test_choosing_by_expectation_is_the_best_rule_and_beats_both_always_and_significance() -> None:
    truth, measured = simulated(0)
    by_expectation = (truth * chosen_by_expectation(measured)).mean()
    z = np.array([each.mean() / (each.std() / math.sqrt(IMAGES)) for each in measured])
    by_threshold = [(truth * (z > threshold)).mean() for threshold in np.linspace(-4, 4, 161)]
    noise = 3 * truth.std() / math.sqrt(DRAWS) / 10  # rules that differ in a tenth of the runs
    assert by_expectation == pytest.approx(max(by_threshold), abs=noise)
    assert by_expectation > truth.mean() + noise
    assert by_expectation > (truth * (z > 1.645)).mean() + noise


def test_expectations_are_true_on_average() -> None:
    truth, measured = simulated(1)
    expected = np.array([posterior(each, PRIOR).mean for each in measured])
    for group in np.array_split(np.argsort(expected), 5):
        error = PRIOR.spread / math.sqrt(len(group))
        assert truth[group].mean() == pytest.approx(expected[group].mean(), abs=3 * error)


def test_options_that_are_noise_cost_nothing() -> None:
    """Eight options that all are worth nothing, one of which is often shipped: its true gain is 0 on average."""
    random = np.random.default_rng(2)
    noise = linear(0.0, 0.02)
    gained, shipped = [], []
    for _ in range(1500):
        truth = random.normal(0, noise.spread, 8)
        options = [(str(number), 1 - (true + random.normal(0, SD, IMAGES))) for number, true in enumerate(truth)]
        index = choose_option(np.ones(IMAGES), options, Same(noise)).index
        shipped.append(index > 0)
        gained.append(truth[index - 1] if index else 0.0)
    assert np.mean(shipped) > 0.9
    assert np.mean(gained) * noise.points_per_nat > 0


@pytest.mark.parametrize("count", [20, 60, 200])
def test_a_small_change_of_the_losses_changes_the_expected_accuracy_of_the_choice_by_little(count: int) -> None:
    random = np.random.default_rng(3)
    moved = []
    for _ in range(300):
        baseline = random.exponential(0.5, count)
        options = [(str(number), baseline + random.normal(0, SD, count)) for number in range(4)]
        shaken = [(name, losses + random.uniform(-1e-3, 1e-3, count)) for name, losses in options]
        before = choose_option(baseline, options, Same(PRIOR))
        after = choose_option(baseline + random.uniform(-1e-3, 1e-3, count), shaken, Same(PRIOR))
        worth = [0.0, *(each.points for each in before.posteriors)]
        moved.append(abs(worth[after.index] - worth[before.index]))
    assert max(moved) < 0.2


def test_at_a_ceiling_little_is_expected_of_what_gained_elsewhere() -> None:
    prior = OptionPrior(mean=0.03, spread=0.03, points=1.0, points_per_nat=30.0, points_spread=1.5)
    gains = []
    for level in (1.0, 0.5, 0.05, 0.0):
        losses = np.full(100, level)
        (expected,) = choose_option(losses, [("any", losses)], Same(prior)).posteriors
        gains.append((expected.points, expected.points_spread, expected.mean))
    assert gains[0] == gains[1]
    assert gains[1][0] > 9 * gains[2][0] > 0
    assert gains[3] == (0, 0, 0)


def test_without_images_nothing_is_known_of_a_ceiling() -> None:
    assert headroom(np.empty(0)) == 1


def test_at_a_ceiling_a_small_loss_is_enough_to_keep_the_baseline() -> None:
    prior = OptionPrior(mean=0.03, spread=0.04, points=1.0, points_per_nat=30.0, points_spread=1.5)
    low = np.abs(np.random.default_rng(0).normal(0.05, 0.03, 180))
    worse = low + np.random.default_rng(1).normal(0.014, 0.04, 180)
    assert choose_option(low, [("any", worse)], Same(prior)).index == 0
