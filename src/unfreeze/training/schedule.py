"""How long and how fast a training goes, and which view of each image it sees in which epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast a phase trains; the rates themselves stand in the ``StagePlan``.

    Attributes:
        epochs: Passes over the training photos.
        batch_size: Photos a step.
        n_views: An epoch trains each photo on one of so many views, in turn; None draws a new one every epoch.
        new_views_per_epoch: How many of them give way to new ones after each epoch.
        optimizer: ``adamw`` decouples weight decay from the gradient; ``adam`` is the textbook's.
        weight_decay: For weights alone; norms and biases never decay.
        warmup: Share of the steps over which the rate climbs linearly from 0.
        cosine: Whether the rate then falls to 0 by half a cosine, or stays.
        clip: Largest gradient norm; None leaves gradients alone.
        smoothing: Share of each label that is spread over all classes.
        distill: Weight of the distillation loss on the original classifier's logits (LwF, see ``distillation_loss``); 0 disables it.
    """

    epochs: int
    batch_size: int
    n_views: int | None
    new_views_per_epoch: int
    optimizer: Literal["adamw", "adam"]
    weight_decay: float
    warmup: float
    cosine: bool
    clip: float | None
    smoothing: float
    distill: float = 0.0

    @property
    def n_cached_views(self) -> int:
        """How many views of each photo training asks for over all epochs; 0 where none is worth keeping."""
        return 0 if self.n_views is None else self.n_views + self.new_views_per_epoch * (self.epochs - 1)

    def n_images(self, count: int) -> int:
        """Return how many images all epochs see, where each of them sees ``count``."""
        return self.epochs * count

    def lr_factor(self, step: int, steps: int) -> float:
        """Return the factor on every learning rate at ``step`` of ``steps``."""
        ramp = max(1, round(self.warmup * steps)) if self.warmup else 0
        if step < ramp:
            return (step + 1) / ramp
        return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp))) if self.cosine else 1.0


def view_schedule(photos: Indices, epoch: int, schedule: Schedule) -> list[int]:
    """Return the view that each photo is trained on in this epoch, counted from 1."""
    if schedule.n_views is None:
        return [epoch] * len(photos)
    oldest = schedule.new_views_per_epoch * (epoch - 1)
    return [oldest + (int(photo) + epoch) % schedule.n_views for photo in photos]
