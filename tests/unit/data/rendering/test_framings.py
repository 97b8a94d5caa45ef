from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.photos import CROPS, PREPROCESSING, draw, renderer

from unfreeze.data.decode import decode
from unfreeze.data.rendering.device_renderer import on_device
from unfreeze.data.rendering.framings import RESAMPLING, frame, plain, tile_box, to_crop_from
from unfreeze.data.rendering.renderer import DecodedImageCache
from unfreeze.data.rendering.transforms import Augmentation, augment, draw_view
from unfreeze.orientations import Orientation
from unfreeze.preprocessing import Fit, Interpolation, Preprocessing
from unfreeze.reading import Reading
from unfreeze.torchvision_shim import ensure_torchvision
from unfreeze.views import CROP, FRAMINGS, GRIDS, SQUEEZE, EvaluationView, Grid, tiles

SIZES = [
    (400, 400), (401, 400), (640, 480), (480, 640), (1000, 333), (333, 1000), (97, 1003), (40, 30), (7, 100), (1, 1),
    (1, 50), (2000, 1999), (223, 225),
]  # fmt: skip


def own(
    size: tuple[int, int] = (32, 32), resize: int | tuple[int, int] = 36, interpolation: Interpolation = "bicubic"
) -> Preprocessing:
    return Preprocessing(size, resize, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), interpolation)


PREPROCESSINGS = [own(), own(resize=32), own((32, 48), 40), own((48, 32), (60, 40)), own((224, 224), 256)]


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(61, 40), (33, 97), (32, 32), (20, 20)])
def test_squeezed_is_the_whole_image_resized_as_the_source_resizes(
    size: tuple[int, int], interpolation: Interpolation
) -> None:
    image = photo(*size)
    ours = frame(image, own((32, 48), interpolation=interpolation), SQUEEZE)
    expected = image.resize((48, 32), RESAMPLING[interpolation])
    assert ours.tobytes() == expected.tobytes()
    assert ours.size == (48, 32)


def test_the_crop_is_the_sources() -> None:
    assert frame(photo(61, 40), own(), CROP).tobytes() == plain(photo(61, 40), own()).tobytes()


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", SIZES)
def test_tiles_cover_every_pixel_and_nothing_else(
    size: tuple[int, int], grid: Grid, preprocessing: Preprocessing
) -> None:
    width, height = size
    covered = np.zeros((height, width), int)
    shapes = set()
    for index in range(grid[0] * grid[1]):
        left, top, right, bottom = tile_box(size, preprocessing, grid, index)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        covered[top:bottom, left:right] += 1
        shapes.add((right - left, bottom - top))
    assert covered.all()
    assert len(shapes) == 1


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", SIZES)
def test_tiles_have_the_inputs_aspect_ratio_where_they_suffice(
    size: tuple[int, int], grid: Grid, preprocessing: Preprocessing
) -> None:
    input_height, input_width = preprocessing.size
    short, long = sorted((size[0] / input_width, size[1] / input_height))
    left, top, right, bottom = tile_box(size, preprocessing, grid, 0)
    across, down = (right - left) / input_width, (bottom - top) / input_height
    if long <= grid[1] * short:
        one_pixel = max(1 / input_width, 1 / input_height)
        assert abs(across - down) <= 1.01 * one_pixel
    else:
        assert max(across, down) == pytest.approx(long / grid[1], abs=1 / min(preprocessing.size))
        assert min(across, down) == pytest.approx(short)


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", SIZES)
def test_tiles_enlarge_nothing_that_the_crop_does_not_enlarge_as_much(
    size: tuple[int, int], grid: Grid, preprocessing: Preprocessing
) -> None:
    left, top, right, bottom = tile_box(size, preprocessing, grid, 0)
    height, width = preprocessing.size
    if isinstance(preprocessing.resize, int):
        crop = preprocessing.resize / min(size)
    else:
        crop = max(preprocessing.resize[1] / size[0], preprocessing.resize[0] / size[1])
    enlarged = [width / (right - left)] * (right - left < size[0]) + [height / (bottom - top)] * (
        bottom - top < size[1]
    )
    assert all(each <= max(1, crop) * (1 + 1e-9) for each in enlarged)


