from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.support.backbones import tiny_cnn, tiny_vit
from tests.support.photos import CLASSES
from tests.support.training import new_store, schedule, task

from unfreeze.models.freezing import plan_from
from unfreeze.models.lora import attention_layers, low_rank
from unfreeze.models.state import loaded, random_head
from unfreeze.training.features.activations import activations_at
from unfreeze.training.finetune.loop import finetune

pytestmark = pytest.mark.usefixtures("one_thread")


def test_at_first_nothing_is_changed_and_nothing_is_left_behind() -> None:
    backbone = tiny_vit()
    names, photo = list(backbone.weights()), torch.randn(2, 3, 16, 16)
    before, expected = backbone.fingerprint(), backbone.run(photo)
    with low_rank(plan_from(backbone, 2, lr=0.1, head_lr=0.1, subset="lora"), backbone):
        assert torch.equal(backbone.run(photo), expected)
        assert list(backbone.weights()) != names
    assert list(backbone.weights()) == names
    assert backbone.fingerprint() == before


def test_attention_alone_learns_by_a_change_of_low_rank(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_vit(), task(photos, train=12, val=6)
    before = {name: value.clone() for name, value in backbone.weights().items()}
    plan = plan_from(backbone, 3, lr=0.02, head_lr=0.02, subset="lora")
    source = activations_at(new_store(), backbone, given.renderer, 3, given.data.requested_views(2), "test")
    tuned = finetune(
        backbone, random_head(backbone, CLASSES, 0), source, given.data.labels, plan, schedule(weight_decay=0.0),
        phase="test", train=given.data.train, val=given.data.val, seed=0,
    )  # fmt: skip
    with loaded(backbone, tuned.state):
        after = {name: value.clone() for name, value in backbone.weights().items()}
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {f"blocks.{block}.{layer}.weight" for block in (2, 3) for layer in ("qkv", "proj")}
    assert tuned.failure is None
    assert tuned.history[-1].train_loss < tuned.history[0].train_loss


def test_what_learns_decides_the_plan_not_the_stage() -> None:
    backbone = tiny_vit()
    plan = plan_from(backbone, 2, lr=0.1, head_lr=0.1)
    before = list(backbone.weights())
    with low_rank(plan, backbone):
        assert list(backbone.weights()) == before
    frozen = replace(plan, rows=tuple(replace(row, subset="lora", trainable=False) for row in plan.rows))
    with low_rank(frozen, backbone):
        assert list(backbone.weights()) == before


def test_a_cnn_has_no_attention() -> None:
    assert [attention_layers(stage.module) for stage in tiny_cnn().stages] == [[]] * 5
    assert [len(attention_layers(stage.module)) for stage in tiny_vit().stages] == [0, 2, 2, 2, 2]
