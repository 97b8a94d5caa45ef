"""Decoding of image files, the same for training, evaluation, prediction and serving.

Files become upright 8-bit RGB, or, where a reading has channels, their own numbers in bands (``file_numbers.py``).
Pillow, pydicom and tifffile read them.  This package adds orientation, bit depth, transparency, limits and errors.
torchvision.io is not used, as it reads no TIFF, BMP or DICOM.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from PIL import Image, UnidentifiedImageError

from unfreeze.data.decode import pillow
from unfreeze.data.decode.band_image import Pixels, as_picture
from unfreeze.data.decode.deep_colour import raw_mode_of
from unfreeze.data.decode.dicom import HEAD, is_dicom, read_dicom
from unfreeze.data.decode.file_numbers import read_channels, read_numbers
from unfreeze.data.decode.formats import ANY_PHOTO, DecodeLimits, no_photo, refuse_bomb
from unfreeze.data.decode.heif import register_heif
from unfreeze.data.decode.memory import BYTES_PER_PIXEL, budget
from unfreeze.data.decode.numbers import FileNumbers
from unfreeze.data.decode.quiet import silence_libraries
from unfreeze.data.decode.reasons import UnreadableError, mend_of, plain_reason
from unfreeze.data.decode.reduced import reduction
from unfreeze.data.decode.tiff import SIGNATURES, can_be_read_in_parts, read_tiff
from unfreeze.data.decode.traits import Trait, traits_from
from unfreeze.data.signatures import is_heif
from unfreeze.errors import DecodeError, SizeError, UnfreezeError
from unfreeze.reading import FIRST_FRAME, Reading
from unfreeze.runtime import suppress_warnings

T = TypeVar("T")
_CODECS_OF_TIFFFILE = ("webp", "zstd", "lzma")  # TIFF compressions that Pillow's libtiff may lack


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image file.

    Attributes:
        image: The upright image, 8-bit RGB or in the reading's channels; it may be smaller than the file's.
        size: Width and height of the upright image in the file.
        traits: What of the file is unseen or changed.
    """

    image: Pixels
    size: tuple[int, int]
    traits: tuple[Trait, ...]


def decode(
    source: Path | BinaryIO,
    min_side: int | None = None,
    limits: DecodeLimits = ANY_PHOTO,
    reading: Reading = FIRST_FRAME,
) -> Image.Image:
    """Decode an image file to upright 8-bit RGB; safe to call from several threads at once.

    - The file's content decides the format, not its suffix.  ICC profiles aren't applied.
    - EXIF orientation is applied: the network sees the image as the person who labelled it saw it.
    - Transparent parts turn white.  A fourth band is believed to be opacity where it looks like it, see
      ``numbers.as_opacity``; else it is left out.
    - 8-bit images are never stretched.  Deeper ones are, grey and colour alike, whatever their layout and container:
      from their own 0.5th-99.5th percentile to 0-255.  Non-finite and no-data pixels turn black.
    - DICOM's rescale slope and window are applied.  TIFFs that Pillow can't read are read by tifffile, if installed;
      their first three bands are used.
    - Where ``reading`` has channels, they are shown as networks see them; see ``decode_pixels``.
    - The memory that images take while they are decoded is limited for all threads together.

    Args:
        source: The file's path, or the open file.
        min_side: Pixels; a JPEG may be decoded to a half, a quarter or an eighth of its size, and any image of more than
            ``reduced.LARGE`` pixels to a fraction, with a short side of at least this.  This skips the finest detail and
            leaves less to downscale.  None: full size.
        limits: The accepted formats and sizes.
        reading: Which page or frame is decoded, and to which channels.

    Raises:
        FormatError: The file is no image, or not in an accepted format.
        SizeError: The image has more pixels than are limits.
        DecodeError: The file is missing or damaged, or doesn't have the frame.
        MissingExtraError: The file is DICOM and pydicom isn't installed, or HEIF (HEIC) and pillow-heif isn't.
    """
    return as_picture(decode_pixels(source, min_side, limits, reading))


def decode_pixels(
    source: Path | BinaryIO,
    min_side: int | None = None,
    limits: DecodeLimits = ANY_PHOTO,
    reading: Reading = FIRST_FRAME,
) -> Pixels:
    """Decode an image file as ``decode`` does, or to the channels of ``reading``, if it has any: see ``read_numbers``."""
    return _read(source, min_side, limits, reading, count_frames=False).image


def inspect(source: Path | BinaryIO, min_side: int | None = None, reading: Reading = FIRST_FRAME) -> Decoded:
    """Decode an image file, and say what of it is unseen or changed; see ``decode``."""
    return _read(source, min_side, ANY_PHOTO, reading, count_frames=True)


def _read(
    source: Path | BinaryIO, min_side: int | None, limits: DecodeLimits, reading: Reading, *, count_frames: bool
) -> Decoded:
    path = source if isinstance(source, Path) else None
    return _guarded(source, lambda file: _decode(_Request(file, path, min_side, limits, reading, count_frames)), limits)


def inspect_numbers(source: Path, reading: Reading = FIRST_FRAME) -> FileNumbers:
    """Return the numbers of all bands of a file; for errors see ``decode``."""
    return _guarded(source, lambda file: read_numbers(file, source, ANY_PHOTO, reading))


