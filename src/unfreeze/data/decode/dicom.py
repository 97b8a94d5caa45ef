"""DICOM files, read by pydicom: rescale slope, window, palette and colour."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from unfreeze.data.decode.formats import DecodeLimits, refuse_bomb
from unfreeze.data.decode.memory import BYTES_PER_PIXEL, budget
from unfreeze.data.decode.numbers import Bands, FileNumbers, to_rgb
from unfreeze.data.decode.reasons import SAVE_ANEW, UnreadableError
from unfreeze.data.decode.traits import Trait
from unfreeze.data.signatures import is_bare_dicom, photo_format
from unfreeze.errors import FormatError, MissingExtraError
from unfreeze.reading import Reading

SUFFIXES = (".dcm", ".dicom")
HEAD = 132  # bytes of a file up to its mark
_CODECS = (
    "pylibjpeg",
    "libjpeg",
    "openjpeg",
)  # of the extra; without them pydicom tries Pillow, which reads 8 bits alone
_NO_IMAGE = "Remove it, or choose the DICOM files that hold images."


@dataclass(frozen=True)
class DicomImage:
    """A DICOM file's image.

    Attributes:
        image: The pixels.
        n_frames: How many frames the file has.
        traits: What the pixels lost.
    """

    image: Image.Image
    n_frames: int
    traits: frozenset[Trait]


def is_dicom(head: bytes, suffix: str) -> bool:
    """Return whether a file is DICOM, by its first ``HEAD`` bytes and its suffix; old ones lack the mark."""
    if head[128:] == b"DICM" or suffix.lower() in SUFFIXES or is_bare_dicom(head):
        return True
    return suffix.lower() == ".ima" and photo_format(head) is None  # other photos are called so, too


def read_dicom(file: BinaryIO, path: Path | None, limits: DecodeLimits, reading: Reading) -> DicomImage:
    """Read a frame.

    Raises:
        FormatError: It is no DICOM file, or holds no image.
        UnreadableError: A codec is missing.
        MissingExtraError: pydicom is missing.
        DecompressionBombError: There are more pixels than ``limits`` allow.
    """
    dataset = _image_dataset(file, path, limits)
    count = max(1, int(dataset.get("NumberOfFrames") or 1))
    with budget.reserve(BYTES_PER_PIXEL * 2 * int(dataset.Columns) * int(dataset.Rows)):
        image, deep = _rendered(dataset, reading.frame_index(count))
    return DicomImage(image, count, frozenset({"deep"} if deep else ()))


def read_dicom_numbers(file: BinaryIO, path: Path | None, limits: DecodeLimits, reading: Reading) -> FileNumbers:
    """Read a frame's numbers after rescale slope and intercept (of CT: Hounsfield units); for errors see ``read_dicom``.

    Inverted grey (MONOCHROME1) is turned: more is brighter in all files.  Padding isn't known (NaN).
    """
    from pydicom.pixels import apply_color_lut, apply_modality_lut

    dataset = _image_dataset(file, path, limits)
    count = max(1, int(dataset.get("NumberOfFrames") or 1))
    with budget.reserve(BYTES_PER_PIXEL * 2 * int(dataset.Columns) * int(dataset.Rows)):
        pixels = _frame(dataset, reading.frame_index(count))
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            pixels = _eight_bit_palette(apply_color_lut(pixels, dataset), little_endian=dataset.original_encoding[1])
        if pixels.ndim == 3:
            return FileNumbers(pixels, n_frames=count)
        is_signed = bool(dataset.get("PixelRepresentation", 0))
        lowest = -(2 ** (int(dataset.BitsStored) - 1)) if is_signed else 0
        bounds = np.array([lowest, lowest + 2 ** int(dataset.BitsStored) - 1])
        padding = _padding(dataset, pixels)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            pixels = (bounds.sum() - pixels.astype(np.int64)).astype(np.float64)
        values = np.asarray(apply_modality_lut(pixels, dataset), np.float32)
        values[padding] = np.nan
        window = _linear_window(dataset) if dataset.PhotometricInterpretation == "MONOCHROME2" else None
        slope, intercept = (
            float(dataset.get(f"Rescale{name}") or neutral) for name, neutral in (("Slope", 1), ("Intercept", 0))
        )
        full = None if "ModalityLUTSequence" in dataset else tuple(sorted(bounds * slope + intercept))
        return FileNumbers(values[..., None], n_frames=count, full=full, window=window)


def _padding(dataset: Any, pixels: Bands) -> npt.NDArray[np.bool_]:
    """Return which pixels the header marks as outside of the picture, by one number or a range of numbers."""
    first = dataset.get("PixelPaddingValue")
    if not isinstance(first, int):
        return np.zeros(pixels.shape, bool)
    last = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((first, last if isinstance(last, int) else first))
    padding: npt.NDArray[np.bool_] = (pixels >= low) & (pixels <= high)
    return padding


def _image_dataset(file: BinaryIO, path: Path | None, limits: DecodeLimits) -> Any:
    try:
        import pydicom
    except ImportError:
        purpose = "Reading a DICOM file" if path is None else f"Reading the DICOM file {path.name}"
        raise MissingExtraError("pydicom", "dicom", purpose) from None
    dataset = _dataset(pydicom, file, path)
    if "Rows" not in dataset or "Columns" not in dataset:
        kind = dataset.get("Modality")
        raise FormatError(
            f"There is no image in this DICOM file{f' ({kind})' if kind else ''}.", where=path, mend=_NO_IMAGE
        )
    refuse_bomb(int(dataset.Columns), int(dataset.Rows), limits)
    return dataset


def _rendered(dataset: Any, index: int) -> tuple[Image.Image, bool]:
    """Return a frame as RGB, and whether it had more than 8 bits."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

    pixels = _frame(dataset, index)
    photometric = dataset.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        pixels = _eight_bit_palette(apply_color_lut(pixels, dataset), little_endian=dataset.original_encoding[1])
    if pixels.ndim == 3:
        return to_rgb(pixels), pixels.dtype != np.uint8
    values = apply_modality_lut(pixels, dataset)
    window = _linear_window(dataset)
    if window is None:
        values = apply_voi_lut(values, dataset)
        values = _whole_range(values, int(dataset.BitsStored))
    deep = values.dtype != np.uint8
    if window is not None:
        values = np.asarray(values, np.float32)
    grey = np.asarray(to_rgb(values, window=window))
    return Image.fromarray(255 - grey if photometric == "MONOCHROME1" else grey), deep


