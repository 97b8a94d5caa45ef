from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from tests.support.priors import linear

from unfreeze.evaluation.calibration import calibrated_nll
from unfreeze.evaluation.expected_gain import dependence, posterior
from unfreeze.evaluation.prior import WEAK_PRIOR, PriorTable
from unfreeze.evaluation.selection import Choice, ModelSelector, TrialLogits
from unfreeze.training.folds import TrainingSet

CLASSES = 3
DEPTH = "top-third"


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
    count = sum(map(len, truth))
    return ModelSelector(tuple(truth), tuple(head_only), np.ones(CLASSES), count, WEAK_PRIOR)


def by_alpha(logits: Mapping[float, Sequence[np.ndarray]], depth: str = DEPTH) -> TrialLogits:
    return TrialLogits(depth, logits)


def moved(
    before: Sequence[np.ndarray], truth: Sequence[np.ndarray], gain: float, noise: float, seed: int = 0
) -> tuple[np.ndarray, ...]:
    """Logits that favour the truth by ``gain`` more than before, and by as much more or less as the noise has it."""
    random = np.random.default_rng(seed)
    after = tuple((each + random.normal(0, noise, each.shape)).astype(np.float32) for each in before)
    for each, labels in zip(after, truth, strict=True):
        each[np.arange(len(labels)), labels] += gain
    return after


def test_the_candidate_and_the_alpha_with_the_highest_expected_gain_are_chosen() -> None:
    truth = truths(60)
    trials = [
        by_alpha({0.5: answers(truth, 1.0), 1.0: answers(truth, 1.5)}),
        by_alpha({0.5: answers(truth, 3.0), 1.0: answers(truth, 1.0)}),
        by_alpha({}),
    ]
    judging = panel(answers(truth, 0.5), truth)
    assert judging.select(trials, [0, 1]) == Choice(1, 0.5)
    assert judging.accepts(trials[1], 0.5, [0, 1])


def test_the_expected_gain_is_that_of_the_weighted_paired_differences() -> None:
    truth = [np.array([0, 0, 0, 0, 0, 0, 1, 2]), np.array([0, 0, 0, 0, 0, 1, 1, 2])]
    before, after = answers(truth, 1.0), answers(truth, 2.0, 1)
    counts = np.array([11, 3, 2])
    judging = ModelSelector.of(before, truth, counts)
    labels = np.concatenate(truth)
    weights = (counts.mean() / counts)[labels]
    differences = [calibrated_nll(np.concatenate(each), labels) * weights for each in (before, after)]
    row = WEAK_PRIOR.of(f"phase2:{DEPTH}:0.5")
    expected = posterior(differences[0] - differences[1], row, dependence([8, 8], 16))
    assert judging.expected(by_alpha({0.5: after}), [0, 1]) == {0.5: expected}


def test_what_is_not_significant_ships_where_it_is_expected_to_gain_and_not_where_it_is_not() -> None:
    truth = truths(30)
    before = answers(truth, 1.0)
    little, harm = moved(before, truth, 0.25, 0.5, 1), moved(before, truth, -0.4, 0.3)
    judging = panel(before, truth)
    assert 0 < judging.z_score(little) < 1.645
    assert judging.z_score(harm) < -1.645
    assert judging.accepts(by_alpha({1.0: little}), 1.0, judging.all_folds)
    assert not judging.accepts(by_alpha({1.0: harm}), 1.0, judging.all_folds)
    assert judging.select([by_alpha({1.0: harm})], judging.all_folds) == Choice(0, 1.0)  # the best of what was tried


def test_what_gained_on_other_data_sets_is_preferred_where_these_images_say_little() -> None:
    truth = truths(10)
    before = answers(truth, 1.0)
    one, other = moved(before, truth, 0.1, 0.8, 3), moved(before, truth, 0.1, 0.8, 4)
    trials = [by_alpha({1.0: one}, "all"), by_alpha({1.0: other}, "half")]
    for liked, disliked, index in (("all", "half", 0), ("half", "all", 1)):
        rows = {f"phase2:{liked}:1": linear(0.2, 0.02), f"phase2:{disliked}:1": linear(0, 0.02)}
        judging = ModelSelector.of(before, truth, np.full(CLASSES, 20), PriorTable(rows))
        assert judging.select(trials, judging.all_folds).trial == index


def test_only_the_judges_choose() -> None:
    truth = truths(60)
    good, bad = answers(truth, 3.0), answers(truth, 0.0)
    trials = [by_alpha({1.0: (good[0], bad[1])}), by_alpha({1.0: (bad[0], good[1])})]
    judging = panel(bad, truth)
    assert [judging.select(trials, judging.other_folds(own)).trial for own in (0, 1)] == [1, 0]
    assert judging.accepts(trials[0], 1.0, [0])
    assert not judging.accepts(by_alpha({1.0: (good[0], said(truth[1], -1.0))}), 1.0, [1])


