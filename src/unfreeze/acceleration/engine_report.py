"""The engine that computes the frozen stages of a backbone: its libraries, cuts and precisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Way = Literal["openvino", "fused", "plain"]

WAYS: dict[Way, str] = {
    "openvino": "compiled by OpenVINO",
    "fused": "in torch with BatchNorm fused",
    "plain": "in torch as the stages are",
}


@dataclass(frozen=True)
class EngineReport:
    """The engine that computes the frozen stages of a backbone, and why each faster one was rejected.

    Attributes:
        backend: Names and versions of the libraries that compute; other versions may round differently.
        way: In OpenVINO; in torch with BatchNorm fused; or in torch without changes to the stages.
        cuts: The boundaries between separately compiled parts, from 0 to the head's boundary.
        precisions: The floating type of every stage.
        rejected: Faster engines in the order in which they were tried, each with the reason for its rejection.
    """

    backend: str
    way: Way
    cuts: tuple[int, ...]
    precisions: tuple[torch.dtype, ...]
    rejected: tuple[tuple[str, str], ...] = ()

    @property
    def computed_by(self) -> str:
        """The backend and the way, in words."""
        return f"{self.backend}, {WAYS[self.way]}"

    @property
    def precision(self) -> str:
        """The precision in words."""
        names = [_short(precision) for precision in self.precisions]
        upper = next((stage for stage, name in enumerate(names) if name != names[0]), None)
        return names[0] if upper is None else f"{names[0]} below stage {upper}, {names[-1]} from it on"

    def cached_dtype(self, boundary: int) -> torch.dtype:
        """Return the type in which activations at ``boundary`` are cached: that which the part above rounds to."""
        inner = boundary in self.cuts[:-1]
        return self.precisions[boundary] if inner else torch.float32

    def sources(self, boundary: int) -> tuple[int, ...]:
        """Return the boundaries from which ``boundary`` may be computed: the cuts below it, 0 (the images) first."""
        return tuple(cut for cut in self.cuts if cut < boundary)

    def describe_range(self, boundary: int) -> str:
        """Return everything except the weights that decides the bits at ``boundary``: part of a cache key."""
        below = [_short(precision) for precision in self.precisions[:boundary]]
        cuts = [cut for cut in self.cuts if cut <= boundary]
        return f"{self.backend}, {self.way}, {below} cut at {cuts}, kept in {_short(self.cached_dtype(boundary))}"


def _short(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")
