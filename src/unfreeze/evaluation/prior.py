"""The packaged prior: how much each option gained on many data sets, by images per class and family of backbone.

``prior.csv`` is written by ``benchmarks/prior.py`` from many (set, seed) pairs.  Rows with a number of sets were fitted on
``benchmarks/options-2026-11-30.csv`` and ``options-2026-11-30b.csv``, with EfficientNet-Lite0; the others were set by hand
from the few runs of November 2026 (four sets held back, four development sets) until there are rows for them.

Columns: regime (scarce, middle, plentiful), family (batch norm, layer norm), option, mean and spread (nats per image),
points, points_per_nat, points_spread (see ``OptionPrior``), sets and runs (how many it was fitted on; 0: set by hand).
Names of options: ``views:NAME`` (logits averaged over evaluation views, against the plain view), ``augmentation:NAME``
(against the first one), ``head:stages`` (against a head on the last stage), ``phase2:DEPTH:ALPHA`` (against head-only),
DEPTH as ``depth_class`` names it.  ``views:*`` holds for views that have no row of their own.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from unfreeze.evaluation.expected_gain import OptionPrior

Regime = Literal["scarce", "middle", "plentiful"]
Family = Literal["batch norm", "layer norm"]
SCARCE, PLENTIFUL = 45, 300  # images per class: the geometric means of 20 and 100, and of 100 and 1000
TABLE = Path(__file__).with_name("prior.csv")
FIGURES = ("mean", "spread", "points", "points_per_nat", "points_spread")
COLUMNS = ("regime", "family", "option", *FIGURES, "sets", "runs")
UNKNOWN = OptionPrior(mean=0.0, spread=0.05, points=0.0, points_per_nat=30.0, points_spread=2.0)
"""For options without a row.  The spread is that of the options that have one: two thirds of the gains lie within 0.05 nats,
or two points; where a data set measures better than that, its images decide."""
UNKNOWN_PHASE_TWO = OptionPrior(mean=0.02, spread=0.1, points=0.6, points_per_nat=30.0, points_spread=3.0)
"""For phase 2 at alpha 1 where no row tells of its depth or its way to train: fine-tuning gains a little more often than
not, and may lose as much."""


@dataclass(frozen=True)
class PriorTable:
    """The priors of one regime and family by the options' names; without any, weak ones."""

    rows: Mapping[str, OptionPrior] = field(default_factory=dict)

    def of(self, option: str) -> OptionPrior:
        """Return the prior of an option; ``phase2:DEPTH:ALPHA`` is interpolated between the alphas that have a row."""
        kind, _, rest = option.partition(":")
        if option in self.rows:
            return self.rows[option]
        if kind == "phase2":
            depth, _, alpha = rest.partition(":")
            return self._between(depth, float(alpha))
        return self.rows.get(f"{kind}:*", UNKNOWN)

    def without(self, kind: str) -> PriorTable:
        """Return the same priors without those of a kind of options, such as ``phase2``."""
        return PriorTable({name: row for name, row in self.rows.items() if not name.startswith(f"{kind}:")})

    def _between(self, depth: str, alpha: float) -> OptionPrior:
        """Interpolate mean and spread linearly, from 0 at alpha 0, where nothing is gained."""
        prefix = phase2_option(depth, "")
        known = {float(name.removeprefix(prefix)): row for name, row in self.rows.items() if name.startswith(prefix)}
        rows = sorted((known or {1.0: UNKNOWN_PHASE_TWO}).items())
        alphas = [0.0, *(at for at, _ in rows)]

        def at(values: Iterable[float]) -> float:
            return float(np.interp(alpha, alphas, [0.0, *values]))

        slope = float(np.interp(alpha, alphas[1:], [row.points_per_nat for _, row in rows]))
        return OptionPrior(
            mean=at(row.mean for _, row in rows),
            spread=at(row.spread for _, row in rows),
            points=at(row.points for _, row in rows),
            points_per_nat=slope,
            points_spread=at(row.points_spread for _, row in rows),
        )


WEAK_PRIOR = PriorTable()


def phase2_option(depth: str, alpha: float | str) -> str:
    """Return the name of phase 2 from a class of depths (see ``depth_class``) at an alpha."""
    return f"phase2:{depth}:{alpha if isinstance(alpha, str) else format(alpha, 'g')}"


def depth_class(share: float) -> str:
    """Return the name of a depth by the share of the stages that train: ``top-third``, ``half`` or ``all``."""
    return "top-third" if share < 0.4 else "half" if share < 0.7 else "all"


def regime_of(images_per_class: float) -> Regime:
    """Return the row of tables that depend on the number of training images per class."""
    return "scarce" if images_per_class < SCARCE else "middle" if images_per_class < PLENTIFUL else "plentiful"


def packaged_prior(regime: Regime, family: Family) -> PriorTable:
    """Return the packaged priors of a regime and a family of backbones."""
    return read_table(TABLE).get((regime, family), WEAK_PRIOR)


@cache
def read_table(path: Path) -> Mapping[tuple[str, str], PriorTable]:
    """Read a table in the format of ``prior.csv``: the priors by regime and family."""
    found: dict[tuple[str, str], dict[str, OptionPrior]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            figures = (float(row[name]) for name in FIGURES)
            found.setdefault((row["regime"], row["family"]), {})[row["option"]] = OptionPrior(*figures)
    return {key: PriorTable(rows) for key, rows in found.items()}
