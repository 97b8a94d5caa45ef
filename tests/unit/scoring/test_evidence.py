from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm, ttest_rel
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from tests.support.training import schedule, task

from unfreeze.evaluation.calibration import calibrated_nll, fit_temperature, softmax
from unfreeze.evaluation.crossfit import inflation, widened_gain, widened_scores
from unfreeze.evaluation.metrics import score
from unfreeze.evaluation.significance import Gain
from unfreeze.models.freezing import StagePlan, StageRow
from unfreeze.models.state import ModelState
from unfreeze.predict import Logits
from unfreeze.scoring.evidence import cross_fitted, from_test, paired_gain, score_sheet, summarise_trials
from unfreeze.training.folds import Fold, Folds, TrainingSet
from unfreeze.training.head.regularisation_path import fit_head
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.phase_two import TwoPhaseResult
from unfreeze.training.recipe import Candidate
from unfreeze.training.search import Trial
from unfreeze.views import PLAIN_ONLY

CLASSES = 3
NOTHING = ModelState([], {})
Answers = tuple[Logits, ...]


def one(answers: Answers, temperature: float, calibrated_on: int = 30) -> HeadOnlyResult:
    return HeadOnlyResult(
        state=NOTHING, views=PLAIN_ONLY, fold_logits=answers, temperature=temperature,
        n_calibration=calibrated_on,
        fold_states=(), fold_views=tuple(PLAIN_ONLY for _ in answers), phase2_init=NOTHING,
        fold_inits=(), history=(),
    )  # fmt: skip


def trial(answers: dict[float, Answers], *, depth: str = "layer4", lr: float = 0.01) -> Trial:
    plan = StagePlan((StageRow(depth, True, lr, "frozen"),), lr)
    return Trial(Candidate(depth, 0, plan, schedule()), answers, (), (), None, 2.5)


def two(answers: Answers, temperature: float, ships: tuple[bool, ...], calibrated_on: int = 30) -> TwoPhaseResult:
    tried = trial({1.0: answers})
    return TwoPhaseResult(
        state=NOTHING, trial=tried, alpha=1.0, fold_logits=answers, temperature=temperature,
        n_calibration=calibrated_on, accepted=True, fold_accepted=ships, fold_states=(), history=(),
        trials=(tried,), warnings=(),
    )  # fmt: skip


def phases(
    data: TrainingSet, rounds: tuple[Fold, ...], ships: tuple[bool, ...]
) -> tuple[HeadOnlyResult, TwoPhaseResult]:
    """Return phases whose logits are drawn: head-only is right a little, two-phase often."""
    rng = np.random.default_rng(0)

    def said(strength: float) -> Answers:
        found = []
        for each in rounds:
            logits = rng.normal(size=(len(each.val), CLASSES)).astype(np.float32)
            logits[np.arange(len(each.val)), data.labels[torch.from_numpy(each.val)].numpy()] += strength
            found.append(logits)
        return tuple(found)

    return one(said(0.5), 1.5), two(said(3.0), 0.5, ships)


@pytest.fixture
def data(photos: tuple[Path, ...]) -> TrainingSet:
    return task(photos, train=30).data


def test_every_photo_is_answered_once_by_the_round_that_held_it_out(data: TrainingSet) -> None:
    rounds = Folds.of(data, 30).validation
    first, second = phases(data, rounds, (True, True, True))
    evidence = cross_fitted(data, rounds, first, second)
    assert evidence.protocol == "cross_fitted"
    assert evidence.image_ids.tolist() == list(range(30))
    np.testing.assert_array_equal(evidence.labels, data.labels.numpy())
    assert evidence.two_phase is not None
    for number, each in enumerate(rounds):
        np.testing.assert_array_equal(evidence.head_only[each.val].argmax(1), first.fold_logits[number].argmax(1))
        np.testing.assert_array_equal(evidence.two_phase[each.val].argmax(1), second.fold_logits[number].argmax(1))


def test_photos_go_by_their_number_in_the_photo_set(data: TrainingSet) -> None:
    """Training numbers its own photos from 0; evidence is written down under the numbers of all photos of the run."""
    numbered = np.random.default_rng(2).permutation(100)[:30]
    rounds = Folds.of(data, 30).validation
    phases_of_all = phases(data, rounds, (True, False, True))
    plain = cross_fitted(data, rounds, *phases_of_all)
    evidence = cross_fitted(replace(data, ids=numbered), rounds, *phases_of_all)
    assert evidence.image_ids.tolist() == sorted(numbered.tolist())
    of_photo = np.argsort(numbered)  # photo of the training's own numbers, for each row
    np.testing.assert_array_equal(evidence.labels, data.labels.numpy()[of_photo])
    assert evidence.two_phase is not None
    assert plain.two_phase is not None
    for found, own in (
        (evidence.head_only, plain.head_only),
        (evidence.two_phase, plain.two_phase),
        (evidence.shipped, plain.shipped),
        (evidence.uncalibrated, plain.uncalibrated),
    ):
        np.testing.assert_array_equal(found, own[of_photo])


