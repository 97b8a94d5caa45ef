from __future__ import annotations

import numpy as np
import pytest

from unfreeze.evaluation import resampling
from unfreeze.evaluation.resampling import FloatArray, bootstrap, group_codes, mean_interval


def test_images_without_a_group_stand_alone() -> None:
    codes = group_codes(["b", None, "a", "b", None], 5)
    assert codes is not None
    assert codes.tolist() == [0, 1, 2, 0, 3]
    assert group_codes(["a", "b", None], 3) is None
    assert group_codes(None, 3) is None


def test_strata_keep_their_sizes() -> None:
    strata = np.array([2, 0, 2, 0, 0, 7])
    seen: list[FloatArray] = []

    def keep(sums: FloatArray) -> FloatArray:
        seen.append(sums)
        return sums

    bootstrap((strata[:, None] == [0, 2, 7]).astype(float), keep, strata=strata)
    assert (seen[0] == [3, 2, 1]).all()


def test_groups_are_drawn_whole() -> None:
    columns = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    seen: list[FloatArray] = []

    def keep(sums: FloatArray) -> FloatArray:
        seen.append(sums)
        return sums

    bootstrap(columns, keep, groups=["x", "x", "y", "y"])
    assert (seen[0] == 2).all()


@pytest.mark.parametrize("n", [10, 300])
def test_the_interval_of_a_mean_is_students(n: int) -> None:
    values = np.random.default_rng(0).normal(size=n)
    from scipy.stats import t

    half = t.isf(0.025, n - 1) * values.std(ddof=1) / np.sqrt(n)
    assert mean_interval(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.2 * half)


def test_the_pieces_of_a_large_draw_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=100)
    whole = mean_interval(values)
    monkeypatch.setattr(resampling, "DRAWS_AT_ONCE", 30_000)
    assert mean_interval(values) == pytest.approx(whole)
