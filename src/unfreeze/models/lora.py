"""Low-rank changes of attention weights (LoRA, Hu et al. 2022, section 4).

During training, each attention weight W is replaced by W + B A of low rank, and only A and B are trained.  Afterwards,
B A is added to W, and the model has its original layers again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unfreeze.models.backbone import Backbone
from unfreeze.models.freezing import StagePlan

RANK = 8
"""Rank of each change; 4 to 16 perform alike (Hu et al. 2022, table 6)."""
ATTENTION = ("qkv", "proj", "query", "key", "value", "in_proj", "out_proj", "q_proj", "k_proj", "v_proj")


class LowRank(nn.Module):
    """Parametrization of a weight W as W + ``up`` @ ``down``."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rank = min(RANK, *weight.shape)
        self.down = nn.Parameter(torch.empty(rank, weight.shape[1], device=weight.device))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank, device=weight.device))  # no change at first
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed weight, shape (out, in)."""
        return weight + self.up @ self.down


def attention_layers(stage: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of a stage's attention."""
    return [
        module
        for name, module in stage.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in ATTENTION
    ]


@contextmanager
def low_rank(plan: StagePlan, backbone: Backbone) -> Iterator[None]:
    """Parametrize the plan's ``lora`` stages by low-rank changes; on exit, merge these into the weights."""
    layers = [
        layer
        for stage, row in zip(backbone.stages, plan.rows, strict=True)
        if row.trainable and row.subset == "lora"
        for layer in attention_layers(stage.module)
    ]
    try:
        for layer in layers:
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight))
        yield
    finally:
        for layer in filter(parametrize.is_parametrized, layers):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            bias = layer.bias
            del layer.bias
            layer.bias = bias  # the order of a layer's parameters is part of the backbone's fingerprint
