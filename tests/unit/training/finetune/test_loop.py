from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from tests.support.backbones import bits, new_head, tiny_cnn, tiny_vit
from tests.support.photos import CLASSES
from tests.support.training import Task, new_store, schedule, task
from torch import Tensor, nn

from unfreeze.models.backbone import Backbone
from unfreeze.models.freezing import StagePlan, plan_from
from unfreeze.models.head import Head
from unfreeze.models.state import ModelState, loaded, random_head
from unfreeze.predict import Logits, to_model_input
from unfreeze.runtime import deterministic, generator
from unfreeze.training.features.activations import (
    Activations,
    CachedActivations,
    PixelSource,
    activations_at,
    compute_or_load,
    pooled_features,
)
from unfreeze.training.finetune.loop import (
    PATIENCE,
    FineTuneResult,
    distillation_loss,
    finetune,
    is_collapsed,
    loss_and_accuracy,
)
from unfreeze.training.schedule import Schedule, view_schedule

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
LR = 0.02


def train(
    backbone: Backbone,
    given: Task,
    plan: StagePlan,
    how: Schedule,
    *,
    source: Activations | None = None,
    seed: int = 0,
    start: ModelState | None = None,
    floor: Logits | None = None,
    features: Activations | None = None,
) -> FineTuneResult:
    data = given.data
    if source is None:
        source = activations_at(
            new_store(), backbone, given.renderer, plan.boundary, data.requested_views(how.n_views or 1), "test"
        )
    return finetune(
        backbone, start or random_head(backbone, CLASSES, 0), source, data.labels, plan, how,
        phase="test", train=data.train, val=data.val, seed=seed, baseline_logits=floor, pretrained_features=features,
    )  # fmt: skip


# Frozen means frozen


@pytest.mark.parametrize("boundary", range(6))
@BACKBONES
def test_everything_below_the_boundary_stays_as_it_was_to_the_bit(
    photos: tuple[Path, ...], make: Callable[..., Backbone], boundary: int
) -> None:
    backbone = make(dropout=0.3)
    before = [backbone.fingerprint(stage) for stage in range(6)]
    plan = plan_from(backbone, boundary, lr=LR, head_lr=LR)
    tuned = train(backbone, task(photos, train=12), plan, schedule())
    assert [backbone.fingerprint(stage) for stage in range(6)] == before
    assert len(tuned.state.stages) == 5 - boundary
    with loaded(backbone, tuned.state) as head:
        after = [backbone.fingerprint(stage) for stage in range(6)]
        assert not torch.equal(head.weight, new_head(backbone, CLASSES, 0).weight)
    assert [a == b for a, b in zip(before, after, strict=True)] == [stage <= boundary for stage in range(6)]


@pytest.mark.parametrize("boundary", [2, 5])
def test_batch_norm_in_train_mode_does_move_the_frozen_part(photos: tuple[Path, ...], boundary: int) -> None:
    backbone = tiny_cnn()
    before, weights = backbone.fingerprint(), tiny_cnn().weights()
    below_before = backbone.fingerprint(boundary)
    plan = plan_from(backbone, boundary, lr=LR, head_lr=LR, bn="train")
    tuned = train(backbone, task(photos, train=12), plan, schedule())
    assert backbone.fingerprint() == before
    below = {name for stage in backbone.stages[:boundary] for name in stage.module.state_dict()}
    with loaded(backbone, tuned.state):
        assert backbone.fingerprint(boundary) != below_before
        moved = {name for name in below if not torch.equal(weights[name], backbone.weights()[name])}
    assert moved == {name for name in below if "running" in name or "tracked" in name}


