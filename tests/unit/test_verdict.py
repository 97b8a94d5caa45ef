from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unfreeze.acceleration.engine_report import EngineReport
from unfreeze.errors import RunError
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.evaluation.metrics import Scores, score
from unfreeze.evaluation.significance import Gain
from unfreeze.orientations import Orientation
from unfreeze.runs.summary import summary
from unfreeze.verdict import (
    Cost,
    Data,
    ExpectedGain,
    FrozenEngine,
    Model,
    Point,
    ScoreSheet,
    TrialSummary,
    Verdict,
    frozen_engine,
)  # fmt: skip
from unfreeze.views import CROP, PLAIN, PLAIN_ONLY, SQUEEZE, EvaluationView

HEAD_ONLY = Scores(200, 0.8, (0.74, 0.85), 0.79, (0.7, 0.86), 0.6, (0.5, 0.7), 0.05, (0.02, 0.09))
TWO_PHASE = replace(HEAD_ONLY, accuracy=0.9, accuracy_ci95=(0.85, 0.934))
PROVEN = Gain(
    n=200, accuracy=0.1, accuracy_ci95=(0.045, 0.16), balanced_accuracy=0.11, balanced_accuracy_ci95=(0.05, 0.17),
    log_loss=-0.2, log_loss_ci95=(-0.3, -0.1), fixed=25, broken=5, p_value=0.0003249, test="mcnemar_exact", proven=True,
)  # fmt: skip


POINTS = (
    Point(alpha=0, accuracy=0.8, balanced_accuracy=0.79, log_loss=0.6, z=0),
    Point(
        alpha=1, accuracy=0.9, balanced_accuracy=0.89, log_loss=0.4, z=2.5, expected=0.018, expected_spread=0.024,
        p_worse=0.23,
    ),
)  # fmt: skip
EXPECTED = ExpectedGain(accuracy=0.018, spread=0.024, p_worse=0.23)


def verdict(**changes: Any) -> Verdict:
    shipped = changes.get("shipped", "two_phase")
    values: dict[str, Any] = {
        "shipped": shipped,
        "data": Data(n_train=700, n_test=200, classes=("cat", "Dög"), left_out=3),
        "model": Model(name="efficientnet_lite0", boundary=5, depth="blocks.5", alpha=1.0, bn="frozen"),
        "scores": ScoreSheet(
            protocol="test",
            head_only=HEAD_ONLY,
            two_phase=TWO_PHASE,
            shipped=TWO_PHASE if shipped == "two_phase" else HEAD_ONLY,
        ),
        "gain": PROVEN,
        "expected": EXPECTED,
        "forgetting": Forgetting(agreement=0.975, agreement_n=200),
        "trials": (TrialSummary(depth="blocks.5", lr=1e-3, points=POINTS, seconds=3.5),),
        "warnings": ("phase 2 went wrong",),
        "cost": Cost(seconds={"head": 1.5, "total": 9.0}, peak_rss_mib=812.5),
        "versions": {"torch": "2.10"},
        "frozen_engine": FrozenEngine(computed_by="torch 2.10", precision="float32", fallbacks=("openvino: absent",)),
    }
    return Verdict(**{**values, **changes})


def head_only() -> Verdict:
    scores = ScoreSheet(protocol="test", head_only=HEAD_ONLY, shipped=HEAD_ONLY)
    absent: dict[str, Any] = {
        "gain": None,
        "expected": None,
        "forgetting": None,
        "trials": (),
        "warnings": (),
        "frozen_engine": None,
    }
    return verdict(shipped="head_only", scores=scores, cost=Cost(seconds={"total": 1.0}), **absent)


@pytest.mark.parametrize("original", [verdict(), head_only()], ids=["two-phase", "head-only"])
def test_a_verdict_survives_its_file(original: Verdict) -> None:
    assert Verdict.from_json(original.to_json(), "verdict.json") == original


def test_the_file_says_what_the_design_says() -> None:
    content = json.loads(verdict().to_json())
    assert content["schema"] == 2
    assert list(content) == [
        "schema", "shipped", "data", "model", "scores", "gain", "expected", "forgetting", "trials", "warnings", "cost",
        "versions", "frozen_engine",
    ]  # fmt: skip
    assert content["trials"][0]["points"] == [
        {"alpha": 0.0, "accuracy": 0.8, "balanced_accuracy": 0.79, "log_loss": 0.6, "z": 0.0},
        {
            "alpha": 1.0, "accuracy": 0.9, "balanced_accuracy": 0.89, "log_loss": 0.4, "z": 2.5, "expected": 0.018,
            "expected_spread": 0.024, "p_worse": 0.23,
        },
    ]  # fmt: skip
    assert content["expected"] == {"accuracy": 0.018, "spread": 0.024, "p_worse": 0.23}
    assert content["data"]["classes"] == ["cat", "Dög"]
    assert content["scores"]["two_phase"]["accuracy_ci95"] == [0.85, 0.934]
    assert (content["gain"]["p_value"], content["gain"]["test"]) == (0.0003249, "mcnemar_exact")
    assert content["cost"] == {"seconds": {"head": 1.5, "total": 9.0}, "peak_rss_mib": 812.5}


