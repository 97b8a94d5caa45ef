"""Rendered views in batches, decoded and transformed in threads while the network computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.data.decode import decode
from unfreeze.data.transforms import PLAIN_VIEW, Augmentation, render
from unfreeze.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Renderer:
    """Renders views of a fixed list of photos.

    Attributes:
        paths: The photos; elsewhere a photo is named by its place in this list.
        preprocessing: The backbone's own.
        augmentation: What views other than the plain one may change; None where only that one is wanted.
        seed: Views are drawn from (seed, view, content of the photo).
        digests: The SHA-256 of each file; only the plain view can be rendered without.
    """

    paths: tuple[Path, ...]
    preprocessing: Preprocessing
    augmentation: Augmentation | None = None
    seed: int = 0
    digests: tuple[str, ...] = ()

    def identity(self, photo: int, view: int) -> str:
        """Return what decides the pixels of a view, apart from ``preprocessing``."""
        digest = self.digests[photo]
        assert digest, "the photo has been read"
        if view == PLAIN_VIEW:
            return digest
        return f"{digest} {view} {self.seed} {self.augmentation}"

    def views(self, photo: int, views: Sequence[int]) -> Tensor:
        """Return the given views of one photo, shape (views, 3, height, width); the file is decoded once.

        Raises:
            DecodeError: The photo can't be read.
        """
        import torch

        image = decode(self.paths[photo], self.preprocessing.enough)
        content = int(self.digests[photo], 16) if self.digests else 0  # no view but the plain one draws from it
        return torch.stack(
            [render(image, self.preprocessing, self.augmentation, self.seed, view, content) for view in views]
        )

    def batches(self, chunks: Iterable[Sequence[tuple[int, Sequence[int]]]]) -> Iterator[Tensor]:
        """Yield the views of each chunk of (photo, views), in order, stacked: shape (views of the chunk, 3, H, W)."""
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
