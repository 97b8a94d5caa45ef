"""TIFF files that Pillow can't read, or not in parts, read by tifffile: planes, floats in colour, large tiles."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from unfreeze.data.decode.formats import DecodeLimits, refuse_bomb
from unfreeze.data.decode.memory import BYTES_PER_PIXEL, budget
from unfreeze.data.decode.numbers import (
    Bands,
    FileNumbers,
    Grey,
    as_opacity,
    default_window,
    inverted,
    to_rgb,
    without_missing,
)
from unfreeze.data.decode.pillow import GDAL_NODATA, ORIENTATION, missing_number
from unfreeze.data.decode.reasons import UnreadableError
from unfreeze.data.decode.reduced import reduce_rows, reduction
from unfreeze.data.decode.traits import Trait
from unfreeze.reading import Reading

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
INSTALL = 'Install what reads it, pip install "unfreeze[tiff]", or save it as 8-bit RGB.'
_LARGEST_PIXEL = 16  # bytes: four bands of float32
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_ALPHA = (1, 2)  # extra samples that the writer tagged as opacity; of the first, colours were multiplied by it
_MULTIPLIED = 1
_GDAL_METADATA = 42112
_UNCOMPRESSED = 1


@dataclass(frozen=True)
class TiffImage:
    """A TIFF's image, not turned.

    Attributes:
        image: The pixels.
        size: Width and height in the file.
        factor: How many of the file's pixels, along each side, were averaged to one.
        n_pages: How many pages the file has.
        orientation: The EXIF orientation.
        traits: What the pixels lost.
    """

    image: Image.Image
    size: tuple[int, int]
    factor: int
    n_pages: int
    orientation: int
    traits: frozenset[Trait]


def read_tiff(file: BinaryIO, limits: DecodeLimits, reading: Reading, min_side: int | None = None) -> TiffImage:
    """Read a page with tifffile.

    Args:
        file: The open file.
        limits: The largest size.
        reading: Which page is read.
        min_side: The short side that a large image must have at least when it is reduced; None: full size.

    Raises:
        UnreadableError: A package is missing, or the bands are no image.
        DecompressionBombError: There are more pixels than ``limits`` allow.
    """
    with _readable() as tifffile:
        return _read(tifffile, file, limits, reading, min_side)


def read_tiff_numbers(file: BinaryIO, limits: DecodeLimits, reading: Reading) -> FileNumbers:
    """Read the numbers of all bands of a page but opacity; for errors see ``read_tiff``."""
    with _readable() as tifffile:
        file.seek(0)
        with tifffile.TiffFile(file) as tiff:
            page, index, count = _page(tiff, limits, reading)
            if int(page.photometric) not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
                raise UnreadableError("its bands are no numbers that are read here")
            with budget.reserve(2 * page.nbytes):
                bands = _known(_pixels(page, index), _nodata(page))
            if _opacity(page, bands) is not None:
                bands = bands[..., :-1]
            if int(page.photometric) == _WHITE_IS_ZERO:
                bands = inverted(bands)
            return FileNumbers(bands, _orientation(page), count, _band_names(page))


@contextmanager
def _readable() -> Iterator[Any]:
    """Yield tifffile, and say in plain words what it can't read."""
    try:
        import tifffile
    except ImportError:
        raise UnreadableError("it is a kind of TIFF that Pillow can't open", INSTALL) from None
    try:
        yield tifffile
    except (ValueError, NotImplementedError) as error:
        if "imagecodecs" in str(error):
            reason = "it is a TIFF whose compression or depth needs the package imagecodecs"
            raise UnreadableError(reason, INSTALL) from error
        if "not supported" in str(error):
            raise UnreadableError("it is a TIFF of a kind that isn't read here") from error
        raise


