"""The tables that are made of the benchmark's rows: margins, times, what was shipped, rivals at their best, all arms.

Means are over the sets that count for accuracy (``sets``) and whose best arm is below ``rows.CEILING``.
"""

from __future__ import annotations

import statistics
from collections import defaultdict

from benchmarks.peers.rivals import AUTO, FAMILIES, FASTAI, OURS, RIVALS, VARIANTS
from benchmarks.peers.rows import TIMES, Row, balanced, best_variant, counts_for_means
from benchmarks.peers.sets import SETS

MODELS = ("head_only", "two_phase")  # of a run of ours: what could have shipped


def summarise(rows: list[Row]) -> str:
    """Return the tables: margins, times, what was shipped, rivals at their best, all arms; per number of images a class."""
    lines: list[str] = []
    for a_class in sorted({row["a_class"] for row in rows}, key=int):
        own = [row for row in rows if row["a_class"] == a_class]
        by_set = {name: found for name in SETS if (found := [row for row in own if row["set"] == name])}
        for table in (_margins, _shipped, _times, _rivals, _arms):
            lines += table(a_class, by_set)
    return "\n".join(lines)


def _margins(a_class: str, by_set: dict[str, list[Row]]) -> list[str]:
    """Return by how many points of balanced accuracy auto is ahead of each arm's best variant, on the same set and seeds.

    A rival of which variants lack has an upper bound instead of a margin, and the mean of such is one, too.
    """
    others = [family for family in FAMILIES if family != AUTO]
    found: dict[str, list[float]] = defaultdict(list)
    bounds: set[str] = set()
    body: list[list[str]] = []
    for name, own in by_set.items():
        auto = {row["seed"]: row for row in own if row["arm"] == AUTO}
        if not auto:
            continue
        counted = counts_for_means(name, own)
        cells = [_title(name, own)]
        for family in others:
            best = best_variant(family, own, set(auto))
            if best is None:
                cells.append("-")
                continue
            apart = statistics.mean(balanced(auto[seed]) - balanced(row) for seed, row in best.rows.items())
            bound = "" if best.complete else "at most "
            cells.append(f"{bound}{apart:+.1f} ({len(best.rows)})")
            if counted:
                found[family].append(apart)
                bounds |= set() if best.complete else {family}
        body.append(cells)
    shown = [family for index, family in enumerate(others, start=1) if any(cells[index] != "-" for cells in body)]
    places = [0, *(index for index, family in enumerate(others, start=1) if family in shown)]
    means = [
        f"{'at most ' if family in bounds else ''}{statistics.mean(found[family]):+.1f} of {len(found[family])} sets"
        if found[family]
        else "-"
        for family in shown
    ]
    return _table(
        f"auto minus the others' best variants, points of balanced accuracy, {a_class} a class (seeds)",
        ["set", *shown],
        [[cells[index] for index in places] for cells in body] + ([["mean", *means]] if shown else []),
        any_of=bool(shown),
    )


def _shipped(a_class: str, by_set: dict[str, list[Row]]) -> list[str]:
    """Return what auto's choice is worth against its own head-only and against the better of both in hindsight."""
    body: list[list[str]] = []
    over: list[float] = []
    behind: list[float] = []
    for name, own in by_set.items():
        runs = [(balanced(row), _options(row), row["shipped"]) for row in own if row["arm"] == AUTO and row["options"]]
        runs = [run for run in runs if run[1].keys() >= set(MODELS)]
        if not runs:
            continue
        gain = statistics.mean(score - options["head_only"] for score, options, _ in runs)
        regret = statistics.mean(score - max(options[model] for model in MODELS) for score, options, _ in runs)
        if counts_for_means(name, own):
            over.append(gain)
            behind.append(regret)
        possible = statistics.mean(options["two_phase"] - options["head_only"] for _, options, _ in runs)
        two_phase = sum(shipped == "two_phase" for _, _, shipped in runs)
        body.append(
            [_title(name, own), f"{possible:+.1f}", f"{gain:+.1f}", f"{regret:+.1f}", f"{two_phase} of {len(runs)}"]
        )
    mean = [["mean", "", f"{statistics.mean(over):+.1f}", f"{statistics.mean(behind):+.1f}", ""]] if over else []
    header = [
        "set",
        "two-phase minus head-only",
        "shipped minus head-only",
        "shipped minus the better of both, in hindsight",
    ]
    return _table(f"What auto ships, {a_class} a class", [*header, "two-phase ships"], body + mean, any_of=bool(body))


