from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from unfreeze.evaluation.calibration import calibrated_nll
from unfreeze.evaluation.selection import Z_95, Choice, ModelSelector, SampleScores, significantly_better
from unfreeze.training.folds import TrainingSet

CLASSES = 3


def truths(photos: int, rounds: int = 2) -> list[np.ndarray]:
    return [np.arange(photos) % CLASSES for _ in range(rounds)]


def said(truth: np.ndarray, strength: float, seed: int = 0) -> np.ndarray:
    """Logits that favour the truth by ``strength`` standard deviations."""
    logits = np.random.default_rng(seed).normal(size=(len(truth), CLASSES))
    logits[np.arange(len(truth)), truth] += strength
    return logits.astype(np.float32)


def answers(truth: Sequence[np.ndarray], strength: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    return tuple(said(each, strength, 10 * seed + number) for number, each in enumerate(truth))


def panel(head_only: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> ModelSelector:
    return ModelSelector(tuple(truth), tuple(head_only), np.ones(CLASSES))


def test_the_candidate_and_the_alpha_with_the_lowest_loss_are_chosen() -> None:
    truth = truths(60)
    trials = [
        {0.5: answers(truth, 1.0), 1.0: answers(truth, 1.5)},
        {0.5: answers(truth, 3.0), 1.0: answers(truth, 2.0)},
    ]
    assert panel(answers(truth, 0.5), truth).select(trials, [0, 1]) == Choice(1, 0.5)


def moved(
    before: Sequence[np.ndarray], truth: Sequence[np.ndarray], gain: float, noise: float
) -> tuple[np.ndarray, ...]:
    """Logits that favour the truth by ``gain`` more than before, and by as much more or less as the noise has it."""
    random = np.random.default_rng(0)
    after = tuple((each + random.normal(0, noise, each.shape)).astype(np.float32) for each in before)
    for each, labels in zip(after, truth, strict=True):
        each[np.arange(len(labels)), labels] += gain
    return after


def test_a_point_that_is_good_enough_to_ship_goes_before_one_of_lower_loss_that_is_not() -> None:
    truth = truths(15)
    before = answers(truth, 1.0)
    near, far, farther = (moved(before, truth, *way) for way in ((0.02, 0.0), (0.05, 0.0), (0.6, 0.6)))
    judging = panel(before, truth)
    losses = [judging.validation_scores(each, judging.all_folds).losses.mean() for each in (near, far, farther)]
    assert losses == sorted(losses, reverse=True)
    assert [judging.accepts(each, judging.all_folds) for each in (near, far, farther)] == [True, True, False]
    assert judging.select([{0.25: near, 0.5: far, 1.0: farther}], judging.all_folds) == Choice(0, 0.5)
    assert judging.select([{0.25: near, 1.0: farther}, {0.25: far}], judging.all_folds) == Choice(1, 0.25)
    assert judging.select([{1.0: farther}, {}], judging.all_folds) == Choice(0, 1.0)


def test_only_the_judges_choose() -> None:
    truth = truths(60)
    good, bad = answers(truth, 3.0), answers(truth, 0.0)
    trials = [{1.0: (good[0], bad[1])}, {1.0: (bad[0], good[1])}]
    judging = panel(bad, truth)
    assert [judging.select(trials, judging.other_folds(own)).trial for own in (0, 1)] == [1, 0]
    assert judging.accepts((good[0], bad[1]), [0])
    assert not judging.accepts((good[0], said(truth[1], -1.0)), [1])


def test_a_single_round_judges_itself_and_no_round_lets_everything_pass() -> None:
    truth = truths(30, rounds=1)
    assert list(panel(answers(truth, 1.0), truth).other_folds(0)) == [0]
    nobody = panel((), ())
    assert nobody.select([{1.0: ()}, {0.5: (), 1.0: ()}], nobody.all_folds) == Choice(1, 1.0)
    assert nobody.select([{1.0: ()}, {0.5: ()}], nobody.all_folds) == Choice(1, 0.5)
    assert nobody.select([{0.5: ()}, {}], nobody.all_folds) == Choice(0, 0.5)
    assert nobody.accepts((), nobody.all_folds)
    assert not nobody.should_continue([{1.0: ()}], nobody.all_folds)


@pytest.mark.parametrize(("first", "second", "more"), [(0.5, 3.0, True), (3.0, 3.0, False), (3.0, 0.5, False)])
def test_a_deeper_one_is_wanted_where_the_last_step_was_clearly_worth_it(
    first: float, second: float, more: bool
) -> None:
    truth = truths(120)
    judging = panel(answers(truth, 0.5), truth)
    trials = [{1.0: answers(truth, first, 1)}, {1.0: answers(truth, second, 1)}]
    assert judging.should_continue(trials, judging.all_folds) is more


@pytest.mark.parametrize(("halfway", "all_the_way", "more"), [(1.0, 3.0, True), (3.0, 1.0, False)])
def test_where_the_way_was_best_halfway_no_deeper_one_is_wanted(halfway: float, all_the_way: float, more: bool) -> None:
    truth = truths(120)
    trial = {0.5: answers(truth, halfway, 1), 1.0: answers(truth, all_the_way, 1)}
    judging = panel(answers(truth, 0.0), truth)
    assert judging.should_continue([trial], judging.all_folds) is more


@pytest.mark.parametrize(("gain", "between", "more"), [(0.33, (1.0, Z_95), False), (0.37, (Z_95, 3.0), True)])
def test_a_deeper_one_is_wanted_where_the_last_step_was_good_enough_to_ship(
    gain: float, between: tuple[float, float], more: bool
) -> None:
    truth = truths(120)
    before = answers(truth, 1.0)
    after = moved(before, truth, gain, 0.5)
    pairs = zip(before, after, truth, strict=True)
    gains = np.concatenate([calibrated_nll(old, labels) - calibrated_nll(new, labels) for old, new, labels in pairs])
    assert between[0] < gains.mean() / (gains.std() / len(gains) ** 0.5) < between[1]
    judging = panel(before, truth)
    assert (
        judging.should_continue([{1.0: after}], judging.all_folds) is judging.accepts(after, judging.all_folds) is more
    )


def test_what_one_round_wants_is_not_enough() -> None:
    truth = truths(120)
    weak, strong = answers(truth, 1.0), answers(truth, 4.0, 1)
    judging = panel(weak, truth)
    trial = {1.0: (strong[0], said(truth[1], -3.0))}
    assert not judging.should_continue([trial], judging.all_folds)
    assert [judging.should_continue([trial], judging.other_folds(own)) for own in (0, 1)] == [False, True]


def test_where_everything_went_wrong_the_next_is_tried() -> None:
    truth = truths(30)
    judging = panel(answers(truth, 1.0), truth)
    assert judging.should_continue([], judging.all_folds)
    assert judging.should_continue([], judging.other_folds(0))


def weights_of(counts: Sequence[int]) -> list[float]:
    labels = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    everyone = np.arange(len(labels))
    data = TrainingSet(labels, everyone, everyone[:0], everyone % 2, len(counts), everyone)
    found: list[float] = ModelSelector.of((), (), data.class_counts).class_weights.tolist()
    return found


def test_classes_weigh_the_same_where_they_are_clearly_imbalanced() -> None:
    assert weights_of([10, 30]) == [1, 1]
    assert weights_of([10, 31]) == pytest.approx([20.5 / 10, 20.5 / 31])
    rare, common = weights_of([10, 90])
    assert 10 * rare == pytest.approx(90 * common)
    assert weights_of([0, 10, 10])[1:] == [1, 1]  # a class without photos imbalances nothing


def verdicts(right: ArrayLike, losses: ArrayLike) -> SampleScores:
    return SampleScores(np.array(losses, float), np.array(right, float))


def test_phase_two_ships_where_its_log_loss_is_lower_for_certain() -> None:
    noise = np.random.default_rng(0).normal(size=100)
    noise = (noise - noise.mean()) / noise.std()
    before = verdicts(np.ones(100), np.ones(100))
    for errors, expected in ((1.7, True), (1.6, False), (-1.7, False)):
        after = verdicts(np.ones(100), 1 + noise - errors * 0.1)
        assert significantly_better(before, after) is expected


def test_phase_two_does_not_ship_where_it_is_clearly_less_often_right() -> None:
    lower = np.full(100, 0.1)
    before = verdicts(np.r_[np.ones(99), 0], np.ones(100))
    assert significantly_better(before, verdicts(np.r_[0, 0, np.ones(98)], lower))  # two for one is luck
    assert not significantly_better(before, verdicts(np.r_[np.zeros(5), np.ones(95)], lower))
    assert not significantly_better(before, verdicts(np.r_[np.zeros(5), np.ones(95)], np.ones(100)))


def test_nothing_gained_is_not_better() -> None:
    same = verdicts([1, 0, 1], [0.1, 2.0, 0.3])
    assert not significantly_better(same, same)
