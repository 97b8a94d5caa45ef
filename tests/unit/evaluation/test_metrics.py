from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from statsmodels.stats.proportion import proportion_confint

from unfreeze.evaluation.metrics import EPSILON, Scores, calibration_gaps, correct_predictions, log_losses, score
from unfreeze.evaluation.proportions import balanced_interval, wilson
from unfreeze.evaluation.resampling import FloatArray, IntArray, Interval, mean_interval


def draw(n: int, classes: int, rng: np.random.Generator, confidence: float = 1.0) -> tuple[IntArray, FloatArray]:
    """Return labels that follow a softmax, and that softmax sharpened; with ``confidence`` 1 it is calibrated."""
    logits = 2 * rng.normal(size=(n, classes))
    truth, stated = (np.exp(scale * logits) for scale in (1.0, confidence))
    truth, stated = (p / p.sum(1, keepdims=True) for p in (truth, stated))
    labels = (rng.random(n)[:, None] > truth.cumsum(1)).sum(1).clip(0, classes - 1)
    return labels, stated


def slow_ece(labels: IntArray, probabilities: FloatArray) -> float:
    total = 0.0
    for b in range(15):
        inside = [i for i, p in enumerate(probabilities.max(1)) if b / 15 < p <= (b + 1) / 15]
        if inside:
            right = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
            total += len(inside) / len(labels) * abs(right - np.mean([probabilities[i].max() for i in inside]))
    return total


def true_ece(confidence: float) -> float:
    labels, stated = draw(400_000, 5, np.random.default_rng(99), confidence)
    return float(np.abs(calibration_gaps(stated, correct_predictions(labels, stated)).mean(0)).sum())


def holds(interval: Interval, value: float) -> bool:
    return interval[0] <= value <= interval[1]


def every_pair(scores: Scores) -> list[tuple[float, Interval]]:
    return [
        (scores.accuracy, scores.accuracy_ci95),
        (scores.balanced_accuracy, scores.balanced_accuracy_ci95),
        (scores.log_loss, scores.log_loss_ci95),
        (scores.ece, scores.ece_ci95),
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_agree_with_sklearn_and_a_slow_loop(dtype: type[np.float32 | np.float64]) -> None:
    labels, stated = draw(700, 6, np.random.default_rng(0), confidence=1.5)
    stated = stated.astype(dtype)
    scores = score(labels, stated)
    assert scores.n == 700
    assert scores.accuracy == pytest.approx(accuracy_score(labels, stated.argmax(1)))
    assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, stated.argmax(1)))
    assert scores.log_loss == pytest.approx(log_loss(labels, stated, labels=range(6)), rel=1e-5)
    assert scores.ece == pytest.approx(slow_ece(labels, stated))
    assert all(holds(interval, value) for value, interval in every_pair(scores))


def test_the_upper_edge_belongs_to_its_bin() -> None:
    stated = np.array([[1.0, 0.0], [0.6, 0.4], [9 / 15, 6 / 15], [0.5, 0.5]])
    labels = np.array([0, 0, 1, 1])
    assert score(labels, stated).ece == pytest.approx(slow_ece(labels, stated))


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 20), (271, 300)])
def test_wilson_agrees_with_statsmodels(right: int, n: int) -> None:
    assert wilson(right, n) == pytest.approx(proportion_confint(right, n, method="wilson"), abs=1e-12)


def test_classes_that_are_absent_do_not_count() -> None:
    labels = np.array([3, 3, 5, 5, 5, 5])
    stated = np.full((6, 9), 0.05)
    stated[np.arange(6), [3, 0, 5, 5, 5, 1]] = 0.6
    scores = score(labels, stated)
    assert scores.balanced_accuracy == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert score(labels[:2], stated[:2]).balanced_accuracy == 0.5


@pytest.mark.parametrize("groups", [None, ["a", "a", "b", "b", "c", "c", "d", "d"]])
@pytest.mark.parametrize("right", [True, False])
def test_all_right_and_all_wrong_stay_uncertain(groups: list[str | None] | None, right: bool) -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    scores = score(labels, np.eye(2)[labels if right else 1 - labels], groups=groups)
    ends = (scores.accuracy_ci95, scores.balanced_accuracy_ci95)
    if right:
        assert (scores.accuracy, scores.balanced_accuracy, scores.log_loss, scores.ece) == (1, 1, 0, 0)
        assert all(low < 0.8 and high == 1 for low, high in ends)
    else:
        assert (scores.accuracy, scores.balanced_accuracy, scores.ece) == (0, 0, 1)
        assert scores.log_loss == pytest.approx(-math.log(EPSILON))
        assert all(low == 0 and high > 0.2 for low, high in ends)


