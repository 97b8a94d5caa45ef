"""Decoding of image files to upright 8-bit RGB, the same for training, evaluation, prediction and serving.

Pillow, pydicom and tifffile read the files.  This module adds orientation, bit depth, transparency, limits and errors.
torchvision.io is not used, as it reads no TIFF, BMP or DICOM.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from unfreeze.data.signatures import HEAD_BYTES, is_bare_dicom, is_heif
from unfreeze.errors import DecodeError, FormatError, MissingExtraError, SizeError, UnfreezeError
from unfreeze.runtime import suppress_warnings

if TYPE_CHECKING:
    import numpy.typing as npt

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
        formats: Pillow's names, tried on the file's content in this order, and DICOM.
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

_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LARGEST_PIXEL = 16  # bytes: four bands of float32
_BITS_PER_SAMPLE, _ORIENTATION, _PLANAR_CONFIGURATION, _GDAL_NODATA = 258, 274, 284, 42113
_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_TRANSPOSE_BY_EXIF = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(source: Path | BinaryIO, min_side: int | None = None, limits: DecodeLimits = ANY_PHOTO) -> Image.Image:
    """Decode an image file to upright 8-bit RGB; safe to call from several threads at once.

    - The file's content decides the format, not its suffix.  The first frame or page is decoded; ICC profiles aren't
      applied.
    - EXIF orientation is applied: the network sees the image as the person who labelled it saw it.
    - Transparent parts turn white, as most viewers show them; the colours stored below them are arbitrary.
    - 16-bit, 32-bit and float grey is stretched from its own 0.5th-99.5th percentile to 0-255, because a plain
      conversion clips: 16-bit X-rays turn white and floats in 0..1 black.  Non-finite and no-data pixels turn black.
      8-bit images are never stretched; of 16-bit colour the upper 8 bits are used.
    - DICOM's rescale slope and window are applied.  TIFFs that Pillow can't read are read by tifffile, if installed;
      their first three bands are used, stretched together where they aren't 8-bit.

    Args:
        source: The file's path, or the open file.
        min_side: Pixels; a JPEG may be decoded to a half, a quarter or an eighth of its size, with a short side of at
            least this.  This skips the finest detail and leaves less to downscale.  None: full size.
        limits: The accepted formats and sizes.

    Raises:
        FormatError: The file is no image, or not in an accepted format.
        SizeError: The image has more pixels than are limits.
        DecodeError: The file is missing or damaged.
        MissingExtraError: The file is DICOM and pydicom isn't installed, or HEIF (HEIC) and pillow-heif isn't.
    """
    path = source if isinstance(source, Path) else None
    try:
        opened = source.open("rb") if isinstance(source, Path) else nullcontext(source)
        with opened as file, suppress_warnings(module=r"(PIL|pydicom|tifffile)\b"):
            return _decode(file, path, min_side, limits)
    except UnfreezeError:
        raise
    except Image.DecompressionBombError as error:
        raise SizeError(
            f"The photo has more than the {limits.pixels:,} pixels that are read.",
            where=path,
            mend="Save it in a smaller size; networks see a few hundred pixels a side.",
        ) from error
    except Exception as error:  # Pillow raises any class on bad data, from SyntaxError to MemoryError
        reason = (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
        raise DecodeError(
            f"The photo can't be read: {reason}.", where=path, mend="Save it anew as JPEG or PNG, or remove it."
        ) from error


def jpeg_size(path: Path) -> tuple[int, int] | None:
    """Return the upright width and height of a JPEG that ``decode`` has read, from its header; None for other formats."""
    with suppress_warnings(module=r"PIL\b"), path.open("rb") as file:
        try:
            image = Image.open(file, formats=["JPEG"])
        except UnidentifiedImageError:
            return None
        with image:
            width, height = image.size
            try:
                turned = image.getexif().get(_ORIENTATION, 1) in _QUARTER_TURNS
            except Exception:  # malformed EXIF, which decoding ignores, too
                turned = False
    return (height, width) if turned else (width, height)


def _decode(file: BinaryIO, path: Path | None, min_side: int | None, limits: DecodeLimits) -> Image.Image:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if not head:
        raise DecodeError("The file is empty.", where=path, mend="Copy it anew, or remove it.")
    # DICOM comes first, because its free preamble may look like a TIFF.
    named_dicom = path is not None and path.suffix.lower() in (".dcm", ".dicom")
    bare_dicom = is_bare_dicom(head)
    if "DICOM" in limits.formats and (named_dicom or bare_dicom or head[128:132] == b"DICM"):
        return _decode_dicom(file, path, limits, bare_dicom)
    if "HEIF" in limits.formats and is_heif(head):
        _register_heif(path)
    Image.init()
    try:
        image = Image.open(file, formats=[name for name in limits.formats if name in Image.OPEN])
    except UnidentifiedImageError:
        if "TIFF" in limits.formats and head.startswith(_TIFF_SIGNATURES):
            return _decode_scientific_tiff(file, path, limits)
        raise FormatError(
            "The content is no photo in a format that is read here.",
            where=path,
            mend="Save it as JPEG or PNG, or remove it.",
        ) from None
    with image:
        _refuse_bomb(image.width, image.height, limits)
        if _is_deep_planar(image):
            return _decode_scientific_tiff(file, path, limits)
        if min_side is not None:
            image.draft(None, (min_side, min_side))  # affects JPEG only
        image.load()
        return _flatten(_turn_upright(image))


def _register_heif(path: Path | None) -> None:
    """Let Pillow open HEIF files, which it can't by itself."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        purpose = "Reading a HEIC photo" if path is None else f"Reading the HEIC photo {path.name}"
        raise MissingExtraError("pillow-heif", "heic", purpose) from None
    register_heif_opener()


