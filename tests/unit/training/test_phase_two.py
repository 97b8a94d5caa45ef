from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.backbones import bits, tiny_cnn, tiny_vit
from tests.support.photos import CLASSES
from tests.support.priors import linear
from tests.support.training import Task, candidate, poison, recipe, schedule, task, training_features

from unfreeze.evaluation.calibration import fit_temperature, softmax
from unfreeze.evaluation.crossfit import widened_gain
from unfreeze.evaluation.prior import PriorTable
from unfreeze.evaluation.selection import Choice, FoldIds, ModelSelector, TrialLogits
from unfreeze.evaluation.significance import gain
from unfreeze.models.backbone import Backbone
from unfreeze.models.state import ModelState, interpolate, loaded
from unfreeze.predict import to_model_input
from unfreeze.runtime import deterministic
from unfreeze.training.forgetting_budget import MAX_MEASUREMENTS
from unfreeze.training.phase_one import HeadOnlyResult, train_head
from unfreeze.training.phase_two import ForgettingFn, TwoPhaseResult, fine_tune, select_shipped
from unfreeze.training.recipe import Recipe
from unfreeze.training.search import Trial

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
VALIDATIONS = pytest.mark.parametrize("val", [0, 6])
ALPHAS = (0.25, 0.5, 0.75, 1.0)


def both(
    backbone: Backbone,
    given: Task,
    how: Recipe,
    seed: int = 0,
    forgets: ForgettingFn = lambda _: None,
    time_left: Callable[[int], bool] = lambda _: True,
) -> tuple[HeadOnlyResult, TwoPhaseResult]:
    boundaries = [each.plan.boundary for each in how.candidates]
    features = replace(training_features(backbone, given, how, boundaries=boundaries), seed=seed)
    first = train_head(features, how)
    return first, fine_tune(features, first, how, forgetting=forgets, time_left=time_left)


def chooses(
    monkeypatch: pytest.MonkeyPatch, choice: Callable[[Sequence[int]], tuple[int, float]]
) -> list[tuple[int, ...]]:
    """Let candidate and alpha be chosen by who the judges are alone, and all be tried; return the judges as they come.

    Where the alpha isn't there to choose any more, it is the farthest one below it.
    """
    asked: list[tuple[int, ...]] = []

    def choose(_panel: ModelSelector, trials: Sequence[TrialLogits], judges: FoldIds) -> Choice:
        asked.append(tuple(judges))
        trial, alpha = choice(judges)
        return Choice(trial, max(a for a in trials[trial].by_alpha if a <= alpha))

    monkeypatch.setattr(ModelSelector, "select", choose)
    monkeypatch.setattr(ModelSelector, "should_continue", lambda *_: True)
    return asked


def said(trial: Trial) -> tuple[object, ...]:
    """Return what two equal trials have in common: everything but the time they took."""
    answers = {alpha: [each.tobytes() for each in answers] for alpha, answers in trial.val_logits_by_alpha.items()}
    rows = [replace(row, seconds=0.0) for row in trial.history]
    return trial.candidate, answers, [bits(final) for final in trial.fold_states], rows, trial.failure


# One candidate, all the way


