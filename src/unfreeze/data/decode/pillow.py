"""Image files that Pillow reads: frames, orientation, opacity."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from PIL import Image

from unfreeze.data.decode.band_image import P
from unfreeze.data.decode.deep_colour import Opener, deep_bands, is_deep, is_deep_ppm, load_as, ppm_bands
from unfreeze.data.decode.formats import DecodeLimits
from unfreeze.data.decode.numbers import Bands, as_opacity, default_window, on_white, to_rgb
from unfreeze.data.decode.reduced import image_rows, reduce_rows
from unfreeze.data.decode.traits import Trait

BITS_PER_SAMPLE, PHOTOMETRIC, ORIENTATION, PLANAR_CONFIGURATION, GDAL_NODATA = 258, 262, 274, 284, 42113
WHITE_IS_ZERO = 0
_NEW_SUBFILE, _OLD_SUBFILE, _IMAGE_DEPTH = 254, 255, 32997
_NOT_A_PAGE = 1 | 4  # bits of the first: a smaller copy of another page, or its mask
_SMALLER_COPY = 2  # value of the second
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
_J2K_SIZE_MARKER = b"\xff\x4f\xff\x51"


def pages(image: Image.Image) -> list[int]:
    """Return the places of an image file's pages or frames, without the smaller copies and masks of a TIFF.

    The further images in a camera's JPEG (a preview, the other eye) are no frames either.
    """
    count = getattr(image, "n_frames", 1)
    if count == 1 or image.format in ("JPEG", "MPO"):
        return [0]
    if image.format != "TIFF":
        return list(range(count))
    found = []
    for number in range(count):
        try:
            image.seek(number)
        except EOFError:
            break
        except Exception:  # a page of a kind that Pillow can't read is a page
            found.append(number)
            continue
        tags = image.tag_v2  # type: ignore[attr-defined]
        if not (tags.get(_NEW_SUBFILE, 0) & _NOT_A_PAGE or tags.get(_OLD_SUBFILE) == _SMALLER_COPY):
            found.append(number)
    return found or [0]


def open_image(file: BinaryIO, limits: DecodeLimits, frame: int = 0) -> Image.Image:
    """Open an image file at a frame; for errors see ``Image.open``."""
    Image.init()
    file.seek(0)
    image = Image.open(file, formats=[name for name in limits.formats if name in Image.OPEN])
    if frame:
        image.seek(frame)
    return image


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; malformed EXIF counts as 1, as the pixels may be intact."""
    try:
        number = image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return number if number in range(1, 9) else 1


def turned(image: P, orientation: int) -> P:
    """Return an image as an EXIF orientation says."""
    method = _TRANSPOSE_BY_EXIF.get(orientation)
    return image if method is None else image.transpose(method)


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the width and height of an image that an EXIF orientation has turned."""
    return (size[1], size[0]) if orientation in _QUARTER_TURNS else size


def is_misread(image: Image.Image) -> bool:
    """Return whether Pillow 13 opens a TIFF, but takes the bytes of deep planes for 8-bit pixels, or ignores slices."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS_PER_SAMPLE, ())
    deep_planes = tags.get(PLANAR_CONFIGURATION) == 2 and len(bits) > 1 and max(bits) > 8
    return bool(deep_planes or tags.get(_IMAGE_DEPTH, 1) > 1)


def flatten(image: Image.Image, raw_mode: str, reopen: Opener, factor: int = 1) -> tuple[Image.Image, set[Trait]]:
    """Load an image and return it as 8-bit RGB, and what that changed; it is not turned.

    Args:
        image: The opened image.
        raw_mode: See ``raw_mode_of``; Pillow forgets it when it loads the pixels.
        reopen: Opens the same frame of the file anew.
        factor: How many pixels, along each side, are averaged to one.
    """
    if is_deep_ppm(image):
        return _flatten_bands(ppm_bands(image), "", None, factor)
    image.load()
    if image.mode.startswith(("I", "F")):
        return _flatten_grey(image, factor)
    if is_deep(raw_mode, image.mode):
        bands = deep_bands(image, raw_mode, reopen)
        return _flatten_bands(bands, raw_mode, image.info.get("transparency"), factor)
    if factor > 1 and image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image.reduce(factor).convert("RGB"), set()  # without a copy of the whole
    flat, traits = _flatten_shallow(image, raw_mode, reopen)
    return flat if factor == 1 else flat.reduce(factor), traits


