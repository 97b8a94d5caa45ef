"""PixelSource views in batches, decoded and transformed in threads while the network computes."""

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

from unfreeze.data.decode import decode
from unfreeze.data.rendering.transforms import PLAIN_VIEW, Augmentation, render, to_batch
from unfreeze.data.sources import Sample
from unfreeze.orientations import IDENTITY_ONLY, Orientation
from unfreeze.preprocessing import Preprocessing
from unfreeze.runtime import limit_threads

if TYPE_CHECKING:
    from torch import Tensor

DECODED_CACHE_BYTES = (
    2**29
)  # bytes of photos on the CPU: 1000 of ImageNet's size, and less than a training step takes beside them

Key = tuple[Path, bool]
Chunks = Iterable[Sequence[tuple[int, Sequence[int]]]]
A = TypeVar("A")
T = TypeVar("T")


@dataclass
class DecodedImageCache:
    """Photos that will be asked for again: the first ones that came, until the budget is spent.

    None gives way to another: every epoch asks for each photo once, so that the one used longest ago is the next one wanted.

    Attributes:
        budget: Bytes that are left; 0 holds nothing.
    """

    budget: int = 0
    _images: dict[Key, Tensor] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, key: Key) -> Tensor | None:
        """Return what is held of a photo, uint8, shape (height, width, 3): the finished plain view if the key says so."""
        return self._images.get(key)

    def keep(self, key: Key, pixels: Tensor) -> None:
        """Hold on to a photo, where there is room; safe to call from several threads at once."""
        with self._lock:
            if key not in self._images and pixels.nbytes <= self.budget:
                self.budget -= pixels.nbytes
                self._images[key] = pixels


@dataclass(frozen=True)
class Renderer:
    """Renders views of a fixed list of photos.

    Attributes:
        paths: The photos; elsewhere a photo is named by its place in this list.
        preprocessing: The backbone's own.
        augmentation: What views other than the plain one may change; None where only that one is wanted.
        seed: Views are drawn from (seed, view, content of the photo).
        digests: The SHA-256 of each file; only the plain view can be rendered without.
        memory: Photos that need not be decoded again.
    """

    paths: tuple[Path, ...]
    preprocessing: Preprocessing
    augmentation: Augmentation | None = None
    seed: int = 0
    digests: tuple[str, ...] = ()
    memory: DecodedImageCache = field(default_factory=DecodedImageCache)

    def for_samples(self, samples: Sequence[Sample]) -> Self:
        """Return the same renderer for other photos, which have been read."""
        paths, digests = tuple(sample.path for sample in samples), tuple(sample.digest for sample in samples)
        return replace(self, paths=paths, digests=digests)

    @property
    def tta_orientations(self) -> tuple[Orientation, ...]:
        """In which orientations a photo means the same, the plain one first."""
        return (
            self.augmentation.tta_orientations(self.preprocessing.size)
            if self.augmentation is not None
            else IDENTITY_ONLY
        )

    def identity(self, photo: int, view: int) -> str:
        """Return what decides the pixels of a view, apart from ``preprocessing``."""
        digest = self.digests[photo]
        assert digest, "the photo has been read"
        if view <= PLAIN_VIEW:
            return f"{digest} {int(view)}" if view else digest
        return f"{digest} {view} {self.seed} {self.augmentation}"

    def views(self, photo: int, views: Sequence[int]) -> Tensor:
        """Return the given views of one photo as ``to_batch`` gives them, not yet normalised; the file is decoded once.

        Raises:
            DecodeError: The photo can't be read.
        """
        image, content = self._decoded(photo), self.content(photo)
        return to_batch(render(image, self.preprocessing, self.augmentation, self.seed, views, content))

    def content(self, photo: int) -> int:
        """Return what views are drawn from, besides seed and view; only the plain one can do without."""
        return int(self.digests[photo], 16) if self.digests else 0

    def batches(self, chunks: Chunks) -> Iterator[Tensor]:
        """Yield the views of each chunk of (photo, views), in order: uint8, shape (views of the chunk, 3, H, W)."""
        import torch

        for parts in prefetch(lambda wanted: self.views(*wanted), chunks):
            with limit_threads(sum(part.numel() for part in parts)):
                batch = torch.cat(parts)
            yield batch

    def _decoded(self, photo: int) -> Image.Image:
        import torch

        key = self.paths[photo], False
        held = self.memory.find(key)
        if held is not None:
            return Image.fromarray(held.numpy())
        image = decode(self.paths[photo], self.preprocessing.min_side)
        if self.memory.budget:
            self.memory.keep(key, torch.from_numpy(np.array(image)))
        return image


def prefetch(work: Callable[[A], T], chunks: Iterable[Sequence[A]]) -> Iterator[list[T]]:
    """Yield what ``work`` gives for each item of each chunk, in order, computed in threads ahead of its use."""
    workers = min(8, os.cpu_count() or 1)
    pending: deque[list[Future[T]]] = deque()
    queue = iter(chunks)
    with ThreadPoolExecutor(workers, thread_name_prefix="render") as pool:
        while True:
            while len(pending) < 3 and (chunk := next(queue, None)):  # two batches ahead of the network
                pending.append([pool.submit(work, item) for item in chunk])
            if not pending:
                return
            yield [future.result() for future in pending.popleft()]
