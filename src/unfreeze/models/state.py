"""The weights of a model as a value, their loading into the network, and their interpolation.

Outside ``loaded`` the network always has its pretrained weights: every trained or evaluated model is a ``ModelState``,
loaded for the duration of a block.  Interpolation in weight space follows WiSE-FT (Wortsman et al. 2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unfreeze.models.backbone import Backbone, Tensors
from unfreeze.models.head import Head, new_head


@dataclass(frozen=True)
class ModelState:
    """The weights and buffers of a model: its last ``len(stages)`` stages and its head.

    Attributes:
        stages: Tensors by name, for each stage, the topmost last; the stages below have the pretrained weights.
        head: ``weight`` (C, D) and ``bias`` (C,), of several stages also ``center`` and ``scale`` (D,) of the features;
            empty if only the original classifier is used.
    """

    stages: Sequence[Tensors]
    head: Tensors

    def with_temperature(self, temperature: float) -> ModelState:
        """Return the model with its logits divided by ``temperature``."""
        divided = {name: self.head[name] / temperature for name in ("weight", "bias")}
        return replace(self, head=self.head | divided)

    def with_buffers_of(self, backbone: Backbone) -> ModelState:
        """Return the model with the network's current buffers (BatchNorm statistics)."""
        boundary = len(backbone.stages) - len(self.stages)
        buffers = [
            {name: buffer.detach().clone() for name, buffer in stage.module.named_buffers()}
            for stage in backbone.stages[boundary:]
        ]
        return replace(self, stages=[tensors | old for tensors, old in zip(self.stages, buffers, strict=True)])


PRETRAINED = ModelState([], {})
"""The network as it was pretrained, without a head."""


def state_of(backbone: Backbone, head: Head, boundary: int) -> ModelState:
    """Return a copy of the current stages from ``boundary`` on and of the head."""
    return ModelState(
        backbone.snapshot(boundary), {name: value.detach().clone() for name, value in head.state_dict().items()}
    )


def random_head(backbone: Backbone, classes: int, seed: int) -> ModelState:
    """Return the pretrained backbone with a head of random weights, a function of the seed."""
    return state_of(backbone, new_head(backbone, classes, seed), backbone.head_boundary)


@contextmanager
def loaded(backbone: Backbone, state: ModelState, *, trainable_from: int | None = None) -> Iterator[Head]:
    """Load a model's weights into the network for the duration of the block, and yield its head.

    On exit, the network's weights and buffers are restored bit for bit, every layer is in eval mode and no parameter
    requires a gradient.

    Args:
        backbone: Has its pretrained weights.
        state: The model.
        trainable_from: The first stage that the block may change, if below the stages of ``state``.
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
    """Return a head with these weights (uninitialised if empty), without drawing random numbers."""
    classes = len(weights["bias"]) if weights else 1
    size = backbone.feature_dim, classes
    head: Head = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        Head, *size, device=backbone.device, standardised="scale" in weights
    )
    if weights:
        head.load_state_dict(weights)
    return head


def interpolate(pretrained: Sequence[Tensors], start: ModelState, end: ModelState, alpha: float) -> ModelState:
    """Return the interpolation of two models: bit-identical to ``start`` at 0 and to ``end`` at 1.

    Args:
        pretrained: Pretrained weights of the last stages, at least as many as ``end`` has.
        start: Phase 1's model, with at most as many stages as ``pretrained``.
        end: Phase 2's model.
        alpha: 0 to 1.
    """
    if alpha == 0:
        return start
    if alpha == 1:
        return end
    before = [*pretrained[: len(pretrained) - len(start.stages)], *start.stages]
    pairs = zip(before[len(before) - len(end.stages) :], end.stages, strict=True)
    stages = [_lerp_tensors(low, high, alpha) for low, high in pairs]
    return ModelState(stages, _lerp_tensors(start.head, end.head, alpha))


def _lerp_tensors(before: Tensors, after: Tensors, alpha: float) -> Tensors:
    return {name: _lerp(before[name], value, alpha) for name, value in after.items()}


def _lerp(before: Tensor, after: Tensor, alpha: float) -> Tensor:
    """Interpolate floating point tensors; integer counters, such as BatchNorm's, are taken from ``after``."""
    return torch.lerp(before, after, alpha) if after.is_floating_point() else after