def _flatten_shallow(image: Image.Image, raw_mode: str, reopen: Opener) -> tuple[Image.Image, set[Trait]]:
    traits: set[Trait] = set()
    if _has_deep_components(image, reopen):
        traits.add("upper bits")
    if len(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, ())) > 3 and image.mode == "RGB":
        traits.add("fourth band")
    if not image.has_transparency_data:
        return image.convert("RGB"), traits
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("LA", "RGBA"):
        alpha = np.asarray(image.getchannel("A"))
        if as_opacity(alpha) is None:
            traits |= _unused(alpha)
            if raw_mode.startswith("RGBa"):  # undo the division by what is no opacity
                image = load_as(reopen(), raw_mode.replace("a", "A"))
            return image.convert("RGB"), traits
    return on_white(image.convert("RGBA")), traits


def missing_number(text: str) -> float | None:
    """Return the number that stands for missing ones by GDAL's tag; None where it names none."""
    try:
        return float(np.float32(text.strip(" \0")))
    except ValueError:
        return None


def _flatten_grey(image: Image.Image, factor: int) -> tuple[Image.Image, set[Trait]]:
    """Return grey of more than 8 bits, black where the file says that there is no data."""
    tags = getattr(image, "tag_v2", {})
    nodata = missing_number(str(tags.get(GDAL_NODATA, "")))
    window = None
    if factor > 1:
        values, sample = reduce_rows(image_rows(image), factor, nodata)
        window = default_window(sample)
    else:
        values = np.asarray(image).astype(np.float32)
        if nodata is not None:
            values[values == nodata] = np.nan
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values, window = -values.astype(np.float32), (-window[1], -window[0]) if window is not None else None
    return to_rgb(values, window=window), {"deep"}


def _flatten_bands(bands: Bands, raw_mode: str, colour_key: object, factor: int) -> tuple[Image.Image, set[Trait]]:
    """Return 16-bit colour, or grey with opacity, as 8-bit RGB."""
    traits: set[Trait] = {"deep"}
    if "X" in raw_mode:
        traits.add("fourth band")
    if isinstance(colour_key, tuple) and bands.shape[2] == 3:
        seen = (bands != np.array(colour_key[:3])).any(axis=2)
        bands = np.dstack([bands, seen.astype(np.uint16) * np.uint16(65535)])
    window = None
    if factor > 1:
        bands, sample = reduce_rows((bands[top : top + 256] for top in range(0, len(bands), 256)), factor)
        window = default_window(sample[..., : 3 if bands.shape[2] > 2 else 1])
    if bands.shape[2] == 3:
        return to_rgb(bands, window=window), traits
    colours, alpha = bands[..., :-1], bands[..., -1]
    opacity = as_opacity(alpha)
    if opacity is None:
        traits |= _unused(alpha)
    elif "a" in raw_mode:
        colours = np.minimum(colours / (np.maximum(alpha[..., None], 1) / np.float32(65535)), 65535)
    return to_rgb(colours, opacity, window), traits


def _unused(alpha: Bands) -> set[Trait]:
    """Return the trait of a band that is no opacity; a band of zeros holds nothing that could be missed."""
    return {"fourth band"} if alpha.any() else set()


def _has_deep_components(image: Image.Image, reopen: Opener) -> bool:
    """Return whether a JPEG 2000 file has more than 8 bits a colour, of which Pillow reads the upper ones."""
    if image.format != "JPEG2000" or image.mode not in ("RGB", "RGBA", "LA"):
        return False
    file: BinaryIO = reopen().fp  # type: ignore[attr-defined]
    file.seek(0)
    head = file.read(2**16)
    start = head.find(_J2K_SIZE_MARKER)
    return start >= 0 and len(head) > start + 42 and (head[start + 42] & 0x7F) + 1 > 8
