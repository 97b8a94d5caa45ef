"""Rendered views in batches, decoded and transformed in threads while the network computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.data.decode import decode
from unfreeze.data.transforms import Augmentation, render
from unfreeze.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Renderer:
    """Renders views of a fixed list of photos.

    Attributes:
        paths: The photos; their place in this list is their identity.
        preprocessing: The backbone's own.
        augmentation: What views other than the plain one may change; None where only that one is wanted.
        seed: Views are drawn from (seed, view, photo).
    """

    paths: tuple[Path, ...]
    preprocessing: Preprocessing
    augmentation: Augmentation | None = None
    seed: int = 0

    def views(self, photo: int, views: Sequence[int]) -> Tensor:
        """Return the given views of one photo, shape (views, 3, height, width); the file is decoded once.

        Raises:
            DecodeError: The photo can't be read.
        """
        import torch

        image = decode(self.paths[photo])
        return torch.stack(
            [render(image, self.preprocessing, self.augmentation, self.seed, view, photo) for view in views]
        )

    def batches(self, wanted: Iterable[tuple[int, Sequence[int]]], size: int) -> Iterator[Tensor]:
        """Yield the wanted (photo, views) in order, stacked in batches of ``size`` photos, each (size * views, 3, H, W)."""
        import torch

        workers = min(8, os.cpu_count() or 1)
        pending: deque[list[Future[Tensor]]] = deque()
        queue = iter(wanted)
        with ThreadPoolExecutor(workers, thread_name_prefix="render") as pool:
            while True:
                while len(pending) < 3 and (batch := list(islice(queue, size))):  # two batches ahead of the network
                    pending.append([pool.submit(self.views, photo, views) for photo, views in batch])
                if not pending:
                    return
                yield torch.cat([future.result() for future in pending.popleft()])