def test_what_was_not_measured_is_absent() -> None:
    text = head_only().to_json()
    content = json.loads(text)
    assert "null" not in text
    assert {"gain", "expected", "forgetting", "frozen_engine"} & set(content) == set()
    assert set(content["scores"]) == {"protocol", "head_only", "shipped"}
    assert "peak_rss_mib" not in content["cost"]
    assert set(json.loads(verdict().to_json())["forgetting"]) == {"agreement", "agreement_n", "cka"}


def test_the_engine_is_named_with_what_was_faster_and_why_it_was_not_taken() -> None:
    precisions = (torch.float32, torch.bfloat16)
    report = EngineReport("torch 2.10", "fused", (0, 1, 2), precisions, (("openvino", "it is not installed"),))
    assert frozen_engine(report) == FrozenEngine(
        computed_by="torch 2.10, in torch with BatchNorm fused",
        precision="float32 below stage 1, bfloat16 from it on",
        fallbacks=("openvino: it is not installed",),
    )
    assert frozen_engine(None) is None


def edited(**changes: Any) -> str:
    return json.dumps({**json.loads(verdict().to_json()), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        edited(schema=3),
        edited(schema="1.5"),
        edited(shipped="both"),
        edited(news=1),
        edited(cost=3),
        "[" * 200_000,
    ],
)
def test_damaged_and_later_verdicts_are_refused(text: str) -> None:
    with pytest.raises(RunError, match=r"can't be read(?s:.*)runs/x/verdict.json(?s:.*)update"):
        Verdict.from_json(text, "runs/x/verdict.json")


def model_with(**changes: Any) -> str:
    model = {**json.loads(verdict().to_json())["model"], **changes}
    return edited(model={name: value for name, value in model.items() if value is not None})


def test_orientations_of_earlier_verdicts_are_read_as_views() -> None:
    text = model_with(views=None, n_views=None, orientations=["identity", "rot180"])
    model = Verdict.from_json(text, "verdict.json").model
    assert model.evaluation_views == (PLAIN, EvaluationView.of(CROP, Orientation.ROT180))
    assert model.n_views == 2
    oldest = Verdict.from_json(model_with(views=None, n_views=None), "verdict.json").model
    assert (oldest.evaluation_views, oldest.n_views) == (PLAIN_ONLY, 1)


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(RunError, match="no view called 'round'"):
        Verdict.from_json(model_with(views=[{"framing": "round", "orientation": "identity"}]), "verdict.json")


def test_views_and_their_cost_are_said_and_kept() -> None:
    views = tuple(EvaluationView.of(f, o) for f in (CROP, SQUEEZE) for o in (Orientation(0), Orientation.FLIPPED))
    text = model_with(views=[view.to_dict() for view in views], n_views=4)
    found = Verdict.from_json(text, "verdict.json")
    assert found.model.evaluation_views == views
    assert Verdict.from_json(found.to_json(), "verdict.json") == found
    assert found.model.describe_views() == (
        "each photo is looked at 4 times: centre crop and whole photo, each as it is and mirrored; predicting takes "
        "about 4 times the time of one view"
    )
    assert verdict().model.describe_views() == "each photo is looked at once: centre crop"


def test_a_verdict_of_the_first_schema_is_read() -> None:
    text = (Path(__file__).parent / "verdict_schema1.json").read_text("utf-8")
    first = json.loads(text)
    verdict = Verdict.from_json(text, "verdict.json")
    assert json.loads(verdict.to_json())["schema"] == 2
    assert verdict.model.evaluation_views == (PLAIN, EvaluationView.of(CROP, Orientation.FLIPPED))
    assert verdict.model.n_views == 2
    assert verdict.scores.protocol == first["scores"]["evidence"] == "cross_fitted"
    assert verdict.scores.shipped.accuracy == first["scores"]["shipped"]["accuracy"]
    (trial,) = verdict.trials
    assert [(p.alpha, p.accuracy, p.balanced_accuracy, p.log_loss) for p in trial.points] == [
        tuple(point) for point in first["tried"][0]["path"]
    ]
    assert [point.z for point in trial.points] == first["tried"][0]["errors"]
    assert verdict.cost.seconds["evaluation"] == first["cost"]["seconds"]["exam"]


