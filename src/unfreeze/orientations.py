"""Orientations: exact flips and rotations of a rendered image, over which a model's logits may be averaged."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Orientation(IntEnum):
    """Orientation of a rendered image; the value is the number of the centre crop's view in it (see ``views.py``)."""

    IDENTITY = 0
    FLIPPED = -1
    ROT90 = -2
    ROT180 = -3
    ROT270 = -4

    @property
    def quarter_turns(self) -> int:
        """Quarter turns to the left."""
        return -1 - self if self < Orientation.FLIPPED else 0

    def apply(self, views: Tensor) -> Tensor:
        """Return views, shape (N, 3, height, width), in this orientation; ROT90 and ROT270 need square views."""
        if self is Orientation.FLIPPED:
            return views.flip(3)
        return views.rot90(self.quarter_turns, (2, 3)) if self.quarter_turns else views


FORMER_ORIENTATIONS = {"plain": "identity", "mirrored": "flipped", "left": "rot90", "over": "rot180", "right": "rot270"}
"""Current names by the names in files of earlier versions."""
