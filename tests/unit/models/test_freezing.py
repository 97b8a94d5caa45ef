from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.support.backbones import new_head, tiny_cnn, tiny_vit
from tests.support.photos import CLASSES
from torch import nn

from unfreeze.models.backbone import Backbone, BatchNorm
from unfreeze.models.freezing import BatchNormMode, StagePlan, StageRow, apply, parameter_groups, plan_from

pytestmark = pytest.mark.usefixtures("one_thread")

EVERY_BOUNDARY = pytest.mark.parametrize("boundary", range(6))
BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])


@EVERY_BOUNDARY
def test_rates_decay_towards_the_photo(boundary: int) -> None:
    plan = plan_from(tiny_cnn(), boundary, lr=0.1, head_lr=0.7, decay=0.5)
    assert [row.name for row in plan.rows] == ["stem", "layer1", "layer2", "layer3", "layer4"]
    rates = [0.1 / 16, 0.1 / 8, 0.1 / 4, 0.1 / 2, 0.1]
    assert [row.lr for row in plan.rows] == pytest.approx([0.0] * boundary + rates[boundary:], abs=0, rel=1e-12)
    assert [row.trainable for row in plan.rows] == [index >= boundary for index in range(5)]
    assert plan.head_lr == 0.7
    assert plan.boundary == boundary


@EVERY_BOUNDARY
def test_layers_whose_statistics_move_are_not_a_fixed_function(boundary: int) -> None:
    assert plan_from(tiny_cnn(), boundary, lr=0.1, head_lr=0.1, bn="train").boundary == 0
    assert plan_from(tiny_vit(), boundary, lr=0.1, head_lr=0.1, bn="train").boundary == boundary


def test_the_boundary_is_the_first_stage_that_moves_in_any_way() -> None:
    def row(trainable: bool, bn: BatchNormMode) -> StageRow:
        return StageRow("x", trainable, 0.1, bn)

    still, learns, drifts = row(False, "frozen"), row(True, "frozen"), row(False, "train")
    assert StagePlan((still, still, learns), 0.1).boundary == 2
    assert StagePlan((still, drifts, learns), 0.1).boundary == 1
    assert StagePlan((still, still), 0.1).boundary == 2


@BACKBONES
@EVERY_BOUNDARY
def test_groups_hold_each_trainable_parameter_once(make: Callable[[], Backbone], boundary: int) -> None:
    backbone = make()
    head = new_head(backbone, CLASSES, 0)
    plan = plan_from(backbone, boundary, lr=0.1, head_lr=0.7, decay=0.5)
    apply(plan, backbone)
    groups = parameter_groups(plan, backbone, head, weight_decay=0.05)
    grouped = [id(value) for group in groups for value in group["params"]]
    stages = nn.ModuleList(stage.module for stage in backbone.stages)
    trainable = [value for value in stages.parameters() if value.requires_grad] + list(head.parameters())
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(value) for value in trainable}
    assert all(value.dim() >= 2 or group["weight_decay"] == 0 for group in groups for value in group["params"])
    assert all(value.dim() < 2 or group["weight_decay"] == 0.05 for group in groups for value in group["params"])
    rate_of = {id(value): group["lr"] for group in groups for value in group["params"]}
    for stage, row in zip(backbone.stages[boundary:], plan.rows[boundary:], strict=True):
        assert {rate_of[id(value)] for value in stage.module.parameters()} == {row.lr}
    assert {rate_of[id(value)] for value in head.parameters()} == {0.7}


@pytest.mark.parametrize("bn", ["frozen", "train"])
@EVERY_BOUNDARY
def test_modes_follow_the_plan(boundary: int, bn: BatchNormMode) -> None:
    backbone = tiny_cnn(dropout=0.5)
    backbone.network.module.train().requires_grad_(True)
    apply(plan_from(backbone, boundary, lr=0.1, head_lr=0.1, bn=bn), backbone)
    for index, stage in enumerate(backbone.stages):
        learns = index >= boundary
        assert {value.requires_grad for value in stage.module.parameters()} == {learns}
        dropout = [layer.training for layer in stage.module.modules() if isinstance(layer, nn.Dropout)]
        assert dropout == [learns]
        assert [layer.training for layer in stage.module.modules() if isinstance(layer, BatchNorm)] == [bn == "train"]


def test_a_plan_undoes_the_one_before() -> None:
    backbone = tiny_cnn(dropout=0.5)
    apply(plan_from(backbone, 0, lr=0.1, head_lr=0.1, bn="train"), backbone)
    apply(plan_from(backbone, 5, lr=0.1, head_lr=0.1), backbone)
    assert not any(value.requires_grad for stage in backbone.stages for value in stage.module.parameters())
    assert not any(layer.training for stage in backbone.stages for layer in stage.module.modules())
    x = torch.randn(2, 3, 16, 16)
    before = backbone.fingerprint()
    assert torch.equal(backbone.run(x), backbone.run(x))
    assert backbone.fingerprint() == before
