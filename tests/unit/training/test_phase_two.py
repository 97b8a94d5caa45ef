from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support import CLASSES, CROPS, Task, new_head, new_store, schedule, task, tiny_cnn, tiny_vit

from unfreeze.evaluation.calibration import fit_temperature, softmax
from unfreeze.models.backbone import Backbone
from unfreeze.models.freezing import plan_from
from unfreeze.predict import place
from unfreeze.runtime import deterministic
from unfreeze.training.activations import Activations, Rendered, features, keep, keep_or_render
from unfreeze.training.finetune import Weights
from unfreeze.training.fit_head import fit_head
from unfreeze.training.phases import (
    PhaseOne,
    PhaseTwo,
    TrainingData,
    not_worse,
    phase_one,
    phase_two,
    validation_rounds,
)
from unfreeze.training.recipes import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
JUDGES = 100
VALIDATIONS = pytest.mark.parametrize("val", [0, 6])


def recipe(backbone: Backbone, boundary: int = 3, *, solved: bool = True, choose_epoch: bool = True) -> Recipe:
    plan = plan_from(backbone, boundary, lr=0.02, head_lr=0.02, decay=0.8)
    return Recipe(
        name="test",
        augmentation=CROPS,
        views=2,
        head_plan=None if solved else plan_from(backbone, 5, lr=0.0, head_lr=0.02),
        head_schedule=None if solved else schedule(epochs=2),
        plan=plan,
        schedule=schedule(epochs=4),
        choose_epoch=choose_epoch,
        judges=JUDGES,
        boundary=plan.boundary,
        tuned_from=boundary,
    )


def at(backbone: Backbone, given: Task, boundary: int) -> Activations:
    return keep_or_render(new_store(), backbone, given.renderer, boundary, given.data.views(2), "test")


def both(backbone: Backbone, given: Task, how: Recipe, seed: int = 0) -> tuple[PhaseOne, PhaseTwo]:
    first = phase_one(backbone, at(backbone, given, 5), given.data, how, seed)
    return first, phase_two(backbone, at(backbone, given, how.boundary), given.data, how, first, seed)


def bits(weights: Weights) -> list[bytes]:
    return [value.numpy().tobytes() for table in [*weights.stages, weights.head] for value in table.values()]


# What training may see


def data_of(train: int, val: int = 0, folds: int = 5) -> TrainingData:
    indices = np.arange(train + val)
    fold = np.arange(train) % folds
    return TrainingData(torch.zeros(train + val + 9, dtype=torch.long), indices[:train], indices[train:], fold, 2)


def test_training_asks_for_no_photo_of_the_test_set(photos: tuple[Path, ...]) -> None:
    given = task(photos, train=12, val=6)
    wanted = given.data.views(3)
    assert set(wanted) == set(range(18))
    assert not set(wanted) & set(given.test.tolist())
    assert {photo: tuple(views) for photo, views in wanted.items()} == {
        **dict.fromkeys(range(12), (0, 1, 2)), **dict.fromkeys(range(12, 18), (0,)),
    }  # fmt: skip


def test_the_users_validation_is_the_only_round() -> None:
    (only,) = validation_rounds(data_of(20, 7), JUDGES)
    assert only.train.tolist() == list(range(20))
    assert only.val.tolist() == list(range(20, 27))
    assert only.fold is None


@pytest.mark.parametrize(
    ("train", "rounds"), [(40, 5), (JUDGES, 5), (2 * JUDGES, 3), (5 * JUDGES, 1), (JUDGES * 20, 1)]
)
def test_there_are_as_many_folds_as_give_enough_judges(train: int, rounds: int) -> None:
    data = data_of(train)
    found = validation_rounds(data, JUDGES)
    assert [each.fold for each in found] == list(range(rounds))
    for each in found:
        assert sorted([*each.train, *each.val]) == list(range(train))
        assert {int(data.fold[photo]) for photo in each.val} == {each.fold}
    assert sum(len(each.val) for each in found) >= min(train, JUDGES)


def test_one_fold_is_held_out_for_one_judge_and_none_for_none() -> None:
    assert [each.fold for each in validation_rounds(data_of(40), 1)] == [0]
    assert validation_rounds(data_of(40), 0) == validation_rounds(data_of(40, 7), 0) == ()


# Phase 1


@pytest.mark.parametrize("solved", [True, False])
@VALIDATIONS
@BACKBONES
def test_phase_one_leaves_the_backbone_to_the_bit(
    photos: tuple[Path, ...], make: Callable[..., Backbone], val: int, solved: bool
) -> None:
    backbone, given = make(dropout=0.3), task(photos, train=12, val=val)
    before = backbone.fingerprint()
    first = phase_one(backbone, at(backbone, given, 5), given.data, recipe(backbone, solved=solved), 0)
    assert backbone.fingerprint() == before
    head = new_head(backbone, CLASSES, 0)
    first.final.install(backbone, head, backbone.snapshot())
    assert backbone.fingerprint() == before
    assert not torch.equal(head.weight, new_head(backbone, CLASSES, 0).weight)


