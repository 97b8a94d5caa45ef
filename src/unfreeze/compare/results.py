"""Results of a comparison: the gain of every arm and its significance, as a table and as a plot."""

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
from unfreeze.verdict_sentences import counted

Indices = NDArray[np.int64]
NAME, NUMBER, GAIN = 27, 10, 25  # widths of the table's columns, in characters
MARKERS = "os^vDP*X"
TESTS = {
    "photos": "exact sign-flip test, photo by photo over all seeds",
    "divisions": "t-test of the seeds' gains, corrected for overlapping training photos (Nadeau & Bengio 2003)",
}


@dataclass(frozen=True)
class ArmResult:
    """Result of one arm with one seed; scores are fractions, ``seconds`` from image files to the trained model.

    Attributes:
        drop: Accuracy that the original classifier lost on reference images.
        batch_norm_drop: The part of ``drop`` that is due to changed BatchNorm statistics.
        agreement: Share of the test images for which the original classifier predicts the same class as before.
        correct: 1 for each test image that was predicted correctly, else 0 (N,).
    """

    seed: int
    arm: str
    seconds: float
    accuracy: float
    balanced_accuracy: float
    drop: float | None
    batch_norm_drop: float | None
    agreement: float | None
    correct: Indices


@dataclass(frozen=True)
class ArmSummary:
    """One arm over all seeds: mean scores, median seconds, and the gain over the baseline.

    Attributes:
        p_value: Two-sided p-value of no gain, adjusted for all arms (Holm 1979); None where there is no test.
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
    """Results of all arms.

    Attributes:
        folder: The comparison's folder.
        results: One per arm and seed.
        summaries: One per arm.
        baseline: Name of the arm from which gains are measured.
        n_test: Number of test images per seed.
        seeds: Number of seeds.
        test: Key of the significance test in ``TESTS``.
    """

    folder: RunFolder
    results: tuple[ArmResult, ...]
    summaries: tuple[ArmSummary, ...]
    baseline: str
    n_test: int
    seeds: int
    test: Literal["photos", "divisions"]

    def table(self) -> Iterator[str]:
        """Yield the lines that the terminal shows."""
        measured = any(arm.drop is not None for arm in self.summaries)
        forgetting = "lost, orig." if measured else "orig. same"
        yield _line("arm", ["accuracy", "balanced"], f"gain over {self.baseline}", ["p", forgetting, "seconds"])
        for arm in self.summaries:
            gain = "" if arm.arm == self.baseline else f"{arm.gain * 100:+.1f}"
            if gain and arm.gain_ci95 is not None:
                gain += f" ({arm.gain_ci95[0] * 100:+.1f} to {arm.gain_ci95[1] * 100:+.1f})"
            if arm.drop is not None:
                forgetting = f"{arm.drop * 100:.1f}"
            else:
                forgetting = "" if arm.agreement is None else f"{arm.agreement * 100:.1f} %"
            p_value = "" if arm.p_value is None else f"{arm.p_value:.2g}"
            scores = [f"{arm.accuracy * 100:.1f} %", f"{arm.balanced_accuracy * 100:.1f} %"]
            yield _line(arm.arm, scores, gain, [p_value, forgetting, f"{arm.seconds:.0f}"])
        yield f"means of {counted(self.seeds, 'seed')}, {self.n_test} test photos; gains in points with 95 % intervals"
        if any(arm.p_value is not None for arm in self.summaries):
            yield f"p: {TESTS[self.test]}, adjusted for all arms (Holm)"


def summarise(
    folder: RunFolder,
    results: Sequence[ArmResult],
    tests: Sequence[Indices],
    groups: Sequence[Groups],
    n_train: int,
    baseline: str,
) -> Comparison:
    """Summarise the results of all seeds, with a test of every arm's gain.

    Where every seed has the same test images (named by the user, or one seed), images are resampled, with the mean of
    their changes over the seeds.  Where every seed has a split of its own, the gains of the seeds are tested.

    Args:
        folder: The comparison's folder.
        results: One per arm and seed, in the order of the table.
        tests: Indices of the test images of each seed.
        groups: Groups of the test images of each seed.
        n_train: Number of training images.
        baseline: Name of the arm from which gains are measured.
    """
    seeds = sorted({result.seed for result in results})
    by_arm_and_seed = {(result.arm, result.seed): result for result in results}
    arms = list(dict.fromkeys(result.arm for result in results))
    same_test = all(np.array_equal(test, tests[0]) for test in tests)
    significance: dict[str, tuple[Interval | None, float | None]] = {baseline: (None, None)}
    for arm in (arm for arm in arms if arm != baseline):
        changes = [by_arm_and_seed[arm, seed].correct - by_arm_and_seed[baseline, seed].correct for seed in seeds]
        if same_test:
            net = np.sum(changes, axis=0)
            codes = group_codes(groups[0], len(net))
            interval = mean_interval(net / len(seeds), groups=groups[0])
            by_group = net if codes is None else np.bincount(codes, net).astype(np.int64)
            significance[arm] = interval, sign_flip_exact(by_group)
        else:
            gain = corrected_t([float(change.mean()) for change in changes], n_train, len(tests[0]))
            significance[arm] = gain.ci95, gain.p_value
    tested = [arm for arm in arms if significance[arm][1] is not None]
    adjusted = dict(zip(tested, holm([significance[arm][1] or 0.0 for arm in tested]), strict=True))
    summaries = []
    for arm in arms:
        of_arm = [by_arm_and_seed[arm, seed] for seed in seeds]
        accuracy = statistics.mean(result.accuracy for result in of_arm)
        summaries.append(
            ArmSummary(
                arm=arm,
                accuracy=accuracy,
                balanced_accuracy=statistics.mean(result.balanced_accuracy for result in of_arm),
                gain=accuracy - statistics.mean(by_arm_and_seed[baseline, seed].accuracy for seed in seeds),
                gain_ci95=significance[arm][0],
                p_value=adjusted.get(arm),
                drop=_mean([result.drop for result in of_arm]),
                batch_norm_drop=_mean([result.batch_norm_drop for result in of_arm]),
                agreement=_mean([result.agreement for result in of_arm]),
                seconds=statistics.median(result.seconds for result in of_arm),
            )
        )
    test: Literal["photos", "divisions"] = "photos" if same_test else "divisions"
    return Comparison(folder, tuple(results), tuple(summaries), baseline, len(tests[0]), len(seeds), test)


def plot_accuracy_vs_forgetting(comparison: Comparison, path: Path) -> None:
    """Plot accuracy against forgetting: a marker per arm, a dot per seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = any(arm.drop is not None for arm in comparison.summaries)
    figure = Figure(figsize=(8, 5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, arm in enumerate(comparison.summaries):
        results = [result for result in comparison.results if result.arm == arm.arm]
        colour = f"C{i}"
        forgetting = _forgetting(arm.drop, arm.agreement)
        if forgetting is None:
            continue
        seeds = [(_forgetting(result.drop, result.agreement) or 0.0, result.accuracy) for result in results]
        axes.plot([100 * x for x, _ in seeds], [100 * y for _, y in seeds], ".", color=colour, alpha=0.5)
        axes.plot(
            100 * forgetting,
            100 * arm.accuracy,
            MARKERS[i % len(MARKERS)],
            color=colour,
            markersize=11,
            label=arm.arm,
        )
    axes.set_xlabel(
        "forgetting: points that the original classifier lost on reference photos"
        if measured
        else "forgetting: % of the test photos with another prediction by the original classifier"
    )
    axes.set_ylabel("accuracy on the new task, %")
    axes.set_title("Up is better, left is better; dots are single seeds")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    write_bytes(path, buffer.getvalue())


def _forgetting(drop: float | None, agreement: float | None) -> float | None:
    """Return the lost accuracy where it was measured, else the share of changed predictions."""
    return drop if drop is not None else None if agreement is None else 1 - agreement


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _line(name: str, scores: Sequence[str], gain: str, rest: Sequence[str]) -> str:
    left = "".join(f"{cell:<{NUMBER}}" for cell in scores)
    right = "".join(f"{cell:<{NUMBER + 2}}" for cell in rest)
    return f"{name:<{NAME}}{left}{gain:<{GAIN}}{right}".rstrip()
