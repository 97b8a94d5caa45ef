"""What a file is by its first bytes, for files whose suffix doesn't say that they are photos."""

from __future__ import annotations

import re

HEAD_BYTES = 132
"""Bytes that ``photo_format`` needs."""

_STARTS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "JPEG2000": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
}
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
# Group 2 or 8 in either byte order, an element, then the value's kind; or group 8, and the length of a short value.
_BARE_DICOM = re.compile(
    rb"(?:[\x02\x08]\0|\0[\x02\x08])..(?:UL|UI|CS|OB|SH|DA|TM|LO|US)|\x08\0[\0-\x18]\0[\x02-\x40]\0\0\0", re.DOTALL
)


def photo_format(head: bytes) -> str | None:
    """Return the format of a photo that begins with ``head``, by Pillow's name, HEIF or DICOM; None for other files.

    A TGA photo has no signature and isn't recognised.
    """
    for name, starts in _STARTS.items():
        if head.startswith(starts):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return "AVIF" if head[8:12] in _AVIF_BRANDS else "HEIF" if is_heif(head) else None
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if re.match(rb"P[1-6][ \t\r\n]+[\d#]", head):
        return "PPM"
    return "DICOM" if head[128:132] == b"DICM" or is_bare_dicom(head) else None


def is_heif(head: bytes) -> bool:
    """Return whether a file is HEIF, as phones write it (HEIC), and not AVIF, whose container is the same."""
    compatible = [head[place : place + 4] for place in range(16, min(int.from_bytes(head[:4], "big"), len(head)), 4)]
    return (
        head[4:8] == b"ftyp"
        and head[8:12] in _HEIF_BRANDS
        and not (head[8:12] in (b"mif1", b"msf1") and any(brand in _AVIF_BRANDS for brand in compatible))
    )


def is_bare_dicom(head: bytes) -> bool:
    """Return whether a file begins with a DICOM data set, without the preamble that current files have."""
    return _BARE_DICOM.match(head) is not None