def _options(row: Row) -> dict[str, float]:
    cells = (cell.rsplit(" ", 1) for cell in row["options"].split(";"))
    return {name: 100 * float(score) for name, score in cells}


def _times(a_class: str, by_set: dict[str, list[Row]]) -> list[str]:
    """Return what part of the time of fastai's first variant each arm of ours takes.

    Seconds of a wall clock are compared where both rows have the machine to themselves; rows of a file are of one machine.
    """
    reference = next(iter(FAMILIES[FASTAI]))
    body: list[list[str]] = []
    found: dict[str, dict[str, list[float]]] = {arm: defaultdict(list) for arm in OURS}
    for name, own in by_set.items():
        theirs = {row["seed"]: row for row in own if row["variant"] == reference}
        for arm in OURS:
            cells = [name, arm]
            for time in TIMES:
                ratios = [
                    float(row[time]) / float(other[time])
                    for row in own
                    if row["arm"] == arm and (other := theirs.get(row["seed"])) and _comparable(row, other, time)
                ]
                if ratios:
                    found[arm][time].append(statistics.mean(ratios))
                cells.append(f"{statistics.mean(ratios):.2f} ({len(ratios)})" if ratios else "-")
            if any(cell != "-" for cell in cells[2:]):
                body.append(cells)
    means = [
        ["mean of sets", arm, *(f"{statistics.mean(by[time]):.2f}" if by[time] else "-" for time in TIMES)]
        for arm, by in found.items()
        if by
    ]
    header = ["set", "arm", "training", "whole command", "CPU seconds of the whole command"]
    return _table(
        f"Time as a part of {reference}'s, {a_class} a class (seeds)", header, body + means, any_of=bool(body)
    )


def _comparable(one: Row, other: Row, time: str) -> bool:
    alone = one["shared"] == other["shared"] == "no"
    return one.get("file") == other.get("file") and (alone or time == "cpu_seconds")


def _rivals(a_class: str, by_set: dict[str, list[Row]]) -> list[str]:
    """Return which variant of each rival that has several is the best, per set."""
    body: list[list[str]] = []
    for name, own in by_set.items():
        for family, variants in RIVALS.items():
            best = best_variant(family, own) if len(variants) > 1 else None
            if best is not None:
                scores = _spread([balanced(row) for row in best.rows.values()])
                counts = f"{best.tried} of {best.of}"
                body.append([name, family, best.variant, scores, ", ".join(best.rows), counts])
    header = ["set", "rival", "best variant, in hindsight", "balanced accuracy", "seeds", "variants measured"]
    return _table(f"Rivals at their best, {a_class} a class", header, body, any_of=bool(body))


def _arms(a_class: str, by_set: dict[str, list[Row]]) -> list[str]:
    """Return all variants' scores and times: medians, and from the smallest to the largest."""
    header = [
        "set", "arm", "seeds", "trained on", "tested on (of left over)", "accuracy", "balanced accuracy",
        "original head after", "training, s", "whole command, s", "CPU, s", "peak, MiB",
    ]  # fmt: skip
    body: list[list[str]] = []
    for name, own in by_set.items():
        for variant in VARIANTS:
            rows = [row for row in own if row["variant"] == variant]
            if not rows:
                continue
            cells = [_title(name, own), variant, ", ".join(sorted({row["seed"] for row in rows}))]
            cells += [_range(rows, "n_train"), f"{_range(rows, 'n_test')} ({_range(rows, 'left_over')})"]
            cells += [
                _spread([100 * float(row[field]) for row in rows if row[field]])
                for field in ("accuracy", "balanced_accuracy", "original")
            ]
            cells += [_spread([float(row[field]) for row in rows]) for field in (*TIMES, "peak_mib")]
            body.append(cells)
    return _table(f"All arms, {a_class} a class", header, body, any_of=bool(body))


def _title(name: str, rows: list[Row]) -> str:
    if SETS[name].role == "shift":
        return f"{name} (another camera, in no mean)"
    return name if counts_for_means(name, rows) else f"{name} (ceiling, in no mean)"


def _range(rows: list[Row], field: str) -> str:
    values = [int(row[field]) for row in rows]
    return str(values[0]) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    middle = f"{statistics.median(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1f} to {max(values):.1f})"


def _table(title: str, header: list[str], body: list[list[str]], *, any_of: bool) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *body)]
    return [f"\n### {title}\n", *lines] if any_of else []
