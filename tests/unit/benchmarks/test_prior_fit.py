"""The fit of the prior, against sets whose true gains are drawn from a known distribution."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.prior import (
    MIN_SPREAD,
    USUAL_DIFFERENCE,
    Row,
    by_points,
    evaluate,
    fit_prior,
    fold_error,
    random_effects,
    read,
    table_of,
    value_of_measuring,
    write,
)

from unfreeze.evaluation.expected_gain import OptionPrior, posterior_of
from unfreeze.evaluation.prior import COLUMNS, TABLE, read_table

MEAN, BETWEEN, WITHIN, TEST, FOLDS = 0.04, 0.05, 0.03, 0.02, 0.06
SLOPE, POINTS, RESIDUAL, TEST_POINTS = 30.0, 2.0, 1.0, 1.5
OPTION = "phase2:top-third:0.5"
CELL = ("scarce", "batch norm")


def drawn(n_sets: int, n_seeds: int, seed: int = 0, *, mean: float = MEAN, option: str = OPTION) -> list[Row]:
    """Draw the true gain of each set, of each run about its set's, and what tests and folds measure of it."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(n_sets):
        of_set = random.normal(mean, BETWEEN)
        for run in range(n_seeds):
            true = random.normal(of_set, WITHIN)
            points = POINTS + SLOPE * (true - mean) + random.normal(0, RESIDUAL)
            rows.append(
                Row(
                    set=f"set {number}", a_class=20, seed=run, family="batch norm", option=option, n_val=60,
                    fold_gain=random.normal(true, FOLDS), fold_se=FOLDS / 1.5,
                    test_gain_nats=random.normal(true, TEST), test_gain_points=random.normal(points, TEST_POINTS),
                    test_se_nats=TEST, test_se_points=TEST_POINTS,
                )
            )  # fmt: skip
    return rows


def test_the_distribution_of_true_gains_is_found_whatever_the_tests_add_to_it() -> None:
    fit = fit_prior(drawn(400, 4))[CELL][OPTION]
    assert (fit.sets, fit.runs) == (400, 1600)
    assert fit.prior.mean == pytest.approx(MEAN, abs=0.008)
    assert fit.prior.spread == pytest.approx(np.hypot(BETWEEN, WITHIN), rel=0.1)
    assert fit.prior.points == pytest.approx(POINTS, abs=0.3)
    assert fit.prior.points_per_nat == pytest.approx(SLOPE, rel=0.15)
    assert RESIDUAL * 0.8 < fit.prior.points_spread < 1.5


def test_without_their_standard_errors_the_tests_errors_are_in_the_spread() -> None:
    rows = [replace(row, test_se_nats=None, test_se_points=None) for row in drawn(400, 4)]
    found = fit_prior(rows)[CELL][OPTION].prior.spread
    assert found == pytest.approx(np.sqrt(BETWEEN**2 + WITHIN**2 + TEST**2), rel=0.1)


def test_a_set_counts_once_however_many_seeds_it_has() -> None:
    many, few = drawn(1, 50, mean=0.2), drawn(12, 2, seed=1, mean=0.0)
    few = [replace(row, set=f"other {row.set}") for row in few]
    assert fit_prior([*many, *few])[CELL][OPTION].prior.mean < 0.06


def test_the_variance_between_sets_is_that_of_dersimonian_and_laird() -> None:
    """A worked example: three sets of two runs each."""
    found = random_effects([[1.0, 1.2], [2.0, 2.4], [4.0, 4.0]], 0.01)
    within = (0.02 + 0.08 + 0.0) / 3
    variance = within / 2
    means = np.array([1.1, 2.2, 4.0])
    q = ((means - means.mean()) ** 2).sum() / variance
    between = (q - 2) / (3 / variance - 1 / variance)
    assert found.between == pytest.approx(between)
    assert found.within == pytest.approx(within - 0.01)
    assert found.mean == pytest.approx(means.mean())
    assert found.error == pytest.approx((variance + between) / 3)


def test_sets_that_happen_to_agree_leave_a_spread() -> None:
    rows = [row for row in drawn(3, 1) if row.seed == 0]
    same = [replace(row, test_gain_nats=0.05) for row in rows]
    assert fit_prior(same)[CELL][OPTION].prior.spread >= MIN_SPREAD


def test_few_sets_hardly_tell_whether_points_follow_from_anything_but_nats() -> None:
    few, many = ([replace(row, test_gain_nats=0.0, test_gain_points=2.0) for row in drawn(n, 1)] for n in (4, 396))
    assert fit_prior(few)[CELL][OPTION].prior.points == pytest.approx(1.0)
    assert fit_prior(many)[CELL][OPTION].prior.points == pytest.approx(1.98)