def _guarded(source: Path | BinaryIO, work: Callable[[BinaryIO], T], limits: DecodeLimits = ANY_PHOTO) -> T:
    """Open a file, and say in plain words what is wrong with it."""
    path = source if isinstance(source, Path) else None
    silence_libraries()
    try:
        opened = source.open("rb") if isinstance(source, Path) else nullcontext(source)
        with opened as file, suppress_warnings(module=r"(PIL|pydicom|tifffile)\b"):
            return work(file)
    except DecodeError as error:
        if error.where is None and path is not None:
            raise type(error)(error.what, where=path, mend=error.mend) from error
        raise
    except UnfreezeError:
        raise
    except Image.DecompressionBombError as error:
        raise SizeError(
            f"The photo has more than the {limits.pixels:,} pixels that are read.",
            where=path,
            mend="Save it in a smaller size; networks see a few hundred pixels a side.",
        ) from error
    except UnreadableError as error:
        raise DecodeError(f"The photo can't be read: {error.reason}.", where=path, mend=error.mend) from error
    except Exception as error:  # Pillow raises any class on bad data, from SyntaxError to MemoryError
        raise DecodeError(
            f"The photo can't be read: {plain_reason(error)}.", where=path, mend=mend_of(error)
        ) from error


@dataclass(frozen=True, slots=True)
class _Request:
    """What to decode and how; for the fields see ``decode``.  ``count_frames`` costs a walk through the file."""

    file: BinaryIO
    path: Path | None
    min_side: int | None
    limits: DecodeLimits
    reading: Reading
    count_frames: bool


def _decode(request: _Request) -> Decoded:
    file, limits = request.file, request.limits
    head = file.read(HEAD)
    file.seek(0)
    if not head:
        raise DecodeError("The file is empty.", mend="Copy it anew, or remove it.")
    if request.reading.channels:
        pixels, size, n_frames, is_unsuited = read_channels(
            file, request.path, request.min_side, limits, request.reading
        )
        seen: set[Trait] = {"clipped"} if is_unsuited else set()
        return Decoded(pixels, size, traits_from(seen | _traits(n_frames, 1)))
    # DICOM comes first, because its free preamble may look like a TIFF.
    suffix = request.path.suffix if request.path is not None else ""
    if "DICOM" in limits.formats and is_dicom(head, suffix):
        dicom = read_dicom(file, request.path, limits, request.reading)
        frames: set[Trait] = {"frames"} if dicom.n_frames > 1 else set()
        return Decoded(dicom.image, dicom.image.size, traits_from(dicom.traits | frames))
    if "HEIF" in limits.formats and is_heif(head):
        register_heif(request.path)
    try:
        image = pillow.open_image(file, limits)
    except UnidentifiedImageError:
        if "TIFF" in limits.formats and head.startswith(SIGNATURES):
            return _decode_tiff(request)
        raise no_photo() from None
    with image:
        refuse_bomb(image.width, image.height, limits)
        is_large = reduction(image.size, request.min_side) > 1
        if pillow.is_misread(image) or (is_large and image.format == "TIFF" and can_be_read_in_parts(file)):
            return _decode_tiff(request)
        try:
            return _decode_by_pillow(image, request)
        except (OSError, ValueError) as error:
            layout = isinstance(error, ValueError)  # some layouts in planes
            if image.format == "TIFF" and (layout or image.info.get("compression") in _CODECS_OF_TIFFFILE):
                return _decode_tiff(request)
            raise


def _decode_tiff(request: _Request) -> Decoded:
    tiff = read_tiff(request.file, request.limits, request.reading, request.min_side)
    traits: set[Trait] = {*tiff.traits, *_traits(tiff.n_pages, tiff.factor)}
    size = pillow.upright_size(tiff.size, tiff.orientation)
    return Decoded(pillow.turned(tiff.image, tiff.orientation), size, traits_from(traits))


def _decode_by_pillow(image: Image.Image, request: _Request) -> Decoded:
    """Decode an opened image."""
    count_frames = request.count_frames or request.reading.frame != "first"
    frames = pillow.pages(image) if count_frames else [0]
    frame = frames[request.reading.frame_index(len(frames))]
    image.seek(frame)
    refuse_bomb(image.width, image.height, request.limits)
    size = image.size
    if request.min_side is not None:
        image.draft(None, (request.min_side, request.min_side))  # affects JPEG only
    factor = reduction(image.size, request.min_side)
    raw_mode = raw_mode_of(image)
    with budget.reserve(BYTES_PER_PIXEL * image.width * image.height):
        upright, traits = pillow.flatten(
            image, raw_mode, partial(pillow.open_image, request.file, request.limits, frame), factor
        )
    turn = pillow.orientation(image)  # 1 for TIFFs, which Pillow has turned
    traits |= _traits(len(frames), factor)
    return Decoded(pillow.turned(upright, turn), pillow.upright_size(size, turn), traits_from(traits))


def _traits(n_frames: int, factor: int) -> set[Trait]:
    traits: set[Trait] = {"frames"} if n_frames > 1 else set()
    return traits | {"reduced"} if factor > 1 else traits