def test_tiles_are_numbered_row_by_row_along_the_long_side() -> None:
    def boxes(size: tuple[int, int], grid: Grid) -> list[tuple[int, int, int, int]]:
        return [tile_box(size, own(), grid, index) for index in range(grid[0] * grid[1])]

    assert boxes((200, 100), (1, 2)) == [(0, 0, 100, 100), (100, 0, 200, 100)]
    assert boxes((100, 200), (1, 2)) == [(0, 0, 100, 100), (0, 100, 100, 200)]
    assert boxes((250, 100), (1, 3)) == [(0, 0, 100, 100), (75, 0, 175, 100), (150, 0, 250, 100)]
    assert boxes((500, 100), (1, 4))[1] == (125, 0, 250, 100)  # longer than the grid: squeezed
    assert boxes((200, 160), (2, 2)) == [(0, 0, 100, 100), (100, 0, 200, 100), (0, 60, 100, 160), (100, 60, 200, 160)]


@pytest.mark.parametrize("grid", GRIDS)
def test_a_tile_is_its_box_resized(grid: Grid) -> None:
    image = photo(301, 120)
    for tile in tiles(grid):
        part = image.crop(tile_box(image.size, own(), grid, tile.index))
        expected = part.resize((32, 32), Image.Resampling.BICUBIC)
        assert frame(image, own(), tile).tobytes() == expected.tobytes()


@pytest.mark.parametrize("on_card", [False, True])
def test_views_are_framed_turned_and_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_card: bool
) -> None:
    paths = draw(tmp_path, 2)
    decoded: list[Path] = []

    def counting(path: Path, min_side: int, reading: Reading) -> Image.Image:
        decoded.append(path)
        return decode(path, min_side, reading=reading)

    shown = renderer(paths)
    if on_card:
        shown = on_device(shown, torch.device("cpu"), 0)
    module = "device_renderer" if on_card else "renderer"
    monkeypatch.setattr(f"unfreeze.data.rendering.{module}.decode_pixels", counting)
    views = [EvaluationView.of(framing, turn) for framing in FRAMINGS for turn in (Orientation.ROT90, Orientation(0))]
    (batch,) = shown.batches([[(1, views)]])
    assert decoded == [paths[1]]
    with Image.open(paths[1]) as opened:
        image = opened.convert("RGB")
    for view, found in zip(views, batch, strict=True):
        expected = np.rot90(np.asarray(frame(image, PREPROCESSING, view.framing)), view.orientation.quarter_turns)
        np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_framings_are_kept_apart_in_memory_and_in_the_cache(tmp_path: Path) -> None:
    shown = replace(renderer(draw(tmp_path, 1)), image_cache=DecodedImageCache(10**6))
    views = [EvaluationView.of(framing, orientation) for framing in FRAMINGS for orientation in Orientation]
    assert len({shown.cache_key(0, view) for view in (*views, 1)}) == len(views) + 1
    card = on_device(shown, torch.device("cpu"), 10**6)
    first, again = (next(card.batches([[(0, [*views, 1])]])) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", SIZES)
def test_the_rule_in_exported_files_gives_the_boxes(size: tuple[int, int], grid: Grid) -> None:
    """An own transcription of the rule that ``export.deployed`` writes, in floats and with other names."""
    (width, height), (h, w), scaled = size, (48, 32), 60
    sw, sh = (int(scaled * side / min(size)) for side in size)
    down, across = grid if width * h >= height * w else grid[::-1]
    limits = [math.ceil(width * side / sw) for side in (w, h)], [math.ceil(height * side / sh) for side in (w, h)]
    tw = max(math.ceil(width / across), math.ceil(height * w / (down * h)), min(w, limits[0][0], limits[1][0]))
    th = max(math.ceil(height / down), math.ceil(width * h / (across * w)), min(h, limits[0][1], limits[1][1]))
    tw, th = min(width, tw), min(height, th)
    for index in range(grid[0] * grid[1]):
        row = index // across
        column = index - row * across
        left = (width - tw) * column // max(1, across - 1)
        top = (height - th) * row // max(1, down - 1)
        assert tile_box(size, own((48, 32), 60), grid, index) == (left, top, left + tw, top + th)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(32, 32), (32, 48)])
