"""Orientations: an image's plain view, flipped or turned exactly; a model's logits for several of them may be averaged."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Orientation(IntEnum):
    """How a plain view stands; its value is the number of that view of a photo."""

    IDENTITY = 0
    FLIPPED = -1
    ROT90 = -2
    ROT180 = -3
    ROT270 = -4

    @property
    def turns(self) -> int:
        """Quarter turns to the left."""
        return -1 - self if self < Orientation.FLIPPED else 0

    def apply(self, views: Tensor) -> Tensor:
        """Return plain views, shape (N, 3, height, width), in this orientation; quarter turns need square ones."""
        if self is Orientation.FLIPPED:
            return views.flip(3)
        return views.rot90(self.turns, (2, 3)) if self.turns else views


IDENTITY_ONLY = (Orientation.IDENTITY,)
FORMER_ORIENTATIONS = {"plain": "identity", "mirrored": "flipped", "left": "rot90", "over": "rot180", "right": "rot270"}
"""Names in files that earlier versions wrote."""
