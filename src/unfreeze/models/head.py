"""The new classifier, linear on pooled features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unfreeze.models.backbone import Backbone
from unfreeze.models.pooling import pool


class Head(nn.Linear):
    """The new classifier, linear on the features that it reads.

    Attributes:
        center: The features' mean over training images (D,), which is subtracted from them if there is a ``scale``; a
            saved head on several stages has it for heatmaps alone.
        scale: Is then multiplied with them (D,); None: they are taken as they are.  Features of several stages differ
            in scale by orders of magnitude, and the optimizer's steps are the same for all weights.
    """

    center: Tensor | None
    scale: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, device: torch.device | None = None, standardised: bool = False
    ) -> None:
        super().__init__(in_features, out_features, device=device)
        self.register_buffer("center", torch.zeros(in_features, device=device) if standardised else None)
        self.register_buffer("scale", torch.ones(in_features, device=device) if standardised else None)

    def forward(self, input: Tensor) -> Tensor:
        """Return logits, shape (N, classes)."""
        features = pool(input)
        if self.center is not None and self.scale is not None:
            features = (features - self.center) * self.scale
        return super().forward(features)


def new_head(backbone: Backbone, classes: int, seed: int) -> Head:
    """Return a head with random weights, a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Head(backbone.feature_dim, classes).to(backbone.device)