def test_phase_one_with_batch_norm_in_train_mode_moves_statistics_until_it_ends(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    before = backbone.fingerprint()
    how = recipe(backbone, 0, solved=False)
    how = replace(how, head_plan=plan_from(backbone, 5, lr=0.0, head_lr=0.02, bn="train"))
    first = phase_one(backbone, at(backbone, given, 0), given.data, how, 0)
    assert backbone.fingerprint() == before
    first.final.install(backbone, new_head(backbone, CLASSES, 0), backbone.snapshot())
    assert backbone.fingerprint() != before


def test_a_solved_head_is_judged_by_folds_that_it_never_saw(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    source = keep(new_store(), backbone, Rendered(given.renderer), 5, given.data.views(2), "test")
    first = phase_one(backbone, source, given.data, recipe(backbone), 0)
    found = features(source, range(18), (0, 1))
    fit = fit_head(found, given.data.labels[:18], given.data.fold, CLASSES, smoothing=schedule().smoothing)
    assert len(first.round_starts) == len(first.validation) == 3
    for number, (weights, answers) in enumerate(zip(first.round_starts, first.validation, strict=True)):
        assert torch.equal(weights.head["weight"], fit.fold_starts[number].weight.float())
        np.testing.assert_allclose(answers, fit.out_of_fold[given.data.fold == number], atol=1e-6)
    assert torch.equal(first.final.head["bias"], fit.head.bias.float())
    assert torch.equal(first.start.head["bias"], fit.start.bias.float())
    assert first.history == ()


@pytest.mark.parametrize("solved", [True, False])
def test_with_the_users_validation_the_judged_head_is_the_one_that_ships(
    photos: tuple[Path, ...], solved: bool
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12, val=6)
    first = phase_one(backbone, at(backbone, given, 5), given.data, recipe(backbone, solved=solved), 0)
    assert bits(first.round_starts[0]) == bits(first.start)
    head = new_head(backbone, CLASSES, 0)
    first.final.install(backbone, head, [])
    plain = torch.cat([given.renderer.views(int(photo), (0,)) for photo in given.data.val])
    with torch.no_grad():
        expected = head(backbone.run(place(plain, backbone, 0)))
    np.testing.assert_allclose(first.validation[0], expected, atol=1e-4)


# Phase 2


@VALIDATIONS
@pytest.mark.parametrize("boundary", [0, 2, 4])
@BACKBONES
def test_phase_two_leaves_the_backbone_as_it_was_pretrained(
    photos: tuple[Path, ...], make: Callable[..., Backbone], boundary: int, val: int
) -> None:
    backbone, given = make(dropout=0.2), task(photos, train=12, val=val)
    before = [backbone.fingerprint(stage) for stage in range(6)]
    pretrained = backbone.snapshot()
    _, second = both(backbone, given, recipe(backbone, boundary))
    assert [backbone.fingerprint(stage) for stage in range(6)] == before
    assert len(second.final.stages) == 5 - boundary
    second.final.install(backbone, new_head(backbone, CLASSES, 0), pretrained)
    after = [backbone.fingerprint(stage) for stage in range(6)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [stage <= boundary for stage in range(6)]


def test_phase_two_goes_on_from_phase_one(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    how = recipe(backbone, choose_epoch=False)
    assert how.schedule is not None
    assert how.plan is not None
    still = replace(how, plan=plan_from(backbone, 3, lr=1e-12, head_lr=1e-12), schedule=schedule(epochs=1))
    first, second = both(backbone, given, still)
    torch.testing.assert_close(second.final.head, first.start.head, atol=1e-6, rtol=0)
    assert bits(second.final) != bits(first.start)


@VALIDATIONS
def test_the_final_training_ends_at_the_epoch_that_the_rounds_chose(
    photos: tuple[Path, ...], val: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def additive(predicted: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        stated = softmax(predicted)[np.arange(len(labels)), labels]
        return float(-np.log(stated.clip(1e-7)).mean()), 0.0

    def lowest(validation: list[np.ndarray], labels: np.ndarray) -> int:
        return 1 + int(np.argmin([additive(predicted, labels)[0] for predicted in validation]))

    monkeypatch.setattr("unfreeze.training.finetune.judge", additive)
    monkeypatch.setattr("unfreeze.training.phases.choose_epoch", lowest)
    backbone, given = tiny_cnn(), task(photos, train=12, val=val)
    how = recipe(backbone, 2)
    how = replace(
        how, plan=plan_from(backbone, 2, lr=0.08, head_lr=0.08), schedule=schedule(epochs=6, warmup=0.0, cosine=False)
    )
    _, second = both(backbone, given, how)
    rounds = [row for row in second.history if "validating" in row.phase]
    share = np.bincount([row.epoch for row in rounds], weights=[float(row.val_loss or 0) for row in rounds])[1:]
    best = 1 + int(np.argmin(share))
    assert best < 6
    finals = [row.epoch for row in second.history if "validating" not in row.phase]
    assert finals == ([] if val else list(range(1, best + 1)))


@VALIDATIONS
def test_the_history_has_one_row_an_epoch(photos: tuple[Path, ...], val: int) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12, val=val)
    _, second = both(backbone, given, recipe(backbone, choose_epoch=False))
    seen = Counter((row.phase, row.epoch) for row in second.history)
    assert set(seen.values()) == {1}
    assert len(seen) == (4 if val else 3 * 4 + 4)


def test_phases_are_decided_by_the_seed_to_the_bit(photos: tuple[Path, ...]) -> None:
    def trained(seed: int) -> tuple[list[bytes], list[bytes], list[float]]:
        backbone, given = tiny_cnn(dropout=0.3), task(photos, train=12, seed=seed)
        with deterministic(seed):
            first, second = both(backbone, given, recipe(backbone, solved=False), seed)
        return bits(first.final), bits(second.final), [row.train_loss for row in second.history]

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
        return bits(second.final)

    gone = tuple(tmp_path / f"missing-{number}.png" for number in range(18))
    assert trained(photos, 0) == trained(photos[:12] + gone, 2)


# Which one ships


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((0.5, 0.8), (0.6, 0.9), True),  # accuracy decides
        ((0.5, 0.8), (0.1, 0.7), False),
        ((0.5, 0.8), (0.4, 0.8), True),  # the log-loss where it ties
        ((0.5, 0.8), (0.6, 0.8), False),
        ((0.5, 0.8), (0.5, 0.8), True),
    ],
)
def test_not_worse(before: tuple[float, float], after: tuple[float, float], expected: bool) -> None:
    assert not_worse(before, after) is expected


def test_a_ruinous_phase_two_is_found_out(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=24)
    how = replace(recipe(backbone, 2, choose_epoch=False), plan=plan_from(backbone, 2, lr=10.0, head_lr=10.0))
    first, second = both(backbone, given, how)
    truth = np.concatenate([given.data.labels[:24][given.data.fold == number] for number in range(3)])
    right = np.mean(np.concatenate(first.validation).argmax(1) == truth)
    last = [row.val_accuracy for row in second.history if row.epoch == 4 and row.val_accuracy is not None]
    assert right > float(np.mean(last))
    assert second.not_worse is False


# Who chooses for whom


def by_hand(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """Let the epoch be chosen by nothing; return the labels of the photos that each choice was shown."""
    shown: list[list[list[int]]] = []

    def choose(validation: list[np.ndarray], labels: np.ndarray) -> int:
        shown.append([labels.tolist()])
        return 2

    monkeypatch.setattr("unfreeze.training.phases.choose_epoch", choose)
    return shown


def test_a_rounds_photos_never_choose_what_is_said_of_them(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    shown = by_hand(monkeypatch)
    _, second = both(backbone, given, replace(recipe(backbone), judges=18))
    truths = [given.data.labels[:18][given.data.fold == number].tolist() for number in range(3)]
    others = [truths[1] + truths[2], truths[0] + truths[2], truths[0] + truths[1]]
    assert [labels for (labels,) in shown] == [*others, truths[0] + truths[1] + truths[2]]
    assert [len(answers) for answers in second.validation] == [6, 6, 6]
    assert len(second.rounds_not_worse) == len(second.round_finals) == 3


def test_temperatures_are_fitted_on_photos_that_the_models_never_saw(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    first, second = both(backbone, given, replace(recipe(backbone), judges=18))
    truth = np.concatenate([given.data.labels[:18][given.data.fold == number] for number in range(3)])
    assert second.temperature == fit_temperature(np.concatenate(second.validation), truth)
    assert (first.calibrated_on, second.calibrated_on) == (18, 18)
    assert first.temperature == pytest.approx(fit_temperature(np.concatenate(first.validation), truth), rel=1e-3)


def test_cooling_divides_the_logits_and_nothing_else(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    _, second = both(backbone, given, recipe(backbone))
    pretrained, head = backbone.snapshot(), new_head(backbone, CLASSES, 0)
    plain = torch.cat([given.renderer.views(photo, (0,)) for photo in range(5)])

    def said(weights: Weights) -> torch.Tensor:
        weights.install(backbone, head, pretrained)
        with torch.no_grad():
            found: torch.Tensor = head(backbone.run(place(plain, backbone, 0)))
        return found

    torch.testing.assert_close(said(second.final.cooled(2.5)) * 2.5, said(second.final))


def test_without_judges_phase_two_is_trained_once(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    first, second = both(backbone, given, replace(recipe(backbone), judges=0))
    assert {row.phase for row in second.history} == {"phase 2"}
    assert (second.not_worse, second.validation, second.temperature) == (True, (), 1.0)
    assert first.validation == ()
