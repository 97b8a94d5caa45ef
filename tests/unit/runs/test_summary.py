from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unfreeze.evaluation.calibration import Calibration
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.evaluation.metrics import score
from unfreeze.runs.summary import summary
from unfreeze.verdict import Cost, Data, ExpectedGain, Model, ScoreSheet, TrialSummary, Verdict, View

LABELS = np.arange(60) % 3
STATED = np.full((60, 3), 0.1)
STATED[np.arange(60), np.where(np.arange(60) < 12, 0, LABELS)] = 0.8
SCORES = score(LABELS, STATED)


def verdict(*, second: bool = True, forgotten: Forgetting | None = None) -> Verdict:
    return Verdict(
        shipped="two_phase" if second else "head_only",
        data=Data(n_train=200, n_test=60, classes=("cat", "dog", "eel"), left_out=0),
        model=Model(name="efficientnet_lite0", boundary=5, depth="blocks.5", alpha=1.0, bn="frozen"),
        scores=ScoreSheet(
            protocol="test",
            head_only=SCORES,
            two_phase=SCORES if second else None,
            shipped=SCORES,
            calibration=Calibration(0.5, 100, 0.1, 0.02, 0.5, 0.4),
        ),
        forgetting=forgotten,
        cost=Cost(seconds={"total": 1.0}),
    )


def test_the_stages_that_the_head_reads_are_counted() -> None:
    about = verdict()
    several = about.model_copy(update={"model": about.model.model_copy(update={"head_stages": ("a", "b", "c")})})
    assert "reads 3 stages" in next(line for line in summary(several) if line.startswith("head  "))
    assert not any(line.startswith("head  ") for line in summary(about))
    assert "head_stages" not in about.to_json()


def test_both_models_stand_side_by_side() -> None:
    lines = list(summary(verdict()))
    header = next(number for number, line in enumerate(lines) if line.split() == ["head-only", "two-phase"])
    accuracy = lines[header + 1]
    assert accuracy.startswith("accuracy ")
    assert accuracy.count(f"{SCORES.accuracy:.3f} (") == 2
    assert [line.split("  ")[0] for line in lines[header + 1 : header + 9]] == [
        "accuracy", "balanced accuracy", "macro F1", "ROC-AUC", "PR-AUC", "Cohen's kappa", "log-loss",
        "calibration error",
    ]  # fmt: skip
    assert "calibration error 0.100 -> 0.020" in lines[-1]
    assert len(lines) < 20


def test_how_views_were_turned_is_said() -> None:
    tried = (TrialSummary(depth="blocks.5", lr=3e-4, points=(), seconds=7.0),)
    model = verdict().model.model_copy(update={"symmetry": "rotate"})
    lines = list(summary(verdict().model_copy(update={"trials": tried, "model": model})))
    (line,) = (line for line in lines if line.startswith("phase 2 "))
    assert line.endswith("tried blocks.5 at 0.0003 (7 s); views turned every way")


def test_several_views_and_their_cost_are_said() -> None:
    views = (View(framing="crop", orientation="identity"), View(framing="squeeze", orientation="identity"))
    model = verdict().model.model_copy(update={"views": views, "n_views": 2})
    (line,) = (line for line in summary(verdict().model_copy(update={"model": model})) if line.startswith("views "))
    assert "each photo is looked at 2 times: centre crop and whole photo;" in line
    assert "about 2 times the time of one view (--no-tta: one view)" in line
    assert not any(line.startswith("views ") for line in summary(verdict()))


def test_head_only_has_one_column() -> None:
    lines = list(summary(verdict(second=False)))
    assert any(line.split() == ["head-only"] for line in lines)


def test_where_the_folds_chose_differently_what_ships_has_a_column_of_its_own() -> None:
    scores = verdict().scores.model_copy(update={"protocol": "cross_fitted", "shipped": replace(SCORES, accuracy=0.71)})
    lines = list(summary(verdict().model_copy(update={"scores": scores})))
    (header,) = (line for line in lines if "head-only  " in line)
    assert header.split("  ")[-1].strip() == "as it is chosen"
    (accuracy,) = (line for line in lines if line.startswith("accuracy"))
    assert "0.710 (" in accuracy
    assert all(len(line) <= 100 for line in lines[3:12])


