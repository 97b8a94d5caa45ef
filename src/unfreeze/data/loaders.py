"""Rendered views in batches, decoded and transformed in threads while the network computes."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from unfreeze.data.decode import decode
from unfreeze.data.transforms import PLAIN_VIEW, Augmentation, render, stack
from unfreeze.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

MEMORY = 2**29  # bytes of decoded photos: 1000 of ImageNet's size, and less than a training step takes beside them
PIXEL_BYTES = 4  # that Pillow takes for three colours


@dataclass
class Decoded:
    """Decoded photos that will be asked for again: the first ones that came, until the budget is spent.

    None gives way to another: every epoch asks for each photo once, so that the one used longest ago is the next one wanted.

    Attributes:
        budget: Bytes that they may take together.
    """

    budget: int = MEMORY
    _images: dict[Path, Image.Image] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, path: Path, enough: int) -> Image.Image:
        """Return what ``decode`` gives, and hold on to it where there is room; safe to call from several threads at once."""
        held = self._images.get(path)
        if held is not None:
            return held
        image = decode(path, enough)
        size = PIXEL_BYTES * image.width * image.height
        with self._lock:
            if path not in self._images and size <= self.budget:
                self.budget -= size
                self._images[path] = image
        return image


@dataclass(frozen=True)
class Renderer:
    """Renders views of a fixed list of photos.

    Attributes:
        paths: The photos; elsewhere a photo is named by its place in this list.
        preprocessing: The backbone's own.
        augmentation: What views other than the plain one may change; None where only that one is wanted.
        seed: Views are drawn from (seed, view, content of the photo).
        digests: The SHA-256 of each file; only the plain view can be rendered without.
        decoded: Photos that need not be decoded again; None where each is rendered once.
    """

    paths: tuple[Path, ...]
    preprocessing: Preprocessing
    augmentation: Augmentation | None = None
    seed: int = 0
    digests: tuple[str, ...] = ()
    decoded: Decoded | None = None

    def identity(self, photo: int, view: int) -> str:
        """Return what decides the pixels of a view, apart from ``preprocessing``."""
        digest = self.digests[photo]
        assert digest, "the photo has been read"
        if view == PLAIN_VIEW:
            return digest
        return f"{digest} {view} {self.seed} {self.augmentation}"

    def views(self, photo: int, views: Sequence[int]) -> Tensor:
        """Return the given views of one photo as ``stack`` gives them, not yet normalised; the file is decoded once.

        Raises:
            DecodeError: The photo can't be read.
        """
        read = decode if self.decoded is None else self.decoded.read
        image = read(self.paths[photo], self.preprocessing.enough)
        content = int(self.digests[photo], 16) if self.digests else 0  # no view but the plain one draws from it
        return stack([render(image, self.preprocessing, self.augmentation, self.seed, view, content) for view in views])

    def batches(self, chunks: Iterable[Sequence[tuple[int, Sequence[int]]]]) -> Iterator[Tensor]:
        """Yield the views of each chunk of (photo, views), in order: uint8, shape (views of the chunk, 3, H, W)."""
        import torch

        workers = min(8, os.cpu_count() or 1)
        pending: deque[list[Future[Tensor]]] = deque()
        queue = iter(chunks)
        with ThreadPoolExecutor(workers, thread_name_prefix="render") as pool:
            while True:
                while len(pending) < 3 and (chunk := next(queue, None)):  # two batches ahead of the network
                    pending.append([pool.submit(self.views, photo, views) for photo, views in chunk])
                if not pending:
                    return
                yield torch.cat([future.result() for future in pending.popleft()])
