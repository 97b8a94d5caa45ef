"""The prior of each option's gain: fitted on the rows of many runs, and the rules of shipping that follow from it.

    python -m benchmarks.prior ROWS.csv [ROWS.csv ...]                  the table, and what each rule would have shipped
    python -m benchmarks.prior ROWS.csv --write src/unfreeze/evaluation/prior.csv

A row is one option in one run; an option's gain is that over the baseline of its kind (``unfreeze.evaluation.prior``):

    set             name of the data set
    a_class         images of each class to train on
    seed            decides which ones, and everything else of the run
    family          batch norm | layer norm
    option          phase2:top-third:0.5, head:stages, views:squeezed, ...
    n_val           number of images that were predicted out of fold
    fold_gain       mean reduction of their calibrated log-loss, class-weighted as in ModelSelector, in nats per image
    fold_se         its standard error, images taken to be independent
    test_gain_nats  the same reduction on the test images, by the final models: the true gain, but for the error of the test
    test_gain_points  gain in (balanced) accuracy on the test images, in percentage points
    test_se_nats, test_se_points  (may be absent) their standard errors; without them the spreads hold the tests' errors, too

The model is that of random effects: a set's gain is normal about the option's mean; a run's gain is normal about its set's;
the test measures it with an error.  Seeds of a set are averaged first, so that a set counts once.  Variance between sets:
DerSimonian & Laird (1986).  Every rule is evaluated with the prior of the other sets.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from unfreeze.evaluation.crossfit import inflation
from unfreeze.evaluation.expected_gain import OptionPrior, Posterior, posterior_of
from unfreeze.evaluation.prior import COLUMNS, FIGURES, TABLE, UNKNOWN, PriorTable, read_table, regime_of

WIDENING = inflation(5)
MIN_SPREAD = 0.01
"""Nats.  Sets that happen to agree don't make a gain certain: DerSimonian-Laird gives 0 for a third of small tables."""
USUAL_DIFFERENCE = 0.36
"""Nats: the median standard deviation over images of the losses of head-only and of phase 2 at alpha 1, in the runs of
``options-2026-11-30.csv`` (``fold_se`` times the root of ``n_val``)."""
MIN_SETS = 4  # fewer say too little of how far sets differ
PSEUDO_SETS = 4.0
"""Sets of which nothing is known but that points follow nats as in ``UNKNOWN``: few sets don't tell the slope, nor whether
an option gains points beyond those that follow from its nats (the standard error of six sets' points is 0.6)."""


@dataclass(frozen=True)
class Row:
    """One option in one run; see the module's docstring."""

    set: str
    a_class: int
    seed: int
    family: str
    option: str
    n_val: int
    fold_gain: float
    fold_se: float
    test_gain_nats: float
    test_gain_points: float
    test_se_nats: float | None = None
    test_se_points: float | None = None

    @property
    def run(self) -> tuple[str, int, int, str]:
        return self.set, self.a_class, self.seed, self.family

    @property
    def cell(self) -> tuple[str, str]:
        """Regime and family: a table of its own."""
        return regime_of(self.a_class), self.family

    @property
    def kind(self) -> str:
        return self.option.partition(":")[0]


@dataclass(frozen=True)
class Fit:
    """The prior of an option, and on how many sets and runs it rests."""

    prior: OptionPrior
    sets: int
    runs: int


@dataclass(frozen=True)
class Effects:
    """Mean of a quantity over sets, and the variance of a new run's true value about it.

    Attributes:
        mean: Weighted by the sets' precision.
        between: Variance between sets.
        within: Variance between the runs of a set, measurement error taken out.
        error: Variance of ``mean``.
    """

    mean: float
    between: float
    within: float
    error: float

    @property
    def spread(self) -> float:
        """Standard deviation of a new run's true value about the mean, which itself is known with an error."""
        return math.sqrt(self.between + self.within + self.error)


