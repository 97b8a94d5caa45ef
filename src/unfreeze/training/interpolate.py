"""Between the phases: weights on the straight line from phase 1's model to phase 2's (WiSE-FT, Wortsman et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from unfreeze.models.backbone import Tensors
from unfreeze.training.finetune import Weights


def between(pretrained: list[Tensors], first: Weights, second: Weights, alpha: float) -> Weights:
    """Return the model at ``alpha``: 0 is ``first`` and 1 is ``second``, to the bit.

    Args:
        pretrained: The stages that ``first``'s head was trained on; at least as many as ``second`` moved.
        first: Phase 1's model, on the pretrained stages.
        second: Phase 2's.
        alpha: 0 to 1.
    """
    if alpha == 0:
        return first
    if alpha == 1:
        return second
    below = pretrained[len(pretrained) - len(second.stages) :]
    stages = [_mixed(before, after, alpha) for before, after in zip(below, second.stages, strict=True)]
    return Weights(stages, _mixed(first.head, second.head, alpha))


def _mixed(before: Tensors, after: Tensors, alpha: float) -> Tensors:
    return {name: _point(before[name], value, alpha) for name, value in after.items()}


def _point(before: Tensor, after: Tensor, alpha: float) -> Tensor:
    """Return what lies between; counters, such as BatchNorm's of batches, can't be mixed and are the later ones."""
    return torch.lerp(before, after, alpha) if after.is_floating_point() else after