def _read(tifffile: Any, file: BinaryIO, limits: DecodeLimits, reading: Reading, min_side: int | None) -> TiffImage:
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page, index, count = _page(tiff, limits, reading)
        factor = reduction((page.imagewidth, page.imagelength), min_side) if _has_rows(page) else 1
        n_pixels = page.imagewidth * page.imagelength
        with budget.reserve(page.nbytes // factor + BYTES_PER_PIXEL * 2 * n_pixels // factor):
            image, traits = _read_page(page, factor, index)
        size = page.imagewidth, page.imagelength
        return TiffImage(image, size, factor, count, _orientation(page), frozenset(traits))


def _page(tiff: Any, limits: DecodeLimits, reading: Reading) -> tuple[Any, int, int]:
    """Return the page that is read, the place of the slice in it, and how many pages or slices there are."""
    pages = [page for page in map(_full, tiff.pages) if not page.is_reduced and not page.is_mask] or [tiff.pages[0]]
    depth = pages[0].imagedepth if len(pages) == 1 else 1
    count = len(pages) * depth
    index = reading.frame_index(count)
    page = pages[index if depth == 1 else 0]
    refuse_bomb(page.imagewidth, page.imagelength, limits)
    if page.nbytes > depth * _LARGEST_PIXEL * limits.pixels:  # the header promises thousands of bands
        raise Image.DecompressionBombError
    return page, index if depth > 1 else 0, count


def _orientation(page: Any) -> int:
    tag = page.tags.get(ORIENTATION)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _band_names(page: Any) -> tuple[str, ...]:
    """Return the names that GDAL gave the bands; those without one have an empty name."""
    tag = page.tags.get(_GDAL_METADATA)
    found = re.findall(r'<Item name="DESCRIPTION" sample="(\d+)"[^>]*>([^<]*)</Item>', str(tag.value)) if tag else []
    names = {int(sample): name.strip() for sample, name in found}
    return tuple(names.get(index, "") for index in range(page.samplesperpixel)) if names else ()


def _read_page(page: Any, factor: int, depth_index: int) -> tuple[Image.Image, set[Trait]]:
    nodata = _nodata(page)
    if factor > 1:
        return _rendered(page, *reduce_rows(_row_blocks(page), factor, nodata))
    return _rendered(page, _known(_pixels(page, depth_index), nodata), None)


def _known(bands: Bands, nodata: float | None) -> Bands:
    """Return the magnitude of complex numbers, and NaN for missing ones."""
    if np.iscomplexobj(bands):  # radar
        bands = np.abs(bands)
    return without_missing(bands, nodata)


def can_be_read_in_parts(file: BinaryIO) -> bool:
    """Return whether ``read_tiff`` can read the first page at a reduced size without holding it in memory."""
    try:
        import tifffile
    except ImportError:
        return False
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        if not _has_rows(page):
            return False
        try:
            if page.compression != _UNCOMPRESSED:  # one strip may hold the whole image
                _segment(page, 0)
        except Exception:  # a codec that isn't installed
            return False
    return True


def _has_rows(page: Any) -> bool:
    """Return whether ``_row_blocks`` can read the page."""
    plain = int(page.photometric) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) and page.imagedepth == 1
    return plain and page.bitspersample % 8 == 0


def _full(page: Any) -> Any:
    return page.aspage()  # of series of alike pages, tifffile keeps the first one's tags alone


def _pixels(page: Any, slice_index: int) -> Bands:
    pixels: Bands = page.asarray()
    pixels = pixels.reshape(page.shaped)[:, slice_index]  # separate planes, height, width, bands that lie together
    return np.moveaxis(pixels, 0, -1)[..., 0, :] if pixels.shape[0] > 1 else pixels[0]


