"""The benchmark's rows: their columns, how files of them are read, and which variant of a rival is its best.

A rival counts with its best variant: the one with the highest mean balanced accuracy on the test images, per set and number
of images a class.  That is hindsight in the rival's favour, which no user of it has.
"""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.rivals import FAMILIES, VARIANTS
from benchmarks.peers.sets import SETS

FIELDS = (
    "set", "a_class", "seed", "arm", "variant", "n_train", "n_test", "left_over", "accuracy", "balanced_accuracy",
    "original", "train_seconds", "command_seconds", "cpu_seconds", "peak_mib", "shared", "shipped", "options",
)  # fmt: skip
TIMES = ("train_seconds", "command_seconds", "cpu_seconds")
CEILING = 97.0  # balanced accuracy in points: where an arm reaches it, nothing is left to gain
Row = dict[str, str]


def key(row: Row) -> tuple[str, ...]:
    """Return what a row measures."""
    return tuple(row[name] for name in ("set", "a_class", "seed", "variant"))


def read_rows(paths: list[Path]) -> list[Row]:
    """Return the rows of all files, each with its file; of two that measure the same, the one of the later file.

    Rows of variants that are no more are left out.

    Raises:
        ValueError: A file has other columns: it was measured by an earlier protocol.
    """
    rows: dict[tuple[str, ...], Row] = {}
    for path in paths:
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                if set(reader.fieldnames or FIELDS) != set(FIELDS):
                    raise ValueError(
                        f"{path} was measured by an earlier protocol; its tables need that commit's script."
                    )
                rows |= {key(row): {**row, "file": str(path)} for row in reader if row["variant"] in VARIANTS}
    return list(rows.values())


@dataclass(frozen=True)
class Best:
    """A rival's best variant on one set.

    Attributes:
        variant: Its name.
        rows: Its rows by seed, of the seeds by which the variants were compared.
        tried: How many of the rival's variants were compared.
        of: How many it has.
    """

    variant: str
    rows: dict[str, Row]
    tried: int
    of: int

    @property
    def complete(self) -> bool:
        return self.tried == self.of


def best_variant(family: str, rows: list[Row], seeds: set[str] | None = None) -> Best | None:
    """Return the variant that is best on one set.

    The variants are compared on the seeds that all of those measured have in common, so that none is ahead by easier
    seeds.  Where they have none in common, there is no best.

    Args:
        family: The rival.
        rows: Of one set and one number of images a class.
        seeds: Only these; all where it is None.
    """
    measured: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["variant"] in FAMILIES[family] and (seeds is None or row["seed"] in seeds):
            measured.setdefault(row["variant"], {})[row["seed"]] = row
    if not measured:
        return None
    common = set.intersection(*(set(by_seed) for by_seed in measured.values()))
    if not common:
        return None
    variant = max(
        (name for name in FAMILIES[family] if name in measured),
        key=lambda name: statistics.mean(balanced(measured[name][seed]) for seed in common),
    )
    return Best(
        variant, {seed: measured[variant][seed] for seed in sorted(common)}, len(measured), len(FAMILIES[family])
    )


def balanced(row: Row) -> float:
    """Return balanced accuracy in points."""
    return 100 * float(row["balanced_accuracy"])


def counts_for_means(name: str, rows: list[Row]) -> bool:
    """Tell whether a set enters means: it counts for accuracy, and no arm's mean over its seeds reaches the ceiling.

    Args:
        name: The set.
        rows: Its rows, of one number of images a class.
    """
    by_variant: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_variant[row["variant"]].append(balanced(row))
    return SETS[name].role == "accuracy" and all(statistics.mean(found) < CEILING for found in by_variant.values())
