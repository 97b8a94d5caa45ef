"""Decoding of image files to 8-bit RGB or to numbers in bands, the same for training, evaluation and use."""

from unfreeze.data.decode.band_image import BandImage, Pixels, as_picture
from unfreeze.data.decode.decoding import Decoded, decode, decode_pixels, inspect, inspect_numbers
from unfreeze.data.decode.formats import ANY_PHOTO, HEIF_SUFFIXES, MAX_PIXELS, PHOTO_SUFFIXES, DecodeLimits
from unfreeze.data.decode.numbers import FileNumbers
from unfreeze.data.decode.traits import Facts, Trait, facts_key, pixel_key, trait_notes

__all__ = [
    "ANY_PHOTO",
    "HEIF_SUFFIXES",
    "MAX_PIXELS",
    "PHOTO_SUFFIXES",
    "BandImage",
    "DecodeLimits",
    "Decoded",
    "Facts",
    "FileNumbers",
    "Pixels",
    "Trait",
    "as_picture",
    "decode",
    "decode_pixels",
    "facts_key",
    "inspect",
    "inspect_numbers",
    "pixel_key",
    "trait_notes",
]
