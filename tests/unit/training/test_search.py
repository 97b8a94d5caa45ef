from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.backbones import bits, tiny_cnn, tiny_vit
from tests.support.training import ALPHAS, candidate, poison, schedule, setting

from unfreeze.evaluation.selection import FoldIds, ModelSelector
from unfreeze.models.backbone import Backbone
from unfreeze.models.state import interpolate, loaded
from unfreeze.predict import to_model_input
from unfreeze.training.finetune.loop import FineTuneResult, finetune
from unfreeze.training.recipe import LR_BACKOFF

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])


def insatiable(monkeypatch: pytest.MonkeyPatch, *, wants_more: bool = True) -> list[int]:
    """Let the panel want more whatever it hears; return how many trials it was asked about, each time."""
    asked: list[int] = []

    def answer(_panel: ModelSelector, trials: list[object], _depth: str, _judges: FoldIds) -> bool:
        asked.append(len(trials))
        return wants_more

    monkeypatch.setattr(ModelSelector, "should_continue", answer)
    return asked


# Which candidates are tried


def test_candidates_are_tried_in_order_as_long_as_more_is_wanted(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_cnn()
    ways = [candidate(backbone, boundary, how=schedule(epochs=1)) for boundary in (4, 3, 2)]
    asked = insatiable(monkeypatch)
    trials = setting(backbone, photos).search(*ways)
    assert [trial.candidate for trial in trials] == ways
    assert list(dict.fromkeys(asked)) == [1, 2]


def test_where_nobody_wants_more_the_search_ends(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_cnn()
    ways = [candidate(backbone, boundary, how=schedule(epochs=1)) for boundary in (4, 3, 2)]
    insatiable(monkeypatch, wants_more=False)
    trials = setting(backbone, photos).search(*ways)
    assert [trial.candidate for trial in trials] == ways[:1]


@pytest.mark.parametrize(("time_for", "tried"), [(0, 1), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_without_time_no_further_candidate_is_tried_but_the_first_always_is(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, time_for: int, tried: int
) -> None:
    backbone = tiny_cnn()
    ways = [candidate(backbone, boundary, how=schedule(epochs=1)) for boundary in (4, 3, 2)]
    insatiable(monkeypatch)
    trials = setting(backbone, photos).search(*ways, time_left=lambda count: count < time_for)
    assert [trial.candidate for trial in trials] == ways[:tried]


# What a trial finds


def test_an_anchored_candidate_is_held_to_the_pretrained_features(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_cnn()
    own, held_to = setting(backbone, photos), list[object]()

    def noted(*given: Any, **rest: Any) -> FineTuneResult:
        held_to.append(rest["pretrained_features"])
        return finetune(*given, **rest)

    monkeypatch.setattr("unfreeze.training.search.finetune", noted)
    asked = candidate(backbone, 3, how=schedule(smoothing=0.1))
    free = own.try_out(asked)
    held = own.try_out(replace(asked, schedule=replace(asked.schedule, distill=5.0)))
    count = len(own.bench.features.folds.validation)
    assert held_to == [None] * count + [own.bench.features.final.by_boundary[5]] * count
    assert all(bits(one) != bits(other) for one, other in zip(free.fold_states, held.fold_states, strict=True))


@BACKBONES
def test_every_point_answers_as_its_own_model_does(photos: tuple[Path, ...], make: Callable[[], Backbone]) -> None:
    backbone = make()
    own = setting(backbone, photos)
    trial = own.try_out(candidate(backbone, 3))
    assert tuple(trial.val_logits_by_alpha) == ALPHAS
    assert trial.failure is None
    assert list(trial.warnings()) == []
    assert trial.seconds > 0
    for number, (each, start) in enumerate(zip(own.bench.features.folds.validation, own.bench.starts, strict=True)):
        plain = torch.cat([own.given.renderer.views(int(photo), (0,)) for photo in each.val])
        for alpha, answers in trial.val_logits_by_alpha.items():
            model = interpolate(own.bench.pretrained, start, trial.fold_states[number], alpha)
            with loaded(backbone, model) as head, torch.no_grad():
                expected = head(backbone.run(to_model_input(plain, backbone, 0)))
            np.testing.assert_allclose(answers[number], expected, rtol=1e-4, atol=1e-4)
        assert not np.allclose(
            trial.val_logits_by_alpha[0.25][number], trial.val_logits_by_alpha[1.0][number], atol=1e-3
        )


def test_every_round_goes_on_from_its_own_start(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own = setting(backbone, photos)
    trial = own.try_out(candidate(backbone, 3, lr=1e-12, how=schedule(epochs=1)))
    assert len(trial.fold_states) == len(own.bench.starts) == 3
    for final, start in zip(trial.fold_states, own.bench.starts, strict=True):
        torch.testing.assert_close(final.head, start.head, atol=1e-6, rtol=0)
        assert len(final.stages) == 2


def test_the_history_has_a_row_an_epoch_and_names_the_round(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    trial = setting(backbone, photos).try_out(candidate(backbone, 4))
    assert [(row.phase, row.epoch) for row in trial.history] == [
        (f"test, validating {number} of 3", epoch) for number in (1, 2, 3) for epoch in (1, 2, 3, 4)
    ]


# What goes wrong


def test_what_goes_wrong_is_tried_again_at_a_tenth(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_cnn()
    own, asked = setting(backbone, photos), candidate(backbone, 3, lr=0.02)
    expected = own.try_out(asked.with_lr_scaled())
    poison(monkeypatch, lambda plan, _: plan.rows[-1].lr > 0.01)
    trial = own.try_out(asked)
    assert trial.failure == "not finite"
    assert trial.candidate == asked.with_lr_scaled()
    assert trial.candidate.lr == pytest.approx(LR_BACKOFF * 0.02)
    assert [bits(final) for final in trial.fold_states] == [bits(final) for final in expected.fold_states]
    for alpha in ALPHAS:
        for answers, theirs in zip(trial.val_logits_by_alpha[alpha], expected.val_logits_by_alpha[alpha], strict=True):
            np.testing.assert_array_equal(answers, theirs)
    assert list(trial.warnings()) == [
        "phase 2 from layer3 went wrong at 0.02 (the loss was no number): it was trained again at a tenth of that"
    ]
    first, *rest = trial.history
    assert math.isnan(first.train_loss)
    assert {row.phase for row in rest} == {f"test, slower, validating {number} of 3" for number in (1, 2, 3)}


def test_one_round_that_goes_wrong_slows_all_of_them(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_cnn()
    own, asked = setting(backbone, photos), candidate(backbone, 3)
    second = own.bench.features.folds.validation[1].val
    expected = own.try_out(asked.with_lr_scaled())
    poison(monkeypatch, lambda plan, val: plan == asked.plan and np.array_equal(val, second))
    trial = own.try_out(asked)
    assert trial.failure == "not finite"
    assert [bits(final) for final in trial.fold_states] == [bits(final) for final in expected.fold_states]


def test_what_goes_wrong_at_a_tenth_too_has_no_answers(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_cnn()
    poison(monkeypatch, lambda *_: True)
    trial = setting(backbone, photos).try_out(candidate(backbone, 3, lr=0.02))
    assert (dict(trial.val_logits_by_alpha), trial.fold_states, trial.failure) == ({}, (), "not finite")
    assert list(trial.warnings()) == [
        "phase 2 from layer3 went wrong at 0.02 (the loss was no number): a tenth of it did no better"
    ]
    assert len(trial.history) == 2


def test_a_training_that_collapses_is_told_apart(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_cnn()
    own = setting(backbone, photos)
    monkeypatch.setattr("unfreeze.training.finetune.loop.is_collapsed", lambda *_: True)
    trial = own.try_out(candidate(backbone, 3, how=schedule(epochs=6)))
    assert trial.failure == "collapsed"
    (said,) = trial.warnings()
    assert "validation fell far below where it had begun" in said
    assert [row.epoch for row in trial.history] == [
        *range(1, 7),
        *range(1, 7),
    ]  # broken off at the third of the second half


def test_a_candidate_that_goes_wrong_does_not_end_the_search(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_cnn()
    wild, tame = candidate(backbone, 4, lr=0.5), candidate(backbone, 3, lr=0.01)
    poison(monkeypatch, lambda plan, _: plan.rows[-1].lr > 0.01)
    trials = setting(backbone, photos).search(wild, tame)
    assert [bool(trial.val_logits_by_alpha) for trial in trials] == [False, True]
    assert [trial.candidate.depth for trial in trials] == ["layer4", "layer3"]


def test_the_pretrained_stages_are_where_every_training_begins(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, asked = setting(backbone, photos), candidate(backbone, 3)
    before = backbone.fingerprint()
    alone = own.try_out(asked)
    assert backbone.fingerprint() == before
    own.try_out(candidate(backbone, 2, lr=0.5))
    assert backbone.fingerprint() == before
    after = own.try_out(asked)
    assert [bits(final) for final in after.fold_states] == [bits(final) for final in alone.fold_states]


def test_training_leaves_what_it_starts_from_as_it_was(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own = setting(backbone, photos)
    before = [bits(start) for start in own.bench.starts]
    own.try_out(candidate(backbone, 2, lr=0.5))
    assert [bits(start) for start in own.bench.starts] == before
