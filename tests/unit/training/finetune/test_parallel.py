from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.backbones import bits, tiny_cnn, tiny_vit
from tests.support.training import at, candidate, poison, setting, task
from torch import nn

from unfreeze.models.backbone import Backbone
from unfreeze.models.freezing import StagePlan, plan_from
from unfreeze.training.features.activations import Activations
from unfreeze.training.finetune.parallel import ProgressFn, n_parallel, parallel_slowdown, run_parallel

pytestmark = pytest.mark.usefixtures("one_thread", "compiled_anew")

BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])


def plan(backbone: Backbone, **how: Any) -> StagePlan:
    return plan_from(backbone, 3, lr=0.01, head_lr=0.01, **how)


def source_of(backbone: Backbone, photos: tuple[Path, ...]) -> Activations:
    return at(backbone, task(photos, train=18), 3)


# Any work


@pytest.mark.usefixtures("four_threads")
def test_results_come_in_order_and_threads_are_shared() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()

    def work(worker: str, item: int, _: ProgressFn) -> tuple[str, int, int]:
        torch.manual_seed(item)
        return worker, item, torch.get_num_threads()

    found = list(run_parallel(["a", "b"], range(5), work))
    assert found == [("a", 0, 2), ("b", 1, 2), ("a", 2, 2), ("b", 3, 2), ("a", 4, 4)]
    assert torch.get_num_threads() == 4
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_torchs_generator_is_what_it_was() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(run_parallel("ab", range(2), lambda _worker, item, _follow: torch.manual_seed(item)))
    assert torch.equal(torch.get_rng_state(), before)


def test_they_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3)
    assert sorted(run_parallel("abc", range(3), lambda *_: meeting.wait(timeout=60))) == [0, 1, 2]


def test_one_worker_works_in_this_thread() -> None:
    assert list(run_parallel("a", range(3), lambda *_: threading.current_thread())) == [threading.current_thread()] * 3


def test_whoever_fails_halts_the_others() -> None:
    steps: list[int] = []

    def work(worker: str, _: int, follow: ProgressFn) -> None:
        if worker == "a":
            raise ValueError("first")
        steps.extend(follow(itertools.count(), "without end", 1))

    with pytest.raises(ValueError, match="first"):
        list(run_parallel("ab", range(4), work))


def test_what_nobody_asks_for_is_not_begun() -> None:
    begun: list[int] = []
    results = run_parallel("ab", range(6), lambda _worker, item, _follow: begun.append(item))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert sorted(begun) == [0, 1]


# How many trainings


