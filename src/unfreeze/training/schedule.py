"""The schedule of a training: its length, its learning rate over time, and the view of each image in each epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The length of a training and its optimizer's settings; the learning rates are in the ``StagePlan``.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        n_views: The number of views of each image; epochs cycle through them.  None: a new random view every epoch.
        new_views_per_epoch: How many of them are replaced by new random ones after each epoch.
        optimizer: ``adamw`` decouples weight decay from the gradient; ``adam`` is the tutorials'.
        weight_decay: Of weights; norms and biases do not decay.
        warmup: Share of the steps over which the rate climbs linearly from 0.
        cosine: Whether the rate then falls to 0 by half a cosine, or stays constant.
        clip: Largest gradient norm; None: no clipping.
        smoothing: Label smoothing: the share of each label that is spread over all classes.
        distill: Weight of the distillation loss on the original classifier's logits (LwF, see ``distillation_loss``).
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
        """The number of views of each image that all epochs read; 0 where every epoch renders new ones."""
        return 0 if self.n_views is None else self.n_views + self.new_views_per_epoch * (self.epochs - 1)

    def n_images(self, count: int) -> int:
        """Return the number of images in all epochs, given ``count`` per epoch."""
        return self.epochs * count

    def lr_factor(self, step: int, steps: int) -> float:
        """Return the factor on every learning rate at ``step`` of ``steps``."""
        ramp = max(1, round(self.warmup * steps)) if self.warmup else 0
        if step < ramp:
            return (step + 1) / ramp
        return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp))) if self.cosine else 1.0


def view_schedule(images: Indices, epoch: int, schedule: Schedule) -> list[int]:
    """Return the view that each image is trained on in ``epoch``, which is counted from 1."""
    if schedule.n_views is None:
        return [epoch] * len(images)
    oldest = schedule.new_views_per_epoch * (epoch - 1)
    return [oldest + (int(image) + epoch) % schedule.n_views for image in images]
