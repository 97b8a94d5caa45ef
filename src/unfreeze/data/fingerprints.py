"""Fingerprints of what photos show: files whose fingerprints are close may be copies of one photo, saved anew.

A fingerprint has a perceptual hash (pHash: signs of a small image's low frequencies), which is quick to compare with many
others, and the luminance of 8 x 8 areas, which tells most different photos apart whose hashes are close.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 32  # pixels of the small image that photos are compared by
AREAS = 8  # a side: each is 4 x 4 pixels of the small image
MAX_BITS = 10  # of 64 that may differ: compression and resizing change up to 4 in photos, up to 10 on plain surfaces
MAX_AREA_STEP = 6  # grey levels that the mean of an area may differ by
MAX_UNSEEN_STEP = 3  # the same where only the fingerprints are compared
NEIGHBOURS = 8  # earlier photos that one photo is compared with in full: the most similar ones
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_BLOCK = 256  # photos that are compared at a time with all earlier ones
_NUMBERS = np.arange(SIDE)
_DCT = np.cos(np.pi * (2 * _NUMBERS + 1) * np.arange(AREAS)[:, None] / (2 * SIDE))

Small = npt.NDArray[np.float32]
"""A photo as SIDE x SIDE pixels, whatever its shape; shape (SIDE, SIDE, 3)."""


def checked_fingerprint(value: object) -> str:
    """Return a fingerprint that was kept in a file.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, str) or len(bytes.fromhex(value)) != 8 + AREAS**2:
        raise ValueError("no fingerprint")
    return value


def shrink(image: Image.Image) -> Small:
    """Return the small image of an RGB photo."""
    # A linear filter: a box, whose edges snap to pixels, gives another small image for the same photo at half its size.
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0), np.float32)


def areas(small: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the means of AREAS x AREAS areas of a small image, or of one of its channels."""
    step = SIDE // AREAS
    means: npt.NDArray[np.float32] = small.reshape(AREAS, step, AREAS, step, *small.shape[2:]).mean((1, 3))
    return means


def fingerprint(image: Image.Image) -> str:
    """Return the fingerprint of an RGB photo: 8 bytes of hash and 64 of luminances, in hexadecimal digits."""
    grey = shrink(image) @ LUMA
    frequencies = (_DCT @ grey @ _DCT.T).ravel()
    bits = frequencies > np.median(frequencies[1:])  # the first is the mean
    return np.packbits(bits).tobytes().hex() + areas(grey).round().astype(np.uint8).tobytes().hex()


def similar(fingerprints: Sequence[str]) -> Iterator[list[list[int]]]:
    """Yield, block by block, each photo's earlier photos with a close fingerprint, the closest first.

    At most ``NEIGHBOURS`` of them are listed, and a photo that was listed is still compared with later ones.  The time is
    quadratic: a second for 20,000 photos.
    """
    hashes, luminances = _parsed(fingerprints)
    for start in range(0, len(hashes), _BLOCK):
        stop = min(start + _BLOCK, len(hashes))
        distances = np.bitwise_count(hashes[start:stop, None] ^ hashes[None, :stop])
        yield [_closest(distances[i - start, :i], luminances[:i], luminances[i]) for i in range(start, stop)]


def close_to(fingerprints: Sequence[str], known: Sequence[str]) -> list[bool]:
    """Return for each fingerprint whether one of the known ones is so close that both are of one photo.

    The pixels aren't there to be compared, so less may differ than in ``similar``.
    """
    if not fingerprints or not known:
        return [False] * len(fingerprints)
    hashes, luminances = _parsed(fingerprints)
    known_hashes, known_luminances = _parsed(known)
    close = []
    for start in range(0, len(hashes), _BLOCK):
        distances = np.bitwise_count(hashes[start : start + _BLOCK, None] ^ known_hashes[None])
        for distance, luminance in zip(distances, luminances[start : start + _BLOCK], strict=True):
            steps = np.abs(known_luminances[distance <= MAX_BITS] - luminance).max(axis=1, initial=0)
            close.append(bool((steps <= MAX_UNSEEN_STEP).any()))
    return close


def luminances(fingerprints: Sequence[str]) -> npt.NDArray[np.int16]:
    """Return the luminances of the areas (N, AREAS x AREAS), row by row of the photo."""
    return _parsed(fingerprints)[1]


def _parsed(fingerprints: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int16]]:
    """Return the hashes (N,) and the luminances (N, areas)."""
    digits = np.frombuffer(bytes.fromhex("".join(fingerprints)), np.uint8).reshape(len(fingerprints), -1)
    return np.ascontiguousarray(digits[:, :8]).view(np.uint64)[:, 0], digits[:, 8:].astype(np.int16)


def _closest(
    distances: npt.NDArray[np.uint8], luminances: npt.NDArray[np.int16], luminance: npt.NDArray[np.int16]
) -> list[int]:
    candidates = np.flatnonzero(distances <= MAX_BITS)
    steps = np.abs(luminances[candidates] - luminance).max(axis=1, initial=0)
    order = np.argsort(steps, kind="stable")
    close: list[int] = candidates[order[steps[order] <= MAX_AREA_STEP]][:NEIGHBOURS].tolist()
    return close
