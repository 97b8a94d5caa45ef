"""Activations to time steps with: random ones, whose values a step's time doesn't depend on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.planning.timing import Lap
from unfreeze.training.features.activations import Activations, PixelSource


@dataclass(frozen=True)
class RandomActivations:
    """Random tensors in place of activations: the time of a step doesn't depend on their values."""

    renderer: Renderer
    boundary: int
    shape: tuple[int, ...]
    dim_below: int = 0

    def batches(self, images: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield random tensors (size, *shape)."""
        for start in range(0, len(images), size):
            yield torch.randn(len(images[start : start + size]), *self.shape)

    def features_below(self, images: Sequence[int], views: Sequence[int]) -> Tensor | None:
        """Return random features (len(images), ``dim_below``)."""
        return torch.randn(len(images), self.dim_below) if self.dim_below else None


@dataclass(frozen=True)
class Lapped:
    """Activations that call ``lap`` before each batch and after the last."""

    source: Activations
    lap: Lap

    @property
    def boundary(self) -> int:
        """The boundary of the activations."""
        return self.source.boundary

    @property
    def renderer(self) -> Renderer:
        """The renderer of the images."""
        return self.source.renderer

    def batches(self, images: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield the batches of ``source``."""
        batches = self.source.batches(images, views, size)
        while len(images):
            self.lap()
            batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def features_below(self, images: Sequence[int], views: Sequence[int]) -> Tensor | None:
        """Return those of ``source``."""
        return self.source.features_below(images, views)


def random_activations(backbone: Backbone, renderer: Renderer, boundary: int) -> Activations:
    """Return random activations of the shape at ``boundary``; at 0 the real images."""
    if not boundary:
        return PixelSource(renderer)
    if boundary == backbone.head_boundary:
        return random_features(backbone, renderer)
    preprocessing = backbone.network.preprocessing
    blank = torch.zeros(1, preprocessing.n_channels, *preprocessing.size, device=backbone.device)
    with torch.inference_mode():
        shape = tuple(backbone.run(blank, 0, boundary).shape[1:])
        return RandomActivations(renderer, boundary, shape, backbone.dim_below(boundary))


def random_features(backbone: Backbone, renderer: Renderer) -> RandomActivations:
    """Return random features of the head."""
    return RandomActivations(renderer, backbone.head_boundary, (backbone.feature_dim,))
