"""Poses: a photo's plain view, mirrored or turned to the pixel; what a model says of several may be averaged."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Pose(IntEnum):
    """How a plain view stands; its value is the number of that view of a photo."""

    PLAIN = 0
    MIRRORED = -1
    LEFT = -2
    OVER = -3
    RIGHT = -4

    @property
    def turns(self) -> int:
        """Quarter turns to the left."""
        return -1 - self if self < Pose.MIRRORED else 0

    def of(self, views: Tensor) -> Tensor:
        """Return plain views, shape (N, 3, height, width), in this pose; quarter turns need square ones."""
        if self is Pose.MIRRORED:
            return views.flip(3)
        return views.rot90(self.turns, (2, 3)) if self.turns else views


UPRIGHT = (Pose.PLAIN,)