def test_one_image() -> None:
    scores = score(np.array([1]), np.array([[0.3, 0.7]]))
    assert scores.accuracy == scores.balanced_accuracy == 1
    assert scores.log_loss_ci95 == pytest.approx((-math.log(0.7),) * 2)
    assert scores.ece == pytest.approx(0.3)
    assert holds(scores.ece_ci95, scores.ece)


def test_the_seed_decides_the_interval() -> None:
    labels, stated = draw(50, 3, np.random.default_rng(1))
    assert score(labels, stated, seed=4) == score(labels, stated, seed=4)
    assert score(labels, stated, seed=4) != score(labels, stated, seed=5)


def test_lonely_groups_are_no_groups() -> None:
    labels, stated = draw(40, 3, np.random.default_rng(2))
    plain = score(labels, stated)
    assert score(labels, stated, groups=[None] * 40) == plain
    assert score(labels, stated, groups=[str(i) for i in range(40)]) == plain


def test_repeated_images_widen_every_interval() -> None:
    labels, stated = draw(60, 3, np.random.default_rng(3))
    labels, stated = np.repeat(labels, 8), np.repeat(stated, 8, axis=0)
    naive = score(labels, stated)
    grouped = score(labels, stated, groups=[str(i // 8) for i in range(480)])
    for (value, (low, high)), (same, (group_low, group_high)) in zip(
        every_pair(naive), every_pair(grouped), strict=True
    ):
        assert value == same
        assert group_high - group_low > 1.3 * (high - low)


@pytest.mark.parametrize(
    ("labels", "stated"),
    [
        (np.array([], int), np.empty((0, 2))),
        (np.array([0]), np.array([0.5, 0.5])),
        (np.array([0, 1]), np.array([[0.5, 0.5]])),
        (np.array([2]), np.array([[0.5, 0.5]])),
        (np.array([-1]), np.array([[0.5, 0.5]])),
        (np.array([0.0]), np.array([[0.5, 0.5]])),
        (np.array([0]), np.array([[0.5, np.nan]])),
        (np.array([0]), np.array([[2.0, 3.0]])),
        (np.array([0]), np.array([[-0.5, 1.5]])),
    ],
)
def test_what_is_not_a_prediction_is_refused(labels: IntArray, stated: FloatArray) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        score(labels, stated)


def test_groups_must_match_the_images() -> None:
    with pytest.raises(ValueError, match="1 groups for 2 images"):
        score(np.array([0, 1]), np.eye(2), groups=["a"])


def test_intervals_of_both_accuracies_hold_95_per_cent() -> None:
    rng = np.random.default_rng(4)
    recall, n_class = np.array([0.95, 0.8, 0.6]), np.array([180, 90, 30])
    right = rng.binomial(n_class, recall, size=(4000, 3))
    pooled = rng.binomial(300, 0.85, size=4000)
    covered = np.mean([holds(wilson(int(k), 300), 0.85) for k in pooled])
    balanced = np.mean([holds(balanced_interval(k, n_class), recall.mean()) for k in right])
    assert 0.93 <= covered <= 0.97
    assert 0.93 <= balanced <= 0.97


@pytest.mark.parametrize(("classes", "each"), [(10, 5), (30, 10), (2, 30)])
def test_balanced_interval_holds_for_many_small_classes(classes: int, each: int) -> None:
    recall, n_class = np.linspace(0.7, 0.98, classes), np.full(classes, each)
    right = np.random.default_rng(5).binomial(each, recall, size=(2000, classes))
    assert 0.93 <= np.mean([holds(balanced_interval(k, n_class), recall.mean()) for k in right]) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [1.0, 1.5])
def test_intervals_of_loss_and_ece_hold(confidence: float) -> None:
    rng, target = np.random.default_rng(6), true_ece(confidence)
    big = draw(400_000, 5, np.random.default_rng(98), confidence)
    loss = float(-np.log(big[1][np.arange(len(big[0])), big[0]]).mean())
    scores = [score(*draw(200, 5, rng, confidence)) for _ in range(100)]
    assert np.mean([holds(s.ece_ci95, target) for s in scores]) >= 0.93
    assert np.mean([holds(s.log_loss_ci95, loss) for s in scores]) >= 0.9
    held = [holds(mean_interval(log_losses(*draw(200, 5, rng, confidence)), seed=i), loss) for i in range(1000)]
    assert 0.93 <= np.mean(held) <= 0.97
