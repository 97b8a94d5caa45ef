"""How image files are read for a set of photos, as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unfreeze.errors import DecodeError

Frame = Literal["first", "middle"] | int
"""The page or frame of a file that holds several: the first, the middle one, or a number that counts from 1."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How image files are turned into pixels, chosen for a set of photos: a model reads them as its training did.

    Attributes:
        frame: Which page or frame of a file with several is looked at.
    """

    frame: Frame = "first"

    @property
    def frame_name(self) -> str:
        """The frame in words: the first, the middle one, number 4."""
        if isinstance(self.frame, int):
            return f"number {self.frame}"
        return "the middle one" if self.frame == "middle" else "the first"

    def frame_index(self, count: int) -> int:
        """Return the place, from 0, of the frame among ``count``; a file with a single one has no other choice.

        Raises:
            DecodeError: The file has several frames, but not so many.
        """
        if count <= 1 or self.frame == "first":
            return 0
        if self.frame == "middle":
            return count // 2
        if self.frame > count:
            raise DecodeError(
                f"The file has {count} pages or frames, and number {self.frame} was asked for.",
                mend="Take a lower number for --frame, or middle.",
            )
        return self.frame - 1


FIRST_FRAME = Reading()


def frame_from(value: object) -> object:
    """Return a page's number as an integer, also where it comes as text.

    Raises:
        ValueError: It is no page.
    """
    if value in ("first", "middle"):
        return value
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if number < 1 or isinstance(value, (bool, float)):
        raise ValueError(f"{value!r} is no page: it is first, middle, or a number from 1")
    return number
