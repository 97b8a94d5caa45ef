"""The plan of a training: one table that determines freezing, layer modes and the optimizer's groups.

Frozen means bit-identical.  ``requires_grad = False`` alone is not enough: a BatchNorm layer in train mode still
updates its running statistics, by which the usual ``model.train()`` damages a "frozen" backbone.
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
    """The settings of one stage in a phase.

    Attributes:
        name: The stage's name.
        trainable: Whether the stage's weights are trained.
        lr: Learning rate; 0 if not trainable.
        bn: ``frozen`` normalises by the stored statistics; ``train`` by the batch's, and updates the stored ones.
        subset: Which weights are trained: all, the scales and shifts of norms (FiT, Shysheya et al. 2023), biases
            (BitFit, Ben Zaken et al. 2022), or low-rank changes of the attention weights (see ``lora.py``).
    """

    name: str
    trainable: bool
    lr: float
    bn: BatchNormMode
    subset: Subset = "all"


@dataclass(frozen=True)
class StagePlan:
    """A row for every stage, from the image to the head, and the head's learning rate."""

    rows: tuple[StageRow, ...]
    head_lr: float

    @property
    def boundary(self) -> int:
        """Index of the first stage that isn't a fixed function; activations below it may be cached."""
        changing = (index for index, row in enumerate(self.rows) if row.trainable or row.bn == "train")
        return next(changing, len(self.rows))

    def scaled(self, factor: float) -> StagePlan:
        """Return the plan with all learning rates multiplied by ``factor``."""
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
    """Return a plan that freezes all stages below ``boundary`` and trains the others.

    Args:
        backbone: The backbone whose stages the plan covers.
        boundary: Index of the first trainable stage; ``backbone.head_boundary`` trains the head alone.
        lr: The topmost stage's learning rate.
        head_lr: The head's learning rate.
        decay: Ratio of each stage's learning rate to that of the stage above it.
        bn: BatchNorm's mode, also in frozen stages, as the textbooks' ``model.train()`` sets it in all of them.
        subset: Which weights of the trainable stages are trained.
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
    """Set ``requires_grad`` and the mode of every layer by ``plan``."""
    for stage, row in zip(backbone.stages, plan.rows, strict=True):
        stage.module.requires_grad_(False)
        for parameter in trainable_parameters(stage.module, row):
            parameter.requires_grad_(True)
        stage.module.train(row.trainable)
        for module in stage.module.modules():
            if isinstance(module, BatchNorm):
                module.train(row.bn == "train")


def trainable_parameters(stage: nn.Module, row: StageRow) -> list[nn.Parameter]:
    """Return a stage's trainable parameters; for ``lora``, those that ``lora.low_rank`` has registered."""
    if not row.trainable:
        return []
    if row.subset == "norms":
        return [value for module in stage.modules() if isinstance(module, Norm) for value in module.parameters()]
    suffixes = {"all": ("",), "biases": ("bias",), "lora": (".down", ".up")}[row.subset]
    return [value for name, value in stage.named_parameters() if name.endswith(suffixes)]


def parameter_groups(plan: StagePlan, backbone: Backbone, head: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the optimizer's groups, with each stage's and the head's learning rate; norms and biases don't decay."""
    trainable = [
        (trainable_parameters(stage.module, row), row.lr)
        for stage, row in zip(backbone.stages, plan.rows, strict=True)
        if row.trainable
    ]
    groups: list[dict[str, Any]] = []
    for parameters, lr in [*trainable, (list(head.parameters()), plan.head_lr)]:
        split = ([p for p in parameters if p.dim() >= 2], weight_decay), ([p for p in parameters if p.dim() < 2], 0.0)
        groups.extend({"params": params, "lr": lr, "weight_decay": wd} for params, wd in split if params)
    return groups
