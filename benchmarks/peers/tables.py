"""The benchmark's rows, and the tables that are made of them: scores, rivals at their best, how much sooner, margins.

A rival counts with its best variant: the one with the highest mean balanced accuracy on the test images, per set and number
of images a class.  That is hindsight in the rival's favour, which no user of it has.  Rows of withdrawn arms
(``rivals.WITHDRAWN``) are counted and named, and enter no table.
"""

from __future__ import annotations

import csv
import statistics
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.rivals import ARMS, AUTO, AUTOGLUON, FAMILIES, FASTAI, HEAD_ONLY, WITHDRAWN

SETS = ("hymenoptera", "magnetic_tile", "bccd_cells", "wbc5_tecom", "aid150")
FIELDS = (
    "set", "a_class", "seed", "arm", "accuracy", "balanced", "original", "clock", "wall", "cpu", "peak_mib", "points",
)  # fmt: skip
TIMES = ("clock", "wall", "cpu")
OURS = (HEAD_ONLY, AUTO)
PEERS = {"fastai": FASTAI, "AutoGluon": AUTOGLUON}  # whose accuracy ours is timed against
RIVALS = {name for name, arm in ARMS.items() if arm.environment != "own" and not arm.on_request}
Row = dict[str, str]


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
        if row["arm"] in FAMILIES[family] and (seeds is None or row["seed"] in seeds):
            measured.setdefault(row["arm"], {})[row["seed"]] = row
    if not measured:
        return None
    common = set.intersection(*(set(by_seed) for by_seed in measured.values()))
    if not common:
        return None
    variant = max(
        (name for name in FAMILIES[family] if name in measured),
        key=lambda name: statistics.mean(_balanced(measured[name][seed]) for seed in common),
    )
    return Best(
        variant, {seed: measured[variant][seed] for seed in sorted(common)}, len(measured), len(FAMILIES[family])
    )


def seconds_to(row: Row, accuracy: float) -> float | None:
    """Return the clock at the first point that is as accurate, or None where there is none."""
    points = [[float(value) for value in point.split()] for point in row["points"].split(";")]
    return next((seconds for seconds, reached, _ in points if reached >= accuracy), None)


def summarise(rows: list[Row]) -> str:
    """Return the tables: every arm of every set, rivals at their best, the ratios to each peer, margins, withdrawn rows."""
    withdrawn = _withdrawn(rows)
    rows = [row for row in rows if row["arm"] in ARMS]
    regimes = {
        a_class: [row for row in rows if row["a_class"] == a_class]
        for a_class in sorted({row["a_class"] for row in rows}, key=int)
    }
    lines: list[str] = []
    for a_class, own in regimes.items():
        lines += _arms(a_class, own)
    for a_class, own in regimes.items():
        lines += _rivals(a_class, own)
    for a_class, own in regimes.items():
        for peer, family in PEERS.items():
            lines += _ratios(a_class, peer, family, own)
    for a_class, own in regimes.items():
        lines += _margins(a_class, own)
    return "\n".join(lines + withdrawn)


def _withdrawn(rows: list[Row]) -> list[str]:
    """Return what is withdrawn and why.  A rival that was held back and was ahead all the same stays in sight."""
    auto = {tuple(row[key] for key in FIELDS[:3]): row for row in rows if row["arm"] == AUTO}
    lines: list[str] = []
    for arm, why in WITHDRAWN.items():
        own = [row for row in rows if row["arm"] == arm]
        beside = [(row, auto[place]) for row in own if (place := tuple(row[key] for key in FIELDS[:3])) in auto]
        ahead = sum(_balanced(row) > _balanced(ours) for row, ours in beside)
        if own:
            lines.append(_line([arm, str(len(own)), why, f"{ahead} of {len(beside)}"]))
    header = ("arm", "rows", "why", "ahead of auto all the same")
    title = "\n### Withdrawn: in no table above\n"
    return [title, _line(header), _line(["---"] * len(header)), *lines] if lines else []


