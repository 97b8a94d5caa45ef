"""The lower bits of 16-bit colour, which Pillow drops when it reads PNG, TIFF and PPM."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image

from unfreeze.data.decode.numbers import Bands

Opener = Callable[[], Image.Image]

_OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def raw_mode_of(image: Image.Image) -> str:
    """Return Pillow's name of the layout of an image's bytes in the file, before they are loaded."""
    tiles = getattr(image, "tile", [])
    args = tiles[0].args if tiles else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def is_deep(raw_mode: str, mode: str) -> bool:
    """Return whether a layout has 16-bit bands that Pillow would reduce to 8 bits."""
    colour = raw_mode.startswith(("RGB", "LA")) and mode in ("RGB", "RGBA", "LA")
    return colour and raw_mode.endswith((";16L", ";16B", ";16N"))  # BGR;16 has 16 bits for all three bands


def load_as(image: Image.Image, raw_mode: str) -> Image.Image:
    """Load an image that was opened, with its bytes taken for those of another layout of the same size."""
    tiles = []
    for tile in image.tile:  # type: ignore[attr-defined]
        args = raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:])
        tiles.append(tile._replace(args=args))
    image.tile = tiles  # type: ignore[attr-defined]
    image.load()
    return image


def is_deep_ppm(image: Image.Image) -> bool:
    """Return whether an opened image is a PPM of more than 8 bits."""
    if image.format != "PPM" or image.mode != "RGB":
        return False
    tile = image.tile[0]  # type: ignore[attr-defined]
    return tile.codec_name == "ppm" and int(tile.args[-1]) > 255


def ppm_bands(image: Image.Image) -> Bands:
    """Return the numbers of a PPM of more than 8 bits, which Pillow reduces to 8, pixel by pixel."""
    file: BinaryIO = image.fp  # type: ignore[attr-defined]
    file.seek(image.tile[0].offset)  # type: ignore[attr-defined]
    width, height = image.size
    data = file.read(width * height * 6)
    if len(data) < width * height * 6:
        raise EOFError
    return np.frombuffer(data, ">u2").reshape(height, width, 3).astype(np.uint16)


def deep_bands(image: Image.Image, raw_mode: str, reopen: Opener) -> Bands:
    """Return a file's 16-bit bands, shape (height, width, bands), although Pillow reads only 8 of their bits.

    The bytes of grey with opacity are those of 8-bit RGBA.  Of others Pillow takes the upper byte, and takes the lower one
    for it if it is told the other byte order.
    """
    if raw_mode.startswith("LA"):
        return (
            np.ascontiguousarray(np.asarray(load_as(reopen(), "RGBA"))).view(f"{_order(raw_mode)}u2").astype(np.uint16)
        )
    stored = raw_mode.replace("a", "A")  # Pillow would divide the colours by opacity
    upper = image if stored == raw_mode else load_as(reopen(), stored)
    lower = load_as(reopen(), stored[:-1] + _OTHER_BYTE[stored[-1]])
    bands: Bands = np.asarray(upper).astype(np.uint16) << 8
    bands |= np.asarray(lower)
    return bands


def _order(raw_mode: str) -> str:
    return {"B": ">", "L": "<", "N": "="}[raw_mode[-1]]
