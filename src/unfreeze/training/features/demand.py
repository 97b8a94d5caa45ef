"""Requests for activations of images and views at a boundary, as values: computed in training, counted in the forecast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone, in_float32
from unfreeze.preprocessing import Preprocessing
from unfreeze.training.features.activations import Activations, PixelSource, cached_keys, compute_or_load, namespaces
from unfreeze.training.features.cache import CacheNamespace, FeatureCache
from unfreeze.training.features.engine_cache import engine_of
from unfreeze.views import PLAIN, PLAIN_ONLY, Views


@dataclass(frozen=True)
class ActivationRequest:
    """A request for the activations of views of images at a boundary.

    Attributes:
        renderer: The images.
        boundary: The boundary of the activations; 0: images, which are rendered whenever they are read.
        views: The views of each image, by its index in ``renderer``.
        description: The text of the progress bar.
        source: The boundary of an earlier request for the same views that this one is computed from; 0: the images.
        in_float32: Whether it is computed in float32, whatever the backbone's precision is.
    """

    renderer: Renderer
    boundary: int
    views: Mapping[int, Sequence[int]]
    description: str
    source: int = 0
    in_float32: bool = False

    def backbone(self, backbone: Backbone) -> Backbone:
        """Return the backbone in the precision that the request is computed in."""
        return in_float32(backbone) if self.in_float32 else backbone


@dataclass(frozen=True)
class CacheMisses:
    """The part of a request that has to be computed.

    Attributes:
        request: The whole request.
        pairs: (image, view), in the order in which they are computed; byte-identical images once.
        start: The boundary of the activations that they are computed from; 0: the images.
    """

    request: ActivationRequest
    pairs: tuple[tuple[int, int], ...]
    start: int


def compute(cache: FeatureCache, backbone: Backbone, requests: Sequence[ActivationRequest]) -> dict[int, Activations]:
    """Compute requests for the same images in order, and return the activations by boundary.

    Args:
        cache: Activations in it are not computed again.
        backbone: Its stages below the boundaries must be frozen.
        requests: Each after the one that it is computed from.

    Raises:
        CacheError: The activations can't be written.
    """
    computed: dict[int, Activations] = {}
    for request in requests:
        images = PixelSource(request.renderer)
        source = computed[request.source] if request.source else images
        computed[request.boundary] = (
            compute_or_load(
                cache, request.backbone(backbone), source, request.boundary, request.views, request.description
            )
            if request.boundary
            else images
        )
    return computed


def cache_misses(cache: FeatureCache, backbone: Backbone, requests: Sequence[ActivationRequest]) -> list[CacheMisses]:
    """Return the views that ``compute`` would compute for each request, without those that an earlier request computes.

    Unlike ``compute``, it does not check that the cached rows are intact.
    """
    cached: dict[tuple[torch.dtype, Preprocessing], list[tuple[CacheNamespace, ...]]] = {}
    computed: dict[tuple[torch.dtype, Preprocessing, int], set[str]] = {}
    misses: list[CacheMisses] = []
    for request in requests:
        if not request.boundary:
            continue
        in_precision = request.backbone(backbone)
        kind = in_precision.precision, request.renderer.preprocessing
        if kind not in cached:
            cached[kind] = namespaces(cache, in_precision, request.renderer)
        keys = {
            request.renderer.cache_key(image, view): (image, view)
            for image, views in request.views.items()
            for view in views
        }

        def absent(boundary: int, keys: set[str], kind: tuple[torch.dtype, Preprocessing] = kind) -> set[str]:
            left = keys - computed.get((*kind, boundary), set())
            return left - cached_keys(cached[kind][boundary], left) if left else left

        missing = absent(request.boundary, set(keys))
        if not missing:
            continue
        sources = engine_of(cache, in_precision).sources(request.boundary)
        source = request.source if request.source in sources else 0
        deeper = (boundary for boundary in reversed(sources) if boundary > source)
        start = next((boundary for boundary in deeper if not absent(boundary, missing)), source)
        computed.setdefault((*kind, request.boundary), set()).update(missing)
        misses.append(CacheMisses(request, tuple(pair for key, pair in keys.items() if key in missing), start))
    return misses


def held_out_request(
    renderer: Renderer,
    boundary: int,
    views: Views = PLAIN_ONLY,
    description: str = "reading photos",
) -> ActivationRequest:
    """Return the request for all images of ``renderer``, in float32, as the model that ships computes.

    Args:
        renderer: Test or reference images.
        boundary: The stages below are the same before and after training.
        views: The views of each image.
        description: The text of the progress bar.
    """
    requested = dict.fromkeys(range(len(renderer.paths)), views)
    return ActivationRequest(renderer, boundary, requested, description, in_float32=True)


def held_out_views(backbone: Backbone, views: Views) -> Views:
    """Return the views of test images that are read: ``views``, and the plain one where there is an original classifier.

    Its answers, by which forgetting is measured, are those of the plain view.
    """
    return tuple(dict.fromkeys((PLAIN, *views))) if backbone.network.num_classes else views