def test_regimes_and_families_have_tables_of_their_own() -> None:
    scarce = drawn(4, 1)
    others = [replace(row, a_class=100, family="layer norm", test_gain_nats=-0.1) for row in scarce]
    fits = fit_prior([*scarce, *others])
    assert set(fits) == {CELL, ("middle", "layer norm")}
    assert fits["middle", "layer norm"][OPTION].prior.mean == pytest.approx(-0.1)


def test_rules_are_evaluated_with_the_prior_of_the_other_sets() -> None:
    """One set loses what all others gain: its own runs may not tell the prior so."""
    rows = [
        *(replace(row, fold_se=10.0, test_gain_points=2.0) for row in drawn(5, 2)),
        *(replace(row, set="odd", fold_se=10.0, test_gain_nats=-9.0, test_gain_points=-9.0) for row in drawn(1, 2)),
    ]
    lines = list(evaluate(rows, "phase2"))
    header = next(line for line in lines if line.startswith("| rule"))
    shipped = next(line for line in lines if line.startswith("| highest expected accuracy"))
    by_set = dict(zip(header.split(" | "), shipped.split(" | "), strict=True))
    assert float(by_set["odd"]) == -9.0


def test_the_expected_accuracy_ships_more_than_significance_and_than_always_on_sets_that_were_not_fitted() -> None:
    known = table_of(fit_prior(drawn(40, 2, seed=1, mean=0.01))[CELL])
    runs = [{row.option: row} for row in drawn(300, 2, seed=2, mean=0.01)]
    true = [next(iter(run.values())).test_gain_points for run in runs]
    shipped = [by_points(run, known) for run in runs]
    mean = np.mean([row.test_gain_points if row else 0.0 for row in shipped])
    significant = [
        row.test_gain_points if row.fold_gain > 1.645 * row.fold_se else 0.0 for run in runs for row in run.values()
    ]
    assert mean > np.mean(true)
    assert mean > np.mean(significant)


def test_the_error_of_the_folds_is_found() -> None:
    text = fold_error(drawn(400, 4))
    assert "too small by a factor of 1.5" in text or "too small by a factor of 1.4" in text


def test_what_is_written_is_read_again_and_rows_that_were_not_fitted_stay(tmp_path: Path) -> None:
    path = tmp_path / "prior.csv"
    path.write_text(TABLE.read_text(encoding="utf-8"), encoding="utf-8")
    fits = fit_prior(drawn(6, 2))
    write(fits, path)
    assert path.read_text(encoding="utf-8").splitlines()[0] == ",".join(COLUMNS)
    before, after = read_table(TABLE), read_table(path)
    assert set(before) == set(after)
    for cell, option in itertools.product(before, before[CELL].rows):
        if (cell, option) == (CELL, OPTION):
            written = after[cell].rows[option]
            assert written.mean == pytest.approx(fits[cell][option].prior.mean, rel=1e-3)
        elif option in before[cell].rows:
            assert after[cell].rows[option] == before[cell].rows[option]


def test_rows_are_read_from_csv_with_and_without_the_tests_errors(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    columns = "set,a_class,seed,family,option,n_val,fold_gain,fold_se,test_gain_nats,test_gain_points"
    path.write_text(f"{columns},test_se_nats\na,20,0,batch norm,head:stages,60,0.1,0.02,0.05,1.5,\n")
    (row,) = read([path])
    assert (row.cell, row.kind, row.test_se_nats) == (CELL, "head", None)


@pytest.mark.parametrize("points", [-1.0, 0.0, 1.5])
def test_the_value_of_measuring_is_what_choosing_by_the_posterior_gains_in_a_simulation(points: float) -> None:
    prior, n_images = OptionPrior(mean=0.02, spread=0.05, points=points, points_per_nat=30.0, points_spread=1.0), 40
    random = np.random.default_rng(0)
    error = USUAL_DIFFERENCE / n_images**0.5
    true = random.normal(prior.mean, prior.spread, 20_000)
    measured = random.normal(true, error)
    points_of = prior.points + prior.points_per_nat * (true - prior.mean)
    ships = np.array([posterior_of(each, error, prior).ships for each in measured])
    gained = (points_of * ships).mean() - max(0.0, points)
    assert value_of_measuring(prior, n_images) == pytest.approx(gained, abs=0.03)
    assert value_of_measuring(prior, 10 * n_images) > value_of_measuring(prior, n_images)
