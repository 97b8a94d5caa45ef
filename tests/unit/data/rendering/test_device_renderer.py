from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.support.backbones import CPU
from tests.support.photos import CROPS, PREPROCESSING, draw, renderer
from torch import Tensor

from unfreeze.data.rendering import device_renderer
from unfreeze.data.rendering.device_renderer import DeviceRenderer, choose_renderer, on_device, resample
from unfreeze.data.rendering.renderer import DECODED_CACHE_BYTES
from unfreeze.data.rendering.transforms import Augmentation, ViewParams, augment, draw_view
from unfreeze.errors import DecodeError
from unfreeze.preprocessing import Interpolation
from unfreeze.training.recipes import LIGHT_AUG, ROTATION_AUG, TEXTBOOK_AUG

pytestmark = pytest.mark.usefixtures("one_thread")

WANTED = [(3, (0, 1)), (0, (2,)), (7, (1, 0)), (3, (1,)), (5, (0,)), (4, (0, 1, 2, 3))]
# Wider than high: there every Pillow filters rows first, as we do.
WIDE = [(97, 33), (61, 40), (40, 40), (300, 41), (64, 64), (50, 9), (500, 320)]


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draw waves and noise."""
    y, x = np.mgrid[0:height, 0:width, 0:3][:2]
    waves = 128 + 90 * np.sin(x / (2 + seed) + y / 5)
    noise = np.random.default_rng(seed).normal(0, 15, waves.shape)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


def on_cpu(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


def steps(ours: Tensor, theirs: Sequence[Image.Image]) -> NDArray[np.int64]:
    """Return by how many 8-bit steps each pixel differs."""
    pillows = np.stack([np.asarray(view) for view in theirs]).astype(np.int64)
    difference: NDArray[np.int64] = np.abs(ours.permute(0, 2, 3, 1).numpy().astype(np.int64) - pillows)
    return difference


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    "augmentation",
    [LIGHT_AUG, ROTATION_AUG, TEXTBOOK_AUG, replace(TEXTBOOK_AUG, jitter=0.4), replace(LIGHT_AUG, color_jitter=0.3)],
)
def test_views_are_pillows_up_to_rounding(interpolation: Interpolation, augmentation: Augmentation) -> None:
    own = replace(PREPROCESSING, size=(24, 32), interpolation=interpolation)
    photos = [photo(*size, seed) for seed, size in enumerate(WIDE)]
    keys = [(0, view, number) for number in range(len(photos)) for view in range(1, 9)]
    frames = [draw_view(photos[key[2]].size, own, augmentation, key) for key in keys]
    assert {frame.flip for frame in frames} == {True, False}
    ours = resample(
        [(on_cpu(photos[key[2]]), frame) for key, frame in zip(keys, frames, strict=True)], (24, 32), interpolation
    )
    found = steps(ours, [augment(photos[key[2]], own, augmentation, key) for key in keys])
    # Light multiplies a step of rounding by less than 2, and its own two roundings may each add one.
    assert found.max() <= (3 if augmentation.jitter else 1)
    assert found.mean() < 0.01


@pytest.mark.parametrize(("size", "expected"), [((24, 24), {0, 1, 2, 3}), ((24, 32), {0, 2}), ((32, 24), {0, 2})])
def test_turned_views_are_pillows_up_to_rounding(size: tuple[int, int], expected: set[int]) -> None:
    own = replace(PREPROCESSING, size=size)
    photos = [photo(*each, seed) for seed, each in enumerate(WIDE)]
    keys = [(0, view, number) for number in range(len(photos)) for view in range(1, 9)]
    frames = [draw_view(photos[key[2]].size, own, ROTATION_AUG, key) for key in keys]
    assert {frame.rot90 for frame in frames} == expected
    sources = [(on_cpu(photos[key[2]]), frame) for key, frame in zip(keys, frames, strict=True)]
    ours = resample(sources, size, "bilinear")
    found = steps(ours, [augment(photos[key[2]], own, ROTATION_AUG, key) for key in keys])
    assert found.max() <= 3
    assert found.mean() < 0.01
    assert ours.is_contiguous(memory_format=torch.channels_last)
    unturned = resample([(image, replace(frame, rot90=0)) for image, frame in sources], size, "bilinear")
    for view, plain, frame in zip(ours, unturned, frames, strict=True):
        assert torch.equal(view, torch.rot90(plain, frame.rot90, (1, 2)))


def test_the_nearest_pixel_is_pillows() -> None:
    own = replace(PREPROCESSING, interpolation="nearest")
    frames = [draw_view((97, 60), own, TEXTBOOK_AUG, (0, view, 0)) for view in range(1, 9)]
    ours = resample([(on_cpu(photo(97, 60)), frame) for frame in frames], own.size, "nearest")
    assert not steps(ours, [augment(photo(97, 60), own, TEXTBOOK_AUG, (0, view, 0)) for view in range(1, 9)]).any()


def test_a_high_photo_differs_by_the_order_of_rounding_at_most() -> None:
    keys = [(0, view, 0) for view in range(1, 9)]
    frames = [draw_view((60, 200), PREPROCESSING, LIGHT_AUG, key) for key in keys]
    ours = resample([(on_cpu(photo(60, 200)), frame) for frame in frames], PREPROCESSING.size, "bilinear")
    found = steps(ours, [augment(photo(60, 200), PREPROCESSING, LIGHT_AUG, key) for key in keys])
    assert found.max() <= 3
    assert found.mean() < 0.5


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_a_finished_view_comes_through_untouched(interpolation: Interpolation) -> None:
    finished, larger = photo(32, 24), photo(97, 80)
    sources = [
        (on_cpu(finished), ViewParams((0, 0, 32, 24))),
        (on_cpu(larger), ViewParams((1.5, 2, 90, 70), True, (1.1, 1.2, 0.9), 0.9)),
    ]
    assert not steps(resample(sources, (24, 32), interpolation)[:1], [finished]).any()


def test_photos_in_one_batch_dont_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [(on_cpu(photo(*size)), draw_view(size, PREPROCESSING, LIGHT_AUG, (0, 1, 0))) for size in WIDE]
    together = resample(frames, PREPROCESSING.size, "bicubic")
    assert together.is_contiguous(memory_format=torch.channels_last)
    alone = torch.cat([resample([frame], PREPROCESSING.size, "bicubic") for frame in frames])
    monkeypatch.setattr(device_renderer, "MAX_PADDED_BYTES", 3 * 4 * 100 * 100)
    by_turns = resample(frames, PREPROCESSING.size, "bicubic")
    for other in (alone, by_turns):
        difference = (together.int() - other.int()).abs()
        assert int(difference.max()) <= 2  # a sum of other length is rounded elsewhere
        assert float(difference.float().mean()) < 0.001


@pytest.mark.parametrize("budget", [0, 5000, DECODED_CACHE_BYTES])
def test_what_is_rendered_in_batches_is_what_pillow_renders(photos: tuple[Path, ...], budget: int) -> None:
    by_pillow = renderer(photos)
    own = on_device(by_pillow, CPU, budget)
    for size in (1, 2, 6):
        chunks = [WANTED[start : start + size] for start in range(0, len(WANTED), size)]
        ours, theirs = torch.cat(list(own.batches(chunks))), torch.cat(list(by_pillow.batches(chunks)))
        plain = torch.tensor([view == 0 for _, views in WANTED for view in views])
        assert torch.equal(ours[plain], theirs[plain])
        assert int((ours.int() - theirs.int()).abs().max()) <= 3
        assert ours.dtype == torch.uint8


def test_what_is_held_is_not_read_again(tmp_path: Path) -> None:
    paths = draw(tmp_path, 6)
    own = on_device(renderer(paths), CPU, DECODED_CACHE_BYTES)
    wanted = [[(photo, (0, 2)) for photo in range(6)]]
    (before,) = own.batches(wanted)
    assert own.image_cache.budget == DECODED_CACHE_BYTES - 6 * 3 * 16 * 16 - 3 * 24 * 2 * (20 + 21 + 22)
    paths[3].unlink()
    (after,) = own.batches(wanted)
    assert torch.equal(after, before)
    with pytest.raises(DecodeError, match=r"3\.png"):
        list(on_device(renderer(paths), CPU, DECODED_CACHE_BYTES).batches(wanted))


def test_turned_views_are_never_taken_for_others(photos: tuple[Path, ...]) -> None:
    still = renderer(photos)
    turned = replace(still, augmentation=replace(CROPS, rotate=True))
    for one, other in ((still, turned), (on_device(still, CPU, 0), on_device(turned, CPU, 0))):
        assert one.cache_key(0, 1) != other.cache_key(0, 1)
        assert one.cache_key(0, 0) == other.cache_key(0, 0)


def test_the_two_renderers_views_are_never_taken_for_each_other(photos: tuple[Path, ...]) -> None:
    by_pillow = renderer(photos)
    own = on_device(by_pillow, CPU, 0)
    assert own.cache_key(0, 1) != by_pillow.cache_key(0, 1)
    assert own.cache_key(0, 0) == by_pillow.cache_key(0, 0)


@pytest.mark.parametrize(("reused", "budget"), [(True, DECODED_CACHE_BYTES), (False, 0)])
def test_on_a_cpu_pillow_renders(photos: tuple[Path, ...], reused: bool, budget: int) -> None:
    chosen = choose_renderer(renderer(photos), CPU, reused=reused)
    assert not isinstance(chosen, DeviceRenderer)
    assert chosen.image_cache.budget == budget
