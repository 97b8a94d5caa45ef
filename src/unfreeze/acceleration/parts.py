"""Consecutive stages of a frozen network as functions, and several of them in order."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """Stages compiled together, which first round their input to ``precision``."""

    compute: Forward
    precision: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the stages on activations (N, ...) of any floating type and memory layout."""
        return self.compute(x.to(self.precision))


@dataclass(frozen=True)
class Pipeline:
    """Consecutive parts of a network as one function from float32 to float32.

    Attributes:
        parts: In order.
        poolings: For each part, how its output becomes features that the head reads; None: the head doesn't read it.
    """

    parts: tuple[Part, ...]
    poolings: tuple[Forward | None, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Compute all parts in order."""
        return self.with_features(x, None)[0]

    def with_features(self, x: Tensor, below: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Compute all parts, and add the features that the head reads from their outputs to those ``below`` (N, D)."""
        pooled = [] if below is None else [below]
        for part, pooling in zip_longest(self.parts, self.poolings):
            x = part(x)
            if pooling is not None:
                pooled.append(pooling(x.float()))
        return x.float(), torch.cat(pooled, dim=1) if pooled else None


def in_torch(stages: nn.Module, precision: torch.dtype) -> Forward:
    """Return the stages as a function on activations of this precision, computed by torch."""
    if precision != torch.float32:
        stages = copy.deepcopy(stages).to(dtype=precision, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compute(x: Tensor) -> Tensor:
        # One memory layout for every source of the tensor: another layout rounds differently.
        out: Tensor = stages(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous())
        return out

    return compute