def test_layers_below_the_boundary_run_in_eval_mode_during_training(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn(dropout=0.5)
    modes: dict[int, set[bool]] = {index: set() for index in range(5)}
    for index, stage in enumerate(backbone.stages):
        dropout = next(layer for layer in stage.module.modules() if isinstance(layer, nn.Dropout))

        def note(layer: nn.Module, _inputs: object, _output: object, index: int = index) -> None:
            if torch.is_grad_enabled() or index < 2:
                modes[index].add(layer.training)

        dropout.register_forward_hook(note)
    plan = plan_from(backbone, 2, lr=LR, head_lr=LR)
    given = task(photos, train=12)
    train(backbone, given, plan, schedule(), source=PixelSource(given.renderer))
    assert modes == {0: {False}, 1: {False}, 2: {True}, 3: {True}, 4: {True}}


# Cache = no cache


@pytest.mark.parametrize("boundary", [1, 2, 4, 5])
@BACKBONES
def test_training_on_kept_activations_is_training_on_photos(
    photos: tuple[Path, ...], make: Callable[[], Backbone], boundary: int
) -> None:
    given, how = task(photos, train=12, val=6), schedule(views=3)
    curves = []
    for kept in (True, False):
        backbone = make()
        source = (
            compute_or_load(
                new_store(), backbone, PixelSource(given.renderer), boundary, given.data.requested_views(3), "test"
            )
            if kept
            else PixelSource(given.renderer)
        )
        plan = plan_from(backbone, boundary, lr=LR, head_lr=LR, decay=0.8)
        tuned = train(backbone, given, plan, how, source=source)
        curves.append(
            np.array([(row.train_loss, row.val_loss, row.val_accuracy) for row in tuned.history], dtype=float)
        )
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)
    assert curves[0][0, 0] != pytest.approx(curves[0][-1, 0], rel=1e-3)  # it did learn something


@pytest.mark.parametrize("views", [1, 2, 4])
def test_epochs_take_every_kept_view_in_turn(views: int) -> None:
    photos = np.array([3, 0, 8, 5])
    how = schedule(views=views, epochs=2 * views)
    seen = np.array([view_schedule(photos, epoch, how) for epoch in range(1, views + 1)])
    assert all(sorted(column) == list(range(views)) for column in seen.T)
    assert view_schedule(photos, 1 + views, how) == seen[0].tolist()
    assert view_schedule(photos[::-1], 1, how) == seen[0][::-1].tolist()
    assert how.n_cached_views == views


def test_without_kept_views_every_epoch_draws_a_new_one() -> None:
    assert view_schedule(np.array([3, 0]), 4, schedule(views=None)) == [4, 4]
    assert 0 not in view_schedule(np.array([3, 0]), 1, schedule(views=None))  # view 0 is the plain one
    assert schedule(views=None).n_cached_views == 0


@pytest.mark.parametrize(("views", "fresh"), [(1, 1), (4, 1), (4, 3), (4, 4)])
def test_fresh_views_replace_the_oldest(views: int, fresh: int) -> None:
    how = schedule(views=views, fresh=fresh, epochs=5)
    photos = np.arange(40)
    seen = [set(view_schedule(photos, epoch, how)) for epoch in range(1, 6)]
    for epoch, used in enumerate(seen):
        assert used == set(range(epoch * fresh, epoch * fresh + views))
    assert set.union(*seen) == set(range(how.n_cached_views))


# Determinism


@BACKBONES
def test_a_seed_decides_the_weights_to_the_bit(photos: tuple[Path, ...], make: Callable[..., Backbone]) -> None:
    def trained(seed: int) -> FineTuneResult:
        backbone = make(dropout=0.3)
        with deterministic(seed):
            plan = plan_from(backbone, 2, lr=LR, head_lr=LR)
            return train(backbone, task(photos, train=12, val=6), plan, schedule(), seed=seed)

    one, same, other = trained(5), trained(5), trained(6)
    assert bits(one.state) == bits(same.state)
    assert [row.train_loss for row in one.history] == [row.train_loss for row in same.history]
    assert np.array_equal(one.val_logits, same.val_logits)
    assert bits(one.state) != bits(other.state)


