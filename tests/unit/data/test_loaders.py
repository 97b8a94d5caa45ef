from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.support import CROPS, PREPROCESSING

from unfreeze.data.loaders import Renderer
from unfreeze.errors import DecodeError

WANTED = [(3, (0, 1)), (0, (2,)), (7, (1, 0)), (3, (1,)), (5, (0,))]


def renderer(photos: tuple[Path, ...], seed: int = 0) -> Renderer:
    return Renderer(photos, PREPROCESSING, CROPS, seed)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("workers", [1, 3])
def test_batch_size_and_threads_change_no_pixel(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, size: int, workers: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: workers)
    own = renderer(photos)
    expected = torch.cat([own.views(photo, views) for photo, views in WANTED])
    batches = list(own.batches(WANTED, size))
    assert len(batches) == -(-len(WANTED) // size)
    assert torch.equal(torch.cat(batches), expected)


def test_the_order_of_asking_changes_no_pixel(photos: tuple[Path, ...]) -> None:
    own = renderer(photos)
    there = dict(zip(range(8), own.batches([(photo, (1,)) for photo in range(8)], 1), strict=True))
    back = dict(zip(reversed(range(8)), own.batches([(photo, (1,)) for photo in reversed(range(8))], 1), strict=True))
    assert all(torch.equal(there[photo], back[photo]) for photo in range(8))


def test_another_seed_draws_other_views_but_the_same_plain_one(photos: tuple[Path, ...]) -> None:
    one, other = renderer(photos, 1).views(2, (0, 1)), renderer(photos, 2).views(2, (0, 1))
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])
    assert torch.equal(renderer(photos, 1).views(2, (0, 1)), one)


def test_a_batch_holds_all_views_of_its_photos(photos: tuple[Path, ...]) -> None:
    assert [tuple(batch.shape) for batch in renderer(photos).batches(WANTED, 2)] == [
        (3, 3, 16, 16), (3, 3, 16, 16), (1, 3, 16, 16),
    ]  # fmt: skip


def test_nothing_wanted_gives_no_batch(photos: tuple[Path, ...]) -> None:
    assert list(renderer(photos).batches([], 4)) == []


def test_few_photos_are_rendered_ahead_of_the_network(photos: tuple[Path, ...]) -> None:
    taken: list[int] = []

    def wanted() -> Iterator[tuple[int, tuple[int]]]:
        for number in range(1000):
            taken.append(number)
            yield number % len(photos), (0,)

    batches = renderer(photos).batches(wanted(), 4)
    next(batches)
    assert len(taken) <= 16
    batches.close()  # type: ignore[attr-defined]


def test_a_photo_that_cant_be_read_is_named(photos: tuple[Path, ...], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no photo")
    with pytest.raises(DecodeError, match=r"bad\.png"):
        list(renderer((*photos[:5], tmp_path / "bad.png")).batches([(photo, (0,)) for photo in range(6)], 2))
