from __future__ import annotations

import csv
import itertools
from typing import get_args

import pytest
from tests.support.priors import linear

from unfreeze.evaluation.prior import (
    COLUMNS,
    TABLE,
    UNKNOWN,
    UNKNOWN_PHASE_TWO,
    WEAK_PRIOR,
    Family,
    PriorTable,
    Regime,
    depth_class,
    packaged_prior,
    phase2_option,
    regime_of,
)
from unfreeze.training.recipes import ALPHAS, CANDIDATE_TABLE


@pytest.mark.parametrize(("regime", "family"), [*itertools.product(get_args(Regime), get_args(Family))])
def test_the_packaged_table_has_what_auto_tries(regime: Regime, family: Family) -> None:
    prior = packaged_prior(regime, family)
    for share, _ in CANDIDATE_TABLE[family, regime]:
        for alpha in ALPHAS:
            assert phase2_option(depth_class(share), alpha) in prior.rows
    assert "head:stages" in prior.rows


def test_the_packaged_table_is_well_formed() -> None:
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    keys = [(row["regime"], row["family"], row["option"]) for row in rows]
    assert len(set(keys)) == len(keys)
    for regime, family, option in keys:
        row = packaged_prior(regime, family).of(option)  # type: ignore[arg-type]
        assert row.spread > 0
        assert row.points_spread > 0
        assert row.points_per_nat > 0


def test_between_the_alphas_of_the_table_the_gain_is_interpolated_from_nothing_at_phase_one() -> None:
    prior = PriorTable({"phase2:half:0.5": linear(0.04, 0.02), "phase2:half:1": linear(0.06, 0.06)})
    assert prior.of("phase2:half:0.5") == linear(0.04, 0.02)
    assert prior.of("phase2:half:1") == linear(0.06, 0.06)
    halfway, small, none = (prior.of(f"phase2:half:{alpha}") for alpha in (0.75, 0.125, 0.0))
    assert (halfway.mean, halfway.spread, halfway.points) == pytest.approx((0.05, 0.04, 2.0))
    assert (small.mean, small.spread, small.points, small.points_per_nat) == pytest.approx((0.01, 0.005, 0.4, 40))
    assert (none.mean, none.spread, none.points) == (0, 0, 0)


def test_options_without_a_row_have_a_weak_prior() -> None:
    prior = PriorTable({"views:*": linear(0.02, 0.03), "phase2:half:1": linear(0.06, 0.06)})
    assert prior.of("views:anything") == linear(0.02, 0.03)
    assert prior.of("head:other") == UNKNOWN
    assert prior.of("phase2:all:1") == UNKNOWN_PHASE_TWO
    assert WEAK_PRIOR.of("phase2:all:0.5").mean == UNKNOWN_PHASE_TWO.mean / 2
    assert prior.without("phase2").of("phase2:half:1") == UNKNOWN_PHASE_TWO
    assert prior.without("phase2").of("views:any") == linear(0.02, 0.03)


@pytest.mark.parametrize(
    ("share", "name"), [(0.2, "top-third"), (1 / 3, "top-third"), (0.45, "half"), (0.9, "all"), (1.0, "all")]
)
def test_depths_are_classed_by_the_share_of_the_stages_that_train(share: float, name: str) -> None:
    assert depth_class(share) == name


@pytest.mark.parametrize(("count", "regime"), [(20, "scarce"), (44, "scarce"), (45, "middle"), (300, "plentiful")])
def test_regimes_are_those_of_the_candidates(count: float, regime: str) -> None:
    assert regime_of(count) == regime
