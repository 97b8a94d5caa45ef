"""A frozen layer is computed once: the tensors that cross a boundary, for every photo and view, kept and trained on.

Two sources give the same tensors through the same method: ``CachedActivations`` from the store, ``PixelSource`` from the photos.  Training
can't tell them apart.  What was computed in an earlier run is found again by what it was computed from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.acceleration.engine_report import EngineReport
from unfreeze.acceleration.frozen import choose_engine, frozen_forward
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone, Head, pool
from unfreeze.orientations import IDENTITY_ONLY, Orientation
from unfreeze.predict import Logits, evaluation_mode, predict_logits, to_model_input
from unfreeze.runtime import progress_bar
from unfreeze.training.features.cache import CacheNamespace, FeatureCache, RowRef, read_rows
from unfreeze.training.features.engine_cache import engine_of

EVALUATION_BATCH = 64
BATCH = 16  # views in one frozen forward pass: enough to fill a CPU's cores, small enough for its caches
FORMAT = "5"  # of what is kept; another one makes older activations unfindable


class Activations(Protocol):
    """What crosses ``boundary``, for any photo and view."""

    @property
    def boundary(self) -> int:
        """The first stage that still has to run on these tensors."""

    @property
    def renderer(self) -> Renderer:
        """The photos they come from."""

    def batches(self, photos: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield the tensors of (photos[i], views[i]) in order, ``size`` at a time."""