def random_effects(by_set: Sequence[Sequence[float]], measurement: float) -> Effects:
    """Estimate the distribution of a quantity over sets, from its values in the runs of each.

    Args:
        by_set: The values of each set's runs.
        measurement: Mean variance of a value's own error.
    """
    means = np.array([np.mean(values) for values in by_set])
    counts = np.array([len(values) for values in by_set])
    freedom = int((counts - 1).sum())
    squares = sum(float(((np.array(values) - np.mean(values)) ** 2).sum()) for values in by_set)
    of_runs = max(squares / freedom if freedom else 0.0, measurement)  # a run's, its measurement's error included
    variances = np.maximum(of_runs / counts, 1e-12)
    weights = 1 / variances
    heterogeneity = float((weights * (means - np.average(means, weights=weights)) ** 2).sum())
    scale = float(weights.sum() - (weights**2).sum() / weights.sum())
    between = max(0.0, (heterogeneity - (len(means) - 1)) / scale) if scale > 0 else 0.0
    precision = 1 / (variances + between)
    mean = float(np.average(means, weights=precision))
    return Effects(mean, between, max(0.0, of_runs - measurement), float(1 / precision.sum()))


def fit_prior(rows: Iterable[Row]) -> dict[tuple[str, str], dict[str, Fit]]:
    """Return the prior of each option, by regime and family."""
    cells: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        cells[row.cell].append(row)
    return {cell: dict(_fit_cell(of_cell)) for cell, of_cell in cells.items()}


def _fit_cell(rows: Sequence[Row]) -> Iterator[tuple[str, Fit]]:
    slopes = {kind: _points_per_nat([row for row in rows if row.kind == kind]) for kind in {row.kind for row in rows}}
    for option in dict.fromkeys(row.option for row in rows):
        own = [row for row in rows if row.option == option]
        nats = random_effects(_by_set(own, lambda row: row.test_gain_nats), _variance(row.test_se_nats for row in own))
        slope = slopes[own[0].kind]

        def residual(row: Row, slope: float = slope, mean: float = nats.mean) -> float:
            return row.test_gain_points - slope * (row.test_gain_nats - mean)

        # The tests' errors in nats remain in the residual: an upper bound.
        points = random_effects(_by_set(own, residual), _variance(row.test_se_points for row in own))
        n_sets = len({row.set for row in own})
        mean = (n_sets * points.mean + PSEUDO_SETS * slope * nats.mean) / (n_sets + PSEUDO_SETS)
        prior = OptionPrior(nats.mean, max(nats.spread, MIN_SPREAD), mean, slope, points.spread)
        yield option, Fit(prior, n_sets, len({row.run for row in own}))


def _points_per_nat(rows: Sequence[Row]) -> float:
    """Return by how many points a run's accuracy differs from its option's mean where its log-loss differs by a nat.

    Sets are few, and test errors of both go together: the slope is shrunk towards that of options without a row.
    """
    products, squares, n_options = 0.0, 0.0, 0
    for option in {row.option for row in rows}:
        own = [row for row in rows if row.option == option]
        nats, points = (
            np.array([np.mean(values) for values in _by_set(own, value)])
            for value in (lambda row: row.test_gain_nats, lambda row: row.test_gain_points)
        )
        products += float(((nats - nats.mean()) * (points - points.mean())).sum())
        squares += float(((nats - nats.mean()) ** 2).sum())
        n_options += 1
    pseudo = PSEUDO_SETS * n_options * UNKNOWN.spread**2
    return (products + pseudo * UNKNOWN.points_per_nat) / (squares + pseudo)


