from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unfreeze.compare.results import ArmResult, Comparison, plot_accuracy_vs_forgetting, summarise
from unfreeze.evaluation.repeated import corrected_t
from unfreeze.evaluation.significance import gain
from unfreeze.runs.folder import RunFolder

N = 60


def results(seeds: int, *, drop: float | None = None) -> list[ArmResult]:
    """Three arms: the baseline, one that is better, one that differs by chance alone."""
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        for arm, rate in (("head-only", 0.6), ("better", 0.95), ("other", 0.6)):
            correct = (rng.random(N) < rate).astype(np.int64)
            accuracy = float(correct.mean())
            found.append(ArmResult(seed, arm, 10.0 * (seed + 1), accuracy, accuracy, drop, drop, 0.8, correct))
    return found


def summarised(
    seeds: int, *, same: bool, groups: list[str | None] | None = None, drop: float | None = None
) -> Comparison:
    tests = [np.arange(N) + (0 if same else seed) for seed in range(seeds)]
    own = groups or [None] * N
    return summarise(RunFolder(Path("x")), results(seeds, drop=drop), tests, [own] * seeds, 4 * N, "head-only")


def test_one_seed_is_tested_as_a_run_is() -> None:
    better = summarised(1, same=True).summaries[1]
    correct = {row.arm: row.correct for row in results(1)}
    stated = {arm: np.column_stack([found, 1 - found]).astype(float) for arm, found in correct.items()}
    expected = gain(np.zeros(N, int), stated["head-only"], stated["better"])
    assert better.gain == pytest.approx(expected.accuracy)
    assert better.p_value == pytest.approx(2 * expected.p_value)  # two arms at once (Holm)
    assert better.gain_ci95 == pytest.approx(expected.accuracy_ci95, abs=0.03)


def test_on_the_same_photos_a_photo_counts_once_whatever_the_seeds() -> None:
    comparison = summarised(4, same=True)
    changes = np.sum([row.correct for row in comparison.results if row.arm == "better"], axis=0) / 4
    baseline = np.sum([row.correct for row in comparison.results if row.arm == "head-only"], axis=0) / 4
    error = float(np.std(changes - baseline, ddof=1)) / N**0.5
    low, high = comparison.summaries[1].gain_ci95 or (0, 0)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert comparison.test == "photos"
    assert comparison.summaries[1].p_value is not None
    assert comparison.summaries[1].p_value < 0.001
    assert (comparison.summaries[2].p_value or 0) > 0.05


def test_groups_change_together() -> None:
    alone = summarised(2, same=True).summaries[1]
    grouped = summarised(2, same=True, groups=[f"tile {number // 12}" for number in range(N)]).summaries[1]
    assert alone.gain == grouped.gain
    assert alone.p_value is not None
    assert grouped.p_value is not None
    assert grouped.p_value > alone.p_value


def test_where_seeds_divide_the_photos_anew_the_t_test_is_corrected() -> None:
    comparison = summarised(5, same=False)
    by_seed = {(row.arm, row.seed): row.accuracy for row in comparison.results}
    expected = corrected_t([by_seed["better", s] - by_seed["head-only", s] for s in range(5)], 4 * N, N)
    assert comparison.test == "divisions"
    assert comparison.summaries[1].gain_ci95 == pytest.approx(expected.ci95)
    assert comparison.summaries[1].p_value == pytest.approx(min(1.0, 2 * (expected.p_value or 0)))


def test_the_table_is_readable() -> None:
    lines = list(summarised(2, same=True, drop=0.031).table())
    assert [line.split("  ")[0] for line in lines[:4]] == ["arm", "head-only", "better", "other"]
    assert "lost, orig." in lines[0]
    assert " 3.1 " in lines[1]
    assert "+" in lines[2]
    assert "+" not in lines[1]
    assert lines[2].rstrip().endswith("15")  # the median of 10 and 20 seconds
    assert lines[4] == "means of 2 seeds, 60 test photos; gains in points with 95 % intervals"
    assert all(len(line) <= 110 for line in lines[:5])
    assert "80.0 %" in list(summarised(2, same=True).table())[1]


@pytest.mark.parametrize("drop", [None, 0.2])
def test_the_plot_is_a_picture(tmp_path: Path, drop: float | None) -> None:
    plot_accuracy_vs_forgetting(summarised(2, same=True, drop=drop), tmp_path / "compare.png")
    with Image.open(tmp_path / "compare.png") as image:
        assert image.size == (800, 500)
        assert len(image.convert("RGB").getcolors(2**20) or []) > 20
