"""One table decides what trains: freezing, layer modes and the optimizer's groups are all read from it.

Frozen means bit-identical.  ``requires_grad = False`` alone is not enough: a BatchNorm layer in train mode goes on moving
its running statistics, which is how the usual ``model.train()`` damages a "frozen" backbone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from unfreeze.models.backbone import Backbone, BatchNorm

BatchNormMode = Literal["frozen", "train"]
Subset = Literal["all", "norms", "biases", "lora"]
Norm = (BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True, slots=True)
class StageRow:
    """What one stage does in a phase.

    Attributes:
        name: The stage.
        trainable: Whether its weights learn.
        lr: Its learning rate; 0 where nothing learns.
        bn: ``frozen`` normalises by the stored statistics; ``train`` by the batch's, and moves the stored ones.
        subset: Which of its weights learn: all, the scales and shifts of its norms (FiT, Shysheya et al. 2023), its biases
            (BitFit, Ben Zaken et al. 2022), or low-rank changes of its attention (see ``lora.py``).
    """

    name: str
    trainable: bool
    lr: float
    bn: BatchNormMode
    subset: Subset = "all"


@dataclass(frozen=True)
class StagePlan:
    """A row for every stage, from the photo to the head, and the head's own learning rate."""

    rows: tuple[StageRow, ...]
    head_lr: float

    @property
    def boundary(self) -> int:
        """The first stage that isn't a fixed function: everything below may be computed once and kept."""
        moving = (index for index, row in enumerate(self.rows) if row.trainable or row.bn == "train")
        return next(moving, len(self.rows))

    def scaled(self, factor: float) -> StagePlan:
        """Return the same plan with every rate times ``factor``."""
        rows = tuple(replace(row, lr=row.lr * factor) for row in self.rows)
        return StagePlan(rows, self.head_lr * factor)


def plan_from(
    backbone: Backbone,
    boundary: int,
    *,
    lr: float,
    head_lr: float,
    decay: float = 1.0,
    bn: BatchNormMode = "frozen",
    subset: Subset = "all",
) -> StagePlan:
    """Return the plan that freezes everything below ``boundary`` and trains the rest.

    Args:
        backbone: Whose stages they are.
        boundary: Index of the first trainable stage; ``backbone.head_boundary`` trains the head alone.
        lr: The topmost stage's rate.
        head_lr: The head's rate.
        decay: Each stage further down learns at ``decay`` times the rate of the one above it.
        bn: BatchNorm's mode, in frozen stages too: the textbook's ``model.train()`` makes no difference between them.
        subset: Which weights of the trainable stages learn.
    """
    top = backbone.head_boundary - 1
    return StagePlan(
        rows=tuple(
            StageRow(
                name=stage.name,
                trainable=index >= boundary,
                lr=lr * decay ** (top - index) if index >= boundary else 0.0,
                bn=bn if backbone.batch_norm else "frozen",
                subset=subset,
            )
            for index, stage in enumerate(backbone.stages)
        ),
        head_lr=head_lr,
    )


def apply(plan: StagePlan, backbone: Backbone) -> None:
    """Set what learns and every layer's mode, as ``plan`` says."""
    for stage, row in zip(backbone.stages, plan.rows, strict=True):
        stage.module.requires_grad_(False)
        for parameter in trainable_parameters(stage.module, row):
            parameter.requires_grad_(True)
        stage.module.train(row.trainable)
        for module in stage.module.modules():
            if isinstance(module, BatchNorm):
                module.train(row.bn == "train")


def trainable_parameters(stage: nn.Module, row: StageRow) -> list[nn.Parameter]:
    """Return the parameters of a stage that learn; of ``lora``, those that ``lora.low_rank`` has put there."""
    if not row.trainable:
        return []
    if row.subset == "norms":
        return [value for module in stage.modules() if isinstance(module, Norm) for value in module.parameters()]
    ends = {"all": ("",), "biases": ("bias",), "lora": (".down", ".up")}[row.subset]
    return [value for name, value in stage.named_parameters() if name.endswith(ends)]


def parameter_groups(plan: StagePlan, backbone: Backbone, head: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the optimizer's groups: each trainable stage and the head at its rate; norms and biases don't decay."""
    learners = [
        (trainable_parameters(stage.module, row), row.lr)
        for stage, row in zip(backbone.stages, plan.rows, strict=True)
        if row.trainable
    ]
    groups: list[dict[str, Any]] = []
    for parameters, lr in [*learners, (list(head.parameters()), plan.head_lr)]:
        split = ([p for p in parameters if p.dim() >= 2], weight_decay), ([p for p in parameters if p.dim() < 2], 0.0)
        groups.extend({"params": params, "lr": lr, "weight_decay": wd} for params, wd in split if params)
    return groups
