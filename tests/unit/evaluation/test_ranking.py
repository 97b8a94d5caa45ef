from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from unfreeze.evaluation.ranking import mann_whitney_interval, roc_auc_and_ap, roc_auc_and_ap_in_resamples, sensitivity
from unfreeze.evaluation.resampling import FloatArray


def drawn(n: int, apart: float, rng: np.random.Generator, steps: int = 0) -> tuple[FloatArray, FloatArray]:
    """Return classes, and scores that are normal in each, ``apart`` standard deviations from each other."""
    positive = (rng.random(n) < 0.3).astype(float)
    scores = rng.normal(size=n) + apart * positive
    return positive, np.round(scores * steps) / steps if steps else scores


@pytest.mark.parametrize("steps", [0, 2])  # 2: many scores are equal
def test_areas_agree_with_sklearn_in_every_resample(steps: int) -> None:
    rng = np.random.default_rng(0)
    positive, scores = drawn(200, 1.0, rng, steps)
    counts = rng.integers(0, 3, (5, 200)).astype(float)
    roc, average = roc_auc_and_ap(positive, scores, counts)
    for row, weights in enumerate(counts):
        kept = weights > 0
        assert roc[row] == pytest.approx(roc_auc_score(positive[kept], scores[kept], sample_weight=weights[kept]))
        assert average[row] == pytest.approx(
            average_precision_score(positive[kept], scores[kept], sample_weight=weights[kept])
        )


def test_a_resample_without_positives_has_no_area() -> None:
    roc, average = roc_auc_and_ap(np.array([1.0, 0, 0]), np.array([0.9, 0.1, 0.2]), np.array([[0.0, 2, 1]]))
    assert np.isnan(roc[0])
    assert np.isnan(average[0])


def test_the_interval_of_a_roc_area_holds() -> None:
    rng = np.random.default_rng(1)
    true = 0.7602499389065233  # of normal scores one standard deviation apart
    covered = 0
    for _ in range(2000):
        positive, scores = drawn(150, 1.0, rng)
        (roc, *_), _ = roc_auc_and_ap(positive, scores)
        low, high = mann_whitney_interval(float(roc), int(positive.sum()), int((1 - positive).sum()))
        covered += low <= true <= high
    assert 0.93 <= covered / 2000 <= 0.97


@pytest.mark.parametrize("area", [0.0, 1.0])
def test_a_perfect_order_stays_uncertain(area: float) -> None:
    low, high = mann_whitney_interval(area, 10, 30)
    assert (low, high) == ((0.0, high) if area == 0 else (low, 1.0))
    assert 0.02 < high - low < 0.3


def test_resamples_of_groups_spread_more() -> None:
    positive, scores = drawn(60, 1.0, np.random.default_rng(3))
    own = np.tile(np.column_stack([1 - positive, positive]), (8, 1))
    stated = np.tile(np.column_stack([-scores, scores]), (8, 1))
    alone = roc_auc_and_ap_in_resamples(own, stated)
    grouped = roc_auc_and_ap_in_resamples(own, stated, groups=[f"patient {number}" for number in range(60)] * 8)
    for few, many in zip(alone, grouped, strict=True):
        assert few.shape == (200, 2)
        assert (many.std(0) > 2 * few.std(0)).all()


def test_sensitivity_is_the_best_of_the_roc_curve_at_that_specificity() -> None:
    positive, scores = drawn(400, 1.5, np.random.default_rng(4))
    false, true, _ = roc_curve(positive, scores)
    found, (low, high) = sensitivity(positive, scores, 0.9)
    assert found == pytest.approx(true[false <= 0.1 + 1e-9].max())
    assert low < found < high