def test_two_phase_ships_and_its_gain_is_proven() -> None:
    assert verdict().sentences() == (
        "The two-phase model ships: it is right on 90.0 % of 200 test photos that it never saw "
        "(95 % interval 85.0 % to 93.4 %).",
        "Phase 2 gained +10.0 points (95 % interval +4.5 to +16.0, p = 0.00032): proven"
        "; the original classifier still gives the same answer on 97.5 % of them.",
    )


def test_head_only_ships_without_a_second_phase() -> None:
    first, second = head_only().sentences()
    assert first.startswith("The head-only model ships: it is right on 80.0 % of 200 test photos")
    assert second == "Phase 2 did not run, so nothing is claimed for it."


SLIGHT = replace(PROVEN, accuracy=0.01, accuracy_ci95=(-0.02, 0.04), fixed=4, broken=2, p_value=0.6875, proven=False)
WORSE = replace(PROVEN, accuracy=-0.1, accuracy_ci95=(-0.16, -0.045), fixed=5, broken=25, proven=False)
SAME = replace(PROVEN, accuracy=0.0, accuracy_ci95=(0.0, 0.0), fixed=0, broken=0, p_value=1.0, proven=False)


def second_sentence(**changes: Any) -> str:
    return verdict(**{"forgetting": None, **changes}).sentences()[1]


def test_a_gain_that_is_not_proven_is_not_called_one_and_what_is_expected_is_said() -> None:
    assert second_sentence(gain=SLIGHT) == (
        "It ships because it is expected to be better by 1.8 points; not proven: these photos can't tell (accuracy "
        "changed by +1.0 points, 95 % interval -2.0 to +4.0, p = 0.69)."
    )
    little = EXPECTED.model_copy(update={"accuracy": 0.0004})
    assert "better by less than 0.1 points; not proven" in second_sentence(gain=SLIGHT, expected=little)


def test_a_bet_that_these_photos_speak_against_says_so() -> None:
    told = second_sentence(gain=WORSE)
    assert told.startswith(
        "It ships because it is expected to be better by 1.8 points; not proven: on these photos it was"
    )
    assert "worse (accuracy changed by -10.0 points, 95 % interval -16.0 to -4.5" in told
    assert "can't tell" not in told


def test_head_only_ships_because_fine_tuning_is_not_expected_to_help() -> None:
    harm = EXPECTED.model_copy(update={"accuracy": -0.006, "p_worse": 0.6})
    first, second = verdict(shipped="head_only", gain=WORSE, expected=harm, forgetting=None).sentences()
    assert first.startswith("The head-only model ships: it is right on 80.0 %")
    assert "gained" not in second
    assert second == (
        "It ships because fine-tuning is not expected to help (expected: worse by 0.6 points); on the test photos it "
        "changed accuracy by -10.0 points (95 % interval -16.0 to -4.5, p = 0.00032)."
    )


def test_a_verdict_without_expectations_says_what_its_version_shipped_by() -> None:
    told = second_sentence(shipped="head_only", gain=WORSE, expected=None)
    assert told.startswith(
        "Phase 2 was not significantly better on the validation photos, so the head-only model ships; on the test photos"
    )
    assert second_sentence(gain=SLIGHT, expected=None) == (
        "Phase 2 changed accuracy by +1.0 points (95 % interval -2.0 to +4.0, p = 0.69): a gain is not proven."
    )
    assert second_sentence(gain=SAME, expected=None) == "Phase 2 changed no answer on them: no gain is proven."


def test_a_phase_two_that_was_rolled_back_is_not_said_to_have_changed_anything() -> None:
    told = second_sentence(shipped="head_only", gain=SAME, expected=None)
    assert told == "Phase 2 went wrong, so the head-only model ships."
    told = second_sentence(shipped="head_only", gain=SAME, expected=None, warnings=())
    assert told.startswith("Phase 2 was not significantly better")


def test_a_pretrained_backbone_that_ships_has_forgotten_nothing() -> None:
    _, second = verdict(shipped="head_only").sentences()
    assert second.endswith("; the pretrained backbone ships as it was, so that nothing is forgotten.")


def test_no_change_at_all() -> None:
    assert second_sentence(gain=SAME) == (
        "It ships because it is expected to be better by 1.8 points; not proven: phase 2 changed no answer on these photos."
    )