@VALIDATIONS
@pytest.mark.parametrize("boundary", [0, 2, 4])
@BACKBONES
def test_phase_two_leaves_the_backbone_as_it_was_pretrained(
    photos: tuple[Path, ...], make: Callable[..., Backbone], boundary: int, val: int
) -> None:
    backbone, given = make(dropout=0.2), task(photos, train=12, val=val)
    before = [backbone.fingerprint(stage) for stage in range(6)]
    _, second = both(backbone, given, recipe(backbone, candidate(backbone, boundary)))
    assert [backbone.fingerprint(stage) for stage in range(6)] == before
    assert second.alpha == 1
    assert len(second.state.stages) == 5 - boundary
    with loaded(backbone, second.state):
        after = [backbone.fingerprint(stage) for stage in range(6)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [stage <= boundary for stage in range(6)]


def test_phase_two_goes_on_from_phase_one(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    still = candidate(backbone, 3, lr=1e-12, how=schedule(epochs=1))
    first, second = both(backbone, given, recipe(backbone, still))
    torch.testing.assert_close(second.state.head, first.phase2_init.head, atol=1e-6, rtol=0)
    assert bits(second.state) != bits(first.phase2_init)


def test_the_history_has_one_row_an_epoch(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    _, second = both(backbone, given, recipe(backbone))
    seen = Counter((row.phase, row.epoch) for row in second.history)
    assert set(seen.values()) == {1}
    rounds = [f"phase 2 from layer3, validating {number} of 3" for number in (1, 2, 3)]
    assert list(seen) == [(phase, epoch) for phase in (*rounds, "phase 2 from layer3") for epoch in (1, 2, 3, 4)]


def test_phases_are_decided_by_the_seed_to_the_bit(photos: tuple[Path, ...]) -> None:
    def trained(seed: int) -> tuple[list[bytes], list[bytes], list[float]]:
        backbone, given = tiny_cnn(dropout=0.3), task(photos, train=12, seed=seed)
        with deterministic(seed):
            first, second = both(backbone, given, recipe(backbone, solved=False), seed)
        return bits(first.state), bits(second.state), [row.train_loss for row in second.history]

    one, same, other = trained(3), trained(3), trained(4)
    assert one == same
    assert one[0] != other[0]
    assert one[1] != other[1]


def test_unseen_photos_change_nothing(photos: tuple[Path, ...], tmp_path: Path) -> None:
    def trained(paths: tuple[Path, ...], labels: int) -> list[bytes]:
        backbone, given = tiny_cnn(), task(paths, train=12)
        swapped = given.data.labels.clone()
        swapped[12:] = labels
        _, second = both(backbone, replace(given, data=replace(given.data, labels=swapped)), recipe(backbone))
        return bits(second.state)

    gone = tuple(tmp_path / f"missing-{number}.png" for number in range(18))
    assert trained(photos, 0) == trained(photos[:12] + gone, 2)


def test_cooling_divides_the_logits_and_nothing_else(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    _, second = both(backbone, given, recipe(backbone))
    plain = torch.cat([given.renderer.views(photo, (0,)) for photo in range(5)])

    def logits(weights: ModelState) -> torch.Tensor:
        with loaded(backbone, weights) as head, torch.no_grad():
            found: torch.Tensor = head(backbone.run(to_model_input(plain, backbone, 0)))
        return found

    torch.testing.assert_close(logits(second.state.with_temperature(2.5)) * 2.5, logits(second.state))


# The search


@BACKBONES
def test_a_search_leaves_the_backbone_and_is_repeated_to_the_bit(
    photos: tuple[Path, ...], make: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelSelector, "should_continue", lambda *_: True)

    def searched(seed: int) -> TwoPhaseResult:
        backbone, given = make(dropout=0.3), task(photos, train=12, seed=seed)
        before = backbone.fingerprint()
        how = recipe(backbone, candidate(backbone, 4), candidate(backbone, 2, lr=0.05), alphas=ALPHAS)
        with deterministic(seed):
            _, second = both(backbone, given, how, seed)
        assert backbone.fingerprint() == before
        return second

    one, same, other = searched(3), searched(3), searched(4)
    assert len(one.trials) == 2
    assert [said(trial) for trial in one.trials] == [said(trial) for trial in same.trials]
    assert bits(one.state) == bits(same.state)
    assert (one.alpha, one.temperature, one.warnings) == (same.alpha, same.temperature, same.warnings)
    assert [said(trial) for trial in one.trials] != [said(trial) for trial in other.trials]


def test_what_is_liked_best_is_trained_on_all_photos(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    upper, lower = candidate(backbone, 4), candidate(backbone, 2)
    for number, own in enumerate((upper, lower)):
        chooses(monkeypatch, lambda _, number=number: (number, 1.0))  # type: ignore[misc]
        _, second = both(backbone, given, recipe(backbone, upper, lower, alphas=ALPHAS))
        alone = both(backbone, given, recipe(backbone, own, alphas=(1.0,)))[1] if number == 0 else None
        assert second.trial is second.trials[number]
        assert second.trial.candidate == own
        assert len(second.state.stages) == 5 - own.boundary
        assert alone is None or bits(second.state) == bits(alone.state)


def test_between_the_phases_the_final_model_is_a_mix(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    how = recipe(backbone, alphas=ALPHAS)
    chooses(monkeypatch, lambda _: (0, 1.0))
    first, whole = both(backbone, given, how)
    chooses(monkeypatch, lambda _: (0, 0.25))
    _, part = both(backbone, given, how)
    assert (whole.alpha, part.alpha) == (1.0, 0.25)
    assert bits(part.state) == bits(interpolate(backbone.snapshot(3), first.phase2_init, whole.state, 0.25))


@pytest.mark.parametrize(("time_for", "tried"), [(0, 1), (1, 1), (2, 2)])
def test_without_time_there_are_fewer_trials(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, time_for: int, tried: int
) -> None:
    monkeypatch.setattr(ModelSelector, "should_continue", lambda *_: True)
    backbone, given = tiny_cnn(), task(photos, train=12)
    how = recipe(backbone, candidate(backbone, 4), candidate(backbone, 3))
    _, second = both(backbone, given, how, time_left=lambda count: count < time_for)
    assert [trial.candidate for trial in second.trials] == list(how.candidates[:tried])


@pytest.mark.parametrize(("forgotten", "budget", "tried"), [(0.02, 2.0, 2), (0.03, 2.0, 1), (0.03, None, 2)])
def test_what_forgets_too_much_all_the_way_is_not_gone_deeper_from(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, forgotten: float, budget: float | None, tried: int
) -> None:
    monkeypatch.setattr(ModelSelector, "should_continue", lambda *_: True)
    backbone, given = tiny_cnn(), task(photos, train=12)
    how = recipe(backbone, candidate(backbone, 4), candidate(backbone, 3), alphas=ALPHAS, max_forgetting=budget)
    _, second = both(backbone, given, how, forgets=lambda _: forgotten)
    assert [trial.candidate for trial in second.trials] == list(how.candidates[:tried])


def test_what_went_wrong_forgot_nothing(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelSelector, "should_continue", lambda *_: True)
    backbone, given = tiny_cnn(), task(photos, train=12)
    how = recipe(backbone, candidate(backbone, 4, lr=1e30), candidate(backbone, 3), max_forgetting=2.0)
    _, second = both(backbone, given, how, forgets=lambda _: 0.0)
    assert [bool(trial.val_logits_by_alpha) for trial in second.trials] == [False, True]


def test_without_judges_the_first_candidate_is_trained_once(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    how = recipe(backbone, candidate(backbone, 4), candidate(backbone, 3), judges=0, alphas=ALPHAS)
    first, second = both(backbone, given, how)
    assert {row.phase for row in second.history} == {"phase 2 from layer4"}
    assert second.trial.candidate == how.candidates[0]
    assert (second.alpha, second.accepted, second.fold_logits, second.temperature) == (1.0, True, (), 1.0)
    assert first.fold_logits == ()


# The user's validation set


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_with_the_users_validation_the_judged_model_is_the_final_one(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, alpha: float
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12, val=6)
    chooses(monkeypatch, lambda _: (0, alpha))
    trained: list[int] = []
    poison(monkeypatch, lambda _, val: bool(trained.append(len(val))))  # type: ignore[func-returns-value]
    first, second = both(backbone, given, recipe(backbone, alphas=ALPHAS))
    assert trained == [6]
    assert {row.phase for row in second.history} == {"phase 2 from layer3, validating 1 of 1"}
    assert len(second.history) == 4
    expected = interpolate(backbone.snapshot(3), first.phase2_init, second.trial.fold_states[0], alpha)
    assert bits(second.state) == bits(second.fold_states[0]) == bits(expected)
    np.testing.assert_array_equal(second.fold_logits[0], second.trial.val_logits_by_alpha[alpha][0])


# What goes wrong


def test_what_goes_wrong_is_trained_at_a_tenth_and_the_setback_is_told(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    asked = candidate(backbone, 3, lr=0.02)
    _, slower = both(backbone, given, recipe(backbone, asked.with_lr_scaled()))
    poison(monkeypatch, lambda plan, _: plan.rows[-1].lr > 0.01)
    _, second = both(backbone, given, recipe(backbone, asked))
    assert second.trial.failure == "not finite"
    assert second.trial.candidate == asked.with_lr_scaled()
    assert bits(second.state) == bits(slower.state)
    assert second.warnings == (
        "phase 2 from layer3 went wrong at 0.02 (the loss was no number): it was trained again at a tenth of that",
    )


@VALIDATIONS
def test_what_goes_wrong_at_every_rate_is_rolled_back(photos: tuple[Path, ...], val: int) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12, val=val)
    before = backbone.fingerprint()
    ruinous = candidate(backbone, 2, lr=1e30, how=schedule(epochs=4, clip=None))
    first, second = both(backbone, given, recipe(backbone, ruinous, alphas=ALPHAS))
    assert backbone.fingerprint() == before
    assert second.alpha == 0
    assert bits(second.state) == bits(first.state)
    assert second.accepted is False
    assert not any(second.fold_accepted)
    assert [bits(weights) for weights in second.fold_states] == [bits(weights) for weights in first.fold_states]
    assert (second.temperature, second.n_calibration) == (first.temperature, first.n_calibration)
    assert second.fold_logits == first.fold_logits
    assert len(second.fold_accepted) == (1 if val else 3)
    (setback,) = second.warnings
    assert setback.startswith("phase 2 from layer2 went wrong at 1e+30 (the loss was no number)")
    assert select_shipped(first, second) is first


def test_a_candidate_that_goes_wrong_leaves_the_choice_to_the_others(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    wild, tame = candidate(backbone, 4, lr=0.5), candidate(backbone, 3, lr=0.01)
    poison(monkeypatch, lambda plan, _: plan.rows[-1].lr > 0.01)
    _, second = both(backbone, given, recipe(backbone, wild, tame))
    assert len(second.trials) == 2
    assert second.trial is second.trials[1]
    assert second.alpha == 1
    assert [setback.split(" went")[0] for setback in second.warnings] == ["phase 2 from layer4"]


def test_where_only_the_training_on_all_photos_goes_wrong_phase_one_ships(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    before = backbone.fingerprint()
    poison(monkeypatch, lambda _, val: not len(val))
    first, second = both(backbone, given, recipe(backbone, alphas=ALPHAS))
    assert backbone.fingerprint() == before
    assert (second.alpha, second.accepted) == (0, False)
    assert bits(second.state) == bits(first.state)
    assert len(second.warnings) == 1
    assert [row.phase for row in second.history if "validating" not in row.phase] == [
        "phase 2 from layer3",
        "phase 2 from layer3, slower",
    ]


def test_where_the_training_on_all_photos_goes_wrong_its_rounds_are_slowed_down_with_it(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounds judge the model that ships."""
    backbone, given = tiny_cnn(), task(photos, train=12)
    asked = candidate(backbone, 3, lr=0.02)
    _, slower = both(backbone, given, recipe(backbone, asked.with_lr_scaled()))
    poison(monkeypatch, lambda plan, val: not len(val) and plan == asked.plan)
    _, second = both(backbone, given, recipe(backbone, asked))
    assert bits(second.state) == bits(slower.state)
    assert [bits(each) for each in second.fold_states] == [bits(each) for each in slower.fold_states]
    assert (second.alpha, second.accepted) == (slower.alpha, slower.accepted)
    assert len(second.warnings) == 1


def test_a_healthy_search_has_no_setbacks(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    assert both(backbone, given, recipe(backbone, alphas=ALPHAS))[1].warnings == ()


# What may be forgotten


def far(first: HeadOnlyResult, model: ModelState) -> float:
    return float((model.head["weight"] - first.phase2_init.head["weight"]).norm())


def test_what_forgets_too_much_at_every_point_is_rolled_back(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    chooses(monkeypatch, lambda _: (0, 0.75))
    how = recipe(backbone, alphas=ALPHAS, max_forgetting=2.0)
    first, second = both(backbone, given, how, forgets=lambda _: 0.5)
    assert second.alpha == 0
    assert bits(second.state) == bits(first.state)
    assert (second.accepted, second.fold_accepted) == (False, (False, False, False))
    assert second.fold_logits == first.fold_logits
    assert [bits(weights) for weights in second.fold_states] == [bits(weights) for weights in first.fold_states]
    assert second.warnings == ("at alpha 0.75 more than 2 points of the original task were forgotten: phase 1 it is",)
    assert select_shipped(first, second) is first


@VALIDATIONS
@pytest.mark.parametrize(("share", "expected"), [(0.6, 38), (0.505, 32), (0.01, 0), (0.999, 63), (1 / 64 + 1e-3, 1)])
def test_the_largest_alpha_within_the_budget_is_found_by_bisection(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, val: int, share: float, expected: int
) -> None:
    """The drift of the weights is proportional to alpha: so is what this forgets."""
    backbone, given = tiny_cnn(), task(photos, train=12, val=val)
    chooses(monkeypatch, lambda _: (0, 1.0))
    how = recipe(backbone, alphas=ALPHAS, max_forgetting=2.0)
    first, whole = both(backbone, given, how)
    budget = share * far(first, whole.state)
    asked: list[float] = []

    def forgets(model: ModelState) -> float:
        asked.append(far(first, model))
        return 0.5 if asked[-1] > budget else 0.02  # 2 points are not more than 2

    _, second = both(backbone, given, how, forgets=forgets)
    assert asked[0] == pytest.approx(far(first, whole.state), rel=1e-4)
    assert len(asked) <= MAX_MEASUREMENTS - 1  # no deeper candidate was asked about
    alpha = expected / 64
    assert second.alpha == alpha
    if not alpha:
        assert bits(second.state) == bits(first.state)
        return
    assert bits(second.state) == bits(interpolate(backbone.snapshot(3), first.phase2_init, whole.state, alpha))
    told = f"at alpha 1 more than 2 points of the original task were forgotten: alpha {alpha:.3g} it is"
    assert second.warnings == (told,)
    assert second.trial is second.trials[0]
    assert second.expected_gain == second.expected[0][alpha]
    assert list(second.trial.val_logits_by_alpha) == sorted({*ALPHAS, alpha})
    for own, answers in enumerate(second.fold_logits):
        np.testing.assert_array_equal(answers, second.trial.val_logits_by_alpha[alpha][own])
        final = interpolate(backbone.snapshot(3), first.fold_inits[own], second.trial.fold_states[own], alpha)
        assert bits(second.fold_states[own]) == bits(final)
        with loaded(backbone, final) as head, torch.no_grad():
            images = [given.renderer.views(int(photo), (0,)) for photo in features_of_fold(given, own, val)]
            expected_logits = head(backbone.run(to_model_input(torch.cat(images), backbone, 0)))
        np.testing.assert_allclose(answers, expected_logits, rtol=1e-4, atol=1e-4)


def features_of_fold(given: Task, fold: int, val: int) -> np.ndarray:
    """Return the validation images of a fold."""
    return given.data.val if val else given.data.train[given.data.fold == fold]


def test_where_the_selected_depth_forgets_too_much_another_one_takes_part_in_the_choice(
    photos: tuple[Path, ...],
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    prior = PriorTable(
        {
            "phase2:half:1": linear(0.1, 1e-6), "phase2:all:1": linear(0.2, 1e-6),
        }
    )  # fmt: skip
    upper, lower = candidate(backbone, 3), candidate(backbone, 0, lr=0.01)
    assert (upper.depth_class, lower.depth_class) == ("half", "all")
    how = replace(recipe(backbone, upper, lower, max_forgetting=2.0), prior=prior)

    def forgets(model: ModelState) -> float:
        return 0.5 if len(model.stages) == 5 else 0.0

    _, second = both(backbone, given, how, forgets=forgets)
    assert (second.trial, second.alpha) == (second.trials[0], 1.0)
    assert second.warnings == ("at alpha 1 more than 2 points of the original task were forgotten: alpha 1 it is",)


def test_no_point_farther_than_the_chosen_one_is_asked_about(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    how = recipe(backbone, alphas=ALPHAS, max_forgetting=2.0)
    chooses(monkeypatch, lambda _: (0, 0.5))
    asked: list[list[bytes]] = []

    def forgets(model: ModelState) -> float:
        asked.append(bits(model))
        return 0.01

    _, second = both(backbone, given, how, forgets=forgets)
    assert second.alpha == 0.5
    assert asked == [bits(second.state)]
    assert second.warnings == ()


def test_without_a_budget_nobody_asks_what_is_forgotten(photos: tuple[Path, ...]) -> None:
    def forgets(_: ModelState) -> float:
        raise AssertionError("asked")

    backbone, given = tiny_cnn(), task(photos, train=12)
    _, second = both(backbone, given, recipe(backbone, max_forgetting=None), forgets=forgets)
    assert second.alpha == 1


def test_what_a_model_gained_at_the_original_task_is_within_any_budget(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    _, second = both(backbone, given, recipe(backbone, max_forgetting=0.0), forgets=lambda _: -0.1)
    assert (second.alpha, second.warnings) == (1, ())


# Which one ships


def test_a_ruinous_phase_two_is_found_out(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=24)
    first, second = both(backbone, given, recipe(backbone, candidate(backbone, 2, lr=10.0)))
    truth = np.concatenate([given.data.labels[:24][given.data.fold == number] for number in range(3)])
    right = np.mean(np.concatenate(first.fold_logits).argmax(1) == truth)
    last = [row.val_accuracy for row in second.history if row.epoch == 4 and row.val_accuracy is not None]
    assert not last or right > float(np.mean(last))
    assert second.accepted is False


def test_what_holds_its_own_ships(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    first, second = both(backbone, given, recipe(backbone))
    assert select_shipped(first, replace(second, accepted=True)).state is second.state
    assert select_shipped(first, replace(second, accepted=False)) is first
    assert select_shipped(first, None) is first


# Who chooses for whom


def test_a_rounds_photos_never_choose_what_is_said_of_them(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    choices = {(1, 2): (0, 0.5), (0, 2): (1, 1.0), (0, 1): (1, 0.25), (0, 1, 2): (1, 1.0)}
    asked = chooses(monkeypatch, lambda judges: choices[tuple(judges)])
    how = recipe(backbone, candidate(backbone, 4), candidate(backbone, 2), alphas=ALPHAS, judges=18)
    first, second = both(backbone, given, how)
    assert sorted(asked) == sorted(choices)
    assert (second.trial, second.alpha) == (second.trials[1], 1.0)
    assert [len(answers) for answers in second.fold_logits] == [6, 6, 6]
    for own, others in enumerate([(1, 2), (0, 2), (0, 1)]):
        number, alpha = choices[others]
        trial = second.trials[number]
        np.testing.assert_array_equal(second.fold_logits[own], trial.val_logits_by_alpha[alpha][own])
        expected = interpolate(backbone.snapshot(2), first.fold_inits[own], trial.fold_states[own], alpha)
        assert bits(second.fold_states[own]) == bits(expected)
    assert len(second.fold_accepted) == 3


def test_a_rounds_point_is_not_held_back_by_what_its_own_photos_chose(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    chooses(monkeypatch, lambda judges: (0, 0.25 if len(judges) == 3 else 1.0))
    _, second = both(backbone, given, recipe(backbone, alphas=ALPHAS, judges=18))
    assert second.alpha == 0.25
    for answers, theirs in zip(second.fold_logits, second.trial.val_logits_by_alpha[1.0], strict=True):
        np.testing.assert_array_equal(answers, theirs)


def test_temperatures_are_fitted_on_photos_that_the_models_never_saw(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    first, second = both(backbone, given, recipe(backbone, judges=18, alphas=ALPHAS))
    truth = np.concatenate([given.data.labels[:18][given.data.fold == number] for number in range(3)])
    assert second.temperature == fit_temperature(np.concatenate(second.fold_logits), truth)
    assert (first.n_calibration, second.n_calibration) == (18, 18)
    assert first.temperature == pytest.approx(fit_temperature(np.concatenate(first.fold_logits), truth), rel=1e-3)


@pytest.mark.slow
def test_with_shuffled_labels_nothing_is_proven_and_what_ships_is_not_right_beyond_chance(
    photos: tuple[Path, ...],
) -> None:
    proven, right = [], []
    for seed in range(20):
        backbone, given = tiny_cnn(), task(photos, train=30)
        labels = given.data.labels[torch.from_numpy(np.random.default_rng(seed).permutation(30))]
        shuffled = replace(given, data=replace(given.data, labels=labels))
        how = replace(recipe(backbone, alphas=ALPHAS, judges=30), cross_fit=True)
        first, second = both(backbone, shuffled, how, seed)
        truth = np.concatenate([labels[given.data.fold == fold].numpy() for fold in range(3)])
        before, after = (softmax(np.concatenate(each.fold_logits)) for each in (first, second))
        proven.append(widened_gain(gain(truth, before, after, groups=[None] * 30, seed=0), 3).proven)
        shipped = [phase.fold_logits for phase in (first, second)]
        by_fold = [shipped[accepted][fold] for fold, accepted in enumerate(second.fold_accepted)]
        right.append((np.concatenate(by_fold).argmax(axis=1) == truth).mean())
    assert sum(proven) <= 1
    assert np.mean(right) < 1 / CLASSES + 0.02
