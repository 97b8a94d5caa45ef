"""Activations: the tensors at a boundary for every image and view, computed once by the frozen stages and cached.

``CachedActivations`` reads them from the cache and ``PixelSource`` renders images, through the same method: training does
not depend on the source.  Activations of earlier runs are found by a key of everything that they were computed from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
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
from unfreeze.models.backbone import Backbone
from unfreeze.models.head import Head
from unfreeze.models.pooling import join, pool
from unfreeze.predict import Logits, evaluation_mode, predict_logits, to_model_input
from unfreeze.runtime import progress_bar
from unfreeze.training.features.cache import CacheNamespace, FeatureCache
from unfreeze.training.features.cache_files import RowRef, read_rows
from unfreeze.training.features.engine_cache import engine_of
from unfreeze.views import PLAIN_ONLY, Views

EVALUATION_BATCH = 64
BATCH = 16  # views in one frozen forward pass: enough to fill a CPU's cores, small enough for its caches
FORMAT = "5"  # part of every key: a new one leaves older activations unused


class Activations(Protocol):
    """The tensors at ``boundary`` for any image and view."""

    @property
    def boundary(self) -> int:
        """The first stage that still has to run on these tensors."""

    @property
    def renderer(self) -> Renderer:
        """The images that they are computed from."""

    def batches(self, images: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield the tensors of (images[i], views[i]) in order, ``size`` at a time."""

    def features_below(self, images: Sequence[int], views: Sequence[int]) -> Tensor | None:
        """Return the features that the head reads from lower stages, shape (len(images), D); None if it reads none."""


