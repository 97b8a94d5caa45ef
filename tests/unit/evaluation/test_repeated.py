from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from unfreeze.evaluation.repeated import corrected_t, holm


def test_without_a_test_set_it_is_students() -> None:
    gains = [0.02, 0.05, -0.01, 0.03]
    found = corrected_t(gains, n_train=100, n_test=0)
    assert found.p_value == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
    assert found.ci95 == pytest.approx(stats.ttest_1samp(gains, 0).confidence_interval())


def test_the_variance_is_nadeau_and_bengios() -> None:
    gains = [0.02, 0.05, -0.01, 0.03, 0.04]
    t = np.mean(gains) / np.sqrt((1 / 5 + 20 / 80) * np.var(gains, ddof=1))
    found = corrected_t(gains, n_train=80, n_test=20)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), 4))
    assert found.mean == pytest.approx(np.mean(gains))
    assert found.ci95 is not None
    assert sum(found.ci95) / 2 == pytest.approx(found.mean)


def test_one_seed_proves_nothing_and_no_spread_is_no_division_by_zero() -> None:
    assert (corrected_t([0.1], 80, 20).ci95, corrected_t([0.1], 80, 20).p_value) == (None, None)
    assert corrected_t([0.0, 0.0], 80, 20).p_value == 1.0


def test_overlapping_divisions_claim_little_under_the_null() -> None:
    """Two equally good models on the same photos, divided ten times: the plain t-test claims far too much."""
    rng = np.random.default_rng(0)
    claims = np.zeros(2)
    for _ in range(1000):
        change = rng.choice([-1, 0, 1], 100, p=[0.1, 0.8, 0.1])
        gains = [change[rng.permutation(100)[:20]].mean() for _ in range(10)]
        claims += [corrected_t(gains, 80, n_test).p_value < 0.05 for n_test in (20, 0)]  # type: ignore[operator]
    assert claims[0] / 1000 <= 0.07
    assert claims[1] / 1000 > 0.1


def test_holm_agrees_with_statsmodels() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005, 0.9]
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