def test_the_seed_orders_the_photos(photos: tuple[Path, ...]) -> None:
    def trained(seed: int) -> FineTuneResult:
        backbone = tiny_cnn()
        return train(backbone, task(photos, train=12), plan_from(backbone, 5, lr=0, head_lr=LR), schedule(), seed=seed)

    assert bits(trained(0).state) != bits(trained(1).state)


# Schedules


def how_long(**changes: object) -> Schedule:
    return replace(schedule(), **changes)  # type: ignore[arg-type]


def test_a_rate_that_stays() -> None:
    assert {how_long(warmup=0.0, cosine=False).lr_factor(step, 20) for step in range(20)} == {1.0}


def test_a_rate_that_climbs_and_falls() -> None:
    rates = [how_long(warmup=0.25, cosine=True).lr_factor(step, 20) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[5:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 15)) for step in range(15)])
    assert all(0 < rate <= 1 for rate in rates)


def test_a_rate_that_falls_from_the_start() -> None:
    rates = [how_long(warmup=0.0, cosine=True).lr_factor(step, 20) for step in range(20)]
    assert rates == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 20)) for step in range(20)])


def test_a_rate_that_climbs_and_stays() -> None:
    rates = [how_long(warmup=0.5, cosine=False).lr_factor(step, 4) for step in range(4)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("warmup", [0.0, 0.2, 1.0])
def test_a_single_step_has_a_rate(warmup: float) -> None:
    assert how_long(warmup=warmup, cosine=True).lr_factor(0, 1) > 0


# What a training ends with


def test_the_last_epochs_weights_are_kept_and_so_are_their_answers(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12, val=9)
    tuned = train(backbone, given, plan_from(backbone, 2, lr=0.3, head_lr=0.3), schedule(epochs=6, warmup=0.1))
    assert [row.epoch for row in tuned.history] == [1, 2, 3, 4, 5, 6]
    assert tuned.failure is None
    truth = given.data.labels.numpy()[given.data.val]
    assert loss_and_accuracy(tuned.val_logits, truth) == (tuned.history[-1].val_loss, tuned.history[-1].val_accuracy)
    backbone = tiny_cnn()
    wanted = dict.fromkeys(given.data.val.tolist(), (0,))
    with loaded(backbone, tuned.state) as head, torch.no_grad():
        source = compute_or_load(new_store(), backbone, PixelSource(given.renderer), 5, wanted, "test")
        answers = head(pooled_features(source, given.data.val.tolist(), (0,))[:, 0]).numpy()
    np.testing.assert_allclose(answers, tuned.val_logits, atol=1e-5)


def test_without_validation_there_is_nothing_to_answer(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    plan = plan_from(backbone, 4, lr=LR, head_lr=LR)
    tuned = train(backbone, task(photos, train=12), plan, schedule())
    assert [(row.val_loss, row.val_accuracy) for row in tuned.history] == [(None, None)] * 3
    assert [row.epoch for row in tuned.history] == [1, 2, 3]
    assert tuned.val_logits.shape == (0, CLASSES)
    assert tuned.failure is None


# Failure


def knowing(given: Task) -> Logits:
    """Return answers that are right about every validation photo."""
    truth = given.data.labels[torch.from_numpy(given.data.val)]
    return nn.functional.one_hot(truth, CLASSES).float().numpy()


@pytest.mark.parametrize("val", [0, 6])
@BACKBONES
def test_a_rate_that_explodes_breaks_the_training_off(
    photos: tuple[Path, ...], make: Callable[[], Backbone], val: int
) -> None:
    backbone = make()
    plan = plan_from(backbone, 2, lr=1e30, head_lr=1e30)
    tuned = train(backbone, task(photos, train=12, val=val), plan, schedule(epochs=9, clip=None, warmup=0.0))
    assert tuned.failure == "not finite"
    assert len(tuned.history) == 1


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("val", [0, 6])
def test_a_weight_that_is_no_number_breaks_the_training_off(
    photos: tuple[Path, ...], val: int, clip: float | None
) -> None:
    backbone = tiny_cnn()
    start = random_head(backbone, CLASSES, 0)
    start.head["bias"][1] = torch.nan
    given = task(photos, train=12, val=val)
    plan = plan_from(backbone, 3, lr=LR, head_lr=LR)
    tuned = train(backbone, given, plan, schedule(clip=clip), start=start, floor=knowing(given))
    assert tuned.failure == "not finite"
    (row,) = tuned.history
    assert math.isnan(row.train_loss)
    assert (row.val_loss, row.val_accuracy) == (None, None)


@pytest.mark.parametrize("val", [0, 6])
def test_weights_that_the_very_last_step_ruined_are_noticed(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, val: int
) -> None:
    @contextmanager
    def without_gradient(*given: Any, **rest: Any) -> Iterator[Head]:
        with loaded(*given, **rest) as head:
            head.weight.register_hook(lambda gradient: gradient * torch.nan)  # type: ignore[no-untyped-call]
            yield head

    monkeypatch.setattr("unfreeze.training.finetune.loop.loaded", without_gradient)
    backbone = tiny_cnn()
    given, one_step = task(photos, train=12, val=val), schedule(epochs=1, batch_size=12)
    tuned = train(backbone, given, plan_from(backbone, 3, lr=LR, head_lr=LR), one_step)
    assert math.isfinite(tuned.history[-1].train_loss)
    assert tuned.failure == "not finite"


def test_a_ruined_buffer_is_noticed_though_no_answer_depends_on_it(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    plan = plan_from(backbone, 4, lr=LR, head_lr=LR, bn="train")
    given = task(photos, train=12)
    backbone.stages[4].module.get_buffer("layer4.1.running_mean").fill_(torch.inf)
    tuned = train(backbone, given, plan, schedule(epochs=1))
    assert math.isfinite(tuned.history[-1].train_loss)
    assert tuned.failure == "not finite"


def test_validation_that_stays_far_below_the_floor_breaks_the_training_off(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12, val=9)
    still = plan_from(backbone, 4, lr=1e-9, head_lr=1e-9)  # a random head that learns nothing
    tuned = train(backbone, given, still, schedule(epochs=9), floor=knowing(given))
    assert tuned.failure == "collapsed"
    assert [row.epoch for row in tuned.history] == list(range(1, 8))  # three of them in the second half
    assert all(row.val_accuracy is not None for row in tuned.history)


@pytest.mark.parametrize("val", [0, 9])
def test_as_long_as_it_holds_the_floor_a_training_goes_on(photos: tuple[Path, ...], val: int) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12, val=val)
    still = plan_from(backbone, 4, lr=1e-9, head_lr=1e-9)
    floor = train(tiny_cnn(), given, still, schedule(epochs=1)).val_logits
    tuned = train(backbone, given, still, schedule(epochs=6), floor=floor)
    assert tuned.failure is None
    assert len(tuned.history) == 6


def test_a_dip_that_is_made_good_is_no_collapse(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    below = iter([True, True, False, True, True])  # of the second half
    monkeypatch.setattr("unfreeze.training.finetune.loop.is_collapsed", lambda *_: next(below))
    backbone, given = tiny_cnn(), task(photos, train=12, val=9)
    plan = plan_from(backbone, 4, lr=LR, head_lr=LR)
    tuned = train(backbone, given, plan, schedule(epochs=9), floor=knowing(given))
    assert tuned.failure is None
    assert len(tuned.history) == 9 > PATIENCE


def answers_of(right: list[int]) -> Logits:
    """Return answers of two classes to photos of class 0."""
    return np.array([[1.0, 0.0] if each else [0.0, 1.0] for each in right], np.float32)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([1] * 8, [0] * 8, True),
        ([1] * 8, [1] * 8, False),
        ([0] * 8, [1] * 8, False),
        ([1] * 40, [0] * 4 + [1] * 36, True),  # 4 of 40: 0.1 > 2 x 0.3 / 40 ** 0.5
        ([1] * 40, [0] * 3 + [1] * 37, False),  # 3 of 40: 0.075 < 2 x 0.263 / 40 ** 0.5
        ([1] * 20 + [0] * 20, [0] * 10 + [1] * 10 + [0] * 14 + [1] * 6, False),  # 10 lost and 6 won
        ([], [], False),
    ],
)
def test_only_what_luck_does_not_explain_is_a_collapse(before: list[int], after: list[int], expected: bool) -> None:
    said = [answers_of(right).reshape(-1, 2) for right in (before, after)]
    assert is_collapsed(said[0], said[1], np.zeros(len(before), np.int64)) is expected


# Steps


def test_clipping_bounds_a_step_of_plain_size(photos: tuple[Path, ...]) -> None:
    def moved(clip: float | None) -> float:
        backbone = tiny_cnn()
        start = random_head(backbone, CLASSES, 0)
        plan = plan_from(backbone, 4, lr=LR, head_lr=LR)
        tuned = train(
            backbone, task(photos, train=12), plan, schedule(epochs=1, clip=clip, weight_decay=0.0), start=start
        )
        return float((tuned.state.head["weight"] - start.head["weight"]).abs().max())

    # Adam's steps hardly depend on the gradient's size, until that is as small as its epsilon of 1e-8
    assert moved(1e9) == moved(None)
    assert moved(1e-10) < 0.1 * moved(None)


def test_every_rate_follows_the_schedule(photos: tuple[Path, ...]) -> None:
    def distance(factor: float, boundary: int) -> tuple[Tensor, Tensor]:
        backbone = tiny_cnn()
        start = random_head(backbone, CLASSES, 0)
        before = start.head["weight"], backbone.snapshot(4)[0]["layer4.0.weight"]
        plan = plan_from(backbone, boundary, lr=1e-4 * factor, head_lr=1e-4)
        one_step = schedule(epochs=1, batch_size=12, warmup=0.0, cosine=False, clip=None, weight_decay=0.0)
        tuned = train(backbone, task(photos, train=12), plan, one_step, start=start)
        with loaded(backbone, tuned.state):
            after = tuned.state.head["weight"], backbone.snapshot(4)[0]["layer4.0.weight"]
        return after[0] - before[0], after[1] - before[1]

    head_step, stage_step = distance(10, 4)
    # Adam's first step is the rate itself, in each weight whose gradient is far from 0
    assert head_step.abs().median() == pytest.approx(1e-4, rel=1e-2)
    assert stage_step.abs().max() == pytest.approx(1e-3, rel=1e-2)
    assert distance(10, 5)[1].abs().max() == 0


def test_the_optimizer_is_the_one_that_was_named(photos: tuple[Path, ...]) -> None:
    def trained(name: Literal["adam", "adamw"], decay: float) -> list[bytes]:
        backbone = tiny_cnn()
        how = replace(schedule(weight_decay=decay), optimizer=name)
        return bits(train(backbone, task(photos, train=12), plan_from(backbone, 4, lr=LR, head_lr=LR), how).state)

    assert trained("adam", 0.0) == trained("adamw", 0.0)
    assert trained("adam", 0.1) != trained("adamw", 0.1)


def test_smoothed_labels_are_in_the_training_loss_alone(photos: tuple[Path, ...]) -> None:
    def first_row(smoothing: float) -> tuple[float, float | None]:
        backbone, given = tiny_cnn(), task(photos, train=12, val=6)
        how = schedule(epochs=1, batch_size=12, views=1, smoothing=smoothing, weight_decay=0.0)
        plan = plan_from(backbone, 5, lr=0, head_lr=1e-9)
        (row,) = train(backbone, given, plan, how).history
        return row.train_loss, row.val_loss

    backbone, given = tiny_cnn(), task(photos, train=12, val=6)
    head = new_head(backbone, CLASSES, 0)
    with torch.no_grad():
        plain = torch.cat([given.renderer.views(photo, (0,)) for photo in range(12)])
        logs = torch.log_softmax(head(backbone.run(to_model_input(plain, backbone, 0))), dim=1)
    own = -logs[torch.arange(12), given.data.labels[:12]].mean()
    hard, smooth = first_row(0.0), first_row(0.3)
    assert hard[0] == pytest.approx(float(own), rel=1e-5)
    assert smooth[0] == pytest.approx(float(0.7 * own - 0.3 * logs.mean()), rel=1e-5)
    assert smooth[1] == pytest.approx(hard[1], rel=1e-6)


def test_training_starts_from_the_given_weights_and_lowers_the_loss(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    plan = plan_from(backbone, 2, lr=LR, head_lr=LR)
    first = train(backbone, given, plan, schedule(epochs=8, views=1))
    again = train(backbone, given, plan, schedule(epochs=1, views=1, warmup=1.0), start=first.state)
    assert first.history[-1].train_loss < 0.8 * first.history[0].train_loss
    assert again.history[0].train_loss < 0.8 * first.history[0].train_loss


def test_a_source_above_the_boundary_is_refused(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    source = compute_or_load(
        new_store(), backbone, PixelSource(given.renderer), 3, given.data.requested_views(2), "test"
    )
    with pytest.raises(AssertionError, match="above the cached activations"):
        train(backbone, given, plan_from(backbone, 2, lr=LR, head_lr=LR), schedule(), source=source)


# The anchor


def kept_features(backbone: Backbone, given: Task, views: int) -> CachedActivations:
    return compute_or_load(
        new_store(), backbone, PixelSource(given.renderer), 5, given.data.requested_views(views), "test"
    )


def test_drift_is_a_divergence_of_softened_answers() -> None:
    random = torch.Generator().manual_seed(0)
    classifier = nn.Linear(5, 4)
    before, now = (3 * torch.randn(6, 5, generator=random) for _ in range(2))
    with torch.no_grad():
        wanted, said = (softmax(classifier(each).double().numpy() / 2, axis=1) for each in (before, now))
        assert float(distillation_loss(classifier, before, before)) == pytest.approx(0, abs=1e-6)
        found = float(distillation_loss(classifier, now, before))
    assert found == pytest.approx(4 * np.mean([entropy(w, s) for w, s in zip(wanted, said, strict=True)]), rel=1e-5)


@BACKBONES
def test_an_anchored_step_is_that_of_both_losses(photos: tuple[Path, ...], make: Callable[[], Backbone]) -> None:
    backbone, given = make(), task(photos, train=12)
    how = schedule(epochs=3, views=2, clip=None, weight_decay=0.0, warmup=0.0, cosine=False)
    plan = plan_from(backbone, 3, lr=1e-3, head_lr=1e-3)
    anchored = replace(how, distill=0.7)
    tuned = train(backbone, given, plan, anchored, features=kept_features(backbone, given, 2))

    plain, teacher = make(), make()
    head = new_head(plain, CLASSES, 0)
    for stage in plain.stages[3:]:
        stage.module.requires_grad_(True)
    learned = [*(value for stage in plain.stages[3:] for value in stage.module.parameters()), *head.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=1e-3, weight_decay=0.0)
    for epoch in (1, 2, 3):
        order = generator(0, epoch).permutation(given.data.train)
        for some in np.array_split(order, [5, 10]):
            x = torch.cat([given.renderer.views(int(photo), ((int(photo) + epoch) % 2,)) for photo in some])
            x = to_model_input(x, plain, 0)
            with torch.no_grad():
                wanted = (teacher.original_logits(x) / 2).softmax(dim=1)
            now = plain.run(x)
            said = (plain.classifier(now) / 2).log_softmax(dim=1)
            apart = 4 * (wanted * (wanted.log() - said)).sum(dim=1).mean()
            loss = nn.functional.cross_entropy(head(now), given.data.labels[torch.from_numpy(some)]) + 0.7 * apart
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    x = to_model_input(torch.cat([given.renderer.views(photo, (0,)) for photo in range(len(photos))]), plain, 0)
    # Answers, not weights: a transformer has biases without a gradient, which Adam moves anywhere.
    with loaded(backbone, tuned.state) as own, torch.no_grad():
        torch.testing.assert_close(own(backbone.run(x)), head(plain.run(x)), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(backbone.original_logits(x), plain.original_logits(x), atol=1e-4, rtol=1e-3)


@BACKBONES
def test_an_anchor_keeps_what_the_original_classifier_says(
    photos: tuple[Path, ...], make: Callable[[], Backbone]
) -> None:
    given, how = task(photos, train=18, val=6), schedule(epochs=8, views=2)

    def trained(anchor: float) -> tuple[float, float]:
        backbone = make()
        classifier = [value.clone() for value in backbone.classifier.state_dict().values()]
        before = kept_features(backbone, given, 2)
        plan = plan_from(backbone, 2, lr=LR, head_lr=LR)
        held = before if anchor else None
        tuned = train(backbone, given, plan, replace(how, distill=anchor), features=held)
        assert all(map(torch.equal, classifier, backbone.classifier.state_dict().values()))
        with loaded(backbone, tuned.state):
            after = kept_features(backbone, given, 2)
        own = given.data.val.tolist()
        with torch.no_grad():
            now, then = (pooled_features(each, own, (0,))[:, 0] for each in (after, before))
            return float(distillation_loss(backbone.classifier, now, then)), tuned.history[-1].train_loss

    free, held = trained(0.0), trained(3.0)
    assert held[0] < 0.5 * free[0]  # of photos that it never saw
    assert free[1] < held[1] < 1.0, "the history tells the labels' loss alone, and it still learns"


def test_an_anchor_without_anything_to_hold_to_is_refused(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    with pytest.raises(AssertionError, match="needs the pretrained features"):
        train(backbone, given, plan_from(backbone, 2, lr=LR, head_lr=LR), replace(schedule(), distill=1.0))


# The state that it returns


def test_kept_weights_are_copies(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    start = random_head(backbone, CLASSES, 0)
    plan = plan_from(backbone, 3, lr=LR, head_lr=LR)
    tuned = train(backbone, given, plan, schedule(), start=start)
    before = bits(tuned.state)
    again = train(backbone, given, plan, schedule(), start=tuned.state)
    assert bits(tuned.state) == before != bits(again.state)
    assert bits(start) == bits(random_head(backbone, CLASSES, 0))


def log_loss_at(logits: np.ndarray, labels: np.ndarray, scale: float) -> float:
    scaled = torch.log_softmax(scale * torch.from_numpy(logits).double(), dim=1).numpy()
    return float(-scaled[np.arange(len(labels)), labels].mean())


def test_predictions_are_judged_at_their_best_temperature() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 60)
    predicted = (random.normal(size=(60, 4)) + 2 * np.eye(4)[labels]).astype(np.float32)
    loss, accuracy = loss_and_accuracy(predicted, labels)
    assert loss == pytest.approx(min(log_loss_at(predicted, labels, s) for s in np.linspace(0.1, 5, 2000)), abs=1e-3)
    assert loss < log_loss_at(predicted, labels, 1) - 1e-3
    assert accuracy == (predicted.argmax(1) == labels).mean()
    for scale in (0.3, 3.0):  # how sure it is changes nothing
        assert loss_and_accuracy(scale * predicted, labels)[0] == pytest.approx(loss, abs=5e-3)


def test_a_certain_mistake_is_judged_too() -> None:
    loss, accuracy = loss_and_accuracy(np.array([[1.0, 0.0]], dtype=np.float32), np.array([1]))
    assert np.isfinite(loss)
    assert accuracy == 0
