"""One rule for numbers: bands of any type, depth, layout and container become 8-bit RGB in the same way.

8-bit bands are shown as they are.  Deeper ones are stretched, all colours together: a plain conversion clips, by which
16-bit X-rays turn white, and reflectances and floats in 0..1 black.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Bands = npt.NDArray[Any]  # (height, width) or (height, width, bands)
Grey = npt.NDArray[np.uint8]  # (height, width)

PERCENTILES = (0.5, 99.5)
_SOLID_SHARE = 0.6  # of pixels that are wholly opaque or wholly transparent, in opacity
_OPAQUE_SHARE = 0.01
_TOLERANCE = 0.02  # of the full range
_SMOOTH_STEP = 1 / 32  # of the full range


@dataclass(frozen=True, eq=False)
class FileNumbers:
    """The numbers in an image file, not turned.

    Attributes:
        bands: Of the file's own type, or float32 where some aren't known (NaN); shape (height, width, bands).
        orientation: The EXIF orientation.
        n_frames: How many pages or frames the file has; 1 where they weren't counted.
        names: The bands' names, where the file has them.
        full: The smallest and largest number that the file could hold, where its header says so.
        window: What the file's header shows as black and white (DICOM).
    """

    bands: Bands
    orientation: int = 1
    n_frames: int = 1
    names: tuple[str, ...] = ()
    full: tuple[float, float] | None = None
    window: tuple[float, float] | None = None


def inverted(bands: Bands) -> Bands:
    """Return bands of which small numbers are bright so that large ones are; unsigned ones stay unsigned."""
    return np.iinfo(bands.dtype).max - bands if bands.dtype.kind == "u" else -bands


def without_missing(bands: Bands, nodata: float | None) -> Bands:
    """Return bands as float32 with NaN for the number that stands for missing ones; as they are where none does."""
    return bands if nodata is None else np.where(bands == nodata, np.float32("nan"), bands.astype(np.float32))


def to_rgb(bands: Bands, opacity: Grey | None = None, window: tuple[float, float] | None = None) -> Image.Image:
    """Return bands as an 8-bit RGB image, transparent parts white.

    Args:
        bands: One or three bands; with more, the first three are shown.
        opacity: 0 for transparent to 255 for opaque.
        window: The values that are shown as black and white; None: see ``stretch``.
    """
    if bands.ndim == 3:
        bands = bands[..., 0] if bands.shape[2] < 3 else bands[..., :3]
    seen = None if opacity is None else opacity > 0
    pixels = bands if bands.dtype == np.uint8 and window is None else stretch(bands, window, seen)
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    if opacity is None or (opacity.all() and (opacity == 255).all()):
        return image
    image.putalpha(Image.fromarray(np.ascontiguousarray(opacity)))
    return on_white(image)


def on_white(image: Image.Image) -> Image.Image:
    """Return an RGBA image on white, as most viewers show it; the colours below transparent parts are arbitrary."""
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def stretch(
    values: Bands, window: tuple[float, float] | None = None, seen: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.uint8]:
    """Map ``window`` (default: the finite values' 0.5th to 99.5th percentile) linearly to 0-255.

    Args:
        values: Numbers of any type; those that aren't finite turn black.
        window: The values that become 0 and 255.
        seen: The pixels whose values count for the default window; None: all.
    """
    values = values.astype(np.float32)
    low, high = window or default_window(values if seen is None or not seen.any() else values[seen])
    span = max(high - low, float(np.finfo(np.float32).tiny))
    with np.errstate(all="ignore"):
        scaled = (np.clip(np.nan_to_num(values, nan=low), low, high) - low) / span * 255 + 0.5
    pixels: npt.NDArray[np.uint8] = scaled.astype(np.uint8)
    return pixels


def default_window(values: Bands) -> tuple[float, float]:
    """Return the 0.5th and 99.5th percentile of the finite values; if nearly all are equal, the lowest and highest."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 0.0
    low, high = map(float, np.percentile(finite, PERCENTILES))
    if high <= low:  # as in a mask with a small bright spot
        low, high = float(finite.min()), float(finite.max())
    return low, high


def as_opacity(band: Bands) -> Grey | None:
    """Return a band that a writer tagged as opacity as 8 bits, or None where it doesn't look like opacity.

    Writers tag a fourth band of data (near infrared, height) as opacity, too.  Opacity is nearly everywhere full or none,
    or it is a smooth ramp between the two; data is neither.  Some programs write 0 throughout.
    """
    full = float(np.iinfo(band.dtype).max) if np.issubdtype(band.dtype, np.integer) else 1.0
    share = band.astype(np.float32) / np.float32(full)
    opaque, clear = share >= 1 - _TOLERANCE, share <= _TOLERANCE
    solid = opaque.mean() + clear.mean() >= _SOLID_SHARE and opaque.mean() >= _OPAQUE_SHARE
    if not (solid or _is_ramp(share)):
        return None
    opacity: Grey = (np.clip(share, 0, 1) * 255 + 0.5).astype(np.uint8)
    return opacity


def _is_ramp(share: npt.NDArray[np.float32]) -> bool:
    if share.min() > 0 or share.max() < 1:
        return False
    steps = [np.abs(np.diff(share, axis=axis)) for axis in (0, 1)]
    return all(step.size == 0 or float(np.percentile(step, 95)) <= _SMOOTH_STEP for step in steps)
