"""The report's sections on the run's inputs: images by class and split, settings, versions and run time."""

from __future__ import annotations

from collections import Counter

from unfreeze.report.elements import ABSENT, Part, Section, Table, Text
from unfreeze.report.run_data import RunData
from unfreeze.verdict_sentences import counted

MAX_SKIPPED_ROWS = 50
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}


def data_section(run: RunData) -> Section:
    """Return the number of images by class and split, and the skipped files."""
    data = run.verdict.data
    tested = counted(data.n_test, "photo") + " for testing"
    if run.verdict.scores.protocol == "cross_fitted":
        tested = "and each is scored by models that never saw it"
    parts: list[Part] = [Text(f"{len(data.classes)} classes: {counted(data.n_train, 'photo')} for training, {tested}.")]
    if run.splits:
        counts = Counter(run.splits)
        splits = [name for name in SPLIT_NAMES if any(split == name for _, split in counts)]
        rows = [(label, *(counts[label, split] for split in splits)) for label in data.classes]
        totals = ("all", *(sum(counts[label, split] for label in data.classes) for split in splits))
        parts.append(
            Table(
                caption="Photos by class",
                header=("class", *(SPLIT_NAMES[split] for split in splits)),
                rows=tuple(tuple(map(str, row)) for row in (*rows, totals)),
            )
        )
    if run.skipped:
        rest = f", the first {MAX_SKIPPED_ROWS}; checks.csv has all" if len(run.skipped) > MAX_SKIPPED_ROWS else ""
        parts.append(
            Table(
                caption=f"{counted(len(run.skipped), 'file')} left out, and why{rest}",
                header=("file", "reason"),
                rows=run.skipped[:MAX_SKIPPED_ROWS],
                numbers=False,
            )
        )
    else:
        parts.append(Text("No file was left out."))
    return Section("Data", tuple(parts))


def settings_section(run: RunData) -> Section:
    """Return the settings, the versions, the seconds of each part, the peak memory and the weights' digest."""
    cost = run.verdict.cost
    parts: list[Part] = []
    if run.args:
        rows = tuple((name, str(value)) for name, value in run.args.items())
        parts.append(Table("Settings", ("setting", "value"), rows, numbers=False))
    if run.verdict.versions:
        parts.append(
            Table("Versions", ("software", "version"), tuple(run.verdict.versions.items()), numbers=False),
        )
    forecast = cost.forecast or {}
    parts.append(
        Table(
            caption="Seconds",
            header=("part", "took", "forecast"),
            rows=tuple(
                (part, f"{seconds:.1f}", f"{forecast[part]:.1f}" if part in forecast else ABSENT)
                for part, seconds in cost.seconds.items()
            ),
        )
    )
    if cost.peak_rss_mib is not None:
        parts.append(Text(f"Peak memory: {cost.peak_rss_mib:.0f} MiB."))
    if run.sha256 is not None:
        parts.append(Text(f"SHA-256 of model/model.safetensors: {run.sha256}"))
    return Section("Run", tuple(parts))