def searched(alpha: float, *warnings: str) -> Verdict:
    plain = verdict()
    tried = (
        TrialSummary(depth="blocks.6", lr=1e-3, points=(), seconds=12.3),
        TrialSummary(depth="blocks.5", lr=3e-4, points=(), seconds=20.6),
    )
    changes = {"trials": tried, "warnings": warnings, "model": plain.model.model_copy(update={"alpha": alpha})}
    return plain.model_copy(update=changes)


@pytest.mark.parametrize(
    ("alpha", "ended"),
    [(0.5, "from blocks.5 up, alpha 0.5 (0: head-only's weights, 1: phase 2's)"), (0.0, "does not ship")],
)
def test_what_was_tried_is_listed(alpha: float, ended: str) -> None:
    (line,) = (line for line in summary(searched(alpha)) if line.startswith("phase 2"))
    assert line.removeprefix("phase 2").strip() == (
        f"{ended}; tried blocks.6 at 0.001 (12 s), blocks.5 at 0.0003 (21 s)"
    )


def test_the_expected_gain_has_a_line_with_its_spread() -> None:
    expected = ExpectedGain(accuracy=0.018, spread=0.0241, p_worse=0.227)
    (line,) = (
        line for line in summary(verdict().model_copy(update={"expected": expected})) if line.startswith("expected")
    )
    assert line.removeprefix("expected gain").strip() == (
        "+1.8 points of accuracy, give or take 2.4; worse than head-only with a probability of 23 %"
    )
    assert not [line for line in summary(verdict()) if line.startswith("expected")]


def test_every_warning_has_a_line() -> None:
    lines = [line for line in summary(searched(0.5, "it went wrong", "so did that")) if line.startswith("warning")]
    assert [line.removeprefix("warning").strip() for line in lines] == ["it went wrong", "so did that"]


def test_without_a_search_nothing_is_said_of_one() -> None:
    assert not [line for line in summary(verdict()) if line.startswith(("phase 2", "warning"))]


def test_the_weakest_classes_are_named_and_perfect_ones_are_not() -> None:
    (weak,) = (line for line in summary(verdict()) if line.startswith("weakest"))
    assert weak.split("  ")[-1].strip() == "dog (recall 0.80 of 20), eel (recall 0.80 of 20)"


def test_a_score_that_one_model_lacks_is_no_obstacle() -> None:
    scores = verdict().scores.model_copy(update={"two_phase": replace(SCORES, kappa=None, kappa_ci95=None)})
    lacking = verdict().model_copy(update={"scores": scores})
    (kappa,) = (line for line in summary(lacking) if line.startswith("Cohen"))
    assert kappa.endswith(" -")


@pytest.mark.parametrize("top5", [0.03, None])
def test_forgetting_names_its_causes(top5: float | None) -> None:
    forgotten = Forgetting(
        reference="photos", n=500, before=0.9, after=0.8, drop=0.1, drop_ci95=(0.06, 0.14), weights_drop=0.02,
        batch_norm_drop=0.08, top5_drop=top5, probe_before=0.85, probe_after=0.84, probe_drop=0.01, agreement=0.75,
        agreement_n=60, kl=0.123, cka={"blocks.5": 0.99, "blocks.6": 0.9, "conv_head": 0.8},
    )  # fmt: skip
    lines = list(summary(verdict(forgotten=forgotten)))
    first, reader, answers = lines[-3:]
    assert "90.0 % before, lost 10.0 (6.0 to 14.0): weights 2.0, BatchNorm 8.0" in first
    assert ("top-5 lost 3.0" in first) == (top5 is not None)
    assert "85.0 % before, lost 1.0" in reader
    assert "75.0 % the same on 60 of your photos; KL 0.123 (0: as sure of the same); CKA blocks.5 0.990" in answers
    assert answers.endswith("conv_head 0.800 (1: the stage answers as before)")
    assert len(lines) < 22


def test_classes_that_were_never_tested_are_named_first() -> None:
    scores = score(LABELS[LABELS < 2], STATED[LABELS < 2])
    about = verdict()
    partial = about.model_copy(update={"scores": about.scores.model_copy(update={"shipped": scores})})
    lines = list(summary(partial))
    assert lines[0].endswith("; never tested, as no test photo is of it: 'eel'.")
    assert any("over 2 of 3 classes" in line for line in lines)
    assert not any("never tested" in line or "of 3 classes" in line for line in summary(about))
