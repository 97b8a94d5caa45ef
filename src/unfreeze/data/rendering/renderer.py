"""Rendering of views in batches: threads decode and transform images while the network computes."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
from PIL import Image

from unfreeze.data.decode import BandImage, Pixels, Trait, decode_pixels, pixel_key
from unfreeze.data.rendering.transforms import Augmentation, render, to_batch
from unfreeze.data.sources import Sample
from unfreeze.orientations import Orientation
from unfreeze.preprocessing import Preprocessing
from unfreeze.runtime import limit_threads
from unfreeze.views import PLAIN, Framing

if TYPE_CHECKING:
    from torch import Tensor

DECODED_CACHE_BYTES = 2**29  # on the CPU: 1000 images of ImageNet's size, less memory than a training step takes

Key = tuple[Path, Framing | None]
Chunks = Iterable[Sequence[tuple[int, Sequence[int]]]]
A = TypeVar("A")
T = TypeVar("T")


@dataclass
class DecodedImageCache:
    """Decoded images for reuse: the first ones put in, up to a budget.

    No eviction: with one access per epoch, LRU would evict exactly the next image needed.

    Attributes:
        budget: Remaining bytes; 0 disables the cache.
    """

    budget: int = 0
    _images: dict[Key, Tensor] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: Key) -> Tensor | None:
        """Return the cached pixels, uint8, shape (height, width, 3), or None; without a framing: the whole image."""
        return self._images.get(key)

    def put(self, key: Key, pixels: Tensor) -> None:
        """Cache pixels if the budget allows; safe to call from several threads at once."""
        with self._lock:
            if key not in self._images and pixels.nbytes <= self.budget:
                self.budget -= pixels.nbytes
                self._images[key] = pixels


@dataclass(frozen=True)
class Renderer:
    """Renderer of views of a fixed list of images.

    Attributes:
        paths: The image files; methods take indices into this list.
        preprocessing: The backbone's preprocessing.
        augmentation: Parameters of augmented views; None renders evaluation views only.
        seed: Augmented views depend on (seed, view, image content).
        digests: The SHA-256 of each file; needed by augmented views and ``cache_key``.
        image_cache: Decoded images.
        traits: What decoding changes of each file, on which ``cache_key`` depends; none where they are not known.
    """

    paths: tuple[Path, ...]
    preprocessing: Preprocessing
    augmentation: Augmentation | None = None
    seed: int = 0
    digests: tuple[str, ...] = ()
    image_cache: DecodedImageCache = field(default_factory=DecodedImageCache)
    traits: tuple[tuple[Trait, ...], ...] = ()

    def for_samples(self, samples: Sequence[Sample]) -> Self:
        """Return the same renderer for other images, whose digests are known."""
        paths, digests = tuple(sample.path for sample in samples), tuple(sample.digest for sample in samples)
        return replace(self, paths=paths, digests=digests, traits=tuple(sample.traits for sample in samples))

    @property
    def tta_orientations(self) -> tuple[Orientation, ...]:
        """Orientations that preserve an image's label, the identity first."""
        return (
            self.augmentation.tta_orientations(self.preprocessing.size)
            if self.augmentation is not None
            else (Orientation.IDENTITY,)
        )

    def cache_key(self, index: int, view: int) -> str:
        """Return a key of all that determines a view's pixels, except ``preprocessing``."""
        digest = self.digests[index]
        assert digest, "the image's digest is unknown"
        digest = pixel_key(digest, self.traits[index] if self.traits else (), self.preprocessing.reading)
        if view <= PLAIN:
            return f"{digest} {int(view)}" if view else digest
        return f"{digest} {view} {self.seed} {self.augmentation}"

    def views(self, index: int, views: Sequence[int]) -> Tensor:
        """Return views of one image, see ``to_batch``, shape (N, channels, height, width); the file is decoded once.

        Raises:
            DecodeError: The image can't be read.
        """
        image, content = self._decode(index), self.content(index)
        return to_batch(render(image, self.preprocessing, self.augmentation, self.seed, views, content))

    def content(self, index: int) -> int:
        """Return the digest as a number, which seeds augmented views together with seed and view; 0 if unknown."""
        return int(self.digests[index], 16) if self.digests else 0

    def batches(self, chunks: Chunks) -> Iterator[Tensor]:
        """Yield the views of each chunk of (index, views), in order, shape (views of the chunk, channels, H, W)."""
        import torch

        for parts in prefetch(lambda item: self.views(*item), chunks):
            with limit_threads(sum(part.numel() for part in parts)):
                batch = torch.cat(parts)
            yield batch

    def _decode(self, index: int) -> Pixels:
        import torch

        key = self.paths[index], None
        cached = self.image_cache.get(key)
        if cached is not None:
            return Image.fromarray(cached.numpy())
        preprocessing = self.preprocessing
        image = decode_pixels(self.paths[index], preprocessing.min_side, reading=preprocessing.reading)
        if self.image_cache.budget and not isinstance(image, BandImage):  # numbers take many times the memory
            self.image_cache.put(key, torch.from_numpy(np.array(image)))
        return image


def prefetch(work: Callable[[A], T], chunks: Iterable[Sequence[A]]) -> Iterator[list[T]]:
    """Yield the results of ``work`` for each chunk's items, in order; threads compute them ahead of use."""
    workers = min(8, os.cpu_count() or 1)
    pending: deque[list[Future[T]]] = deque()
    queue = iter(chunks)
    with ThreadPoolExecutor(workers, thread_name_prefix="render") as pool:
        while True:
            while len(pending) < 3 and (chunk := next(queue, None)):  # two chunks ahead of the caller
                pending.append([pool.submit(work, item) for item in chunk])
            if not pending:
                return
            yield [future.result() for future in pending.popleft()]