def _rendered(page: Any, bands: Bands, sample: Bands | None) -> tuple[Image.Image, set[Trait]]:
    photometric, bits = int(page.photometric), page.bitspersample
    if bands.dtype == np.bool_ or (bands.dtype == np.uint8 and bits < 8):
        bands = (bands.astype(np.float32) * (255 / (2**bits - 1)) + 0.5).astype(np.uint8)
    if photometric == _WHITE_IS_ZERO:
        bands = 255 - bands if bands.dtype == np.uint8 else -bands.astype(np.float32)
        sample = None if sample is None else -sample.astype(np.float32)
    traits: set[Trait] = set() if bands.dtype == np.uint8 else {"deep"}
    n_colours = 1 if bands.shape[2] < 3 else 3
    tag, opacity = _last_tag(page, bands), _opacity(page, bands)
    colours = bands[..., :n_colours]
    if page.samplesperpixel > 4 or (page.samplesperpixel == 2 and tag not in _ALPHA):
        traits.add("bands")
    elif bands.shape[2] > n_colours and opacity is None and bands[..., n_colours:].any():
        traits.add("fourth band")
    if opacity is not None and tag == _MULTIPLIED:
        full = 255 if bands.dtype == np.uint8 else np.iinfo(bands.dtype).max if bands.dtype.kind in "iu" else 1
        share = np.maximum(opacity[..., None], 1) / np.float32(255)
        colours = np.minimum(colours / share, full).astype(bands.dtype)
    window = None if sample is None or bands.dtype == np.uint8 else default_window(sample[..., :n_colours])
    return to_rgb(colours, opacity, window), traits


def _last_tag(page: Any, bands: Bands) -> int:
    """Return what the writer says of a last band beside grey or the colours; 0: nothing."""
    return int(page.extrasamples[-1]) if page.extrasamples and bands.shape[2] in (2, 4) else 0


def _opacity(page: Any, bands: Bands) -> Grey | None:
    """Return the band that is tagged as opacity and looks like it."""
    return as_opacity(bands[..., -1]) if _last_tag(page, bands) in _ALPHA else None


def _nodata(page: Any) -> float | None:
    tag = page.tags.get(GDAL_NODATA)
    if tag is None or page.dtype == np.uint8:
        return None
    return missing_number(str(tag.value))


def _row_blocks(page: Any) -> Iterator[Bands]:
    """Yield a page's rows from the top, shape (rows, width, bands), as its strips or tiles come."""
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    across = math.ceil(page.imagewidth / page.tilewidth) if page.is_tiled else 1
    rows = page.tilelength if page.is_tiled else page.rowsperstrip
    down = math.ceil(page.imagelength / rows)
    plain = page.compression == _UNCOMPRESSED and page.dtype.kind in "iuf"
    if plain and not page.is_tiled and page.predictor == 1 and planes == 1:
        yield from _stored_rows(page, rows)
        return
    for row in range(down):
        height = min(rows, page.imagelength - row * rows)
        bands = [
            np.concatenate(
                [_segment(page, (plane * down + row) * across + column)[:height] for column in range(across)], axis=1
            )[:, : page.imagewidth]
            for plane in range(min(planes, 4))
        ]
        yield bands[0] if len(bands) == 1 else np.concatenate(bands, axis=2)


def _segment(page: Any, index: int) -> Bands:
    """Return a strip or tile, shape (rows, width, bands)."""
    file = page.parent.filehandle
    file.seek(page.dataoffsets[index])
    encoded = file.read(page.databytecounts[index])
    decoded, _, shape = page.decode(encoded, index, jpegtables=page.jpegtables)
    if decoded is None:  # a hole in a sparse file
        return np.zeros(shape[1:], page.dtype)
    segment: Bands = decoded[0]
    return np.abs(segment) if np.iscomplexobj(segment) else segment


def _stored_rows(page: Any, rows_per_strip: int) -> Iterator[Bands]:
    """Yield rows that aren't compressed, a few at a time: one strip may hold the whole image."""
    file, width, samples = page.parent.filehandle, page.imagewidth, page.samplesperpixel
    kind = page.dtype.newbyteorder(page.parent.byteorder)
    row_bytes = width * samples * kind.itemsize
    at_once = max(1, 2**24 // row_bytes)
    for strip, offset in enumerate(page.dataoffsets):
        height = min(rows_per_strip, page.imagelength - strip * rows_per_strip)
        for top in range(0, height, at_once):
            count = min(at_once, height - top)
            file.seek(offset + top * row_bytes)
            block = np.frombuffer(file.read(count * row_bytes), kind)
            yield block.reshape(count, width, samples).astype(page.dtype)
