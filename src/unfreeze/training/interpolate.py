"""Between the phases: weights on the straight line from phase 1's model to phase 2's (WiSE-FT, Wortsman et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from unfreeze.models.backbone import Tensors
from unfreeze.training.finetune import Weights


def between(pretrained: list[Tensors], first: Weights, second: Weights, alpha: float) -> Weights:
    """Return the model at ``alpha``: 0 is ``first`` and 1 is ``second``, to the bit.

    Args:
        pretrained: At least as many stages as ``second`` moved, as they were at first.
        first: Phase 1's model.
        second: Phase 2's.
        alpha: 0 to 1.
    """
    if alpha == 0:
        return first
    if alpha == 1:
        return second
    before = [*pretrained[: len(pretrained) - len(first.stages)], *first.stages]
    moved = zip(before[len(before) - len(second.stages) :], second.stages, strict=True)
    stages = [_mixed(start, end, alpha) for start, end in moved]
    return Weights(stages, _mixed(first.head, second.head, alpha))


def _mixed(before: Tensors, after: Tensors, alpha: float) -> Tensors:
    return {name: _point(before[name], value, alpha) for name, value in after.items()}


def _point(before: Tensor, after: Tensor, alpha: float) -> Tensor:
    """Return what lies between; counters, such as BatchNorm's of batches, can't be mixed and are the later ones."""
    return torch.lerp(before, after, alpha) if after.is_floating_point() else after