@dataclass(frozen=True)
class PixelSource:
    """The rendered images themselves: the activations at boundary 0."""

    renderer: Renderer
    boundary: int = 0

    def batches(self, images: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield rendered views, uint8, shape (size, 3, height, width); consecutive views of an image are decoded once."""
        pairs = [(int(image), int(view)) for image, view in zip(images, views, strict=True)]
        chunks = (pairs[start : start + size] for start in range(0, len(pairs), size))
        return self.renderer.batches(
            [(image, [view for _, view in same]) for image, same in groupby(chunk, key=lambda pair: pair[0])]
            for chunk in chunks
        )

    def features_below(self, images: Sequence[int], views: Sequence[int]) -> Tensor | None:
        """Return None: no stage lies below the images."""
        return None


@dataclass(frozen=True)
class CachedActivations:
    """Activations in the cache.

    Attributes:
        boundary: The first stage that still has to run on them.
        renderer: The images that they were computed from.
        rows: The cached row of each (image, view).
        rows_below: The cached features that the head reads from lower stages, of each (image, view); None: it reads none.
    """

    boundary: int
    renderer: Renderer
    rows: dict[tuple[int, int], RowRef]
    rows_below: dict[tuple[int, int], RowRef] | None = None

    def batches(self, images: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield cached activations, shape (size, ...)."""
        rows = [self.rows[int(image), int(view)] for image, view in zip(images, views, strict=True)]
        for start in range(0, len(rows), size):
            yield read_rows(rows[start : start + size])

    def features_below(self, images: Sequence[int], views: Sequence[int]) -> Tensor | None:
        """Return the features that the head reads from lower stages, float32, shape (len(images), D)."""
        if self.rows_below is None or not len(images):
            return None
        return read_rows([self.rows_below[int(image), int(view)] for image, view in zip(images, views, strict=True)])


def compute_or_load(
    cache: FeatureCache,
    backbone: Backbone,
    source: Activations,
    boundary: int,
    requested: Mapping[int, Sequence[int]],
    description: str,
) -> CachedActivations:
    """Return the activations at ``boundary`` for the requested images and views, from the cache or computed into it.

    Args:
        cache: Outlives the run.
        backbone: Its stages below ``boundary`` must be frozen.
        source: The input: images, or activations at a shallower boundary.  Deeper cached ones are preferred.  Where the
            engine does not cut the network at its boundary, images are used, so that the bits don't depend on the source.
        boundary: ``backbone.head_boundary`` means the features that the head reads, shape (rows, D).
        requested: The views of each image.
        description: The text of the progress bar.

    Raises:
        CacheError: They can't be written.
    """
    keys = _keys(source.renderer, requested)
    if not keys:
        return CachedActivations(boundary, source.renderer, {})
    engine = engine_of(cache, backbone)
    by_boundary = _namespaces(cache, backbone, engine, source.renderer)
    loaded = [namespace.load(keys.values()) for namespace in by_boundary[boundary]]
    # byte-identical images share a key
    misses = {key: pair for pair, key in keys.items() if not all(key in rows for rows in loaded)}
    if misses:
        start = _deepest_cached_boundary(by_boundary, engine.sources(boundary), set(misses))
        if source.boundary not in engine.sources(boundary):
            source = PixelSource(source.renderer)
        if start > source.boundary:
            source = compute_or_load(cache, backbone, source, start, group_by_image(misses.values()), description)
        evaluation_mode(backbone)
        frozen_forward(backbone, source.boundary, boundary)
        if engine_of(cache, backbone) != engine:  # compiling failed, and another engine was chosen, with other keys
            return compute_or_load(cache, backbone, source, boundary, requested, description)
        order = list(misses)
        images, views = [image for image, _ in misses.values()], [view for _, view in misses.values()]
        batches = frozen_outputs(backbone, source, boundary, images, views)
        with ExitStack() as files:
            writers = [files.enter_context(namespace.write()) for namespace in by_boundary[boundary]]
            for outputs in progress_bar(batches, description, total=-(-len(misses) // BATCH)):
                done = len(writers[0].keys)
                for writer, rows in zip(writers, outputs, strict=True):
                    writer.append(order[done : done + len(rows)], rows)
        loaded = [rows | writer.rows for rows, writer in zip(loaded, writers, strict=True)]
    of_pairs = [{pair: rows[key] for pair, key in keys.items()} for rows in loaded]
    return CachedActivations(boundary, source.renderer, *of_pairs)


def frozen_outputs(
    backbone: Backbone, source: Activations, boundary: int, images: Sequence[int], views: Sequence[int]
) -> Iterator[tuple[Tensor, ...]]:
    """Compute the activations at ``boundary`` of (images[i], views[i]), and yield ``BATCH`` at a time, on the CPU.

    Yields:
        The activations; and the features of lower stages, where the head reads any.  At the head's boundary, all features.
    """
    evaluation_mode(backbone)
    forward = frozen_forward(backbone, source.boundary, boundary)
    dtype = choose_engine(backbone).cached_dtype(boundary)
    all_below = source.features_below(images, views)
    done = 0
    for batch in source.batches(images, views, BATCH):
        with torch.inference_mode():
            # Fill the last batch up: with fewer rows, other kernels round differently, and activations that are computed
            # again would differ from the cached ones.
            filled = torch.arange(BATCH) % len(batch)
            full = batch if len(batch) == BATCH else batch[filled]
            below = None if all_below is None else all_below[done : done + len(batch)][filled].to(backbone.device)
            x, below = forward.with_features(to_model_input(full, backbone, source.boundary), below)
            done += len(batch)
            if boundary == backbone.head_boundary:
                outputs: tuple[Tensor, ...] = (pool(join(below, x)),)
            else:
                outputs = (x.to(dtype),) if below is None else (x.to(dtype), below)
        yield tuple(out[: len(batch)].cpu() for out in outputs)


def cached_keys(namespaces: Sequence[CacheNamespace], keys: set[str]) -> set[str]:
    """Return which of ``keys`` have a row in each namespace; it is not checked that the rows are intact."""
    for namespace in namespaces:
        keys = namespace.cached_keys(keys)
    return keys


def namespaces(cache: FeatureCache, backbone: Backbone, renderer: Renderer) -> list[tuple[CacheNamespace, ...]]:
    """Return the cache namespaces of every boundary, from 0 up: of activations, then of features of lower stages."""
    return _namespaces(cache, backbone, engine_of(cache, backbone), renderer)


def _namespaces(
    cache: FeatureCache, backbone: Backbone, engine: EngineReport, renderer: Renderer
) -> list[tuple[CacheNamespace, ...]]:
    return [
        (cache.namespace(*kind), cache.namespace(*kind, _below(backbone)))
        if backbone.dim_below(boundary)
        else (cache.namespace(*kind),)
        for boundary, kind in enumerate(_kinds(backbone, engine, renderer))
    ]


def _below(backbone: Backbone) -> str:
    return f"mean and maximum of stages {backbone.head_stages}"


def group_by_image(pairs: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    """Return the views of each image of (image, view) pairs."""
    return {image: [view for _, view in views] for image, views in groupby(sorted(pairs), key=lambda pair: pair[0])}


def _deepest_cached_boundary(
    by_boundary: Sequence[Sequence[CacheNamespace]], sources: Sequence[int], keys: set[str]
) -> int:
    return next((b for b in reversed(sources) if b and cached_keys(by_boundary[b], keys) == keys), 0)


def activations_at(
    cache: FeatureCache,
    backbone: Backbone,
    renderer: Renderer,
    boundary: int,
    requested: Mapping[int, Sequence[int]],
    description: str,
) -> Activations:
    """Return the activations at ``boundary`` from the cache; at 0, images that are rendered whenever they are read."""
    source = PixelSource(renderer)
    return compute_or_load(cache, backbone, source, boundary, requested, description) if boundary else source


def pooled_features(at_head: CachedActivations, images: Sequence[int], views: Sequence[int]) -> Tensor:
    """Return pooled features, shape (images, views, D), from the activations at the head."""
    rows = read_rows([at_head.rows[int(image), view] for image in images for view in views])
    return rows.view(len(images), len(views), -1)


def cache_key(
    cache: FeatureCache,
    backbone: Backbone,
    renderer: Renderer,
    boundary: int,
    images: Sequence[int],
    views: Sequence[int],
) -> tuple[str, ...]:
    """Return everything that the activations of ``images``, each in ``views``, depend on."""
    kinds = _kinds(backbone, engine_of(cache, backbone), renderer)
    return (*kinds[boundary], *_keys(renderer, dict.fromkeys(images, views)).values())


def logits_from(
    backbone: Backbone,
    head: Head,
    source: Activations,
    images: NDArray[np.int64],
    views: Views = PLAIN_ONLY,
) -> Logits:
    """Return the head's logits for ``images``, shape (N, C): the mean over ``views``."""
    pairs = each_in_views(images.tolist(), views)
    batches, below = source.batches(*pairs, EVALUATION_BATCH), source.features_below(*pairs)
    return mean_over_views(predict_logits(backbone, head, batches, source.boundary, below=below), views)


def each_in_views(images: Sequence[int], views: Views) -> tuple[list[int], list[int]]:
    """Return (images, views) with one entry for each view of each image, image by image: a file is decoded once."""
    return [image for image in images for _ in views], [*views] * len(images)


def mean_over_views(logits: Logits, views: Views) -> Logits:
    """Return the mean logits of each image, shape (N, C), from those of ``each_in_views``, shape (N * views, C)."""
    mean: Logits = logits.reshape(-1, len(views), logits.shape[1]).mean(axis=1)
    return mean


def _keys(renderer: Renderer, requested: Mapping[int, Sequence[int]]) -> dict[tuple[int, int], str]:
    return {(image, view): renderer.cache_key(image, view) for image, views in requested.items() for view in views}


def _kinds(backbone: Backbone, engine: EngineReport, renderer: Renderer) -> list[tuple[str, ...]]:
    """Return everything that the activations at each boundary depend on, apart from the image and the view."""
    depths = backbone.depths()
    return [
        (
            FORMAT,
            engine.describe_range(boundary),
            PIL.__version__,
            backbone.device.type,
            f"{backbone.architecture} {sorted(backbone.architecture.arguments.items())}",
            f"{depth} of {depths}",
            renderer.preprocessing.cache_key,
            fingerprint,
            *([_below(backbone)] if backbone.head_stages and boundary == backbone.head_boundary else []),
        )
        for boundary, (depth, fingerprint) in enumerate(zip(depths, backbone.fingerprints(), strict=True))
    ]
