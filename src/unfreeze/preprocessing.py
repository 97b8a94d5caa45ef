"""A backbone's image preprocessing, as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from unfreeze.reading import FIRST_FRAME, Reading

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Fit = Literal["crop", "squash", "pad"]


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
        fit: How an image of another aspect ratio fills the input.  ``crop``: by ``resize`` and a centre crop.  ``squash``:
            all of it, without regard to its aspect ratio, in random training views, too.  ``pad``: all of it, scaled to
            fit, with borders of the mean colour.
    """

    size: tuple[int, int]
    resize: int | tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation
    reading: Reading = field(default=FIRST_FRAME, repr=False)  # caches tell it apart by image, see ``pixel_key``
    fit: Fit = field(default="crop", repr=False)

    @property
    def min_side(self) -> int:
        """The short side, in pixels, of a decoded image that suffices to render views without visible loss.

        Downscaling to a third removes nearly all finer detail; a crop of half the area is still downscaled to 0.47.
        """
        longest = self.resize if isinstance(self.resize, int) else max(self.resize)
        return 3 * max(longest, *self.size)

    @property
    def cache_key(self) -> str:
        """A key of all that determines the pixels of a view; without ``fit`` where it is the default, as ever."""
        return repr(self) if self.fit == "crop" else f"{self!r} {self.fit}"

    @property
    def n_channels(self) -> int:
        """The number of channels of the network's input."""
        return len(self.mean)

    def read_by(self, reading: Reading) -> Preprocessing:
        """Return the same preprocessing for files that are read in this way: each group of channels as the first one."""
        groups = len(reading.channels) // self.n_channels if reading.channels else 1
        return replace(self, reading=reading, mean=self.mean * groups, std=self.std * groups)

    def fitted(self, fit: Fit) -> Preprocessing:
        """Return the same preprocessing with another fit, whose ``resize`` says the same where it can."""
        if fit == "squash":
            return replace(self, fit=fit, resize=self.size)
        if not isinstance(self.resize, int):  # of a backbone that squashes: a crop or a scale needs one side
            return replace(self, fit=fit, resize=max(*self.resize, *self.size))
        return replace(self, fit=fit)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Return the preprocessing from the JSON form of ``dataclasses.asdict``."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        return cls(**{**values, "reading": Reading.from_dict(values.get("reading", {}))})
