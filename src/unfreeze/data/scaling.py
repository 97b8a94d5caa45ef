"""The choice of bands and of one scaling for all photos of a set, from its training photos."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unfreeze.data.decode import FileNumbers, inspect_numbers
from unfreeze.data.decode.band_image import in_units
from unfreeze.data.decode.numbers import default_window
from unfreeze.data.sources import Sample
from unfreeze.errors import ConfigError, DecodeError
from unfreeze.reading import GROUP, Channel, Reading, ScalingKind, in_threes
from unfreeze.reading_settings import ReadingSettings, windows_of
from unfreeze.runtime import generator

SAMPLED = 200  # training photos whose numbers choose the scaling
_SAMPLED_PIXELS = 2**12  # of each photo and band
_REFLECTANCE = (0.0, 10000.0)  # of whole numbers, as Sentinel-2 and Landsat are delivered; of fractions, 0 to 1
Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class _Numbers:
    """What the choice needs of one photo: a part of each band's numbers, and what its file says.

    Attributes:
        bands: Shape (pixels, bands).
        file: The file's facts; its ``bands`` are empty.
        kind: The type of the numbers: a letter of NumPy's.
    """

    bands: npt.NDArray[np.float32]
    file: FileNumbers
    kind: np.dtype[Any]


def choose_reading(
    settings: ReadingSettings, samples: Sequence[Sample], n_channels: int = GROUP, seed: int = 0
) -> tuple[Reading, str | None]:
    """Return how the photos are read, and a line that says so; None for 8-bit photos, where nothing is chosen.

    Photos of 8 bits in one or three bands are read as RGB, as are those of different depths or numbers of bands (each by
    itself), unless the user says how numbers become channels.  For others, one scaling a band holds for all photos.

    Args:
        settings: The user's.
        samples: The training photos, whose traits are known.
        n_channels: How many channels the backbone reads at a time.
        seed: Chooses which photos are looked at.

    Raises:
        ConfigError: The photos lack a band that the user names.
        DecodeError: A file's numbers can't be read.
    """
    pictures = settings.reading
    is_asked = settings.asks_for_numbers or n_channels != GROUP
    in_numbers = [bool({"deep", "bands", "fourth band"} & set(sample.traits)) for sample in samples]
    if not is_asked and not all(in_numbers):
        mixed = any(in_numbers)
        return pictures, "photos of different depths or bands: each is read as RGB by itself" if mixed else None
    if not is_asked and settings.scaling == "image" and not any("bands" in sample.traits for sample in samples):
        return pictures, None
    try:
        numbers = _read(samples, pictures, seed)
    except DecodeError:
        if is_asked:
            raise
        return pictures, None
    counts = {each.bands.shape[1] for each in numbers}
    if not is_asked and len(counts) > 1:
        return pictures, f"photos of {min(counts)} to {max(counts)} bands: each is read as RGB by itself"
    if not is_asked and counts == {GROUP} and all(each.kind == np.uint8 for each in numbers):
        return pictures, None  # the fourth band was opacity after all
    kind, channels = _channels(settings, numbers, min(counts))
    reading = Reading(pictures.frame, in_threes(channels, n_channels), kind)
    return reading, _describe(reading, channels, numbers, n_channels)


def _read(samples: Sequence[Sample], reading: Reading, seed: int) -> list[_Numbers]:
    """Return the numbers of up to ``SAMPLED`` photos."""
    chosen = generator(seed, SAMPLED).permutation(len(samples))[:SAMPLED]

    def numbers(index: int) -> _Numbers:
        found = inspect_numbers(samples[index].path, reading)
        pixels = found.bands.reshape(-1, found.bands.shape[2])
        some = pixels[:: max(1, len(pixels) // _SAMPLED_PIXELS)]
        facts = FileNumbers(some[:0], names=found.names, full=found.full, window=found.window)
        return _Numbers(some.astype(np.float32), facts, found.bands.dtype)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(numbers, sorted(map(int, chosen))))


def _channels(
    settings: ReadingSettings, numbers: Sequence[_Numbers], n_bands: int
) -> tuple[ScalingKind, list[Channel]]:
    """Return where the scaling comes from, and each channel's band and scaling."""
    if settings.window is not None:
        return "window", [Channel(1, low, high, name) for name, low, high in windows_of(settings.window)]
    given = None if settings.bands in ("auto", "all") else [int(band) for band in settings.bands.split(",")]
    bands = given or list(range(1, n_bands + 1))
    if max(bands) > n_bands:
        raise ConfigError(
            f"There is no band {max(bands)}: these photos have {n_bands}.",
            where="--bands",
            mend="Bands are counted from 1.",
        )
    kind, ranges = _ranges(settings.scaling, numbers, bands)
    names = numbers[0].file.names
    labels = [names[band - 1] if len(names) >= band else "" for band in bands]
    if ranges is None:
        return kind, [Channel(band, name=name) for band, name in zip(bands, labels, strict=True)]
    return kind, [Channel(band, *ends, name) for band, ends, name in zip(bands, ranges, labels, strict=True)]


def _ranges(scaling: str, numbers: Sequence[_Numbers], bands: Sequence[int]) -> tuple[ScalingKind, list[Range] | None]:
    """Return the numbers that become 0 and 1 in each band; None: each photo's own."""
    windows = {each.file.window for each in numbers}
    shared = windows.pop() if len(windows) == 1 else None
    if scaling == "image":
        return "image", None
    if scaling == "auto" and shared is not None:
        return "header", [shared for _ in bands]
    if scaling == "full" or (scaling == "auto" and all(each.kind == np.uint8 for each in numbers)):
        ends = [_full(each) for each in numbers]
        return "full", [(min(low for low, _ in ends), max(high for _, high in ends)) for _ in bands]
    if scaling == "reflectance":
        is_whole = all(each.kind.kind in "iu" for each in numbers)
        return "reflectance", [_REFLECTANCE if is_whole else (0.0, 1.0) for _ in bands]
    if "," in scaling:
        low, high = map(float, scaling.split(","))
        return "range", [(low, high) for _ in bands]
    kind: ScalingKind = "decibel" if scaling == "decibel" else "percentiles"
    in_kind = Reading(scaling=kind)
    pooled = [in_units(np.concatenate([each.bands[:, band - 1] for each in numbers]), in_kind) for band in bands]
    return kind, [default_window(values) for values in pooled]


def _full(numbers: _Numbers) -> Range:
    if numbers.file.full is not None:
        return numbers.file.full
    if numbers.kind.kind not in "iu":
        return 0.0, 1.0
    limits = np.iinfo(numbers.kind)
    return float(limits.min), float(limits.max)


def _describe(reading: Reading, channels: Sequence[Channel], numbers: Sequence[_Numbers], n_channels: int) -> str:
    used = list(dict.fromkeys(channel.band for channel in channels))
    seen = [each.bands[:, [band - 1 for band in used]] for each in numbers]
    low = min(float(np.nanmin(each)) for each in seen if np.isfinite(each).any())
    high = max(float(np.nanmax(each)) for each in seen if np.isfinite(each).any())
    n_bands = f"{len(used)} band{'s' * (len(used) > 1)}"
    text = f"numbers {low:.6g} to {high:.6g} in {n_bands}"
    if not reading.is_recorded:
        text += ", each photo stretched by itself: how bright it is beside the others is lost"
    else:
        text += f", scaled from {reading.range_name} to black..white, the same for all photos"
    groups = len(reading.channels) // n_channels
    return (
        text if groups == 1 else f"{text}; the model looks at them in {groups} groups, {groups} times the work of one"
    )
