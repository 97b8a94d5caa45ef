"""The report's sections on what the run stands on: its photos, its settings, its versions, and what it took."""

from __future__ import annotations

from collections import Counter

from unfreeze.report.elements import ABSENT, Part, Section, Table, Text
from unfreeze.report.run_data import RunData
from unfreeze.verdict import counted

LEFT_OUT = 50  # files that are listed
SIDES = {"train": "to train on", "val": "to choose by", "test": "to test on"}


def data_section(run: RunData) -> Section:
    """How many photos of which class were on which side, and which were left out."""
    about = run.verdict.data
    tested = counted(about.n_test, "photo") + " to test on"
    if run.verdict.scores.protocol == "cross_fitted":
        tested = "and each is scored by models that never saw it"
    parts: list[Part] = [
        Text(f"{len(about.classes)} classes: {counted(about.n_train, 'photo')} to train on, {tested}.")
    ]
    if run.sides:
        counts = Counter(run.sides)
        sides = [side for side in SIDES if any(own == side for _, own in counts)]
        rows = [(name, *(counts[name, side] for side in sides)) for name in about.classes]
        totals = ("all", *(sum(counts[name, side] for name in about.classes) for side in sides))
        parts.append(
            Table(
                caption="Photos by class",
                header=("class", *(SIDES[side] for side in sides)),
                rows=tuple(tuple(map(str, row)) for row in (*rows, totals)),
            )
        )
    if run.left_out:
        first = f", the first {LEFT_OUT}; checks.csv has all" if len(run.left_out) > LEFT_OUT else ""
        parts.append(
            Table(
                caption=f"{counted(len(run.left_out), 'file')} left out, and why{first}",
                header=("file", "reason"),
                rows=run.left_out[:LEFT_OUT],
                numbers=False,
            )
        )
    else:
        parts.append(Text("No file was left out."))
    return Section("Data", tuple(parts))


def settings_section(run: RunData) -> Section:
    """What the run was asked, by what it was done, and what it took."""
    cost = run.verdict.cost
    parts: list[Part] = []
    if run.args:
        rows = tuple((name, str(value)) for name, value in run.args.items())
        parts.append(Table("Settings", ("setting", "value"), rows, numbers=False))
    if run.verdict.versions:
        parts.append(
            Table("Versions", ("of", "version"), tuple(run.verdict.versions.items()), numbers=False),
        )
    planned = cost.forecast or {}
    parts.append(
        Table(
            caption="Seconds",
            header=("part", "took", "forecast"),
            rows=tuple(
                (part, f"{took:.1f}", f"{planned[part]:.1f}" if part in planned else ABSENT)
                for part, took in cost.seconds.items()
            ),
        )
    )
    if cost.peak_rss_mib is not None:
        parts.append(Text(f"Peak memory: {cost.peak_rss_mib:.0f} MiB."))
    if run.sha256 is not None:
        parts.append(Text(f"SHA-256 of model/model.safetensors: {run.sha256}"))
    return Section("Run", tuple(parts))
