from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.backbones import CPU, TinyCnn, new_head, tiny_cnn, tiny_vit
from tests.support.photos import CLASSES, PREPROCESSING, renderer
from tests.support.training import new_store, schedule, task
from torch import Tensor, nn

from unfreeze.acceleration.frozen import remember_engine
from unfreeze.data.rendering.device_renderer import choose_renderer, on_device
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.errors import DecodeError
from unfreeze.models.backbone import Architecture, Backbone, Network, assemble
from unfreeze.models.freezing import plan_from
from unfreeze.models.pooling import pool
from unfreeze.models.state import random_head
from unfreeze.predict import to_model_input
from unfreeze.training.features.activations import (
    Activations,
    CachedActivations,
    PixelSource,
    activations_at,
    compute_or_load,
    logits_from,
    pooled_features,
)
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.demand import ActivationRequest, CacheMisses, cache_misses
from unfreeze.training.features.engine_cache import engine_of
from unfreeze.training.finetune.loop import finetune
from unfreeze.training.recipes import TEXTBOOK_AUG

pytestmark = pytest.mark.usefixtures("one_thread", "compiled_anew")

BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
Wanted = dict[int, Sequence[int]]
WANTED: Wanted = {2: range(3), 0: range(3), 7: (0,)}
PAIRS = [(7, 0), (0, 2), (2, 1), (0, 0), (2, 1)]


@BACKBONES
@pytest.mark.parametrize("boundary", range(6))
def test_what_is_kept_is_what_recomputing_gives(
    photos: tuple[Path, ...], make: Callable[[], Backbone], boundary: int
) -> None:
    backbone, renderer = make(), task(photos, train=9).renderer
    source = activations_at(new_store(), backbone, renderer, boundary, WANTED, "test")
    assert isinstance(source, PixelSource if boundary == 0 else CachedActivations)
    assert source.boundary == boundary
    kept = torch.cat(list(source.batches([photo for photo, _ in PAIRS], [view for _, view in PAIRS], 2)))
    views = torch.cat([renderer.views(photo, (view,)) for photo, view in PAIRS])
    with torch.no_grad():
        expected = backbone.run(to_model_input(views, backbone, 0), 0, boundary)
    expected = pool(expected) if boundary == 5 else expected
    torch.testing.assert_close(to_model_input(kept, backbone, boundary), expected, rtol=1e-5, atol=1e-6)
    assert [len(batch) for batch in source.batches([0] * 5, [0] * 5, 2)] == [2, 2, 1]


def everything(source: Activations) -> Tensor:
    pairs = [(photo, view) for photo, views in WANTED.items() for view in views]
    return torch.cat(list(source.batches([photo for photo, _ in pairs], [view for _, view in pairs], 3)))


@BACKBONES
@pytest.mark.parametrize(("start", "stop"), [(0, 5), (0, 3), (1, 4), (2, 5), (4, 5)])
def test_what_is_computed_from_a_shallower_boundary_is_the_same(
    photos: tuple[Path, ...], make: Callable[[], Backbone], start: int, stop: int
) -> None:
    backbone, renderer = make(), task(photos, train=9).renderer
    direct = compute_or_load(new_store(), backbone, PixelSource(renderer), stop, WANTED, "test")
    shallow = activations_at(new_store(), backbone, renderer, start, WANTED, "test")
    advanced = compute_or_load(new_store(), backbone, shallow, stop, WANTED, "test")
    assert advanced.boundary == stop
    torch.testing.assert_close(everything(advanced), everything(direct), rtol=1e-5, atol=1e-6)


def test_keeping_leaves_the_backbone_as_it_was(photos: tuple[Path, ...]) -> None:
    backbone, source = tiny_cnn(dropout=0.5), PixelSource(task(photos, train=9).renderer)
    before = backbone.fingerprint()
    backbone.network.module.train()  # as the end of an earlier training may leave it
    one = compute_or_load(new_store(), backbone, source, 3, WANTED, "test")
    assert backbone.fingerprint() == before
    assert torch.equal(everything(one), everything(compute_or_load(new_store(), backbone, source, 3, WANTED, "test")))


