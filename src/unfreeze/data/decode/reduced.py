"""Large images at a reduced size, block of rows by block of rows, so that the whole never lies in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from unfreeze.data.decode.numbers import Bands

LARGE = 2**25  # pixels; smaller images keep their size, so that what they look like doesn't depend on the network
MAX_FACTOR = 16  # a coarser image saves little, and its squares are many rows high
_AT_ONCE = 2**19  # pixels, of which several copies are made, by each of several readers
_SAMPLED = 2**20  # pixels whose values choose the window of a stretch


def reduction(size: tuple[int, int], min_side: int | None) -> int:
    """Return how many pixels of an image, along each side, are averaged to one: 1 unless the image is large.

    Args:
        size: Width and height.
        min_side: The short side that the reduced image must have at least; None: full size.
    """
    if min_side is None or math.prod(size) <= LARGE:
        return 1
    return max(1, min(MAX_FACTOR, min(size) // max(1, min_side)))


def reduce_rows(blocks: Iterable[Bands], factor: int, nodata: float | None = None) -> tuple[Bands, Bands]:
    """Average squares of ``factor`` pixels a side, ignoring numbers that aren't finite.

    Args:
        blocks: An image's rows from the top, in arrays of any height, shape (rows, width) or (rows, width, bands).
        factor: The side of the squares; those at the right and bottom edge may be smaller.
        nodata: The number that stands for missing ones.

    Returns:
        The reduced image, and some of the pixels of the full one, shape (pixels,) or (pixels, bands).  Integers stay
        integers of their type, unless some are missing.
    """
    reduced, sampled = [], []
    kind = np.dtype(np.float32)
    for block in _aligned(blocks, factor):
        kind = block.dtype
        stride = max(1, math.isqrt(block.shape[1] ** 2 // _SAMPLED) + 1)
        values = block.astype(np.float32)
        if nodata is not None:
            values[block == nodata] = np.nan
        sampled.append(values[::stride, ::stride].reshape(-1, *block.shape[2:]))
        reduced.append(_averages(values, factor))
    image, sample = np.concatenate(reduced), np.concatenate(sampled)
    if np.issubdtype(kind, np.integer) and nodata is None:
        return np.rint(image).astype(kind), sample.astype(kind)
    return image, sample


def _averages(values: npt.NDArray[np.float32], factor: int) -> npt.NDArray[np.float32]:
    known = np.isfinite(values)
    if not known.all():
        values = np.where(known, values, np.float32(0))
    rows, columns = (np.arange(0, side, factor) for side in values.shape[:2])

    def total(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.add.reduceat(np.add.reduceat(numbers, rows, axis=0), columns, axis=1)

    with np.errstate(invalid="ignore"):  # squares without a known number
        averages: npt.NDArray[np.float32] = total(values) / total(known.astype(np.float32))
    return averages


def _aligned(blocks: Iterable[Bands], factor: int) -> Iterator[Bands]:
    """Yield the same rows in blocks of a multiple of ``factor`` rows, the last one excepted; each is small."""
    rest: Bands | None = None
    for block in blocks:
        rows = block if rest is None or not len(rest) else np.concatenate([rest, block])
        whole = len(rows) // factor * factor
        step = max(1, _AT_ONCE // (rows.shape[1] * factor)) * factor
        for top in range(0, whole, step):
            yield rows[top : min(top + step, whole)]
        rest = rows[whole:].copy()
    if rest is not None and len(rest):
        yield rest


def image_rows(image: Image.Image, rows: int = 256) -> Iterator[Bands]:
    """Yield the rows of a loaded image in blocks; numpy would copy it twice as a whole."""
    width, height = image.size
    for top in range(0, height, rows):
        yield np.asarray(image.crop((0, top, width, min(height, top + rows))))
