"""How a backbone wants its photos: one frozen value that travels from the model's source to every place that renders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The evaluation-time preprocessing that a backbone was trained for.

    Attributes:
        size: Height and width of the network's input, in pixels.
        resize: What the photo is resized to before the centre crop: the short side in pixels, or (height, width).
        mean: Per-channel mean that is subtracted, on a scale of 0 to 1.
        std: Per-channel standard deviation that is divided by, on a scale of 0 to 1.
        interpolation: The resampling filter.
    """

    size: tuple[int, int]
    resize: int | tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation

    @property
    def min_side(self) -> int:
        """Return the short side, in pixels, from which a photo can be rendered without visible loss.

        Filters that shrink to a third see hardly anything of what is finer; a crop of half the area still shrinks to 0.47.
        """
        longest = self.resize if isinstance(self.resize, int) else max(self.resize)
        return 3 * max(longest, *self.size)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Read what ``dataclasses.asdict`` gave, after a trip through JSON."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        return cls(**values)