def test_features_are_ordered_as_asked(photos: tuple[Path, ...]) -> None:
    backbone, renderer = tiny_cnn(), task(photos, train=9).renderer
    cache = compute_or_load(new_store(), backbone, PixelSource(renderer), 5, WANTED, "test")
    found = pooled_features(cache, [0, 2], (2, 0))
    assert found.shape == (2, 2, 12)
    for row, photo in enumerate((0, 2)):
        for column, view in enumerate((2, 0)):
            (expected,) = cache.batches([photo], [view], 1)
            assert torch.equal(found[row, column], expected[0])


class Counted:
    """Activations that count what is asked of them."""

    def __init__(self, source: Activations) -> None:
        self.boundary, self.renderer, self.source = source.boundary, source.renderer, source
        self.asked: list[tuple[int, int]] = []

    def batches(self, photos: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        self.asked += zip(photos, views, strict=True)
        return self.source.batches(photos, views, size)

    def features_below(self, photos: Sequence[int], views: Sequence[int]) -> torch.Tensor | None:
        return self.source.features_below(photos, views)


def n_missing(store: FeatureCache, backbone: Backbone, renderer: Renderer, boundary: int, wanted: Wanted) -> int:
    misses = cache_misses(store, backbone, [ActivationRequest(renderer, boundary, wanted, "test")])
    return sum(len(each.pairs) for each in misses)


def computed(store: FeatureCache, backbone: Backbone, renderer: Renderer, boundary: int, wanted: Wanted) -> int:
    source = Counted(PixelSource(renderer))
    kept = compute_or_load(store, backbone, source, boundary, wanted, "test")
    pairs = [(photo, view) for photo, views in wanted.items() for view in views]
    asked = [photo for photo, _ in pairs], [view for _, view in pairs]
    crossing = torch.cat(
        [backbone.run(to_model_input(x, backbone, 0), 0, boundary) for x in PixelSource(renderer).batches(*asked, 4)]
    )
    found = torch.cat(list(kept.batches(*asked, 4)))
    torch.testing.assert_close(found, pool(crossing) if boundary == 5 else crossing, rtol=1e-5, atol=1e-6)
    return len(source.asked)


def misses(
    store: FeatureCache, backbone: Backbone, renderer: Renderer, boundary: int, wanted: Wanted
) -> list[CacheMisses]:
    return cache_misses(store, backbone, [ActivationRequest(renderer, boundary, wanted, "test")])


@torch.no_grad()
def test_nothing_is_computed_twice(photos: tuple[Path, ...]) -> None:
    store, backbone, own = new_store(), tiny_cnn(), renderer(photos)
    assert computed(store, backbone, own, 3, WANTED) == 7
    assert computed(store, backbone, own, 3, WANTED) == 0
    assert computed(store, tiny_cnn(), own, 3, {0: (0, 1), 2: (2,)}) == 0
    assert computed(store, backbone, own, 3, {0: range(4), 5: (0,)}) == 2  # one new view, one new photo
    assert computed(store, backbone, renderer(photos[2:]), 3, {0: range(3), 5: (0,)}) == 0  # the same two, elsewhere


@BACKBONES
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_what_an_earlier_run_kept_at_a_shallower_boundary_saves_the_pixels(
    photos: tuple[Path, ...], make: Callable[[], Backbone], precision: torch.dtype
) -> None:
    store, backbone, own = new_store(), replace(make(), precision=precision), renderer(photos)
    for boundary in (1, 2):
        activations_at(store, backbone, own, boundary, WANTED, "test")
    gone = replace(own, paths=tuple(Path("gone") / path.name for path in own.paths))
    assert [each.start for each in misses(store, backbone, gone, 4, WANTED)] == [2]
    assert [each.start for each in misses(store, backbone, gone, 2, {2: (3,)})] == [0]
    deeper = activations_at(store, backbone, gone, 4, WANTED, "test")
    at_head = compute_or_load(store, backbone, PixelSource(gone), 5, {2: (1, 0)}, "test")
    direct = activations_at(new_store(), backbone, own, 4, WANTED, "test")
    assert torch.equal(everything(deeper), everything(direct))
    onward = compute_or_load(new_store(), backbone, direct, 5, {2: (0, 1)}, "test")
    assert torch.equal(pooled_features(at_head, [2], (0, 1)), pooled_features(onward, [2], (0, 1)))
    with pytest.raises(DecodeError):
        activations_at(store, backbone, gone, 4, {2: (3,)}, "test")


ALL: Wanted = dict.fromkeys(range(9), (0, 1))


def every(source: Activations, wanted: Wanted) -> Tensor:
    pairs = [(photo, view) for photo, views in sorted(wanted.items()) for view in views]
    return torch.cat(list(source.batches([photo for photo, _ in pairs], [view for _, view in pairs], 4)))


@pytest.mark.parametrize(
    ("make", "precision", "engine"),
    [
        (tiny_cnn, torch.float32, "openvino"),
        (tiny_vit, torch.bfloat16, "openvino"),
        (tiny_cnn, torch.bfloat16, "torch"),
        (tiny_vit, torch.float32, "torch"),
    ],
)
def test_a_full_a_partial_and_an_empty_cache_give_the_same_bits(
    photos: tuple[Path, ...],
    make: Callable[[], Backbone],
    precision: torch.dtype,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In any order of photos and boundaries, each time on a backbone that was opened anew."""
    if engine == "torch":
        monkeypatch.setattr("unfreeze.acceleration.frozen.openvino_version", lambda: None)
    own, partial = renderer(photos), new_store()

    def opened() -> Backbone:
        return replace(make(), precision=precision)

    def kept(store: FeatureCache, boundary: int, wanted: Wanted) -> Tensor:
        return every(activations_at(store, opened(), own, boundary, wanted, "test"), wanted)

    expected = {boundary: kept(new_store(), boundary, ALL) for boundary in (2, 3, 5)}
    kept(partial, 3, {8: (1,), 4: (0,), 1: (1, 0)})
    kept(partial, 2, dict.fromkeys((6, 5, 0, 7), (1, 0)))
    kept(partial, 5, dict.fromkeys((5, 6), (0,)))
    for boundary in (5, 3, 2, 5, 3):
        assert torch.equal(kept(partial, boundary, ALL), expected[boundary])


@torch.no_grad()
def test_a_source_at_which_the_network_is_not_cut_is_left_aside(photos: tuple[Path, ...]) -> None:
    """Where what crosses the first boundary is more than an image, all is computed from the photos, to the same bits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = TinyCnn(7, 0.0)
        module.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
    wide = assemble("wide", Architecture("timm", "wide"), Network(module, "fc", 7, (), PREPROCESSING), CPU)
    store, own = new_store(), renderer(photos)
    shallow = activations_at(store, wide, own, 1, WANTED, "test")
    assert [each.start for each in misses(store, wide, own, 3, WANTED)] == [0]
    advanced = compute_or_load(store, wide, shallow, 3, WANTED, "test")
    direct = compute_or_load(new_store(), wide, PixelSource(own), 3, WANTED, "test")
    assert torch.equal(everything(advanced), everything(direct))
    assert [each.start for each in misses(store, wide, own, 5, WANTED)] == [3]


@torch.no_grad()
def test_the_choice_of_an_engine_is_kept_and_what_it_chose_is_in_the_key(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, own = new_store(), renderer(photos)
    chosen = engine_of(store, tiny_cnn())
    compute_or_load(store, tiny_cnn(), PixelSource(own), 3, WANTED, "test")
    monkeypatch.setattr("unfreeze.acceleration.frozen._choose", None)  # neither chosen nor compiled again
    again = tiny_cnn()
    assert engine_of(store, again) == chosen
    assert n_missing(store, again, own, 3, WANTED) == 0
    assert not [name for name, made in again.compiled.items() if made != chosen]
    other = tiny_cnn()
    remember_engine(other, other.fingerprint(), replace(chosen, way="plain"))
    assert n_missing(store, other, own, 3, WANTED) == 7
    lowered = tiny_cnn()
    precisions = (torch.bfloat16,) * 5
    remember_engine(lowered, lowered.fingerprint(), replace(chosen, precisions=precisions))
    assert n_missing(store, lowered, own, 3, WANTED) == 7


@torch.no_grad()
def test_where_the_chosen_engine_fails_another_computes_under_its_own_key(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no longer")

    store, own = new_store(), renderer(photos)
    chosen = engine_of(store, tiny_cnn())
    assert chosen.way == "openvino"
    monkeypatch.setattr("unfreeze.acceleration.frozen.convert_stages", fail)
    backbone = tiny_cnn()
    kept = compute_or_load(store, backbone, PixelSource(own), 3, WANTED, "test")
    assert engine_of(store, backbone).way == "fused"
    with monkeypatch.context() as alone:
        alone.setattr("unfreeze.acceleration.frozen.openvino_version", lambda: None)
        by_torch = compute_or_load(new_store(), tiny_cnn(), PixelSource(own), 3, WANTED, "test")
    assert torch.equal(everything(kept), everything(by_torch))
    monkeypatch.undo()
    assert n_missing(store, tiny_cnn(), own, 3, WANTED) == 7  # nothing lies under OpenVINO's key


def test_activations_are_kept_in_the_backbones_precision(photos: tuple[Path, ...]) -> None:
    store, own = new_store(), renderer(photos)
    exact = activations_at(store, tiny_cnn(), own, 3, WANTED, "test")
    lowered = activations_at(store, replace(tiny_cnn(), precision=torch.bfloat16), own, 3, WANTED, "test")
    (x,), (low,) = exact.batches([2], [1], 1), lowered.batches([2], [1], 1)
    assert (x.dtype, low.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(low.float(), x, rtol=0.05, atol=0.05)
    assert torch.equal(to_model_input(low, tiny_cnn(), 3), low.float())


@torch.no_grad()
def test_what_decides_an_activation_decides_whether_it_is_found(
    photos: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, backbone, own = new_store(), tiny_cnn(), renderer(photos)
    wanted: Wanted = {0: (0, 1)}
    assert computed(store, backbone, own, 3, wanted) == 2
    assert computed(store, backbone, own, 2, wanted) == 2  # another boundary
    assert computed(store, backbone, own, 5, wanted) == 0  # another one, but from what is kept at 3
    assert computed(store, backbone, renderer(photos, seed=1), 3, wanted) == 1  # another crop, the same plain view
    assert computed(store, backbone, replace(own, augmentation=TEXTBOOK_AUG), 3, wanted) == 1
    assert computed(store, backbone, on_device(own, CPU, 0), 3, wanted) == 1  # resampled elsewhere
    assert computed(store, tiny_vit(), own, 3, wanted) == 2
    smaller = replace(own, preprocessing=replace(own.preprocessing, mean=(0.4, 0.5, 0.5)))
    assert computed(store, backbone, smaller, 3, wanted) == 2
    changed = tmp_path / "changed.png"
    changed.write_bytes(photos[1].read_bytes())
    assert computed(store, backbone, renderer([changed]), 3, wanted) == 2  # another content
    with torch.no_grad():
        next(backbone.stages[4].module.parameters()).add_(1)  # above the boundary: what lies below is the same
    assert computed(store, backbone, own, 3, wanted) == 0
    assert computed(store, backbone, own, 5, wanted) == 0  # from what is kept at 3, and as the new weights have it
    next(buffer for buffer in backbone.stages[1].module.buffers() if buffer.dim()).add_(1)  # a statistic of BatchNorm
    assert computed(store, backbone, own, 3, wanted) == 2
    next(backbone.stages[2].module.parameters()).mul_(2)  # a frozen weight
    assert computed(store, backbone, own, 3, wanted) == 2
    lowered = replace(backbone, precision=torch.bfloat16)
    assert [len(each.pairs) for each in misses(store, lowered, own, 3, wanted)] == [2]
    other = replace(backbone, architecture=replace(backbone.architecture, arguments={"output_stride": 16}))
    assert computed(store, other, own, 3, wanted) == 2
    assert computed(store, backbone, own, 3, wanted) == 0
    monkeypatch.setattr(torch, "__version__", "3.0")
    assert computed(store, backbone, own, 3, wanted) == 2


@torch.no_grad()
def test_activations_of_another_engine_are_not_found(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    store, backbone, own = new_store(), tiny_cnn(), renderer(photos)
    monkeypatch.setattr("unfreeze.acceleration.frozen.openvino_version", lambda: None)
    assert computed(store, backbone, own, 3, WANTED) == 7
    monkeypatch.setattr("unfreeze.acceleration.frozen.openvino_version", lambda: "another")
    assert [len(each.pairs) for each in misses(store, backbone, own, 3, WANTED)] == [7]


def test_byte_identical_photos_are_computed_once(photos: tuple[Path, ...], tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(photos[0].read_bytes())
    source = Counted(PixelSource(renderer([photos[0], copy])))
    kept = compute_or_load(new_store(), tiny_cnn(), source, 3, {0: (0,), 1: (0,)}, "test")
    assert len(source.asked) == 1
    one, other = torch.cat(list(kept.batches([0, 1], [0, 0], 2)))
    assert torch.equal(one, other)


def test_nothing_wanted_gives_nothing(photos: tuple[Path, ...]) -> None:
    backbone, renderer = tiny_cnn(), task(photos, train=9).renderer
    cache = compute_or_load(new_store(), backbone, PixelSource(renderer), 5, {}, "test")
    head = new_head(backbone, CLASSES, 0)
    none = np.array([], dtype=np.int64)
    assert cache.rows == {}
    assert logits_from(backbone, head, cache, none).shape == (0, CLASSES)
    assert logits_from(backbone, head, PixelSource(renderer), none).shape == (0, CLASSES)


@pytest.mark.parametrize("boundary", [0, 1, 3, 5])
def test_predictions_are_those_of_the_whole_model_on_plain_views(photos: tuple[Path, ...], boundary: int) -> None:
    backbone, renderer = tiny_cnn(dropout=0.5), task(photos, train=9).renderer
    backbone.network.module.train()
    head = new_head(backbone, CLASSES, 0)
    chosen = np.array([5, 1, 3])
    source = activations_at(new_store(), backbone, renderer, boundary, dict.fromkeys(chosen.tolist(), (0,)), "test")
    answers = logits_from(backbone, head, source, chosen)
    backbone.network.module.eval()
    plain = torch.cat([renderer.views(photo, [0]) for photo in chosen.tolist()])
    with torch.no_grad():
        expected = head(backbone.run(to_model_input(plain, backbone, 0)))
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-5)


def test_training_learns_the_same_from_either_renderers_views(photos: tuple[Path, ...]) -> None:
    given = task(photos, train=12, val=6)

    def losses(renderer: Renderer) -> list[float | None]:
        backbone = tiny_cnn()
        tuned = finetune(
            backbone, random_head(backbone, CLASSES, 0), PixelSource(renderer), given.data.labels,
            plan_from(backbone, 0, lr=0.01, head_lr=0.01), schedule(views=None),
            phase="test", train=given.data.train, val=given.data.val, seed=0,
        )  # fmt: skip
        return [loss for row in tuned.history for loss in (row.train_loss, row.val_loss)]

    by_pillow = losses(given.renderer)
    assert losses(choose_renderer(given.renderer, CPU, reused=True)) == by_pillow
    assert losses(on_device(given.renderer, CPU, 10_000)) == pytest.approx(by_pillow, rel=0.01)
    assert losses(replace(given.renderer, seed=1)) != pytest.approx(by_pillow, rel=0.01)  # other views