def _refuse_bomb(width: int, height: int, limits: DecodeLimits) -> None:
    # Pillow checks this first, but by a global setting that other libraries switch off.
    if width * height > limits.pixels:
        raise Image.DecompressionBombError


def _is_deep_planar(image: Image.Image) -> bool:
    # Pillow 13 reads the bytes of 16-bit colour planes as 8-bit pixels, without an error.
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, ())
    return tags.get(_PLANAR_CONFIGURATION) == 2 and len(bits) > 1 and max(bits) > 8


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        method = _TRANSPOSE_BY_EXIF.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # malformed EXIF; the pixels have been decoded in full
        method = None
    return image if method is None else image.transpose(method)


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.float32)
        nodata = str(getattr(image, "tag_v2", {}).get(_GDAL_NODATA, "")).strip(" \0")
        if nodata:
            values[values == np.float32(nodata)] = np.nan
        return _to_rgb(_stretch(values))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        # Some programs write 0 throughout an unused alpha channel.
        if image.getchannel("A").getextrema() != (0, 0):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _stretch(values: npt.NDArray[np.float32], window: tuple[float, float] | None = None) -> npt.NDArray[np.uint8]:
    """Map ``window`` (default: the finite values' 0.5th-99.5th percentile) linearly to 0-255."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.zeros(values.shape, np.uint8)
    low, high = window or map(float, np.percentile(finite, (0.5, 99.5)))
    if high <= low:  # nearly all pixels are equal, as in a mask with a small bright spot
        low, high = float(finite.min()), float(finite.max())
    span = max(high - low, float(np.finfo(np.float32).tiny))
    with np.errstate(all="ignore"):
        scaled = (np.clip(np.nan_to_num(values, nan=low), low, high) - low) / span * 255 + 0.5
    pixels: npt.NDArray[np.uint8] = scaled.astype(np.uint8)
    return pixels


def _to_rgb(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def _decode_scientific_tiff(file: BinaryIO, path: Path | None, limits: DecodeLimits) -> Image.Image:
    try:
        import tifffile
    except ImportError:
        raise DecodeError(
            "Pillow can't open this kind of TIFF.",
            where=path,
            mend='Save it as 8-bit RGB, or try pip install "unfreeze[tiff]".',
        ) from None
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        _refuse_bomb(page.imagewidth, page.imagelength, limits)
        if page.nbytes > _LARGEST_PIXEL * limits.pixels:  # the header promises thousands of bands
            raise Image.DecompressionBombError
        pixels: npt.NDArray[Any] = page.asarray()
        if page.axes.startswith("S"):
            pixels = np.moveaxis(pixels, 0, -1)
    bands = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or bands not in (1, 3, 4):
        raise DecodeError(
            f"The TIFF has {bands} bands, and only a person can say which three to show.",
            where=path,
            mend="Make a 3-band rendering, for example with gdal_translate -b 4 -b 3 -b 2.",
        )
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if bands == 1 else pixels[..., :3]
    return _to_rgb(pixels if pixels.dtype == np.uint8 else _stretch(pixels.astype(np.float32)))


def _decode_dicom(file: BinaryIO, path: Path | None, limits: DecodeLimits, bare: bool) -> Image.Image:
    try:
        import pydicom
        from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
    except ImportError:
        purpose = "Reading a DICOM file" if path is None else f"Reading the DICOM file {path.name}"
        raise MissingExtraError("pydicom", "dicom", purpose) from None
    dataset = pydicom.dcmread(file, force=bare)
    if bare and "TransferSyntaxUID" not in dataset.file_meta:  # it is known from the values' encoding alone
        implicit, _ = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
        )
    _refuse_bomb(int(dataset.Columns), int(dataset.Rows), limits)
    pixels: npt.NDArray[Any] = pixel_array(dataset, index=0)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 3:
        return _to_rgb(pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8))
    values = apply_modality_lut(pixels, dataset)
    window = _linear_window(dataset)
    if window is None:
        values = apply_voi_lut(values, dataset)
    grey = _stretch(np.asarray(values, np.float32), window)
    return _to_rgb(255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey)


def _linear_window(dataset: Any) -> tuple[float, float] | None:
    """Return the lowest and highest value of the first window, or None without a linear window."""
    if "VOILUTSequence" in dataset or dataset.get("VOILUTFunction") == "SIGMOID":
        return None
    centre, width = (np.atleast_1d(dataset.get(key) or 0.0)[0] for key in ("WindowCenter", "WindowWidth"))
    return (float(centre) - float(width) / 2, float(centre) + float(width) / 2) if width > 0 else None
