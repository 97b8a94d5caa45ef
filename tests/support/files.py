"""Image files that Pillow doesn't write: 16-bit colour, DICOM."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Pixels = np.ndarray[tuple[int, ...], Any]

_PNG_KIND = {1: 0, 2: 4, 3: 2, 4: 6}  # colour type by the number of bands


def write_png16(path: Path, pixels: Pixels, colour_key: tuple[int, int, int] | None = None) -> Path:
    """Write 16-bit bands, shape (height, width, bands)."""
    height, width, bands = pixels.shape

    def chunk(tag: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, _PNG_KIND[bands], 0, 0, 0)
    key = chunk(b"tRNS", struct.pack(">HHH", *colour_key)) if colour_key else b""
    body = chunk(b"IHDR", head) + key + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def write_ppm16(path: Path, pixels: Pixels, highest: int = 65535) -> Path:
    """Write 16-bit colour, shape (height, width, 3)."""
    path.write_bytes(b"P6\n%d %d\n%d\n" % (pixels.shape[1], pixels.shape[0], highest) + pixels.astype(">u2").tobytes())
    return path


def write_tiff(path: Path, pixels: Pixels, **options: Any) -> Path:
    """Write a TIFF of any layout."""
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(path, pixels, **options)
    return path


def write_dicom(
    path: Path, pixels: Pixels, *, little_endian: bool = True, preamble: bool = True, **elements: Any
) -> Path:
    """Write frames of grey, shape (height, width) or (frames, height, width), or colour, shape (height, width, 3)."""
    pydicom = pytest.importorskip("pydicom")
    uid, bits = pydicom.uid, 8 * pixels.dtype.itemsize
    syntax = uid.ExplicitVRLittleEndian if little_endian else uid.ExplicitVRBigEndian
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    if colour:
        dataset.PlanarConfiguration = 0
    elif pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<" if little_endian else ">")).tobytes()
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    for name, value in elements.items():
        setattr(dataset, name, value)
    if preamble:
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(
        path,
        enforce_file_format=preamble,
        **({} if preamble else {"implicit_vr": False, "little_endian": little_endian}),
    )
    return path