def test_forgetting_on_reference_photos_comes_before_agreement() -> None:
    lost = Forgetting("photos", 500, 0.892, 0.87, 0.022, (0.01, 0.03), agreement=0.9, agreement_n=200)
    _, second = verdict(forgetting=lost).sentences()
    assert second.endswith("; of the original task the backbone lost 2.2 points (500 reference photos).")


def test_one_photo_is_one_photo() -> None:
    single = replace(HEAD_ONLY, n=1)
    scores = ScoreSheet(protocol="test", head_only=single, shipped=single)
    first, _ = verdict(shipped="head_only", scores=scores, gain=None).sentences()
    assert "of 1 test photo that" in first


def test_cross_fitted_scores_are_called_what_they_are() -> None:
    scores = ScoreSheet(protocol="cross_fitted", head_only=HEAD_ONLY, two_phase=TWO_PHASE, shipped=TWO_PHASE)
    first, *_ = verdict(scores=scores).sentences()
    assert "of 200 photos, each answered by a model that never saw it (95 %" in first
    _, second, *_ = verdict(shipped="head_only", scores=scores).sentences()
    assert "; on these photos it changed accuracy by +10.0 points" in second


UNDER_7 = "With 200 photos, a gain under 7 points can't be told from luck"


@pytest.mark.parametrize(
    ("detectable", "needed", "expected"),
    [
        (0.07, 1234, [f"{UNDER_7}; for the 3.0 points seen here, 1300 would do."]),
        (0.07, None, [f"{UNDER_7}."]),
        (None, None, []),
    ],
)  # fmt: skip
def test_what_the_photos_could_have_shown(detectable: float | None, needed: int | None, expected: list[str]) -> None:
    seen = replace(
        PROVEN, accuracy=0.03, accuracy_ci95=(-0.01, 0.07), proven=False, detectable=detectable, needed_n=needed
    )
    assert list(verdict(gain=seen, forgetting=None).sentences()[2:]) == expected
    proven = replace(PROVEN, detectable=0.05, needed_n=100)
    assert len(verdict(gain=proven).sentences()) == 2


def scored(n: tuple[int, ...], correct: tuple[int, ...]) -> Verdict:
    """Return a verdict on so many photos of each class, of which so many were right."""
    labels = np.repeat(np.arange(len(n)), n)
    probabilities = np.zeros((len(labels), len(n)))
    is_right = np.concatenate([np.arange(count) < right for count, right in zip(n, correct, strict=True)])
    probabilities[np.arange(len(labels)), np.where(is_right, labels, (labels + 1) % len(n))] = 1
    scores = score(labels, probabilities)
    classes = tuple("abc"[: len(n)])
    sheet = ScoreSheet(protocol="test", head_only=scores, shipped=scores)
    data = Data(n_train=9, n_test=len(labels), classes=classes, left_out=0)
    return verdict(shipped="head_only", scores=sheet, data=data, gain=None, forgetting=None, expected=None)


def test_a_score_like_guessing_is_told_first() -> None:
    first, second, *_ = scored((50, 50), (20, 26)).sentences()
    assert first.startswith("No better than guessing, as far as these photos show: the balanced accuracy of 46.0 %")
    assert first.endswith("can't be told from the 50.0 % of guessing one of 2 classes.")
    assert second.startswith("The head-only model ships: it is right on 46.0 %")


def test_a_score_like_always_answering_the_largest_class_is_told_first() -> None:
    first, second, *_ = scored((90, 10), (82, 9)).sentences()
    assert first == (
        "Not shown to be right more often than always answering 'a', which is right on 90.0 % of these photos; but the "
        "balanced accuracy of 90.6 % is above the 50.0 % of guessing."
    )
    assert second.startswith("The head-only model ships")


@pytest.mark.parametrize(
    ("n", "correct"), [((50, 50), (40, 40)), ((90, 10), (90, 9)), ((30, 30, 30), (20, 20, 20)), ((50, 0), (30, 0))]
)
def test_a_score_above_chance_is_told_as_before(n: tuple[int, ...], correct: tuple[int, ...]) -> None:
    assert scored(n, correct).sentences()[0].startswith("The head-only model ships")


def test_where_no_score_is_honest_none_is_told() -> None:
    reason = "No honest score exists: the class 'a' is of one patient."
    plain = verdict()
    confounded = plain.model_copy(update={"data": plain.data.model_copy(update={"no_score": reason})})
    assert confounded.sentences() == (reason, "The two-phase model ships, and nothing is scored.")
    assert Verdict.from_json(confounded.to_json(), "x").data.no_score == reason
    assert "no_score" not in plain.to_json()
    told = " ".join(summary(confounded))
    assert "accuracy" not in told
    assert "weakest" not in told
