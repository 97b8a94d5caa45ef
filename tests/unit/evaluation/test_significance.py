from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from unfreeze.evaluation.metrics import score
from unfreeze.evaluation.resampling import FloatArray, IntArray
from unfreeze.evaluation.significance import changed, detectable_gain, gain, mcnemar_exact, needed_n, sign_flip_exact


def pair(
    n: int, fixed: float, broken: float, rng: np.random.Generator, copies: int = 1
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Return labels of two classes, 3 to 1, and two models; the second is truly better by ``fixed - broken``.

    Every image stands ``copies`` times in a row.
    """
    labels = (rng.random(n) < 0.25).astype(int)
    kind = rng.choice(4, size=n, p=[fixed, broken, 0.1, 0.9 - fixed - broken])
    right_before, right_after = np.isin(kind, [1, 3]), np.isin(kind, [0, 3])
    before, after = (np.where(right, labels, 1 - labels) for right in (right_before, right_after))
    labels, before, after = (np.repeat(part, copies) for part in (labels, before, after))
    return labels, 0.8 * np.eye(2)[before] + 0.1, 0.8 * np.eye(2)[after] + 0.1


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (1, 0), (5, 0), (6, 0), (3, 9), (40, 22), (10, 10)])
def test_mcnemar_agrees_with_statsmodels(fixed: int, broken: int) -> None:
    expected = mcnemar([[50, broken], [fixed, 7]], exact=True).pvalue if fixed + broken else 1.0
    assert mcnemar_exact(fixed, broken) == pytest.approx(min(1, expected))
    assert sign_flip_exact(np.repeat([1, -1], [fixed, broken])) == pytest.approx(min(1, expected))


def test_sign_flip_agrees_with_all_swaps() -> None:
    net = np.array([3, -1, 0, 4, 2, 2, -3, 5])
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(net))).reshape(len(net), -1).T
    assert sign_flip_exact(net) == pytest.approx(np.mean(np.abs(signs @ net) >= abs(net.sum())))


def test_what_changed_is_what_the_gain_counts_and_what_moved_most_comes_first() -> None:
    labels, before, after = pair(400, 0.15, 0.03, np.random.default_rng(0))
    found, counted = changed(labels, before, after), gain(labels, before, after)
    assert tuple(map(len, found)) == (counted.fixed, counted.broken)
    before = np.array([[0.6, 0.4], [0.9, 0.1], [0.45, 0.55], [0.2, 0.8], [0.7, 0.3], [0.7, 0.3]])
    after = np.array([[0.4, 0.6], [0.3, 0.7], [0.55, 0.45], [0.95, 0.05], [0.6, 0.4], [0.7, 0.3]])
    fixed, broken = changed(np.array([1, 1, 1, 1, 0, 1]), before, after)
    assert (fixed.tolist(), broken.tolist()) == ([1, 0], [3, 2])


def test_gain_is_the_difference_of_the_scores() -> None:
    labels, before, after = pair(400, 0.15, 0.03, np.random.default_rng(0))
    found, a, b = gain(labels, before, after), score(labels, before), score(labels, after)
    assert found.accuracy == pytest.approx(b.accuracy - a.accuracy)
    assert found.balanced_accuracy == pytest.approx(b.balanced_accuracy - a.balanced_accuracy)
    assert found.log_loss == pytest.approx(b.log_loss - a.log_loss)
    assert found.log_loss < 0
    assert (found.n, found.fixed - found.broken) == (400, round(400 * found.accuracy))
    assert found.test == "mcnemar_exact"
    assert found.proven
    worse = gain(labels, after, before)
    assert worse.accuracy == -found.accuracy
    assert worse.p_value == found.p_value
    assert not worse.proven


@pytest.mark.parametrize("groups", [None, ["a", "b"] * 30])
def test_identical_models_gain_exactly_nothing(groups: list[str | None] | None) -> None:
    labels, before, _ = pair(60, 0.1, 0.1, np.random.default_rng(1))
    same = gain(labels, before, before.copy(), groups=groups)
    assert (same.accuracy, same.balanced_accuracy, same.log_loss) == (0, 0, 0)
    assert {same.accuracy_ci95, same.balanced_accuracy_ci95, same.log_loss_ci95} == {(0.0, 0.0)}
    assert (same.fixed, same.broken, same.p_value, same.proven) == (0, 0, 1, False)


def test_few_changed_images_prove_nothing() -> None:
    labels = np.zeros(40, int)
    after = np.tile([0.9, 0.1], (40, 1))
    before = after.copy()
    before[:5] = [0.1, 0.9]
    found = gain(labels, before, after)
    assert found.accuracy_ci95[0] > 0
    assert found.p_value == 2 * 0.5**5
    assert not found.proven


def test_one_image_and_one_group_prove_nothing() -> None:
    assert not gain(np.array([0]), np.array([[0.1, 0.9]]), np.array([[0.9, 0.1]])).proven
    labels, before, after = pair(200, 0.5, 0.0, np.random.default_rng(2))
    assert gain(labels, before, after).proven
    found = gain(labels, before, after, groups=["one patient"] * 200)
    assert (found.p_value, found.test, found.proven) == (1, "group_sign_flip", False)
    assert found.accuracy_ci95[0] < found.accuracy < found.accuracy_ci95[1]


def test_repeated_images_widen_the_interval_and_raise_p() -> None:
    labels, before, after = pair(80, 0.15, 0.05, np.random.default_rng(3), copies=6)
    naive = gain(labels, before, after)
    grouped = gain(labels, before, after, groups=[str(i // 6) for i in range(480)])
    assert grouped.accuracy == naive.accuracy
    for wide, narrow in [
        (grouped.accuracy_ci95, naive.accuracy_ci95),
        (grouped.balanced_accuracy_ci95, naive.balanced_accuracy_ci95),
        (grouped.log_loss_ci95, naive.log_loss_ci95),
    ]:
        assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    assert grouped.p_value > naive.p_value


@pytest.mark.slow
def test_under_the_null_intervals_hold_and_little_is_proven() -> None:
    rng = np.random.default_rng(4)
    draws = [gain(*pair(300, 0.08, 0.08, rng), seed=i) for i in range(500)]
    covered = np.mean([d.accuracy_ci95[0] <= 0 <= d.accuracy_ci95[1] for d in draws])
    balanced = np.mean([d.balanced_accuracy_ci95[0] <= 0 <= d.balanced_accuracy_ci95[1] for d in draws])
    assert 0.93 <= covered <= 0.97
    assert 0.93 <= balanced <= 0.97
    assert np.mean([d.proven for d in draws]) <= 0.05
    assert np.mean([d.p_value < 0.05 for d in draws]) <= 0.05


def test_under_the_null_with_groups_little_is_proven() -> None:
    rng = np.random.default_rng(5)
    groups: list[str | None] = [str(i // 5) for i in range(100)]
    draws = [pair(20, 0.2, 0.2, rng, copies=5) for _ in range(150)]
    grouped = [gain(*draw, groups=groups, seed=i).proven for i, draw in enumerate(draws)]
    naive = [gain(*draw, seed=i).proven for i, draw in enumerate(draws[:60])]
    assert np.mean(grouped) <= 0.05
    assert np.mean(naive) > 0.1


def test_a_planted_gain_is_found() -> None:
    rng = np.random.default_rng(6)
    assert np.mean([gain(*pair(600, 0.13, 0.05, rng), seed=i).proven for i in range(30)]) >= 0.8


def test_the_sample_size_is_connors() -> None:
    assert needed_n(0.05) == 312
    assert needed_n(0.03) == 870
    assert detectable_gain(312) == pytest.approx(0.05, rel=0.01)
    assert detectable_gain(870) == pytest.approx(0.03, rel=0.01)


@pytest.mark.parametrize("n", [6, 20, 75, 76, 77, 1000, 100_000])
def test_detectable_gain_inverts_needed_n(n: int) -> None:
    assert needed_n(detectable_gain(n)) == pytest.approx(n, abs=1)


def test_the_needed_images_find_the_gain() -> None:
    n = needed_n(0.05, discordance=0.15)
    draws = np.random.default_rng(7).multinomial(n, [0.1, 0.05, 0.85], size=1000)
    assert np.mean([mcnemar_exact(fixed, broken) < 0.05 for fixed, broken, _ in draws]) == pytest.approx(0.8, abs=0.05)


def test_hopeless_sizes_and_wrong_arguments() -> None:
    assert detectable_gain(5) == math.inf
    for arguments in [(0.0,), (0.05, 0.0), (0.05, 0.1, 1.0), (1.5,)]:
        with pytest.raises(ValueError, match="fractions above 0"):
            needed_n(*arguments)
    with pytest.raises(ValueError, match="must be"):
        gain(np.array([0]), np.eye(2), np.eye(2))
