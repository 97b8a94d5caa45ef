from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import CLASSES, new_head, task, tiny_cnn, tiny_vit

from unfreeze.models.backbone import Backbone, pool
from unfreeze.training import activations
from unfreeze.training.activations import (
    Cached,
    Rendered,
    advance,
    features,
    keep,
    keep_or_render,
    plain_views,
    predict_from,
)

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
WANTED = {2: range(3), 0: range(3), 7: (0,)}
PAIRS = [(7, 0), (0, 2), (2, 1), (0, 0), (2, 1)]


@BACKBONES
@pytest.mark.parametrize("boundary", range(6))
def test_what_is_kept_is_what_recomputing_gives(
    photos: tuple[Path, ...], make: Callable[[], Backbone], boundary: int
) -> None:
    backbone, renderer = make(), task(photos, train=9).renderer
    source = keep_or_render(backbone, renderer, boundary, WANTED, "test")
    assert isinstance(source, Rendered if boundary == 0 else Cached)
    assert source.boundary == boundary
    kept = torch.cat(list(source.batches([photo for photo, _ in PAIRS], [view for _, view in PAIRS], 2)))
    views = torch.cat([renderer.views(photo, (view,)) for photo, view in PAIRS])
    with torch.no_grad():
        expected = backbone.run(views, 0, boundary)
    expected = pool(expected) if boundary == 5 else expected
    torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-6)
    assert [len(batch) for batch in source.batches([0] * 5, [0] * 5, 2)] == [2, 2, 1]


@BACKBONES
@pytest.mark.parametrize(("start", "stop"), [(0, 5), (0, 3), (1, 4), (2, 5), (4, 5)])
def test_advancing_is_the_same_as_keeping_deeper(
    photos: tuple[Path, ...], make: Callable[[], Backbone], start: int, stop: int
) -> None:
    backbone, renderer = make(), task(photos, train=9).renderer
    direct = keep(backbone, renderer, stop, WANTED, "test")
    advanced = advance(backbone, keep_or_render(backbone, renderer, start, WANTED, "test"), stop, WANTED)
    assert advanced.boundary == stop
    assert advanced.row == direct.row
    torch.testing.assert_close(advanced.values, direct.values, rtol=1e-5, atol=1e-6)


def test_keeping_leaves_the_backbone_as_it_was(photos: tuple[Path, ...]) -> None:
    backbone, renderer = tiny_cnn(dropout=0.5), task(photos, train=9).renderer
    before = backbone.fingerprint()
    backbone.network.module.train()  # as the end of an earlier training may leave it
    one = keep(backbone, renderer, 3, WANTED, "test")
    assert backbone.fingerprint() == before
    assert torch.equal(one.values, keep(backbone, renderer, 3, WANTED, "test").values)


def test_features_are_ordered_as_asked(photos: tuple[Path, ...]) -> None:
    backbone, renderer = tiny_cnn(), task(photos, train=9).renderer
    cache = keep(backbone, renderer, 5, WANTED, "test")
    found = features(cache, [0, 2], (2, 0))
    assert found.shape == (2, 2, 12)
    for row, photo in enumerate((0, 2)):
        for column, view in enumerate((2, 0)):
            assert torch.equal(found[row, column], cache.values[cache.row[photo, view]])


def test_a_cache_larger_than_memory_lives_in_a_file(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, renderer = tiny_cnn(), task(photos, train=9).renderer
    in_memory = keep(backbone, renderer, 2, WANTED, "test")
    opened: list[str] = []
    from_file = torch.from_file

    def noted(name: str, **options: Any) -> torch.Tensor:
        opened.append(name)
        return from_file(name, **options)

    monkeypatch.setattr(activations, "MEMORY_BUDGET", 100)
    monkeypatch.setattr(torch, "from_file", noted)
    on_disk = keep(backbone, renderer, 2, WANTED, "test")
    assert len(opened) == 1
    assert not Path(opened[0]).exists()  # nothing is left when the process ends, however it ends
    assert torch.equal(on_disk.values, in_memory.values)


def test_nothing_wanted_gives_nothing(photos: tuple[Path, ...]) -> None:
    backbone, renderer = tiny_cnn(), task(photos, train=9).renderer
    cache = keep(backbone, renderer, 5, {}, "test")
    head = new_head(backbone, CLASSES, 0)
    none = np.array([], dtype=np.int64)
    assert predict_from(backbone, head, cache, none).shape == (0, CLASSES)
    assert predict_from(backbone, head, Rendered(renderer), none).shape == (0, CLASSES)
    assert advance(backbone, Rendered(renderer), 5, {}).values.shape == (0, 12)


@pytest.mark.parametrize("boundary", [0, 1, 3, 5])
def test_predictions_are_those_of_the_whole_model_on_plain_views(photos: tuple[Path, ...], boundary: int) -> None:
    backbone, renderer = tiny_cnn(dropout=0.5), task(photos, train=9).renderer
    backbone.network.module.train()
    head = new_head(backbone, CLASSES, 0)
    chosen = np.array([5, 1, 3])
    source = keep_or_render(backbone, renderer, boundary, dict.fromkeys(chosen.tolist(), (0,)), "test")
    answers = predict_from(backbone, head, source, chosen)
    backbone.network.module.eval()
    plain = torch.cat([renderer.views(photo, plain_views([photo])) for photo in chosen.tolist()])
    with torch.no_grad():
        expected = torch.softmax(head(backbone.run(plain)), dim=1)
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-6)