def _dataset(pydicom: Any, file: BinaryIO, path: Path | None) -> Any:
    """Read the file, with what a file without preamble lacks: the name of the pixels' encoding."""
    try:
        dataset = pydicom.dcmread(file)
    except pydicom.errors.InvalidDicomError:
        file.seek(0)
        try:
            dataset = pydicom.dcmread(file, force=True)
        except Exception:  # its bytes make no elements
            dataset = {}
        if not ("SOPClassUID" in dataset or "Rows" in dataset or "Modality" in dataset):
            raise FormatError("The content is no DICOM.", where=path, mend="Remove it, or copy it anew.") from None
    meta = getattr(dataset, "file_meta", None)
    if meta is None:
        meta = dataset.file_meta = pydicom.dataset.FileMetaDataset()
    if "TransferSyntaxUID" not in meta:
        implicit, little = dataset.original_encoding
        uid = pydicom.uid
        plain = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else plain
    return dataset


def _frame(dataset: Any, index: int) -> Bands:
    from pydicom.pixels import pixel_array

    try:
        pixels: Bands = pixel_array(dataset, index=index)
    except AttributeError as error:
        if "PixelData" in dataset or "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise
        raise FormatError("There is no image in this DICOM file.", mend=_NO_IMAGE) from error
    except (RuntimeError, NotImplementedError) as error:
        name = getattr(dataset.file_meta.TransferSyntaxUID, "name", "an unknown encoding")
        if "missing dependencies" in str(error):
            reason = f"its pixels are compressed ({name}), and a package for that is missing"
            raise UnreadableError(reason, 'pip install "unfreeze[dicom]"') from error
        if isinstance(error, NotImplementedError):
            reason = f"its pixels are compressed in a way that isn't read here ({name})"
            raise UnreadableError(reason, "Save it anew without compression, or remove it.") from error
        mend = SAVE_ANEW
        if dataset.file_meta.TransferSyntaxUID.is_compressed and any(find_spec(codec) is None for codec in _CODECS):
            mend = f'Install what reads more kinds, pip install "unfreeze[dicom]"; if that doesn\'t help: {SAVE_ANEW}'
        raise UnreadableError(f"its pixels are damaged, or of a kind that isn't read here ({name})", mend) from error
    return pixels


def _eight_bit_palette(colours: Bands, *, little_endian: bool) -> Bands:
    """Return a palette's colours in 8 bits; some writers fill the lower byte of a 16-bit entry alone."""
    if colours.dtype == np.uint8:
        return colours
    if little_endian is False:  # pydicom 3 takes the entries for little-endian
        colours = colours.byteswap()
    eight_bit: Bands = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
    return eight_bit


def _whole_range(values: Bands, bits: int) -> Bands:
    """Return 8-bit values as they are and those of fewer bits over the whole range; deeper ones aren't changed."""
    if values.dtype != np.uint8 or bits >= 8:
        return values
    whole: Bands = (np.minimum(values.astype(np.float32) * (255 / (2**bits - 1)), 255) + 0.5).astype(np.uint8)
    return whole


def _linear_window(dataset: Any) -> tuple[float, float] | None:
    """Return the lowest and highest value of the first window, or None without a linear window."""
    if "VOILUTSequence" in dataset or dataset.get("VOILUTFunction") == "SIGMOID":
        return None
    centre, width = (np.atleast_1d(dataset.get(key) or 0.0)[0] for key in ("WindowCenter", "WindowWidth"))
    return (float(centre) - float(width) / 2, float(centre) + float(width) / 2) if width > 0 else None