def _rivals(a_class: str, rows: list[Row]) -> list[str]:
    """Return which variant of each rival that has several is the best, per set."""
    header = ("set", "rival", "best variant, in hindsight", "balanced", "seeds", "variants measured")
    lines = [f"\n### Rivals at their best, {a_class} a class\n", _line(header), _line(["---"] * len(header))]
    found = False
    for name in SETS:
        own = [row for row in rows if row["set"] == name]
        for family, variants in FAMILIES.items():
            best = best_variant(family, own) if len(variants) > 1 else None
            if best is not None:
                found = True
                balanced = _spread([_balanced(row) for row in best.rows.values()])
                counts = f"{best.tried} of {best.of}"
                lines.append(_line([name, family, best.variant, balanced, ", ".join(best.rows), counts]))
    return lines if found else []


def _margins(a_class: str, rows: list[Row]) -> list[str]:
    """Return by how many points of balanced accuracy auto is ahead of each rival's best variant, on the same set and seeds.

    A rival of which variants lack has an upper bound instead of a margin, and that enters no mean.
    """
    others = [family for family in FAMILIES if family != AUTO]
    header = ("set", *(f"{family} (seeds)" for family in others), "best arm of each seed", "time / fastai's")
    lines = [f"\n### auto's margin in points of balanced accuracy, {a_class} a class\n", _line(header)]
    lines.append(_line(["---"] * len(header)))
    found: dict[str, list[float]] = {}
    for name in SETS:
        own = [row for row in rows if row["set"] == name]
        auto = {row["seed"]: row for row in own if row["arm"] == AUTO}
        if not auto:
            continue
        cells = [name]
        for family in others:
            best = best_variant(family, own, set(auto))
            apart = [_balanced(auto[seed]) - _balanced(row) for seed, row in best.rows.items()] if best else []
            if best is None or best.complete:
                cells.append(_margin(found.setdefault(family, []), apart))
            else:
                cells.append(f"at most {_margin([], apart)}, {best.tried} of {best.of} variants")
        cells.append(_behind_the_best(found.setdefault("best", []), auto, own))
        fastai = best_variant(FASTAI, own, set(auto))
        times = [
            float(auto[seed]["clock"]) / float(row["clock"])
            for seed, row in (fastai.rows.items() if fastai else ())
            if _together(auto[seed], row)
        ]
        found.setdefault("time", []).extend([statistics.mean(times)] if times else [])
        lines.append(_line([*cells, f"{statistics.mean(times):.2f}" if times else "-"]))
    means = [f"{statistics.mean(found[family]):+.1f}" if found.get(family) else "-" for family in (*others, "best")]
    time = f"{statistics.mean(found['time']):.2f}" if found.get("time") else "-"
    return [*lines, _line(["mean over sets", *means, time])] if found else []


def _behind_the_best(means: list[float], auto: dict[str, Row], rows: list[Row]) -> str:
    """Return auto's distance to the best arm of each seed, itself included: at most 0.

    Of the seeds of which every variant of every rival has a row; where there are none, an upper bound of all seeds.
    """
    arms = {seed: {row["arm"]: row for row in rows if row["seed"] == seed} for seed in auto}
    whole = [seed for seed in sorted(auto) if arms[seed].keys() >= RIVALS]
    apart = [
        _balanced(auto[seed]) - max(_balanced(row) for row in arms[seed].values()) for seed in (whole or sorted(auto))
    ]
    return _margin(means, apart) if whole else f"at most {_margin([], apart)}"


def _timed(row: Row) -> bool:
    return bool(row["clock"])


def _together(one: Row, other: Row) -> bool:
    """Tell whether the seconds of two rows may be compared: a file is of one machine."""
    return _timed(one) and _timed(other) and one.get("file") == other.get("file")


def _balanced(row: Row) -> float:
    return 100 * float(row["balanced"])


def _margin(means: list[float], apart: list[float]) -> str:
    """Return a set's mean over its seeds, and add it to ``means``."""
    if not apart:
        return "-"
    means.append(statistics.mean(apart))
    return f"{means[-1]:+.1f} ({len(apart)})"


