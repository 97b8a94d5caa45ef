"""A backbone's image preprocessing, as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Self

from unfreeze.reading import FIRST_FRAME, Reading

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The evaluation-time preprocessing that a backbone was trained for.

    Attributes:
        size: Height and width of the network's input, in pixels.
        resize: Size of the resized image before the centre crop: the short side in pixels, or (height, width).
        mean: Mean to subtract, per channel, on a scale of 0 to 1.
        std: Standard deviation to divide by, per channel, on a scale of 0 to 1.
        interpolation: The resampling filter.
        reading: How files are read; not a property of the backbone, but of the photos that it is used on.
    """

    size: tuple[int, int]
    resize: int | tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation
    reading: Reading = field(default=FIRST_FRAME, repr=False)  # caches tell it apart by image, see ``pixel_key``

    @property
    def min_side(self) -> int:
        """The short side, in pixels, of a decoded image that suffices to render views without visible loss.

        Downscaling to a third removes nearly all finer detail; a crop of half the area is still downscaled to 0.47.
        """
        longest = self.resize if isinstance(self.resize, int) else max(self.resize)
        return 3 * max(longest, *self.size)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Return the preprocessing from the JSON form of ``dataclasses.asdict``."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        return cls(**{**values, "reading": Reading(**values.get("reading", {}))})
