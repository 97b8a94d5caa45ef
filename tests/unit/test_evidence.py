from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support import task

from unfreeze.data.sources import PhotoSet, Sample
from unfreeze.evaluation.calibration import fit_temperature, softmax
from unfreeze.evidence import cross_fitted, from_test, paired_gain, score_sheet
from unfreeze.training.finetune import Weights
from unfreeze.training.phases import PhaseOne, PhaseTwo, Round, TrainingData, validation_rounds

CLASSES = 3
NOTHING = Weights([], {})


def phases(data: TrainingData, rounds: tuple[Round, ...], ships: tuple[bool, ...]) -> tuple[PhaseOne, PhaseTwo]:
    """Return phases whose logits are drawn: head-only is right a little, two-phase often."""
    rng = np.random.default_rng(0)

    def said(strength: float) -> tuple[np.ndarray, ...]:
        found = []
        for each in rounds:
            logits = rng.normal(size=(len(each.val), CLASSES)).astype(np.float32)
            logits[np.arange(len(each.val)), data.labels[torch.from_numpy(each.val)].numpy()] += strength
            found.append(logits)
        return tuple(found)

    first = PhaseOne(NOTHING, said(0.5), 1.5, 30, NOTHING, (), ())
    second = PhaseTwo(NOTHING, said(3.0), 0.5, 30, True, ships, (), ())
    return first, second


@pytest.fixture
def data(photos: tuple[Path, ...]) -> TrainingData:
    return task(photos, train=30).data


def test_every_photo_is_answered_once_by_the_round_that_held_it_out(data: TrainingData) -> None:
    rounds = validation_rounds(data, 30)
    first, second = phases(data, rounds, (True, True, True))
    evidence = cross_fitted(data, rounds, first, second)
    assert evidence.kind == "cross_fitted"
    assert evidence.photos.tolist() == list(range(30))
    np.testing.assert_array_equal(evidence.truth, data.labels.numpy())
    assert evidence.two_phase is not None
    for number, each in enumerate(rounds):
        np.testing.assert_array_equal(evidence.head_only[each.val].argmax(1), first.validation[number].argmax(1))
        np.testing.assert_array_equal(evidence.two_phase[each.val].argmax(1), second.validation[number].argmax(1))


def test_a_folds_temperature_comes_from_the_other_folds(data: TrainingData) -> None:
    rounds = validation_rounds(data, 30)
    first, second = phases(data, rounds, (True, True, True))
    evidence = cross_fitted(data, rounds, first, second)
    logits = np.concatenate([first.validation[0], first.validation[2]])
    truth = np.concatenate([data.labels[torch.from_numpy(rounds[r].val)] for r in (0, 2)])
    expected = softmax(first.validation[1], fit_temperature(logits, truth))
    np.testing.assert_allclose(evidence.head_only[rounds[1].val].astype(float), expected.astype(float))


def test_what_ships_is_chosen_fold_by_fold(data: TrainingData) -> None:
    rounds = validation_rounds(data, 30)
    evidence = cross_fitted(data, rounds, *phases(data, rounds, (True, False, True)))
    assert evidence.two_phase is not None
    for number, arm in enumerate((evidence.two_phase, evidence.head_only, evidence.two_phase)):
        held = rounds[number].val
        assert (evidence.shipped[held] == arm[held]).all()
        assert (evidence.unscaled[held].argmax(1) == arm[held].argmax(1)).all()


def test_test_photos_are_answered_by_the_final_models_at_their_temperatures(data: TrainingData) -> None:
    rounds = validation_rounds(data, 30)
    first, second = phases(data, rounds, (True, True, True))
    photos = PhotoSet(Path(), ("a", "b", "c"), tuple(Sample(Path(), "", label % 3) for label in range(10)))
    test, logits = np.array([2, 5, 7]), np.random.default_rng(1).normal(size=(2, 3, 3)).astype(np.float32)
    evidence = from_test(test, photos, logits[0], logits[1], first, second)
    assert (evidence.kind, evidence.truth.tolist(), evidence.calibrated_on) == ("test", [2, 2, 1], 30)
    assert evidence.shipped is evidence.two_phase
    assert (evidence.head_only == softmax(logits[0], 1.5)).all()
    assert (evidence.shipped == softmax(logits[1], 0.5)).all()
    assert (evidence.unscaled == softmax(logits[1])).all()
    worse = from_test(test, photos, logits[0], logits[1], first, replace(second, not_worse=False))
    assert worse.shipped is worse.head_only
    alone = from_test(test, photos, logits[0], None, first, None)
    assert alone.two_phase is None
    assert paired_gain(alone, [None] * 3, 0) is None


def test_the_sheet_scores_calibrated_probabilities(data: TrainingData) -> None:
    rounds = validation_rounds(data, 30)
    evidence = cross_fitted(data, rounds, *phases(data, rounds, (True, True, True)))
    sheet = score_sheet(evidence, [None] * 30, 0.7, 0)
    assert (sheet.evidence, sheet.shipped.n) == ("cross_fitted", 30)
    assert sheet.two_phase is not None
    assert sheet.two_phase.accuracy > sheet.head_only.accuracy
    assert sheet.calibration is not None
    assert (sheet.calibration.temperature, sheet.calibration.n) == (0.7, 30)
    assert sheet.calibration.log_loss_after == sheet.shipped.log_loss
    assert sheet.calibration.log_loss_before != sheet.shipped.log_loss
    found = paired_gain(evidence, [None] * 30, 0)
    assert found is not None
    assert found.accuracy == pytest.approx(sheet.two_phase.accuracy - sheet.head_only.accuracy)
