from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.support.backbones import tiny_cnn
from tests.support.photos import renderer
from tests.support.training import new_store

from unfreeze.models.pooling import pool
from unfreeze.training.features.activations import CachedActivations, PixelSource
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.demand import ActivationRequest, CacheMisses, cache_misses, compute, held_out_request

pytestmark = pytest.mark.usefixtures("one_thread")

VIEWS = {0: (0, 1), 2: (0, -1), 5: (1,)}


@pytest.fixture
def store() -> FeatureCache:
    return new_store()


def pairs(misses: list[CacheMisses]) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Return boundary, start, and what is missing, of each request."""
    return [(each.request.boundary, each.start, sorted(each.pairs)) for each in misses]


def test_requests_are_computed_from_the_images_or_from_one_another(
    photos: tuple[Path, ...], store: FeatureCache
) -> None:
    own = renderer(photos)
    requests = [ActivationRequest(own, 3, VIEWS, "test"), ActivationRequest(own, 5, {0: (1,)}, "test", 3)]
    found = compute(store, tiny_cnn(), requests)
    assert set(found) == {3, 5}
    assert all(isinstance(source, CachedActivations) for source in found.values())
    (below,), (above,) = found[3].batches([0], [1], 1), found[5].batches([0], [1], 1)
    with torch.no_grad():
        torch.testing.assert_close(above, pool(tiny_cnn().run(below, 3)), rtol=1e-4, atol=1e-5)


def test_at_boundary_0_the_images_are_rendered_whenever_they_are_asked_for(
    photos: tuple[Path, ...], store: FeatureCache
) -> None:
    request = ActivationRequest(renderer(photos), 0, VIEWS, "test")
    found = compute(store, tiny_cnn(), [request])
    assert isinstance(found[0], PixelSource)
    assert cache_misses(store, tiny_cnn(), [request]) == []


def test_what_is_counted_as_missing_is_what_the_cache_lacks(photos: tuple[Path, ...], store: FeatureCache) -> None:
    backbone, own = tiny_cnn(), renderer(photos)
    request = ActivationRequest(own, 3, VIEWS, "test")
    assert pairs(cache_misses(store, backbone, [request])) == [(3, 0, [(0, 0), (0, 1), (2, -1), (2, 0), (5, 1)])]
    compute(store, backbone, [replace(request, views={0: (0,), 5: (1,)})])
    assert pairs(cache_misses(store, backbone, [request])) == [(3, 0, [(0, 1), (2, -1), (2, 0)])]
    compute(store, backbone, [request])
    assert cache_misses(store, backbone, [request]) == []


def test_what_two_requests_ask_for_counts_once(photos: tuple[Path, ...], store: FeatureCache) -> None:
    own = renderer(photos)
    requests = [
        ActivationRequest(own, 3, {0: (0, 1)}, "test"),
        ActivationRequest(replace(own, seed=1), 3, {0: (0, 1)}, "test"),  # the same plain view, another crop
        ActivationRequest(own, 3, {0: (0,)}, "test"),
    ]
    assert pairs(cache_misses(store, tiny_cnn(), requests)) == [(3, 0, [(0, 0), (0, 1)]), (3, 0, [(0, 1)])]


def test_a_request_starts_from_the_deepest_boundary_at_which_all_it_lacks_is_known(
    photos: tuple[Path, ...], store: FeatureCache
) -> None:
    backbone, own = tiny_cnn(), renderer(photos)
    compute(store, backbone, [ActivationRequest(own, 1, {0: (0, 1), 2: (0,)}, "test")])
    compute(store, backbone, [ActivationRequest(own, 2, {0: (0,)}, "test")])

    def start(views: dict[int, tuple[int, ...]], *before: ActivationRequest, source: int = 0) -> int:
        asked = ActivationRequest(own, 4, views, "test", source)
        return cache_misses(store, backbone, [*before, asked])[-1].start

    assert start({0: (0,)}) == 2
    assert start({0: (0, 1)}) == 1
    assert start({0: (0, 1, 2)}) == 0
    kept = ActivationRequest(own, 3, {0: (0, 1, 2)}, "test")
    assert start({0: (0, 1, 2)}, kept, source=3) == 3
    assert start({0: (0, 1)}, kept) == 3  # what will be computed before is known


def test_byte_identical_images_are_missing_once(photos: tuple[Path, ...], tmp_path: Path, store: FeatureCache) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(photos[0].read_bytes())
    own = renderer([photos[0], copy])
    (missing,) = cache_misses(store, tiny_cnn(), [ActivationRequest(own, 3, {0: (0,), 1: (0,)}, "test")])
    assert len(missing.pairs) == 1


def test_held_out_images_are_all_asked_for_in_float32(photos: tuple[Path, ...], store: FeatureCache) -> None:
    backbone, own = replace(tiny_cnn(), precision=torch.bfloat16), renderer(photos[:3])
    request = held_out_request(own, 3)
    assert dict(request.views) == dict.fromkeys(range(3), (0,))
    compute(store, backbone, [request])
    assert cache_misses(store, tiny_cnn(), [replace(request, in_float32=False)]) == []
    assert len(cache_misses(store, backbone, [replace(request, in_float32=False)])) == 1
