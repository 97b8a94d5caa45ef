"""Images of any number of bands and any depth, with the operations of Pillow's images that rendering needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from unfreeze.data.decode.numbers import Bands, default_window
from unfreeze.errors import DecodeError
from unfreeze.reading import Reading

MAX_CLIPPED = 0.5  # share of an image's numbers outside of its scaling from which on the user is told
WHITE = 2**16 - 1  # steps of the numbers that networks are given


@dataclass(frozen=True, eq=False, slots=True)
class BandImage:
    """An upright image of one or more channels, each of numbers from 0 to 1 in Pillow's mode F.

    Pillow has no images of many deep bands: each is cropped and resized by itself, with the filters of 8-bit images.
    """

    channels: tuple[Image.Image, ...]

    @classmethod
    def from_array(cls, numbers: npt.NDArray[np.float32]) -> Self:
        """Return the image of an array of shape (height, width, channels)."""
        return cls(tuple(Image.fromarray(np.ascontiguousarray(numbers[..., i])) for i in range(numbers.shape[2])))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.channels[0].size

    @property
    def width(self) -> int:
        """The width in pixels."""
        return self.size[0]

    @property
    def height(self) -> int:
        """The height in pixels."""
        return self.size[1]

    def resize(self, size: tuple[int, int], resample: Any, box: Any = None) -> BandImage:
        """Return the image, or ``box`` of it, at another size; overshoots of the filter are clipped, as in 8 bits."""

        def resized(channel: Image.Image) -> Image.Image:
            pixels = np.asarray(channel.resize(size, resample, box=box))
            return Image.fromarray(np.clip(pixels, 0, 1))

        return self._each(resized)

    def crop(self, box: tuple[int, int, int, int]) -> BandImage:
        """Return a part of the image; what lies outside of it is 0."""
        return self._each(lambda channel: channel.crop(box))

    def transpose(self, method: Image.Transpose) -> BandImage:
        """Return the image flipped or turned."""
        return self._each(lambda channel: channel.transpose(method))

    def reduce(self, factor: int) -> BandImage:
        """Return the image with squares of ``factor`` pixels a side averaged."""
        return self._each(lambda channel: channel.reduce(factor))

    def centred(self, size: tuple[int, int], border: tuple[float, ...]) -> BandImage:
        """Return the image in the middle of a larger one of ``size`` (width, height), whose border has one colour."""
        place = (size[0] - self.width) // 2, (size[1] - self.height) // 2
        padded = tuple(Image.new("F", size, colour) for colour in border)
        for canvas, channel in zip(padded, self.channels, strict=True):
            canvas.paste(channel, place)
        return BandImage(padded)

    def to_array(self) -> npt.NDArray[np.int32]:
        """Return the pixels in steps of 1/65535, shape (height, width, channels); torch can't flip uint16."""
        stacked = np.stack([np.asarray(channel) for channel in self.channels], axis=2)
        pixels: npt.NDArray[np.int32] = (np.clip(stacked, 0, 1) * np.float32(WHITE) + 0.5).astype(np.int32)
        return pixels

    def picture(self) -> Image.Image:
        """Return the first three channels (or the first one, if there are fewer) as 8-bit RGB, for people."""
        shown = self.channels[:3] if len(self.channels) >= 3 else self.channels[:1]
        eight_bit = [Image.fromarray((np.clip(np.asarray(each), 0, 1) * 255 + 0.5).astype(np.uint8)) for each in shown]
        return Image.merge("RGB", eight_bit) if len(eight_bit) == 3 else eight_bit[0].convert("RGB")

    def _each(self, change: Callable[[Image.Image], Image.Image]) -> BandImage:
        known: dict[int, Image.Image] = {}  # a band that is repeated is one image
        for channel in self.channels:
            if id(channel) not in known:
                known[id(channel)] = change(channel)
        return BandImage(tuple(known[id(channel)] for channel in self.channels))


Pixels = Image.Image | BandImage
"""A decoded image: 8-bit RGB, or numbers in bands."""
P = TypeVar("P", Image.Image, BandImage, Pixels)


def as_picture(pixels: Pixels) -> Image.Image:
    """Return a decoded image as 8-bit RGB, for people."""
    return pixels.picture() if isinstance(pixels, BandImage) else pixels


def scaled(numbers: Bands, reading: Reading) -> tuple[BandImage, bool]:
    """Return the channels of a file's numbers, scaled as ``reading`` says.

    Args:
        numbers: All bands of the file, shape (height, width, bands); those that aren't finite turn black.
        reading: With channels.

    Returns:
        The image, and whether most of its numbers lie outside of the recorded scaling: it may be in other units.

    Raises:
        DecodeError: The file has fewer bands than the channels need.
    """
    n_bands, needed = numbers.shape[2], max(reading.bands)
    if needed > n_bands:
        raise DecodeError(
            f"The file has {n_bands} band{'s' * (n_bands > 1)}, and band {needed} is needed.",
            mend="Give a file with the same bands as the training photos.",
        )
    used = {band: in_units(numbers[..., band - 1], reading) for band in reading.bands}
    own = None
    if not reading.is_recorded:
        own = default_window(np.stack(list(used.values())))
    images: dict[tuple[int, float, float], Image.Image] = {}
    outside: list[float] = []
    channels = []
    for channel in reading.channels:
        low, high = own or (channel.low or 0.0, channel.high or 0.0)
        key = channel.band, low, high
        if key not in images:
            values = used[channel.band]
            images[key] = Image.fromarray(_to_unit(values, low, high))
            outside.append(_share_outside(values, low, high))
        channels.append(images[key])
    chosen_for_data = reading.is_recorded and reading.scaling != "window"  # a window leaves most out by intention
    return BandImage(tuple(channels)), chosen_for_data and float(np.mean(outside)) > MAX_CLIPPED


def in_units(values: Bands, reading: Reading) -> npt.NDArray[np.float32]:
    """Return a band's numbers, or their decibels, as float32; what isn't known is NaN."""
    numbers = values.astype(np.float32)
    if reading.scaling == "decibel":
        with np.errstate(divide="ignore", invalid="ignore"):
            numbers = np.where(numbers > 0, 10 * np.log10(numbers), np.float32("nan")).astype(np.float32)
    return numbers


def _to_unit(values: npt.NDArray[np.float32], low: float, high: float) -> npt.NDArray[np.float32]:
    span = max(high - low, float(np.finfo(np.float32).tiny))
    with np.errstate(all="ignore"):
        unit = (np.clip(np.nan_to_num(values, nan=low, posinf=high, neginf=low), low, high) - low) / span
    return unit.astype(np.float32)


def _share_outside(values: npt.NDArray[np.float32], low: float, high: float) -> float:
    """Return the share of the known numbers that are clipped; those equal to a bound are not."""
    known = values[np.isfinite(values)]
    return float(((known < low) | (known > high)).mean()) if known.size else 0.0