@dataclass(frozen=True)
class PixelSource:
    """The photos themselves: what crosses boundary 0."""

    renderer: Renderer
    boundary: int = 0

    def batches(self, photos: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield rendered views, uint8, shape (size, 3, height, width); neighbouring views of a photo are decoded once."""
        pairs = [(int(photo), int(view)) for photo, view in zip(photos, views, strict=True)]
        chunks = (pairs[start : start + size] for start in range(0, len(pairs), size))
        return self.renderer.batches(
            [(photo, [view for _, view in same]) for photo, same in groupby(chunk, key=lambda pair: pair[0])]
            for chunk in chunks
        )


@dataclass(frozen=True)
class CachedActivations:
    """Activations that were computed before.

    Attributes:
        boundary: Where they were taken.
        renderer: The photos they come from.
        rows: Where each (photo, view) is kept.
    """

    boundary: int
    renderer: Renderer
    rows: dict[tuple[int, int], RowRef]

    def batches(self, photos: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield kept activations, shape (size, ...)."""
        places = [self.rows[int(photo), int(view)] for photo, view in zip(photos, views, strict=True)]
        for start in range(0, len(places), size):
            yield read_rows(places[start : start + size])


def compute_or_load(
    store: FeatureCache,
    backbone: Backbone,
    source: Activations,
    boundary: int,
    wanted: Mapping[int, Sequence[int]],
    description: str,
) -> CachedActivations:
    """Return what crosses ``boundary`` for the wanted photos and views: found in the store, or computed and kept there.

    Args:
        store: Outlives the run.
        backbone: Its stages below ``boundary`` must be frozen.
        source: What is computed from: the photos, or activations at a shallower boundary; the store may hold better.  Where
            the network isn't cut at that boundary, the photos serve instead, so that the bits don't depend on the source.
        boundary: ``backbone.head_boundary`` keeps pooled features, shape (rows, D).
        wanted: The views of each photo.
        description: What the progress bar says.

    Raises:
        CacheError: They can't be kept.
    """
    keys = _keys(source.renderer, wanted)
    if not keys:
        return CachedActivations(boundary, source.renderer, {})
    engine = engine_of(store, backbone)
    kinds = _kinds(backbone, engine, source.renderer)
    shelf = store.namespace(*kinds[boundary])
    found = shelf.load(keys.values())
    absent = {key: pair for pair, key in keys.items() if key not in found}  # byte-identical photos share a key
    if absent:
        start = _deepest_cached_boundary(store, kinds, engine.sources(boundary), set(absent))
        if source.boundary not in engine.sources(boundary):
            source = PixelSource(source.renderer)
        if start > source.boundary:
            source = compute_or_load(store, backbone, source, start, group_by_image(absent.values()), description)
        evaluation_mode(backbone)
        frozen_forward(backbone, source.boundary, boundary)
        if engine_of(store, backbone) != engine:  # it can't be compiled any more: another one is looked up and computes
            return compute_or_load(store, backbone, source, boundary, wanted, description)
        order = list(absent)
        photos, views = [photo for photo, _ in absent.values()], [view for _, view in absent.values()]
        batches = frozen_outputs(backbone, source, boundary, photos, views)
        with shelf.write() as draft:
            for crossing in progress_bar(batches, description, total=-(-len(absent) // BATCH)):
                done = len(draft.keys)
                draft.append(order[done : done + len(crossing)], crossing)
        found |= draft.places
    return CachedActivations(boundary, source.renderer, {pair: found[key] for pair, key in keys.items()})


def frozen_outputs(
    backbone: Backbone, source: Activations, boundary: int, photos: Sequence[int], views: Sequence[int]
) -> Iterator[Tensor]:
    """Compute what crosses ``boundary`` for (photos[i], views[i]), ``BATCH`` at a time, on the CPU."""
    evaluation_mode(backbone)
    forward = frozen_forward(backbone, source.boundary, boundary)
    dtype = choose_engine(backbone).cached_dtype(boundary)
    for batch in source.batches(photos, views, BATCH):
        with torch.inference_mode():
            # A batch that isn't full is filled up: with fewer rows, other kernels round otherwise, and what is computed
            # anew would differ from what was kept.
            full = batch if len(batch) == BATCH else batch[torch.arange(BATCH) % len(batch)]
            x = to_model_input(full, backbone, source.boundary)
            out = forward(x)[: len(batch)]
            out = pool(out) if boundary == backbone.head_boundary else out.to(dtype)
        yield out.cpu()


def namespaces(store: FeatureCache, backbone: Backbone, renderer: Renderer) -> list[CacheNamespace]:
    """Return where the activations of every boundary are kept, from boundary 0 up."""
    return [store.namespace(*kind) for kind in _kinds(backbone, engine_of(store, backbone), renderer)]


def group_by_image(pairs: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    """Return the views of each photo of (photo, view) pairs."""
    return {photo: [view for _, view in views] for photo, views in groupby(sorted(pairs), key=lambda pair: pair[0])}


def _deepest_cached_boundary(
    store: FeatureCache, kinds: Sequence[tuple[str, ...]], sources: Sequence[int], keys: set[str]
) -> int:
    held = (b for b in reversed(sources) if b and store.namespace(*kinds[b]).cached_keys(keys) == keys)
    return next(held, 0)


def activations_at(
    store: FeatureCache,
    backbone: Backbone,
    renderer: Renderer,
    boundary: int,
    wanted: Mapping[int, Sequence[int]],
    description: str,
) -> Activations:
    """Return what crosses ``boundary``: kept, or, where that is the photos themselves, rendered whenever asked for."""
    source = PixelSource(renderer)
    return compute_or_load(store, backbone, source, boundary, wanted, description) if boundary else source


def pooled_features(cache: CachedActivations, photos: Sequence[int], views: Sequence[int]) -> Tensor:
    """Return pooled features, shape (photos, views, D), from a cache at the head."""
    rows = read_rows([cache.rows[int(photo), view] for photo in photos for view in views])
    return rows.view(len(photos), len(views), -1)


def cache_key(
    store: FeatureCache,
    backbone: Backbone,
    renderer: Renderer,
    boundary: int,
    photos: Sequence[int],
    views: Sequence[int],
) -> tuple[str, ...]:
    """Return everything that decides the activations of these photos, each in these views."""
    kinds = _kinds(backbone, engine_of(store, backbone), renderer)
    return (*kinds[boundary], *_keys(renderer, dict.fromkeys(photos, views)).values())


def logits_from(
    backbone: Backbone,
    head: Head,
    source: Activations,
    photos: NDArray[np.int64],
    orientations: Sequence[Orientation] = IDENTITY_ONLY,
) -> Logits:
    """Return the head's logits for ``photos``, shape (N, C): the mean over ``orientations``."""
    chosen = photos.tolist()
    batches = (source.batches(chosen, [orientation] * len(chosen), EVALUATION_BATCH) for orientation in orientations)
    said = np.stack([predict_logits(backbone, head, batch, source.boundary) for batch in batches])
    found: Logits = said.mean(axis=0)
    return found


def _keys(renderer: Renderer, wanted: Mapping[int, Sequence[int]]) -> dict[tuple[int, int], str]:
    return {(photo, view): renderer.cache_key(photo, view) for photo, views in wanted.items() for view in views}


def _kinds(backbone: Backbone, engine: EngineReport, renderer: Renderer) -> list[tuple[str, ...]]:
    """Return everything that decides what crosses each boundary, apart from the photo and the view."""
    depths = backbone.depths()
    return [
        (
            FORMAT,
            engine.describe_range(boundary),
            PIL.__version__,
            backbone.device.type,
            f"{backbone.architecture} {sorted(backbone.architecture.arguments.items())}",
            f"{depth} of {depths}",
            repr(renderer.preprocessing),
            fingerprint,
        )
        for boundary, (depth, fingerprint) in enumerate(zip(depths, backbone.fingerprints(), strict=True))
    ]
