"""The formats and sizes of image files that are decoded."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from unfreeze.errors import FormatError

# fmt: off
PHOTO_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".gif", ".bmp", ".dib", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".dcm", ".dicom", ".heic", ".heif", ".hif",
})
# fmt: on
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})

MAX_PIXELS = 178_956_970
"""Largest width x height that is decoded: Pillow's own hard limit, above any camera (150 MP backs included)."""


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """The formats and sizes that are decoded.

    Attributes:
        formats: Pillow's names, tried on the file's content in this order, DICOM, and HEIF, which a plug-in reads.
        pixels: The largest width x height.
    """

    formats: tuple[str, ...]
    pixels: int


# Pillow also reads formats that start other programs (EPS) or had many vulnerabilities (PSD, FLI): these are left out.
# TGA has no signature and is tried last.
ANY_PHOTO = DecodeLimits(
    ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "TGA", "DICOM", "HEIF"), MAX_PIXELS
)
"""The limits for the user's own files."""


def refuse_bomb(width: int, height: int, limits: DecodeLimits) -> None:
    """Refuse an image by the size in its header.

    Raises:
        DecompressionBombError: It has more pixels than ``limits`` allow.
    """
    # Pillow checks this first, but by a global setting that other libraries switch off.
    if width * height > limits.pixels:
        raise Image.DecompressionBombError


def no_photo() -> FormatError:
    """Return the error for content that no accepted format fits."""
    return FormatError(
        "The content is no photo in a format that is read here.", mend="Save it as JPEG or PNG, or remove it."
    )