def test_a_single_round_judges_itself() -> None:
    truth = truths(30, rounds=1)
    assert list(panel(answers(truth, 1.0), truth).other_folds(0)) == [0]


def test_without_rounds_the_prior_alone_decides() -> None:
    untold = by_alpha({0.5: (), 1.0: ()})
    nobody = panel((), ())
    assert nobody.select([untold, by_alpha({})], nobody.all_folds) == Choice(0, 1.0)
    assert nobody.accepts(untold, 1.0, nobody.all_folds)
    rows = {f"phase2:{DEPTH}:0.5": linear(0.1, 1), f"phase2:{DEPTH}:1": linear(-0.1, 1)}
    told = ModelSelector.of((), (), np.full(CLASSES, 20), PriorTable(rows))
    assert told.select([untold], told.all_folds) == Choice(0, 0.5)
    assert told.accepts(untold, 0.5, told.all_folds)
    assert not told.accepts(untold, 1.0, told.all_folds)
    assert not nobody.should_continue([untold], "all", nobody.all_folds)


def deeper(*, half: float) -> PriorTable:
    """Priors of two depths: the upper one gains 0.05 nats, the lower one as much as is said."""
    gains = {f"{DEPTH}:0.5": 0.04, f"{DEPTH}:1": 0.05, "half:0.5": half - 0.01, "half:1": half}
    return PriorTable({f"phase2:{name}": linear(gain, 0.05) for name, gain in gains.items()})


@pytest.mark.parametrize(
    ("half", "gain", "more"), [(0.08, 0.3, True), (0.06, 0.3, False), (0.05, 0.3, False), (0.08, -0.9, False)]
)
def test_a_deeper_one_is_wanted_where_it_is_expected_to_gain_clearly_more_than_the_last_and_than_head_only(
    half: float, gain: float, more: bool
) -> None:
    truth = truths(120)
    before = answers(truth, 1.0)
    trial = by_alpha({0.5: moved(before, truth, gain / 2, 0.0), 1.0: moved(before, truth, gain, 0.3)})
    judging = ModelSelector.of(before, truth, np.full(CLASSES, 80), deeper(half=half))
    assert judging.should_continue([trial], "half", judging.all_folds) is more


def test_what_one_round_wants_is_not_enough() -> None:
    truth = truths(120)
    weak, strong = answers(truth, 1.0), answers(truth, 4.0, 1)
    judging = ModelSelector.of(weak, truth, np.full(CLASSES, 80), deeper(half=0.08))
    trial = by_alpha({1.0: (strong[0], said(truth[1], -6.0))})
    assert not judging.should_continue([trial], "half", judging.all_folds)
    wants = [judging.should_continue([trial], "half", judging.other_folds(own)) for own in (0, 1)]
    assert wants == [False, True]


def test_where_everything_went_wrong_the_next_is_tried() -> None:
    truth = truths(30)
    judging = panel(answers(truth, 1.0), truth)
    assert judging.should_continue([], "half", judging.all_folds)
    assert judging.should_continue([], "half", judging.other_folds(0))


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


def test_a_small_change_of_the_logits_changes_the_expected_accuracy_of_what_ships_by_little() -> None:
    """Float noise may not flip what ships: two points may change places, but only where both are worth the same."""
    random = np.random.default_rng(0)
    truth = truths(12)
    moves, flips = [], 0
    for seed in range(60):
        before = answers(truth, 0.8, seed)
        logits = {alpha: moved(before, truth, 0.1 * alpha, 1.5 * alpha, seed) for alpha in (0.25, 0.5, 0.75, 1.0)}

        def shaken(each: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
            return tuple(fold + random.uniform(-1e-3, 1e-3, fold.shape).astype(np.float32) for fold in each)

        steady = panel(before, truth)
        worth = {Choice(0, alpha): gain for alpha, gain in steady.expected(by_alpha(logits), steady.all_folds).items()}
        shipped = []
        for judging, trial in (
            (steady, by_alpha(logits)),
            (panel(shaken(before), truth), by_alpha({alpha: shaken(each) for alpha, each in logits.items()})),
        ):
            choice = judging.select([trial], judging.all_folds)
            accepted = judging.accepts(trial, choice.alpha, judging.all_folds)
            shipped.append(worth[choice].points if accepted else 0.0)
        moves.append(abs(shipped[0] - shipped[1]))
        flips += shipped[0] != shipped[1]
    assert max(moves) < 0.2
