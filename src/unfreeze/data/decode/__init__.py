"""Decoding of image files to upright 8-bit RGB, the same for training, evaluation, prediction and serving."""

from unfreeze.data.decode.decoding import Decoded, decode, inspect
from unfreeze.data.decode.formats import ANY_PHOTO, HEIF_SUFFIXES, MAX_PIXELS, PHOTO_SUFFIXES, DecodeLimits
from unfreeze.data.decode.traits import Facts, Trait, facts_key, pixel_key, trait_notes

__all__ = [
    "ANY_PHOTO",
    "HEIF_SUFFIXES",
    "MAX_PIXELS",
    "PHOTO_SUFFIXES",
    "DecodeLimits",
    "Decoded",
    "Facts",
    "Trait",
    "decode",
    "facts_key",
    "inspect",
    "pixel_key",
    "trait_notes",
]
