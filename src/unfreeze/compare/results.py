"""A comparison's figures: which arm gained what, whether luck explains it, as a table and as a plot."""

from __future__ import annotations

import io
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unfreeze.evaluation.repeated import corrected_t, holm
from unfreeze.evaluation.resampling import Groups, Interval, group_codes, mean_interval
from unfreeze.evaluation.significance import sign_flip_exact
from unfreeze.files import write_bytes
from unfreeze.runs.folder import RunFolder
from unfreeze.verdict import counted

Indices = NDArray[np.int64]
NAME, NUMBER, GAIN = 27, 10, 25  # widths of the table's columns
MARKS = "os^vDP*X"
TESTS = {
    "photos": "the photos' answers of all seeds, swapped photo by photo (exact sign-flip test)",
    "divisions": "the seeds' gains, corrected for divisions that overlap (Nadeau & Bengio 2003)",
}


@dataclass(frozen=True)
class ArmResult:
    """One arm with one seed; fractions, seconds from photos to its model.

    Attributes:
        right: 1 where the test photo was answered rightly (N,).
        drop: Accuracy that the original classifier lost on reference photos.
        batch_norm_drop: The part of it that BatchNorm's moved statistics cost.
        agreement: Share of the test photos on which the original classifier says what it said before.
    """

    seed: int
    arm: str
    seconds: float
    accuracy: float
    balanced_accuracy: float
    drop: float | None
    batch_norm_drop: float | None
    agreement: float | None
    right: Indices


@dataclass(frozen=True)
class ArmSummary:
    """One arm over all seeds: means, the median of the seconds, and its gain over the baseline.

    Attributes:
        p_value: Two-sided, of no gain, for all arms at once (Holm 1979); None where nothing can be said.
    """

    arm: str
    accuracy: float
    balanced_accuracy: float
    gain: float
    gain_ci95: Interval | None
    p_value: float | None
    drop: float | None
    batch_norm_drop: float | None
    agreement: float | None
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """All arms.

    Attributes:
        folder: Where it is written.
        rows: Every arm and seed.
        lines: Every arm.
        baseline: The arm that gains are measured from.
        n_test: Test photos of a seed.
        seeds: How many.
        test: What the p-values are of.
    """

    folder: RunFolder
    rows: tuple[ArmResult, ...]
    lines: tuple[ArmSummary, ...]
    baseline: str
    n_test: int
    seeds: int
    test: Literal["photos", "divisions"]

    def table(self) -> Iterator[str]:
        """Yield the comparison for a terminal."""
        forgot = "lost, orig." if any(line.drop is not None for line in self.lines) else "orig. same"
        yield _row("arm", ["accuracy", "balanced"], f"gain over {self.baseline}", ["p", forgot, "seconds"])
        for line in self.lines:
            gain = "" if line.arm == self.baseline else f"{line.gain * 100:+.1f}"
            if gain and line.gain_ci95 is not None:
                gain += f" ({line.gain_ci95[0] * 100:+.1f} to {line.gain_ci95[1] * 100:+.1f})"
            if line.drop is not None:
                forgotten = f"{line.drop * 100:.1f}"
            else:
                forgotten = "" if line.agreement is None else f"{line.agreement * 100:.1f} %"
            p_value = "" if line.p_value is None else f"{line.p_value:.2g}"
            scores = [f"{line.accuracy * 100:.1f} %", f"{line.balanced_accuracy * 100:.1f} %"]
            yield _row(line.arm, scores, gain, [p_value, forgotten, f"{line.seconds:.0f}"])
        yield f"means of {counted(self.seeds, 'seed')}, {self.n_test} test photos; gains in points with 95 % intervals"
        if any(line.p_value is not None for line in self.lines):
            yield f"p: {TESTS[self.test]}, for all arms at once (Holm)"


