"""The numbers of a file's bands as they are in the file, for photos whose numbers are data: no stretch, no 8 bits."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from unfreeze.data.decode import pillow
from unfreeze.data.decode.band_image import BandImage, scaled
from unfreeze.data.decode.deep_colour import Opener, deep_bands, is_deep, is_deep_ppm, ppm_bands, raw_mode_of
from unfreeze.data.decode.dicom import HEAD, is_dicom, read_dicom_numbers
from unfreeze.data.decode.formats import DecodeLimits, no_photo, refuse_bomb
from unfreeze.data.decode.heif import register_heif
from unfreeze.data.decode.memory import BYTES_PER_PIXEL, budget
from unfreeze.data.decode.numbers import Bands, FileNumbers, as_opacity, inverted, without_missing
from unfreeze.data.decode.reasons import UnreadableError
from unfreeze.data.decode.reduced import reduction
from unfreeze.data.decode.tiff import SIGNATURES, read_tiff_numbers
from unfreeze.data.signatures import is_heif
from unfreeze.errors import FormatError
from unfreeze.reading import Reading

_SAMPLES_PER_PIXEL = 277
_GREY = ("1", "L", "I", "F")


def read_channels(
    file: BinaryIO, path: Path | None, min_side: int | None, limits: DecodeLimits, reading: Reading
) -> tuple[BandImage, tuple[int, int], int, bool]:
    """Return a file's upright image in the channels of ``reading``.

    Returns:
        The image, its width and height in the file, how many frames the file has, and whether its scaling doesn't suit it.
    """
    found = read_numbers(file, path, limits, reading)
    with budget.reserve(4 * (len(reading.bands) + found.bands.shape[2]) * found.bands.shape[0] * found.bands.shape[1]):
        image, is_unsuited = scaled(found.bands, reading)
    size = pillow.upright_size(image.size, found.orientation)
    factor = reduction(image.size, min_side)
    if factor > 1:
        image = image.reduce(factor)
    return pillow.turned(image, found.orientation), size, found.n_frames, is_unsuited


def read_numbers(file: BinaryIO, path: Path | None, limits: DecodeLimits, reading: Reading) -> FileNumbers:
    """Return the numbers of all bands of a file, of its frame that ``reading`` names.

    - Of DICOM they are what the rescale slope and intercept make of them (of CT, Hounsfield units); padding is unknown.
    - Of TIFF, GDAL's number for missing ones is unknown; of complex ones, the magnitude is taken.
    - A band that is opacity isn't one of them.  Of an image with a palette or in CMYK, they are red, green and blue.

    Raises:
        FormatError: The file is no image, or not in an accepted format.
        UnreadableError: It can't be read here.
    """
    head = file.read(HEAD)
    file.seek(0)
    if "DICOM" in limits.formats and is_dicom(head, path.suffix if path is not None else ""):
        return read_dicom_numbers(file, path, limits, reading)
    if "HEIF" in limits.formats and is_heif(head):
        register_heif(path)
    if "TIFF" in limits.formats and head.startswith(SIGNATURES):
        return _read_tiff(file, limits, reading)
    return _read_by_pillow(file, limits, reading)


def _read_tiff(file: BinaryIO, limits: DecodeLimits, reading: Reading) -> FileNumbers:
    """Read a TIFF by tifffile, or by Pillow where that is missing or has no codec for it."""
    try:
        return read_tiff_numbers(file, limits, reading)
    except UnreadableError:
        with suppress(FormatError, OSError, ValueError):
            return _read_by_pillow(file, limits, reading)
        raise


def _read_by_pillow(file: BinaryIO, limits: DecodeLimits, reading: Reading) -> FileNumbers:
    try:
        image = pillow.open_image(file, limits)
    except UnidentifiedImageError:
        raise no_photo() from None
    with image:
        frames = pillow.pages(image) if reading.frame != "first" else [0]
        frame = frames[reading.frame_index(len(frames))]
        image.seek(frame)
        refuse_bomb(image.width, image.height, limits)
        stored = getattr(image, "tag_v2", {}).get(_SAMPLES_PER_PIXEL, 1)
        if stored > len(image.getbands()) or pillow.is_misread(image):
            raise UnreadableError("it has bands that Pillow can't read", 'pip install "unfreeze[tiff]"')
        with budget.reserve(BYTES_PER_PIXEL * image.width * image.height):
            bands = _pillow_bands(image, partial(pillow.open_image, file, limits, frame))
        return FileNumbers(bands, orientation=pillow.orientation(image), n_frames=len(frames))


def _pillow_bands(image: Image.Image, reopen: Opener) -> Bands:
    """Return an opened image's numbers, shape (height, width, bands)."""
    raw_mode = raw_mode_of(image)
    if is_deep_ppm(image):
        return ppm_bands(image)
    image.load()
    if is_deep(raw_mode, image.mode):
        return _without_opacity(deep_bands(image, raw_mode, reopen))
    if image.mode.startswith(_GREY) and image.mode not in ("LA", "La"):
        grey = np.asarray(image.convert("L") if image.mode == "1" else image)
        if image.mode == "I" and grey.min() >= 0 and grey.max() < 2**16:  # Pillow's mode for 16 bits, too
            grey = grey.astype(np.uint16)
        return _grey_bands(image, grey)
    if image.mode in ("LA", "RGBA"):
        return _without_opacity(np.asarray(image))
    return np.asarray(image.convert("RGB"))


def _grey_bands(image: Image.Image, grey: Bands) -> Bands:
    tags = getattr(image, "tag_v2", {})
    nodata = pillow.missing_number(str(tags.get(pillow.GDAL_NODATA, "")))
    if tags.get(pillow.PHOTOMETRIC) == pillow.WHITE_IS_ZERO and grey.dtype != np.uint8:  # Pillow turns 8 bits by itself
        grey = inverted(grey)
    return without_missing(grey, nodata)[..., None]


def _without_opacity(bands: Bands) -> Bands:
    return bands if as_opacity(bands[..., -1]) is None and bands[..., -1].any() else bands[..., :-1]
