"""How image files are read for a set of photos, as one immutable value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from unfreeze.errors import DecodeError

Frame = Literal["first", "middle"] | int
"""The page or frame of a file that holds several: the first, the middle one, or a number that counts from 1."""
ScalingKind = Literal["none", "image", "percentiles", "full", "range", "reflectance", "decibel", "header", "window"]
"""Where the numbers that become black and white come from; ``none``: files are read as 8-bit RGB."""

GROUP = 3  # channels of the images that backbones were pretrained on


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of the network's input: a band of the file, and which of its numbers become black and white.

    Attributes:
        band: The band, counted from 1.
        low: The number that becomes 0; smaller ones do, too.  None: the image's own, by which brightness is lost.
        high: The number that becomes 1; larger ones do, too.
        name: The band's or the window's name, where one is known.
    """

    band: int
    low: float | None = None
    high: float | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """How image files are turned into pixels, chosen for a set of photos: a model reads them as its training did.

    Attributes:
        frame: Which page or frame of a file with several is looked at.
        channels: Bands and their scaling, the same for all photos; empty: files are read as 8-bit RGB.
        scaling: Where the scaling comes from; of ``decibel``, ten times the logarithm of the file's numbers is scaled.
    """

    frame: Frame = "first"
    channels: tuple[Channel, ...] = ()
    scaling: ScalingKind = "none"

    @property
    def frame_name(self) -> str:
        """The frame in words: the first, the middle one, number 4."""
        if isinstance(self.frame, int):
            return f"number {self.frame}"
        return "the middle one" if self.frame == "middle" else "the first"

    @property
    def numbers_key(self) -> str:
        """A key of all that the pixels of a file depend on beside its content and the frame; empty for 8-bit RGB."""
        if not self.channels:
            return ""
        scaled = " ".join(f"{each.band}:{each.low!r}:{each.high!r}" for each in self.channels)
        return f"{'decibel ' if self.scaling == 'decibel' else ''}{scaled}"

    @property
    def range_name(self) -> str:
        """The numbers that become black and white, in words: of several channels, the lowest and the highest."""
        if not self.is_recorded:
            return "each photo's own"
        low, high = min(each.low or 0.0 for each in self.channels), max(each.high or 0.0 for each in self.channels)
        return f"{low:g} to {high:g}{' dB' if self.scaling == 'decibel' else ''}"

    @property
    def is_recorded(self) -> bool:
        """Whether one scaling holds for all photos, so that their brightness says something."""
        return bool(self.channels) and all(each.low is not None for each in self.channels)

    @property
    def bands(self) -> tuple[int, ...]:
        """The bands of the file that are used, each once, in order."""
        return tuple(dict.fromkeys(each.band for each in self.channels))

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

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return the reading from the JSON form of ``dataclasses.asdict``.

        Raises:
            TypeError: It has another field.
        """
        channels = tuple(Channel(**channel) for channel in fields.get("channels", ()))
        return cls(**{**fields, "channels": channels})


def in_threes(channels: Sequence[Channel], width: int = GROUP) -> tuple[Channel, ...]:
    """Return the channels in groups of ``width``, as many as a backbone reads at a time.

    One channel is repeated, which gives the outputs of summed filters; of more than a group, the last group is filled with
    the channels before it.
    """
    given = tuple(channels)
    if len(given) < width:
        return given + given[-1:] * (width - len(given))
    rest = len(given) % width
    return given if not rest else given[: len(given) - rest] + given[len(given) - width :]


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