def summarise(
    folder: RunFolder,
    rows: Sequence[ArmResult],
    tests: Sequence[Indices],
    groups: Sequence[Groups],
    n_train: int,
    baseline: str,
) -> Comparison:
    """Sum up.

    Where every seed is scored on the same photos (the user named them, or there is one seed), photos are what chance draws:
    a photo's changes in all seeds go together.  Where every seed divides the photos anew, divisions are.

    Args:
        folder: Where it will be written.
        rows: Every arm and seed, in the order to show arms in.
        tests: The test photos of each seed.
        groups: What test photos belong together, for each seed.
        n_train: Photos that trained.
        baseline: The arm that gains are measured from.
    """
    seeds = sorted({row.seed for row in rows})
    of = {(row.arm, row.seed): row for row in rows}
    arms = list(dict.fromkeys(row.arm for row in rows))
    same = all(np.array_equal(test, tests[0]) for test in tests)
    found: dict[str, tuple[Interval | None, float | None]] = {baseline: (None, None)}
    for arm in (arm for arm in arms if arm != baseline):
        changes = [of[arm, seed].right - of[baseline, seed].right for seed in seeds]
        if same:
            net = np.sum(changes, axis=0)
            codes = group_codes(groups[0], len(net))
            interval = mean_interval(net / len(seeds), groups=groups[0])
            found[arm] = interval, sign_flip_exact(net if codes is None else np.bincount(codes, net).astype(np.int64))
        else:
            gained = corrected_t([float(change.mean()) for change in changes], n_train, len(tests[0]))
            found[arm] = gained.ci95, gained.p_value
    known = [arm for arm in arms if found[arm][1] is not None]
    adjusted = dict(zip(known, holm([found[arm][1] or 0.0 for arm in known]), strict=True))
    lines = []
    for arm in arms:
        own = [of[arm, seed] for seed in seeds]
        accuracy = statistics.mean(row.accuracy for row in own)
        lines.append(
            ArmSummary(
                arm=arm,
                accuracy=accuracy,
                balanced_accuracy=statistics.mean(row.balanced_accuracy for row in own),
                gain=accuracy - statistics.mean(of[baseline, seed].accuracy for seed in seeds),
                gain_ci95=found[arm][0],
                p_value=adjusted.get(arm),
                drop=_mean([row.drop for row in own]),
                batch_norm_drop=_mean([row.batch_norm_drop for row in own]),
                agreement=_mean([row.agreement for row in own]),
                seconds=statistics.median(row.seconds for row in own),
            )
        )
    test: Literal["photos", "divisions"] = "photos" if same else "divisions"
    return Comparison(folder, tuple(rows), tuple(lines), baseline, len(tests[0]), len(seeds), test)


def plot_accuracy_vs_forgetting(comparison: Comparison, path: Path) -> None:
    """Draw accuracy against forgetting: a mark for each arm, a dot for each of its seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = any(line.drop is not None for line in comparison.lines)
    figure = Figure(figsize=(8, 5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, line in enumerate(comparison.lines):
        rows = [row for row in comparison.rows if row.arm == line.arm]
        colour = f"C{number}"
        forgotten = _forgetting_cell(line.drop, line.agreement)
        if forgotten is None:
            continue
        seeds = [(_forgetting_cell(row.drop, row.agreement) or 0.0, row.accuracy) for row in rows]
        axes.plot([100 * x for x, _ in seeds], [100 * y for _, y in seeds], ".", color=colour, alpha=0.5)
        axes.plot(
            100 * forgotten,
            100 * line.accuracy,
            MARKS[number % len(MARKS)],
            color=colour,
            markersize=11,
            label=line.arm,
        )
    axes.set_xlabel(
        "forgotten: points that the original classifier lost on reference photos"
        if measured
        else "forgotten: % of the test photos on which the original classifier changed its mind"
    )
    axes.set_ylabel("accuracy on the new task, %")
    axes.set_title("Up is better, left is better; dots are single seeds")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    drawn = io.BytesIO()
    canvas.print_png(drawn)
    write_bytes(path, drawn.getvalue())


def _forgetting_cell(drop: float | None, agreement: float | None) -> float | None:
    return drop if drop is not None else None if agreement is None else 1 - agreement


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _row(name: str, scores: Sequence[str], gain: str, rest: Sequence[str]) -> str:
    left, right = (
        "".join(f"{cell:<{NUMBER}}" for cell in scores),
        "".join(f"{cell:<{NUMBER + 2}}" for cell in rest),
    )
    return f"{name:<{NAME}}{left}{gain:<{GAIN}}{right}".rstrip()