@BACKBONES
@pytest.mark.usefixtures("four_threads")
def test_there_are_no_more_than_rounds_threads_and_memory(
    photos: tuple[Path, ...], make: Callable[[], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = make()
    source, how = source_of(backbone, photos), plan(backbone)
    assert n_parallel(backbone, source, how, 16, 1) == 1
    assert n_parallel(backbone, source, how, 16, 3) == 3
    assert n_parallel(backbone, source, how, 16, 9) == 4
    learned = sum(value.nbytes for stage in backbone.stages[3:] for value in stage.module.parameters())
    monkeypatch.setattr("unfreeze.training.finetune.parallel.MAX_STATE_BYTES", 9 * learned)
    assert n_parallel(backbone, source, how, 16, 9) == 2


@pytest.mark.usefixtures("four_threads")
def test_where_steps_draw_random_numbers_there_is_one(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    source = source_of(backbone, photos)
    assert n_parallel(backbone, source, plan(backbone, bn="train"), 16, 3) == 1
    top = backbone.stages[-1]
    dropped = replace(top, module=nn.Sequential(top.module, nn.Dropout(0.5)))
    assert n_parallel(replace(backbone, stages=(*backbone.stages[:-1], dropped)), source, plan(backbone), 16, 3) == 1
    vit = tiny_vit()
    assert n_parallel(vit, source_of(vit, photos), plan(vit, subset="lora"), 16, 3) == 1


@pytest.mark.usefixtures("four_threads")
def test_looking_for_random_numbers_leaves_nothing_trainable(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_cnn()
    source = source_of(backbone, photos)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unfreeze.training.finetune.parallel.to_model_input", fail)
    with pytest.raises(KeyboardInterrupt):
        n_parallel(backbone, source, plan(backbone), 16, 3)
    assert not any(value.requires_grad for value in backbone.network.module.parameters())
    assert not any(stage.module.training for stage in backbone.stages)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("batch_size", "together"), [(1, 3), (32, 3), (33, 1)])
def test_where_steps_are_on_many_photos_there_is_one(photos: tuple[Path, ...], batch_size: int, together: int) -> None:
    backbone = tiny_cnn()
    assert n_parallel(backbone, source_of(backbone, photos), plan(backbone), batch_size, 3) == together


@pytest.mark.usefixtures("four_threads")
def test_a_card_trains_one_at_a_time(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_cnn()
    source = source_of(backbone, photos)
    monkeypatch.setattr(Backbone, "device", torch.device("cuda"))
    assert n_parallel(backbone, source, plan(backbone), 16, 3) == 1


@pytest.mark.parametrize(
    ("count", "together", "threads", "share"),
    [
        (6, 1, 4, 1.0),
        (6, 2, 2, 2**0.5 / 2),
        (5, 5, 16, (16 / 3) ** 0.5 / 5),
        (5, 2, 4, (2 * 2**0.5 + 1) / 5),
        (0, 1, 1, 0),
    ],
)
def test_groups_take_what_their_threads_make_of_it(count: int, together: int, threads: int, share: float) -> None:
    assert parallel_slowdown(count, together, threads) == pytest.approx(share)


# The rounds of phase 2


@BACKBONES
@pytest.mark.usefixtures("four_threads")
def test_rounds_side_by_side_find_what_they_find_one_after_the_other(
    photos: tuple[Path, ...], make: Callable[[], Backbone]
) -> None:
    backbone = make()
    own, asked = setting(backbone, photos), candidate(backbone, 3)
    before = backbone.fingerprint()
    torch.set_num_threads(1)
    expected = own.try_out(asked)
    torch.set_num_threads(3)
    assert backbone.fingerprint() == before
    for _ in range(3):
        trial = own.try_out(asked)
        assert [bits(final) for final in trial.fold_states] == [bits(final) for final in expected.fold_states]
        for alpha, answers in expected.val_logits_by_alpha.items():
            assert [each.tobytes() for each in trial.val_logits_by_alpha[alpha]] == [each.tobytes() for each in answers]
        assert [replace(row, seconds=0.0) for row in trial.history] == [
            replace(row, seconds=0.0) for row in expected.history
        ]
    assert backbone.fingerprint() == before


@pytest.mark.usefixtures("four_threads")
def test_one_that_goes_wrong_slows_all_of_them(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_cnn()
    own, asked = setting(backbone, photos), candidate(backbone, 3, lr=0.02)
    torch.set_num_threads(1)
    expected = own.try_out(asked.with_lr_scaled())
    torch.set_num_threads(3)
    poison(monkeypatch, lambda how, _: how.rows[-1].lr > 0.01)
    trial = own.try_out(asked)
    assert trial.failure == "not finite"
    assert trial.candidate == asked.with_lr_scaled()
    assert [bits(final) for final in trial.fold_states] == [bits(final) for final in expected.fold_states]


def test_twins_have_their_own_weights_from_the_lowest_boundary_up(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    bench = setting(backbone, photos).bench  # its lowest boundary is 2
    this, twin_bench = bench.replicas(2)
    assert this is bench
    other = twin_bench.features.backbone
    for index, (stage, twin) in enumerate(zip(backbone.stages, other.stages, strict=True)):
        pairs = list(zip(stage.module.parameters(), twin.module.parameters(), strict=True))
        assert all((one is another) == (index < 2) and torch.equal(one, another) for one, another in pairs)
    assert other.fingerprint() == backbone.fingerprint()
    assert other.compiled is backbone.compiled
    assert replace(twin_bench.features, backbone=backbone) == bench.features
