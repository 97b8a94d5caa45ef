"""Copies of one photo in several files: with the same pixels, or saved anew in another size, quality or format."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from unfreeze.data.decode import decode, inspect_numbers
from unfreeze.data.fingerprints import LUMA, Small, areas, shrink, similar
from unfreeze.data.sources import Sample
from unfreeze.errors import DecodeError
from unfreeze.reading import FIRST_FRAME, Reading

DECODED_SIDE = 256  # of a JPEG that is compared with others: it is decoded to a fraction of its size, which is faster
MAX_ASPECT = 1.03  # ratio of the aspect ratios of two files of one photo
MAX_STEP = 8  # grey levels between two files of one photo at any place of the small image; 1 to 7 when saved anew
MAX_COLOR_STEP = 6  # levels between the mean colours of any area
MIN_CORRELATION = 0.99  # of the small images' luminance: of a plain surface, noise decides, and little is alike
_KEPT = 2048  # small images in memory
_STRIP = 256  # rows that are hashed at a time


@dataclass(frozen=True)
class Copies:
    """Which files show the same photo, by the SHA-256 of the files.

    Attributes:
        identical: For each file with the same pixels as an earlier one, the first of these.
        alike: Pairs of a file and the first one that looks the same, though its pixels aren't.
    """

    identical: Mapping[str, str]
    alike: tuple[tuple[str, str], ...]

    def content(self, sample: Sample) -> str:
        """Return what all files with the same pixels have in common."""
        return self.identical.get(sample.digest, sample.digest)


def find_copies(samples: Iterable[Sample], reading: Reading = FIRST_FRAME) -> Copies:
    """Find files of the same photo among samples that were read.

    Only files with close fingerprints are decoded again, to be compared: two files that look the same differ nowhere by
    more than compression and resizing change.  Copies that were cropped, turned or brightened are other photos.
    """
    files = list({sample.digest: sample for sample in samples}.values())
    if not files:
        return Copies({}, ())
    identical: dict[int, int] = {}
    alike: dict[int, int] = {}
    images = _Images(files, reading)
    for earlier in similar([file.fingerprint for file in files]):
        block = range(images.n_compared, images.n_compared + len(earlier))
        images.prepare({index for pair in zip(block, earlier, strict=True) if pair[1] for index in (pair[0], *pair[1])})
        for index, candidates in zip(block, earlier, strict=True):
            for candidate in candidates:
                first = identical.get(candidate, candidate)
                if images.are_identical(index, candidate):
                    identical[index] = first
                    break
                # Of many files in a row, each like the one before, the last may show something else than the first.
                first = alike.get(first, first)
                if index not in alike and images.look_alike(index, candidate) and images.look_alike(index, first):
                    alike[index] = first
        images.n_compared = block.stop
    pairs = ((files[index].digest, files[first].digest) for index, first in alike.items() if index not in identical)
    return Copies({files[index].digest: files[first].digest for index, first in identical.items()}, tuple(pairs))


class _Images:
    """Comparisons of files by index; small images are decoded in parallel, and full ones one after the other."""

    def __init__(self, files: list[Sample], reading: Reading) -> None:
        self.files = files
        self.reading = reading
        self.n_compared = 0
        self._small: dict[int, Small | None] = {}
        self._pixels: dict[int, str | None] = {}

    def prepare(self, indices: set[int]) -> None:
        """Decode the small images of these files."""
        missing = sorted(indices - self._small.keys())
        if len(self._small) + len(missing) > _KEPT:
            self._small, missing = {}, sorted(indices)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            self._small |= dict(zip(missing, pool.map(self._shrunk, missing), strict=True))

    def are_identical(self, index: int, other: int) -> bool:
        """Return whether two files have the same pixels; both are decoded in full if they nearly have."""
        if self.files[index].size != self.files[other].size or not self._are_close(index, other):
            return False
        pixels = self._hashed(index)
        return pixels is not None and pixels == self._hashed(other)

    def look_alike(self, index: int, other: int) -> bool:
        """Return whether two files show the same photo."""
        (width, height), (other_width, other_height) = self.files[index].size, self.files[other].size
        ratio = width * other_height / (height * other_width)
        return (
            1 / MAX_ASPECT <= ratio <= MAX_ASPECT
            and self._are_close(index, other)
            and self._correlation(index, other) >= MIN_CORRELATION
        )

    def _are_close(self, index: int, other: int) -> bool:
        first, second = self._image(index), self._image(other)
        if first is None or second is None:
            return False
        difference = first - second
        luminance = np.abs(difference @ LUMA).max()
        return bool(luminance <= MAX_STEP and np.abs(areas(difference)).max() <= MAX_COLOR_STEP)

    def _correlation(self, index: int, other: int) -> float:
        first, second = self._image(index), self._image(other)
        assert first is not None
        assert second is not None
        x, y = (image @ LUMA - (image @ LUMA).mean() for image in (first, second))
        return float((x * y).mean() / max(math.sqrt((x**2).mean() * (y**2).mean()), 1e-6))

    def _image(self, index: int) -> Small | None:
        if index not in self._small:
            self._small[index] = self._shrunk(index)
        return self._small[index]

    def _shrunk(self, index: int) -> Small | None:
        try:
            return shrink(decode(self.files[index].path, DECODED_SIDE, reading=self.reading))
        except (DecodeError, OSError):  # gone since it was read
            return None

    def _hashed(self, index: int) -> str | None:
        if index not in self._pixels:
            try:
                self._pixels[index] = self._hash(self.files[index])
            except (DecodeError, OSError):
                self._pixels[index] = None
        return self._pixels[index]

    def _hash(self, file: Sample) -> str:
        content = hashlib.sha256()
        if {"deep", "bands"} & set(file.traits):  # as pictures, two photos of different brightness may be the same
            numbers = inspect_numbers(file.path, self.reading).bands
            content.update(f"{numbers.shape} {numbers.dtype}".encode())
            content.update(np.ascontiguousarray(numbers).data)
            return content.hexdigest()
        image = decode(file.path, reading=self.reading)
        for top in range(0, image.height, _STRIP):  # a large image isn't copied at once
            content.update(image.crop((0, top, image.width, min(top + _STRIP, image.height))).tobytes())
        return content.hexdigest()