def _by_set(rows: Sequence[Row], value: Callable[[Row], float]) -> list[list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        found[row.set].append(value(row))
    return list(found.values())


def _variance(errors: Iterable[float | None]) -> float:
    known = [error**2 for error in errors if error is not None]
    return float(np.mean(known)) if known else 0.0


def table_of(fits: Mapping[str, Fit]) -> PriorTable:
    return PriorTable({option: fit.prior for option, fit in fits.items()})


# What the rules ship


Run = Mapping[str, Row]  # the options of one run and kind
Rule = Callable[[Run, PriorTable], Row | None]


def expected(row: Row, prior: PriorTable) -> Posterior:
    return posterior_of(row.fold_gain, WIDENING * row.fold_se, prior.of(row.option))


def by_points(run: Run, prior: PriorTable) -> Row | None:
    """Ship the highest expected accuracy: what auto does."""
    best = max(run.values(), key=lambda row: expected(row, prior).points)
    return best if expected(best, prior).points > 0 else None


def by_nats(run: Run, prior: PriorTable) -> Row | None:
    best = max(run.values(), key=lambda row: expected(row, prior).mean)
    return best if expected(best, prior).mean > 0 else None


def by_prior_alone(run: Run, prior: PriorTable) -> Row | None:
    best = max(run.values(), key=lambda row: prior.of(row.option).points)
    return best if prior.of(best.option).points > 0 else None


def always(suffix: str) -> Rule:
    def rule(run: Run, _prior: PriorTable) -> Row | None:
        return next((row for option, row in run.items() if option.endswith(suffix)), None)

    return rule


def significant(errors: float) -> Rule:
    """Ship the lowest log-loss of the options that are better than the baseline by so many standard errors."""

    def rule(run: Run, _prior: PriorTable) -> Row | None:
        better = [row for row in run.values() if row.fold_gain > errors * row.fold_se]
        return max(better, key=lambda row: row.fold_gain, default=None)

    return rule


def floor(alpha: str) -> Rule:
    """Ship phase 2 at an alpha at least, and more where the expected accuracy is higher there."""

    def rule(run: Run, prior: PriorTable) -> Row | None:
        return by_points(run, prior) or always(alpha)(run, prior)

    return rule


def in_hindsight(run: Run, _prior: PriorTable) -> Row | None:
    best = max(run.values(), key=lambda row: row.test_gain_points)
    return best if best.test_gain_points > 0 else None


RULES: Mapping[str, Rule] = {
    "highest expected accuracy": by_points,
    "highest expected log-loss reduction": by_nats,
    "the prior alone": by_prior_alone,
    "lowest log-loss of the folds": significant(0.0),
    "1.645 standard errors": significant(1.645),
    "in hindsight": in_hindsight,
}
ALPHA_RULES: Mapping[str, Rule] = {
    "always alpha 0.5": always(":0.5"),
    "always alpha 1": always(":1"),
    "alpha 0.5 at least": floor(":0.5"),
}


def evaluate(rows: Sequence[Row], kind: str) -> Iterator[str]:
    """Yield a table for each regime and family: what each rule ships, in points, with the prior of the other sets."""
    own = [row for row in rows if row.kind == kind]
    for cell in dict.fromkeys(row.cell for row in own):
        of_cell = [row for row in own if row.cell == cell]
        sets = list(dict.fromkeys(row.set for row in of_cell))
        priors = {name: table_of(fit_prior(row for row in of_cell if row.set != name).get(cell, {})) for name in sets}
        runs: dict[tuple[str, int, int, str], dict[str, Row]] = defaultdict(dict)
        for row in of_cell:
            runs[row.run][row.option] = row
        yield f"\n{kind}, {', '.join(cell)}: points over the baseline\n"
        yield f"| rule | {' | '.join(sets)} | mean | worst run |"
        yield "| --- |" + " --- |" * (len(sets) + 2)
        for name, rule in {**RULES, **(ALPHA_RULES if kind == "phase2" else {})}.items():
            gains = {
                each: [_gain(rule(run, priors[each])) for key, run in runs.items() if key[0] == each] for each in sets
            }
            means = [float(np.mean(of_set)) for of_set in gains.values()]
            figures = (*means, float(np.mean(means)), min(map(min, gains.values())))
            yield f"| {name} | " + " | ".join(f"{figure:+.1f}" for figure in figures) + " |"


def _gain(shipped: Row | None) -> float:
    return shipped.test_gain_points if shipped is not None else 0.0


def fold_error(rows: Sequence[Row]) -> str:
    """Return how far the folds' gains are from the tests', in units of the standard errors that the selection assumes."""
    known = [row for row in rows if row.fold_se > 0]
    differences = np.array([row.fold_gain - row.test_gain_nats for row in known])
    tests = np.array([row.test_se_nats or 0.0 for row in known])
    folds = np.array([row.fold_se for row in known])
    widening = math.sqrt(max(0.0, float((differences**2 - tests**2).mean() / (folds**2).mean())))
    return (
        f"folds minus tests: {differences.mean():+.4f} nats; the folds' standard errors are too small by a factor of "
        f"{widening:.2f} ({WIDENING:.2f} is assumed)"
    )


def value_of_measuring(prior: OptionPrior, n_images: int) -> float:
    """Return by how many points choosing after validating on so many images is expected to beat choosing by the prior.

    It is the expected value of sample information (Raiffa & Schlaifer 1961): the mean of the larger one of 0 and the
    expected gain as it will be known then, minus the larger one of 0 and the expected gain as it is known now.
    """
    share = prior.spread**2 / (prior.spread**2 + USUAL_DIFFERENCE**2 / n_images)
    sd = prior.points_per_nat * prior.spread * math.sqrt(share)
    if not sd:
        return 0.0
    z = prior.points / sd
    density = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return sd * density + prior.points * math.erfc(-z / math.sqrt(2)) / 2 - max(0.0, prior.points)


def worth_of_validating(counts: Sequence[int] = (20, 40, 80, 160, 600)) -> Iterator[str]:
    """Yield a table of what validating phase 2 on so many images is expected to add, for every row of the packaged prior."""
    yield "\nWhat validating phase 2 at alpha 1 on so many images is expected to add to choosing by the prior, in points\n"
    yield f"| regime | family | depth | {' | '.join(map(str, counts))} |"
    yield "| --- |" + " --- |" * (len(counts) + 2)
    for (regime, family), table in read_table(TABLE).items():
        for option, prior in table.rows.items():
            if option.startswith("phase2:") and option.endswith(":1"):
                figures = " | ".join(f"{value_of_measuring(prior, count):.2f}" for count in counts)
                yield f"| {regime} | {family} | {option.split(':')[1]} | {figures} |"


def write(fits: Mapping[tuple[str, str], Mapping[str, Fit]], path: Path) -> None:
    """Write the table; rows of options that were not fitted, or on fewer than ``MIN_SETS``, stay as they are."""
    lines = {
        (*cell, option): (row, "0", "0")
        for cell, table in read_table(TABLE).items()
        for option, row in table.rows.items()
    }
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            for old in csv.DictReader(file):
                key = old["regime"], old["family"], old["option"]
                lines[key] = OptionPrior(*(float(old[name]) for name in FIGURES)), old["sets"], old["runs"]
    for cell, of_cell in fits.items():
        for option, fit in of_cell.items():
            if fit.sets < MIN_SETS:
                continue
            lines[*cell, option] = fit.prior, str(fit.sets), str(fit.runs)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for key, (prior, sets, runs) in sorted(lines.items(), key=lambda line: _order(line[0])):
            writer.writerow([*key, *(f"{getattr(prior, name):.4g}" for name in FIGURES), sets, runs])


def _order(key: tuple[str, ...]) -> tuple[object, ...]:
    return ("scarce", "middle", "plentiful").index(key[0]), *key[1:]


def read(paths: Sequence[Path]) -> list[Row]:
    """Read the rows of some files."""
    found = [
        {name: value for name, value in row.items() if value != ""}
        for path in paths
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    ]
    return TypeAdapter(list[Row]).validate_python(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+")
    parser.add_argument("--write", type=Path)
    parser.add_argument(
        "--without", nargs="*", default=[], help="Sets that are left out, such as those at their ceiling."
    )
    arguments = parser.parse_args()
    rows = [row for row in read(arguments.rows) if row.set not in arguments.without]
    fits = fit_prior(rows)
    print("| regime | family | option | " + " | ".join(FIGURES) + " | sets | runs |")
    print("| --- |" * 1 + " --- |" * (len(FIGURES) + 4))
    for cell, of_cell in fits.items():
        for option, fit in of_cell.items():
            figures = " | ".join(f"{getattr(fit.prior, name):.3g}" for name in FIGURES)
            print(f"| {cell[0]} | {cell[1]} | {option} | {figures} | {fit.sets} | {fit.runs} |")
    print("\n" + fold_error(rows))
    for kind in dict.fromkeys(row.kind for row in rows):
        print("\n".join(evaluate(rows, kind)))
    print("\n".join(worth_of_validating()))
    if arguments.write is not None:
        write(fits, arguments.write)


if __name__ == "__main__":
    main()
