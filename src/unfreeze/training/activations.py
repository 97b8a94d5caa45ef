"""A frozen layer is computed once: the tensors that cross a boundary, for every photo and view, kept and trained on.

Two sources give the same tensors through the same method: ``Cached`` from memory, ``Rendered`` from the photos.  Training
can't tell them apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.data.loaders import Renderer
from unfreeze.data.transforms import PLAIN_VIEW
from unfreeze.models.backbone import Backbone, Head, pool
from unfreeze.predict import Probabilities, evaluation_mode, place, probabilities
from unfreeze.runtime import track

EVALUATION_BATCH = 64
BATCH = 16  # photos in one frozen forward pass: enough to fill a CPU's cores, small enough for its caches
MEMORY_BUDGET = 2 * 2**30  # bytes; larger caches live in a temporary file that the system pages in and out


class Activations(Protocol):
    """What crosses ``boundary``, for any photo and view."""

    @property
    def boundary(self) -> int:
        """The first stage that still has to run on these tensors."""

    def batches(self, photos: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield the tensors of (photos[i], views[i]) in order, ``size`` at a time."""


@dataclass(frozen=True)
class Rendered:
    """The photos themselves: what crosses boundary 0."""

    renderer: Renderer
    boundary: int = 0

    def batches(self, photos: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield rendered views, shape (size, 3, height, width)."""
        wanted = [(int(photo), (int(view),)) for photo, view in zip(photos, views, strict=True)]
        return self.renderer.batches(wanted, size)


@dataclass(frozen=True)
class Cached:
    """Activations that were computed before.

    Attributes:
        boundary: Where they were taken.
        values: Shape (rows, ...).
        row: The row of each (photo, view).
    """

    boundary: int
    values: Tensor
    row: dict[tuple[int, int], int]

    def batches(self, photos: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield kept activations, shape (size, ...)."""
        rows = torch.tensor([self.row[int(p), int(v)] for p, v in zip(photos, views, strict=True)], dtype=torch.long)
        for chunk in torch.split(rows, size):
            yield self.values[chunk]


def keep(
    backbone: Backbone, renderer: Renderer, boundary: int, wanted: dict[int, Sequence[int]], description: str
) -> Cached:
    """Compute what crosses ``boundary`` for the wanted photos and views, once.

    Args:
        backbone: Its stages below ``boundary`` must be frozen.
        renderer: Renders the photos.
        boundary: ``backbone.head_boundary`` keeps pooled features, shape (rows, D).
        wanted: The views of each photo.
        description: What the progress bar says.
    """
    row = {(photo, view): 0 for photo, views in wanted.items() for view in views}
    row = {pair: index for index, pair in enumerate(row)}
    batches = renderer.batches(wanted.items(), BATCH)
    values: Tensor | None = None
    filled = 0
    evaluation_mode(backbone)
    with torch.inference_mode():
        for batch in track(batches, description, total=-(-len(wanted) // BATCH)):
            for images in torch.split(batch, BATCH):
                crossing = _run(backbone, images, 0, boundary)
                if values is None:
                    values = _store(len(row), crossing)
                values[filled : filled + len(crossing)] = crossing.cpu()
                filled += len(crossing)
    if values is None:
        values = torch.empty(0, backbone.feature_dim)
    return Cached(boundary, values, row)


def keep_or_render(
    backbone: Backbone, renderer: Renderer, boundary: int, wanted: dict[int, Sequence[int]], description: str
) -> Activations:
    """Return what crosses ``boundary``: kept, or, where that is the photos themselves, rendered whenever asked for."""
    return keep(backbone, renderer, boundary, wanted, description) if boundary else Rendered(renderer)


def advance(backbone: Backbone, source: Activations, boundary: int, wanted: dict[int, Sequence[int]]) -> Cached:
    """Compute activations at a deeper boundary from ``source``, which is a shallower one's wherever one was kept."""
    pairs = [(photo, view) for photo, views in wanted.items() for view in views]
    photos, views = [photo for photo, _ in pairs], [view for _, view in pairs]
    evaluation_mode(backbone)
    with torch.inference_mode():
        batches = track(source.batches(photos, views, BATCH), "computing features", total=-(-len(pairs) // BATCH))
        pieces = [_run(backbone, batch, source.boundary, boundary).cpu() for batch in batches]
    values = torch.cat(pieces) if pieces else torch.empty(0, backbone.feature_dim)
    return Cached(boundary, values, {pair: index for index, pair in enumerate(pairs)})


def features(cache: Cached, photos: Sequence[int], views: Sequence[int]) -> Tensor:
    """Return pooled features, shape (photos, views, D), from a cache at the head."""
    rows = torch.tensor([[cache.row[int(photo), view] for view in views] for photo in photos], dtype=torch.long)
    return cache.values[rows.view(-1)].view(len(photos), len(views), -1)


def plain_views(photos: Sequence[int]) -> list[int]:
    """Return the plain view for each photo."""
    return [PLAIN_VIEW] * len(photos)


def predict_from(backbone: Backbone, head: Head, source: Activations, photos: NDArray[np.int64]) -> Probabilities:
    """Return class probabilities for the plain views of ``photos``, shape (N, C)."""
    batches = source.batches(photos.tolist(), plain_views(photos.tolist()), EVALUATION_BATCH)
    return probabilities(backbone, head, batches, source.boundary)


def _run(backbone: Backbone, x: Tensor, start: int, stop: int) -> Tensor:
    crossing = backbone.run(place(x, backbone, start), start, stop)
    return pool(crossing) if stop == backbone.head_boundary else crossing


def _store(rows: int, example: Tensor) -> Tensor:
    """Return room for ``rows`` activations like ``example``'s, on disk where memory would not hold them."""
    shape = (rows, *example.shape[1:])
    if rows * example[0].nbytes <= MEMORY_BUDGET:
        return torch.empty(shape, dtype=example.dtype)
    with tempfile.NamedTemporaryFile(
        prefix="unfreeze-", suffix=".activations"
    ) as file:  # unlinked, freed when unmapped
        return torch.from_file(file.name, shared=True, size=rows * example[0].numel(), dtype=example.dtype).view(shape)
