"""unfreeze itself: ``head-only``, ``auto`` (its defaults: what ships) or ``uncached`` (all of it trains)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import scipy.optimize  # unfreeze imports it late, and the clock of no arm counts imports
import scipy.special  # noqa: F401
from benchmarks.peers.protocol import Report, read_task

import unfreeze
from unfreeze.evaluation.metrics import Scores

ARMS: dict[str, dict[str, Any]] = {
    "head-only": {"recipe": "head-only"},
    "auto": {},
    "uncached": {"depth": "all"},
}
BEFORE_PHASE_TWO = ("load", "decode", "forecast", "features", "head")


def point(seconds: float, scores: Scores) -> tuple[float, float, float]:
    return seconds, scores.accuracy, scores.balanced_accuracy


def main(arm: str) -> None:
    task = read_task()
    report = Report(task)
    with tempfile.TemporaryDirectory() as work:
        settings = ARMS[arm] | ({"epochs": task.epochs} if arm == "uncached" else {})
        verdict = unfreeze.train(
            task.table, seed=task.seed, reference=task.reference_folder, cache=Path(work, "cache"), out=Path(work, "run"),
            **settings,
        ).verdict  # fmt: skip
    seconds = verdict.cost.seconds
    if arm == "auto":
        report.points.append(point(sum(seconds.get(part, 0.0) for part in BEFORE_PHASE_TWO), verdict.scores.head_only))
    shown = verdict.scores.two_phase if arm == "uncached" else verdict.scores.shipped
    assert shown is not None
    assert verdict.forgetting is not None
    report.points.append(point(seconds["total"] - seconds["evaluation"], shown))
    kept = verdict.shipped == "head_only" and arm != "uncached"
    report.original = verdict.forgetting.before if kept else verdict.forgetting.after
    report.write()


if __name__ == "__main__":
    main(sys.argv[2])
