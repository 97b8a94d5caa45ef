"""Which views of which images are needed at which boundary, as values: computing executes them, the forecast counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone, in_float32
from unfreeze.orientations import IDENTITY_ONLY, Orientation
from unfreeze.preprocessing import Preprocessing
from unfreeze.training.features.activations import Activations, PixelSource, compute_or_load, namespaces
from unfreeze.training.features.cache import CacheNamespace, FeatureCache
from unfreeze.training.features.engine_cache import engine_of


@dataclass(frozen=True)
class ActivationRequest:
    """Views of images that are needed at a boundary.

    Attributes:
        renderer: The images.
        boundary: Where the activations are taken; 0: the images are rendered whenever they are asked for.
        views: Of each image, by its number in ``renderer``.
        description: What the progress bar says.
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
        request: What is asked for.
        pairs: (image, view), in the order in which they are computed; byte-identical images once.
        start: The boundary that they are computed from; 0: the images.
    """

    request: ActivationRequest
    pairs: tuple[tuple[int, int], ...]
    start: int


def compute(store: FeatureCache, backbone: Backbone, requests: Sequence[ActivationRequest]) -> dict[int, Activations]:
    """Execute requests for the same images in order, and return the activations by boundary.

    Args:
        store: What it holds is not computed again.
        backbone: Its stages below the boundaries must be frozen.
        requests: Each after the one that it is computed from.

    Raises:
        CacheError: The activations can't be kept.
    """
    computed: dict[int, Activations] = {}
    for request in requests:
        images = PixelSource(request.renderer)
        source = computed[request.source] if request.source else images
        computed[request.boundary] = (
            compute_or_load(
                store, request.backbone(backbone), source, request.boundary, request.views, request.description
            )
            if request.boundary
            else images
        )
    return computed


def cache_misses(store: FeatureCache, backbone: Backbone, requests: Sequence[ActivationRequest]) -> list[CacheMisses]:
    """Return what ``compute`` would compute for the requests, in order; what an earlier one computes counts there alone.

    Unlike ``compute`` it takes what the store lists to be whole.
    """
    kept: dict[tuple[torch.dtype, Preprocessing], list[CacheNamespace]] = {}
    computed: dict[tuple[torch.dtype, Preprocessing, int], set[str]] = {}
    found: list[CacheMisses] = []
    for request in requests:
        if not request.boundary:
            continue
        in_precision = request.backbone(backbone)
        kind = in_precision.precision, request.renderer.preprocessing
        if kind not in kept:
            kept[kind] = namespaces(store, in_precision, request.renderer)
        keys = {
            request.renderer.cache_key(image, view): (image, view)
            for image, views in request.views.items()
            for view in views
        }

        def absent(boundary: int, keys: set[str], kind: tuple[torch.dtype, Preprocessing] = kind) -> set[str]:
            left = keys - computed.get((*kind, boundary), set())
            return left - kept[kind][boundary].cached_keys(left) if left else left

        missing = absent(request.boundary, set(keys))
        if not missing:
            continue
        sources = engine_of(store, in_precision).sources(request.boundary)
        own = request.source if request.source in sources else 0
        deeper = (boundary for boundary in reversed(sources) if boundary > own)
        start = next((boundary for boundary in deeper if not absent(boundary, missing)), own)
        computed.setdefault((*kind, request.boundary), set()).update(missing)
        found.append(CacheMisses(request, tuple(pair for key, pair in keys.items() if key in missing), start))
    return found


def held_out_request(
    renderer: Renderer,
    boundary: int,
    orientations: Sequence[Orientation] = IDENTITY_ONLY,
    description: str = "reading photos",
) -> ActivationRequest:
    """Return the request for all images of ``renderer``, which only score: in float32, as the model that ships computes.

    Args:
        renderer: Test or reference images.
        boundary: Everything below is the same before and after training.
        orientations: Those that models are asked about.
        description: What the progress bar says.
    """
    views = dict.fromkeys(range(len(renderer.paths)), orientations)
    return ActivationRequest(renderer, boundary, views, description, in_float32=True)
