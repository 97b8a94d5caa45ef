from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.photos import PREPROCESSING, draw, renderer

from unfreeze.data.decode import decode
from unfreeze.data.rendering.renderer import DECODED_CACHE_BYTES, DecodedImageCache
from unfreeze.data.sources import Sample
from unfreeze.errors import DecodeError
from unfreeze.reading import Reading
from unfreeze.training.recipes import TEXTBOOK_AUG

WANTED = [(3, (0, 1)), (0, (2,)), (7, (1, 0)), (3, (1,)), (5, (0,))]


def chunks(wanted: Sequence[tuple[int, Sequence[int]]], size: int) -> list[Sequence[tuple[int, Sequence[int]]]]:
    return [wanted[start : start + size] for start in range(0, len(wanted), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("budget", [0, 5000, DECODED_CACHE_BYTES])
def test_batch_size_threads_and_memory_change_no_pixel(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, size: int, workers: int, budget: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: workers)
    expected = torch.cat([renderer(photos).views(photo, views) for photo, views in WANTED])
    own = replace(renderer(photos), image_cache=DecodedImageCache(budget))
    batches = list(own.batches(chunks(WANTED, size)))
    assert len(batches) == -(-len(WANTED) // size)
    assert torch.equal(torch.cat(batches), expected)
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in batches)


def test_the_order_of_asking_changes_no_pixel(photos: tuple[Path, ...]) -> None:
    own = renderer(photos)
    there = dict(zip(range(8), own.batches([(photo, (1,))] for photo in range(8)), strict=True))
    back = dict(zip(reversed(range(8)), own.batches([(photo, (1,))] for photo in reversed(range(8))), strict=True))
    assert all(torch.equal(there[photo], back[photo]) for photo in range(8))


def test_another_seed_draws_other_views_but_the_same_plain_one(photos: tuple[Path, ...]) -> None:
    one, other = renderer(photos, 1).views(2, (0, 1)), renderer(photos, 2).views(2, (0, 1))
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])
    assert torch.equal(renderer(photos, 1).views(2, (0, 1)), one)


def test_a_batch_holds_all_views_of_its_photos(photos: tuple[Path, ...]) -> None:
    assert [tuple(batch.shape) for batch in renderer(photos).batches(chunks(WANTED, 2))] == [
        (3, 3, 16, 16), (3, 3, 16, 16), (1, 3, 16, 16),
    ]  # fmt: skip


def test_nothing_wanted_gives_no_batch(photos: tuple[Path, ...]) -> None:
    assert list(renderer(photos).batches([])) == []


def test_few_photos_are_rendered_ahead_of_the_network(photos: tuple[Path, ...]) -> None:
    taken: list[int] = []

    def wanted() -> Iterator[list[tuple[int, tuple[int]]]]:
        for number in range(1000):
            taken.append(number)
            yield [(number % len(photos), (0,))]

    batches = renderer(photos).batches(wanted())
    next(batches)
    assert len(taken) <= 4
    batches.close()  # type: ignore[attr-defined]


def test_a_photo_that_cant_be_read_is_named(photos: tuple[Path, ...], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no photo")
    with pytest.raises(DecodeError, match=r"bad\.png"):
        list(renderer((*photos[:5], tmp_path / "bad.png")).batches([[(photo, (0,))] for photo in range(6)]))


def test_the_content_of_a_photo_decides_its_views_not_its_place(photos: tuple[Path, ...]) -> None:
    there, here = renderer(photos), renderer(photos[3:])
    assert torch.equal(there.views(3, (0, 1)), here.views(0, (0, 1)))
    assert there.cache_key(3, 1) == here.cache_key(0, 1)
    one = renderer(photos)
    names = [one.cache_key(0, 0), one.cache_key(0, 1), one.cache_key(0, 2), one.cache_key(1, 0), one.cache_key(1, 1)]
    assert (
        len({*names, renderer(photos, 1).cache_key(0, 1), replace(one, augmentation=TEXTBOOK_AUG).cache_key(0, 1)}) == 7
    )
    assert one.cache_key(0, 0) == renderer(photos, 1).cache_key(0, 0)


def test_a_large_photo_is_rendered_as_if_it_had_been_read_whole(tmp_path: Path) -> None:
    y, x = np.mgrid[0:600, 0:800]
    shades = [127 + 120 * np.sin(x / (30 + 9 * band) + y / 50) for band in range(3)]
    large = Image.fromarray(np.stack(shades, axis=-1).astype(np.uint8))
    large.save(tmp_path / "a.jpg", quality=95)
    large.save(tmp_path / "a.png")
    assert decode(tmp_path / "a.jpg", PREPROCESSING.min_side).size < large.size
    jpeg, png = (renderer([tmp_path / name]).views(0, (0,)).float() for name in ("a.jpg", "a.png"))
    assert float((jpeg - png).abs().max()) < 0.05 * float(png.std())


def test_what_is_held_is_not_read_again_and_stays_within_the_budget(tmp_path: Path) -> None:
    paths = draw(tmp_path, 6)  # 24 pixels wide, 20 to 22 high
    memory = DecodedImageCache(3 * 24 * (20 + 21 + 22) + 100)
    own = replace(renderer(paths), image_cache=memory)
    before = [own.views(photo, (0, 1)) for photo in range(6)]
    assert memory.budget == 100
    for path in paths[:3]:
        path.unlink()
    assert all(torch.equal(own.views(photo, (0, 1)), before[photo]) for photo in range(6))
    paths[5].unlink()
    with pytest.raises(DecodeError, match=r"5\.png"):
        own.views(5, (0, 1))


def test_a_photo_that_several_threads_read_at_once_is_paid_for_once(photos: tuple[Path, ...]) -> None:
    own = replace(renderer(photos), image_cache=DecodedImageCache(DECODED_CACHE_BYTES))
    with ThreadPoolExecutor(8) as pool:
        views = list(pool.map(lambda number: own.views(number % 2, (0, 1)), range(64)))
    assert own.image_cache.budget == DECODED_CACHE_BYTES - 3 * 24 * (20 + 21)
    assert all(torch.equal(view, views[number % 2]) for number, view in enumerate(views))


def test_pixels_of_another_frame_have_another_key(photos: tuple[Path, ...]) -> None:
    own = renderer(photos)
    samples = [
        Sample(path, path.name, 0, digest=digest, traits=("frames",) if number == 0 else ())
        for number, (path, digest) in enumerate(zip(own.paths, own.digests, strict=True))
    ]
    first = own.for_samples(samples)
    middle = replace(first, preprocessing=replace(first.preprocessing, reading=Reading("middle")))
    assert first.cache_key(0, 0) == own.cache_key(0, 0)
    assert middle.cache_key(0, 0) != own.cache_key(0, 0)
    assert middle.cache_key(1, 0) == own.cache_key(1, 0)
    assert repr(middle.preprocessing) == repr(own.preprocessing)