def _arms(a_class: str, rows: list[Row]) -> list[str]:
    header = (
        "set", "arm", "seeds", "accuracy", "balanced", "original head after", "clock, s", "wall, s", "CPU, s", "peak, MiB",
        *(f"s to {peer}'s accuracy" for peer in PEERS),
    )  # fmt: skip
    lines = [f"\n### {a_class} images a class\n", _line(header), _line(["---"] * len(header))]
    for name in [name for name in SETS if any(row["set"] == name for row in rows)]:
        of_set = [row for row in rows if row["set"] == name]
        goals = {peer: best_variant(family, of_set) for peer, family in PEERS.items()}
        for arm in ARMS:
            own = [row for row in of_set if row["arm"] == arm]
            if not own:
                continue
            cells = [name, arm, ", ".join(sorted({row["seed"] for row in own}))]
            cells += [_spread([100 * float(row[key]) for row in own]) for key in ("accuracy", "balanced", "original")]
            cells += [_spread([float(row[key]) for row in own if row[key]]) for key in (*TIMES, "peak_mib")]
            for goal in goals.values():
                by_seed = goal.rows if goal else {}
                cells.append(
                    _reached(
                        [
                            seconds_to(row, float(by_seed[row["seed"]]["accuracy"]))
                            for row in own
                            if row["seed"] in by_seed and _together(row, by_seed[row["seed"]])
                        ]
                    )
                )
            lines.append(_line(cells))
    return lines


def _ratios(a_class: str, peer: str, family: str, rows: list[Row]) -> list[str]:
    """Return how many times sooner unfreeze is as accurate as the peer's best variant at its end, where both were timed."""
    header = ("set", "seed", f"{peer}: accuracy", f"{peer}: clock, s", "head-only", "auto", "the sooner")
    lines = [
        f"\n### Times sooner at {peer}'s accuracy, {a_class} a class\n",
        _line(header),
        _line(["---"] * len(header)),
    ]
    ratios_of: dict[str, list[float]] = {}
    for name in SETS:
        best = best_variant(family, [row for row in rows if row["set"] == name])
        for seed, theirs in best.rows.items() if best and best.complete else ():
            ours = {
                row["arm"]: row for row in rows
                if row["arm"] in OURS and (row["set"], row["seed"]) == (name, seed) and _together(row, theirs)
            }  # fmt: skip
            if not ours:
                continue
            reached = {own: seconds_to(row, float(theirs["accuracy"])) for own, row in ours.items()}
            ratios = {own: float(theirs["clock"]) / seconds if seconds else 0.0 for own, seconds in reached.items()}
            sooner = max(ratios.values())
            ratios_of.setdefault(name, []).append(sooner)
            shown = [_times(ratios[own]) if own in ratios else "-" for own in OURS] + [_times(sooner)]
            accuracy = f"{100 * float(theirs['accuracy']):.1f}"
            lines.append(_line([name, seed, accuracy, f"{float(theirs['clock']):.0f}", *shown]))
    if ratios_of:
        middle = statistics.median(statistics.median(found) for found in ratios_of.values())
        lines.append(_line(["median over sets", "", "", "", "", "", f"{middle:.1f}x"]))
    return lines if ratios_of else []


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio else "never"


def _reached(found: list[float | None]) -> str:
    there = [seconds for seconds in found if seconds is not None]
    if not found:
        return "-"
    missed = f"; never in {len(found) - len(there)} of {len(found)}" if len(there) < len(found) else ""
    return (_spread(there) if there else "") + missed if there else "never"


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    middle = f"{statistics.median(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1f} to {max(values):.1f})"


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def read_rows(paths: list[Path]) -> list[Row]:
    """Return the rows of all files, each with its file; of two that measure the same, the one of the later file."""
    rows: dict[tuple[str, ...], Row] = {}
    for path in paths:
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                found = ({**row, "file": str(path)} for row in csv.DictReader(file))
                rows |= {tuple(row[key] for key in FIELDS[:4]): row for row in found}
    return list(rows.values())