def test_a_folds_temperature_comes_from_the_other_folds(data: TrainingSet) -> None:
    rounds = Folds.of(data, 30).validation
    first, second = phases(data, rounds, (True, True, True))
    evidence = cross_fitted(data, rounds, first, second)
    logits = np.concatenate([first.fold_logits[0], first.fold_logits[2]])
    truth = np.concatenate([data.labels[torch.from_numpy(rounds[r].val)] for r in (0, 2)])
    expected = softmax(first.fold_logits[1], fit_temperature(logits, truth))
    np.testing.assert_allclose(evidence.head_only[rounds[1].val].astype(float), expected.astype(float))


def test_what_ships_is_chosen_fold_by_fold(data: TrainingSet) -> None:
    rounds = Folds.of(data, 30).validation
    evidence = cross_fitted(data, rounds, *phases(data, rounds, (True, False, True)))
    assert evidence.two_phase is not None
    for number, arm in enumerate((evidence.two_phase, evidence.head_only, evidence.two_phase)):
        held = rounds[number].val
        assert (evidence.shipped[held] == arm[held]).all()
        assert (evidence.uncalibrated[held].argmax(1) == arm[held].argmax(1)).all()


def test_test_photos_are_answered_by_the_final_models_at_their_temperatures(data: TrainingSet) -> None:
    rounds = Folds.of(data, 30).validation
    first, second = phases(data, rounds, (True, True, True))
    test, labels = np.array([2, 5, 7]), np.array([2, 2, 1])
    logits = np.random.default_rng(1).normal(size=(2, 3, 3)).astype(np.float32)
    evidence = from_test(test, labels, logits[0], logits[1], first, second)
    assert (evidence.protocol, evidence.labels.tolist(), evidence.n_calibration) == ("test", [2, 2, 1], 30)
    assert evidence.image_ids is test
    assert evidence.shipped is evidence.two_phase
    assert (evidence.head_only == softmax(logits[0], 1.5)).all()
    assert (evidence.shipped == softmax(logits[1], 0.5)).all()
    assert (evidence.uncalibrated == softmax(logits[1])).all()
    worse = from_test(test, labels, logits[0], logits[1], first, replace(second, accepted=False))
    assert worse.shipped is worse.head_only
    alone = from_test(test, labels, logits[0], None, first, None)
    assert alone.two_phase is None
    assert paired_gain(alone, [None] * 3, 0) is None


def test_the_sheet_scores_calibrated_probabilities(data: TrainingSet) -> None:
    rounds = Folds.of(data, 30).validation
    evidence = cross_fitted(data, rounds, *phases(data, rounds, (True, True, True)))
    sheet = score_sheet(evidence, [None] * 30, 0.7, 0)
    assert (sheet.protocol, sheet.shipped.n) == ("cross_fitted", 30)
    assert sheet.two_phase is not None
    assert sheet.two_phase.accuracy > sheet.head_only.accuracy
    assert sheet.calibration is not None
    assert (sheet.calibration.temperature, sheet.calibration.n) == (0.7, 30)
    assert sheet.calibration.log_loss_after == sheet.shipped.log_loss
    assert sheet.calibration.log_loss_before != sheet.shipped.log_loss
    found = paired_gain(evidence, [None] * 30, 0)
    assert found is not None
    assert found.accuracy == pytest.approx(sheet.two_phase.accuracy - sheet.head_only.accuracy)


# What the search found


def test_everything_that_was_tried_is_scored_at_every_point(data: TrainingSet) -> None:
    rounds = Folds.of(data, 30).validation
    first, second = phases(data, rounds, (True, True, True))
    pairs = zip(first.fold_logits, second.fold_logits, strict=True)
    half = tuple(((a + b) / 2).astype(np.float32) for a, b in pairs)
    points: dict[float, Answers] = {0.0: first.fold_logits, 0.5: half, 1.0: second.fold_logits}
    upper = trial({alpha: points[alpha] for alpha in (0.5, 1.0)}, depth="layer4", lr=0.01)
    failed = trial({}, depth="layer2", lr=0.003)
    found = summarise_trials(data, rounds, first, replace(second, trials=(upper, failed)))
    assert [(each.depth, each.lr, each.seconds) for each in found] == [("layer4", 0.01, 2.5), ("layer2", 0.003, 2.5)]
    truth = np.concatenate([data.labels[torch.from_numpy(each.val)] for each in rounds])
    for point, (alpha, answers) in zip(found[0].points, points.items(), strict=True):
        logits = np.concatenate(answers)
        assert point.alpha == alpha
        assert point.accuracy == pytest.approx(accuracy_score(truth, logits.argmax(1)))
        assert point.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, logits.argmax(1)))
        assert point.log_loss == pytest.approx(calibrated_nll(logits, truth).mean())
    before, *others = (calibrated_nll(np.concatenate(answers), truth) for answers in points.values())
    assert found[0].points[0].z == 0.0
    for point, losses in zip(found[0].points[1:], others, strict=True):
        assert point.z == pytest.approx(
            ttest_rel(before, losses).statistic * (30 / 29) ** 0.5
        )  # spread over N, not N - 1
    assert found[1].points == found[0].points[:1]  # what went wrong has phase 1's point alone


