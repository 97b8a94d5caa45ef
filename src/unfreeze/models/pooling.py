"""Pooling of activations into feature vectors: of the last stage, and of lower stages that the head reads, too."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def pool(features: Tensor) -> Tensor:
    """Return features of shape (N, D): maps (N, D, H, W) and tokens (N, T, D) are averaged."""
    if features.dim() == 4:
        return features.mean(dim=(2, 3))
    return features.mean(dim=1) if features.dim() == 3 else features


def join(below: Tensor | None, last: Tensor) -> Tensor:
    """Return what the head reads: the features of lower stages (N, D), then the last stage's output, pooled.

    Without lower stages (None) the last stage's output is returned as it is: the head pools it.
    """
    return last if below is None else torch.cat([below, pool(last)], dim=1)


@dataclass(frozen=True)
class StagePooling:
    """Pooling of a lower stage's output into features that the head reads.

    Attributes:
        size: Height and width of the images.
        n_class_tokens: The number of tokens before the patches'.
    """

    size: tuple[int, int]
    n_class_tokens: int

    def __call__(self, x: Tensor) -> Tensor:
        """Return the features of all poolings, shape (N, D)."""
        return torch.cat(self.each(x), dim=1)

    def each(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return each pooling's features, of one shape.

        Of maps, each channel's mean and maximum are taken; of tokens, the class token and the mean of the patches.
        """
        if x.dim() == 4:
            last = channels_last((x.shape[1], x.shape[2], x.shape[3]), self.size)
            where = (1, 2) if last else (2, 3)
            return x.mean(dim=where), x.amax(dim=where)
        if x.dim() == 3 and self.n_class_tokens:
            return x[:, 0], x[:, self.n_class_tokens :].mean(dim=1)
        return (pool(x),)


def channels_last(shape: tuple[int, int, int], size: tuple[int, int]) -> bool:
    """Return whether maps of ``shape`` have their channels last; the aspect ratio of the images, ``size``, decides."""

    def distortion(rows: int, columns: int) -> float:
        return abs(math.log(rows * size[1] / (columns * size[0])))

    return distortion(shape[0], shape[1]) < distortion(shape[1], shape[2])
