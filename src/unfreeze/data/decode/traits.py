"""What decoding left of a file unseen or changed, as values for the cache and as notes for the user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, cast, get_args

from unfreeze.reading import Reading

Trait = Literal["deep", "upper bits", "frames", "fourth band", "reduced", "bands", "clipped"]
"""``deep``: more than 8 bits a band, scaled to 8.  ``upper bits``: the same, where only the upper 8 can be read.
``frames``: several pages or frames.  ``fourth band``: a band beside the colours that isn't opacity.  ``reduced``: so many
pixels that it is decoded at a reduced size.  ``bands``: more than four bands, or two that are no opacity.  ``clipped``:
most of its numbers lie outside of the scaling of the training photos."""

TRAITS = get_args(Trait)

_NOTES: dict[Trait, str] = {
    "deep": "Photos with more than 8 bits a band: {n}; each is stretched to 8 bits by itself (a DICOM by its window): "
    "how bright it is beside the others is lost.",
    "upper bits": "Photos with more than 8 bits a band whose upper 8 bits are used: {n}; if these are dark, save them "
    "as PNG or TIFF.",
    "frames": "Files that hold several pages or frames: {n}; {frame} of each is looked at{tip}.",
    "fourth band": "Photos with a fourth band that doesn't look like opacity: {n}; their first three bands are used.",
    "bands": "Photos of more bands than three: {n}; only the first three (or one) are used: --bands all takes all of them.",
    "clipped": "Photos most of whose numbers lie outside of what the model was trained on ({scaling}): {n}; are they in "
    "other units?",
}


class Facts(NamedTuple):
    """What is known of an image file that was decoded.

    Attributes:
        size: Width and height of the upright image.
        traits: What decoding leaves of the file unseen or changes.
        fingerprint: What the image shows, in hexadecimal digits (see ``fingerprints.py``).
    """

    size: tuple[int, int]
    traits: tuple[Trait, ...] = ()
    fingerprint: str = ""


def traits_from(names: Iterable[str]) -> tuple[Trait, ...]:
    """Return the traits of these names, in a fixed order; unknown names are dropped."""
    given = set(names)
    return tuple(cast(Trait, name) for name in TRAITS if name in given)


def trait_notes(traits: Iterable[Iterable[Trait]], reading: Reading) -> Iterator[str]:
    """Yield a line for each trait of the files that the user should know of.

    Args:
        traits: The traits of each file.
        reading: How the files were read.
    """
    counts = Counter(trait for of_one in traits for trait in of_one)
    tip = "" if reading.frame != "first" else " (--frame middle, or a number, takes another)"
    unseen = ("deep", "upper bits", "fourth band", "bands") if reading.channels else ()
    for trait, note in _NOTES.items():
        if counts[trait] and trait not in unseen:
            yield note.format(n=counts[trait], frame=reading.frame_name, tip=tip, scaling=reading.range_name)


def pixel_key(digest: str, traits: Iterable[Trait], reading: Reading) -> str:
    """Return a key of the pixels that a file is decoded to: its digest, and what else they depend on, if anything."""
    names = set(traits)
    parts = [digest, *sorted(names & {"deep", "fourth band", "reduced", "bands"})]
    if "frames" in names and reading.frame != "first":
        parts.append(reading.frame_name)
    if reading.channels:
        parts.append(reading.numbers_key)
    return " ".join(parts)


def facts_key(digest: str, reading: Reading) -> str:
    """Return a key of what is known of a file, before it is known whether it has several frames."""
    return pixel_key(digest, ("frames",), Reading(reading.frame))