def test_padded_is_timms_crop_mode_border(size: tuple[int, int], shape: tuple[int, int]) -> None:
    ensure_torchvision()
    from timm.data import create_transform

    mean, image = (0.485, 0.456, 0.406), photo(*size)
    preprocessing = replace(own(shape, 36), mean=mean).fitted("pad")
    transform = create_transform(
        (3, *shape), is_training=False, interpolation="bicubic", crop_pct=1.0, crop_mode="border", mean=mean
    )
    scaled, theirs = image, list(transform.transforms[:2])
    if min(round(side / max(size[0] / shape[1], size[1] / shape[0])) for side in size):  # timm's is of no pixels
        for step in theirs:
            scaled = step(scaled)
        assert frame(image, preprocessing, CROP).tobytes() == scaled.tobytes()
    assert frame(image, preprocessing, CROP).size == shape[::-1]


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_the_plain_view_shows_both_ends_of_a_strip(fit: Fit) -> None:
    for size, ends in (
        ((900, 150), ((0, 0, 20, 150), (880, 0, 900, 150))),
        ((120, 640), ((0, 0, 120, 15), (0, 625, 120, 640))),
    ):
        for end in ends:
            image = Image.new("RGB", size, (128, 128, 128))
            image.paste((255, 0, 0), end)
            assert np.asarray(frame(image, own(resize=32).fitted(fit), CROP))[..., 0].max() > 200
            assert np.asarray(frame(image, own(resize=32), CROP))[..., 0].max() < 150


def test_a_fit_is_described_by_the_resize_where_it_can_be() -> None:
    assert own((32, 48), 40).fitted("squash").resize == (32, 48)
    assert own((32, 48), 40).fitted("pad").resize == 40
    assert own((32, 48), (40, 60)).fitted("crop") == own((32, 48), 60)
    assert own().fitted("crop") == own()


def test_another_fit_is_never_taken_for_the_usual_one() -> None:
    squashing = own(resize=(32, 32))  # as its source does
    keys = [each.cache_key for each in (own(), squashing, squashing.fitted("squash"), own().fitted("pad"))]
    assert len(set(keys)) == 4
    assert keys[0] == repr(own())
    assert "fit" not in keys[0]


@pytest.mark.parametrize("fit", ["squash", "pad"])
@pytest.mark.parametrize("size", [(900, 150), (120, 640), (64 * 300, 300)])
def test_random_views_are_crops_of_the_whole_image(size: tuple[int, int], fit: Fit) -> None:
    preprocessing = own(resize=32).fitted(fit)
    image = Image.new("RGB", size, (200, 200, 200))
    source = to_crop_from(image, preprocessing)
    assert max(source.size) <= max(size)
    everything = Augmentation(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, jitter=0.0)
    view = augment(image, preprocessing, everything, (0, 1, 2))
    difference = np.abs(np.asarray(view, int) - np.asarray(frame(image, preprocessing, CROP), int))
    assert difference.mean() < 4  # all of it is the plain view, up to one more resizing
    for key in range(20):
        left, top, right, bottom = draw_view(source.size, preprocessing, CROPS, (0, 1, key)).box
        assert 0 <= left < right <= source.width
        assert 0 <= top < bottom <= source.height
        share = (right - left) * (bottom - top) / (source.width * source.height)
        assert share >= 0.49
        ratio = (right - left) / (bottom - top) / (source.width / source.height)
        assert 0.79 <= ratio <= 1.26


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_a_device_renders_the_fit_as_pillow_does(tmp_path: Path, fit: Fit) -> None:
    path = tmp_path / "wide.png"
    photo(150, 40).save(path)
    own_renderer = replace(renderer([path]), preprocessing=own(resize=32, interpolation="bilinear").fitted(fit))
    device = on_device(own_renderer, torch.device("cpu"), 2**20)
    for view in (0, 1, 2, EvaluationView.of(orientation=Orientation.ROT90)):
        (ours,), (theirs,) = (list(each.batches([[(0, [view])]])) for each in (device, own_renderer))
        assert (ours.int() - theirs.int()).abs().float().mean() < 1
