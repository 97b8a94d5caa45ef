"""The weights of a model as a value, and the one place where they are put into the network.

Outside ``loaded`` the network always holds its pretrained weights: whatever is trained or evaluated is a ``ModelState``,
loaded for the duration of a block.  Interpolation in weight space is WiSE-FT's (Wortsman et al. 2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unfreeze.models.backbone import Backbone, Head, Tensors, new_head


@dataclass(frozen=True)
class ModelState:
    """The weights and buffers of a model: its last ``len(stages)`` stages and its head.

    Attributes:
        stages: One table of tensors a stage, the topmost last; the stages below are the pretrained ones.
        head: ``weight`` (C, D) and ``bias`` (C,); empty where only the original classifier is asked.
    """

    stages: Sequence[Tensors]
    head: Tensors

    def with_temperature(self, temperature: float) -> ModelState:
        """Return the same model with its logits divided by ``temperature``."""
        return replace(self, head={name: value / temperature for name, value in self.head.items()})

    def with_buffers_of(self, backbone: Backbone) -> ModelState:
        """Return the same model, but with the buffers (BatchNorm's statistics) that the network holds now."""
        boundary = len(backbone.stages) - len(self.stages)
        buffers = [
            {name: buffer.detach().clone() for name, buffer in stage.module.named_buffers()}
            for stage in backbone.stages[boundary:]
        ]
        return replace(self, stages=[own | old for own, old in zip(self.stages, buffers, strict=True)])


def state_of(backbone: Backbone, head: Head, boundary: int) -> ModelState:
    """Return a copy of the stages from ``boundary`` on and of the head, as they are now."""
    return ModelState(
        backbone.snapshot(boundary), {name: value.detach().clone() for name, value in head.state_dict().items()}
    )


def random_head(backbone: Backbone, classes: int, seed: int) -> ModelState:
    """Return the pretrained backbone with a head of random weights that depend on the seed alone."""
    return state_of(backbone, new_head(backbone, classes, seed), backbone.head_boundary)


@contextmanager
def loaded(backbone: Backbone, state: ModelState, *, trainable_from: int | None = None) -> Iterator[Head]:
    """Put a model's weights into the network for the duration of the block, and yield its head.

    On leaving, the network's weights and buffers are again, to the bit, what they were; every layer is in eval mode and no
    parameter asks for a gradient.

    Args:
        backbone: Holds its pretrained weights.
        state: The model.
        trainable_from: The first stage that the block may change, where that lies below those of ``state``.
    """
    boundary = len(backbone.stages) - len(state.stages)
    before = backbone.snapshot(boundary if trainable_from is None else min(boundary, trainable_from))
    try:
        backbone.restore(state.stages)
        yield _head(backbone, state.head)
    finally:
        backbone.restore(before)
        for stage in backbone.stages:
            stage.module.eval().requires_grad_(False)


def _head(backbone: Backbone, weights: Tensors) -> Head:
    """Return a head with these weights, drawing no random numbers; one with arbitrary weights where there are none."""
    classes = len(weights["bias"]) if weights else 1
    head: Head = nn.utils.skip_init(Head, backbone.feature_dim, classes, device=backbone.device)  # type: ignore[no-untyped-call]
    if weights:
        head.load_state_dict(weights)
    return head


def interpolate(pretrained: Sequence[Tensors], start: ModelState, end: ModelState, alpha: float) -> ModelState:
    """Return the model at ``alpha`` between two: 0 is ``start`` and 1 is ``end``, to the bit.

    Args:
        pretrained: At least as many of the last stages as ``end`` has, as they were pretrained.
        start: Phase 1's model, of at most as many stages.
        end: Phase 2's.
        alpha: 0 to 1.
    """
    if alpha == 0:
        return start
    if alpha == 1:
        return end
    before = [*pretrained[: len(pretrained) - len(start.stages)], *start.stages]
    pairs = zip(before[len(before) - len(end.stages) :], end.stages, strict=True)
    stages = [_lerp_tables(low, high, alpha) for low, high in pairs]
    return ModelState(stages, _lerp_tables(start.head, end.head, alpha))


def _lerp_tables(before: Tensors, after: Tensors, alpha: float) -> Tensors:
    return {name: _lerp(before[name], value, alpha) for name, value in after.items()}


def _lerp(before: Tensor, after: Tensor, alpha: float) -> Tensor:
    """Interpolate floating point tensors; counters, such as BatchNorm's of batches, are the later ones."""
    return torch.lerp(before, after, alpha) if after.is_floating_point() else after