def test_where_nothing_was_held_out_nothing_is_said_of_the_points(data: TrainingSet) -> None:
    first, second = phases(data, (), ())
    (found,) = summarise_trials(data, (), first, second)
    assert found.points == ()


# Nothing is proven where there is nothing: labels that have nothing to do with the features


def by_chance(seed: int, apart: float = 0.0) -> tuple[float, bool, float]:
    """Return the gain between two heads on features of ``apart``, whether it is proven, and the shipped accuracy."""
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.permutation(np.arange(60) % 2))
    data = TrainingSet(labels, np.arange(60), np.arange(0), np.arange(60) % 5, 2, np.arange(60))
    rounds = Folds.of(data, 60).validation
    truths = labels.numpy()
    solved = []
    for signal in (0.0, apart):
        features = torch.from_numpy(rng.normal(size=(60, 1, 6)) + signal * truths[:, None, None])
        fit = fit_head(features, labels, data.fold, 2)
        solved.append(tuple(fit.out_of_fold[data.fold == fold].astype(np.float32) for fold in range(5)))

    def better(judges: list[int]) -> bool:
        scores = [
            np.mean(np.concatenate([one[r].argmax(1) == truths[data.fold == r] for r in judges])) for one in solved
        ]
        return bool(scores[1] > scores[0])

    ships = tuple(better([r for r in range(5) if r != own]) for own in range(5))
    evidence = cross_fitted(data, rounds, one(solved[0], 1.0, 60), two(solved[1], 1.0, ships, 60))
    assert evidence.two_phase is not None
    found = paired_gain(evidence, [None] * 60, seed)
    assert found is not None
    return found.accuracy, found.proven, float((evidence.shipped.argmax(1) == evidence.labels).mean())


@pytest.mark.slow
def test_shuffled_labels_prove_nothing_and_flatter_nothing() -> None:
    found = [by_chance(seed) for seed in range(120)]
    assert np.mean([proven for _, proven, _ in found]) <= 0.05
    assert abs(np.mean([gain for gain, _, _ in found])) < 0.02
    assert (
        np.mean([shipped for *_, shipped in found]) < 0.51
    )  # choosing the better arm for each fold doesn't flatter it


def test_photos_taken_for_independent_would_claim_too_much() -> None:
    """Why cross-fitted answers need a correction: see ``crossfit.py``."""
    assert inflation(5) == pytest.approx(1.5)
    plain = Gain(
        100, 0.1, (0.02, 0.18), 0.1, (0.02, 0.18), -0.1, (-0.2, 0.0), 15, 5, 0.04, "mcnemar_exact", True, 0.07, 400
    )
    found = widened_gain(plain, 5)
    assert found.accuracy_ci95 == pytest.approx((-0.02, 0.22))
    assert found.log_loss_ci95 == pytest.approx((-0.25, 0.05))
    assert found.p_value == pytest.approx(2 * norm.sf(norm.isf(0.02) / 1.5))
    assert (found.proven, found.test, found.needed_n) == (False, "mcnemar_cross_fitted", 900)
    assert found.detectable == pytest.approx(0.105)
    assert widened_gain(replace(plain, p_value=1.0), 5).p_value == 1.0


def test_no_interval_leaves_its_scale() -> None:
    labels, stated = np.arange(40) % 2, np.tile([[0.9, 0.1], [0.2, 0.8]], (20, 1))
    plain = score(labels, stated)
    wide = widened_scores(plain, 2)
    for (_, value, (low, high)), (_, same, (lower, higher)) in zip(plain.rows(), wide.rows(), strict=True):
        assert value == same
        assert higher - lower >= high - low
        assert 0 <= lower <= higher
    assert wide.accuracy_ci95[1] == 1.0
    assert wide.per_class[0].recall_ci95 is not None
    assert plain.per_class[0].recall_ci95 is not None
    assert wide.per_class[0].recall_ci95[0] < plain.per_class[0].recall_ci95[0]


def test_a_real_gain_is_proven_by_cross_fitting() -> None:
    assert np.mean([by_chance(seed, apart=2.0)[1] for seed in range(20)]) > 0.8
