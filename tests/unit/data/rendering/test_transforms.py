from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from unfreeze.data.rendering.framings import plain
from unfreeze.data.rendering.transforms import (
    Augmentation,
    _apply_gain,
    augment,
    draw_view,
    normalize,
    render,
    to_batch,
)
from unfreeze.orientations import Orientation
from unfreeze.preprocessing import Interpolation, Preprocessing
from unfreeze.torchvision_shim import ensure_torchvision

MILD = Augmentation(area=(0.5, 1.0), aspect=(4 / 5, 5 / 4), flip=0.5, jitter=0.1)
TURNED = replace(MILD, rotate=True)
STILL = Augmentation(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, jitter=0.0)
SIZES = [(40, 40), (61, 40), (40, 61), (97, 33), (33, 97), (32, 32), (20, 20), (9, 50), (50, 9), (300, 41), (1, 1)]


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def preprocessing(
    size: tuple[int, int] = (32, 32), resize: int | tuple[int, int] = 36, interpolation: Interpolation = "bicubic"
) -> Preprocessing:
    return Preprocessing(size, resize, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), interpolation)


def pixels(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(image)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("resize", [32, 35, 36, 47])
@pytest.mark.parametrize("size", SIZES)
def test_the_plain_view_is_torchvisions(size: tuple[int, int], resize: int, interpolation: Interpolation) -> None:
    ensure_torchvision()
    from torchvision.transforms import InterpolationMode, v2

    theirs = v2.Compose(
        [v2.Resize(resize, InterpolationMode(interpolation), antialias=True), v2.CenterCrop(32)],
    )(photo(*size))
    ours = plain(photo(*size), preprocessing(resize=resize, interpolation=interpolation))
    assert ours.size == (32, 32)
    np.testing.assert_array_equal(pixels(ours), pixels(theirs))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", [24, 31, 32, 33])
def test_the_plain_view_is_torchvisions_for_any_crop(size: tuple[int, int], crop: int) -> None:
    ensure_torchvision()
    from torchvision.transforms import InterpolationMode, v2

    theirs = v2.Compose([v2.Resize(33, InterpolationMode.BILINEAR, antialias=True), v2.CenterCrop(crop)])(photo(*size))
    ours = plain(photo(*size), preprocessing((crop, crop), 33, "bilinear"))
    np.testing.assert_array_equal(pixels(ours), pixels(theirs))


@pytest.mark.parametrize("crop", [34, 40])
def test_a_crop_beyond_the_resized_photo_is_padded_as_torchvision_pads(crop: int) -> None:
    ensure_torchvision()
    from torchvision.transforms import InterpolationMode, v2

    theirs = v2.Compose([v2.Resize(33, InterpolationMode.BILINEAR, antialias=True), v2.CenterCrop(crop)])(photo(40, 61))
    ours = plain(photo(40, 61), preprocessing((crop, crop), 33, "bilinear"))
    np.testing.assert_array_equal(pixels(ours), pixels(theirs))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
def test_the_plain_view_is_timms(size: tuple[int, int], crop_pct: float) -> None:
    ensure_torchvision()
    from timm.data import create_transform

    theirs = create_transform((3, 32, 32), is_training=False, interpolation="bicubic", crop_pct=crop_pct)
    own = preprocessing(resize=int(32 / crop_pct))
    expected: Tensor = theirs(photo(*size))
    torch.testing.assert_close(
        normalize(to_batch(render(photo(*size), own, None, 0, [0], 0)), own)[0], expected, rtol=0, atol=1e-6
    )


def test_a_squashed_view_keeps_the_whole_photo() -> None:
    own = preprocessing((20, 30), (20, 30))
    np.testing.assert_array_equal(
        pixels(plain(photo(50, 90), own)), pixels(photo(50, 90).resize((30, 20), Image.Resampling.BICUBIC))
    )


def test_normalising_is_torchvisions() -> None:
    ensure_torchvision()
    from torchvision.transforms import v2

    own, image = preprocessing(), photo(5, 7)
    theirs = v2.functional.normalize(
        v2.functional.to_dtype(v2.functional.pil_to_tensor(image), torch.float32, scale=True), own.mean, own.std
    )
    ours = normalize(to_batch([image, photo(5, 7, seed=1), image]), own)
    assert (ours.shape, ours.dtype) == ((3, 3, 7, 5), torch.float32)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(ours[0], ours[2])
    torch.testing.assert_close(ours[0], theirs, rtol=0, atol=1e-6)


def test_a_view_depends_on_seed_view_and_photo_alone() -> None:
    image, own = photo(50, 40), preprocessing()
    first = render(image, own, MILD, 3, [1], 7)
    np.random.default_rng(0).random()
    torch.rand(1)
    assert render(image, own, MILD, 3, [1], 7) == first
    for seed, view, content in ((4, 1, 7), (3, 2, 7), (3, 1, 8)):
        assert render(image, own, MILD, seed, [view], content) != first


def test_views_that_are_asked_for_together_are_the_same_as_one_by_one() -> None:
    image, own = photo(50, 40), preprocessing()
    views = [2, Orientation.ROT90, 0, 1, Orientation.FLIPPED, Orientation.ROT90]
    assert render(image, own, MILD, 3, views, 7) == [render(image, own, MILD, 3, [view], 7)[0] for view in views]


def test_the_plain_view_depends_on_nothing() -> None:
    image, own = photo(50, 40), preprocessing()
    assert render(image, own, MILD, 3, [0], 7) == render(image, own, None, 4, [0], 8)


def test_only_evaluation_views_need_no_augmentation() -> None:
    with pytest.raises(AssertionError, match="evaluation views"):
        render(photo(50, 40), preprocessing(), None, 0, [1], 0)


def test_rendering_leaves_the_photo_alone() -> None:
    image = photo(50, 40)
    before = pixels(image).copy()
    for view in range(4):
        render(image, preprocessing(), MILD, 0, [view], 0)
    np.testing.assert_array_equal(pixels(image), before)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_any_photo_gives_a_full_view(size: tuple[int, int], shape: tuple[int, int]) -> None:
    own = preprocessing(shape, 48)
    for view in range(6):
        assert to_batch(render(photo(*size), own, MILD, 0, [view], 0)).shape == (1, 3, *shape)


def test_an_augmentation_that_changes_nothing_shows_the_whole_photo() -> None:
    own = preprocessing()
    np.testing.assert_array_equal(
        pixels(augment(photo(64, 64), own, STILL, (0, 1, 0))), pixels(photo(64, 64).resize((32, 32)))
    )


def gradient(size: int) -> Image.Image:
    """Red tells the column and green the row."""
    ramp = np.tile(np.linspace(0, 255, size).astype(np.uint8), (size, 1))
    return Image.fromarray(np.dstack([ramp, ramp.T, np.zeros_like(ramp)]))


def test_crops_keep_the_share_of_the_area_and_flips_happen_half_the_time() -> None:
    own, crops = preprocessing(), Augmentation(area=(0.25, 0.36), aspect=(1.0, 1.0), flip=0.5, jitter=0.0)
    widths, flips, lefts = [], [], []
    for number in range(200):
        red = pixels(augment(gradient(256), own, crops, (0, 1, number)))[16, :, 0].astype(float)
        widths.append(abs(red[-1] - red[0]) / 255)
        flips.append(red[0] > red[-1])
        lefts.append(min(red[0], red[-1]))
    assert 0.44 < min(widths) < max(widths) < 0.62
    assert 70 < sum(flips) < 130
    assert min(lefts) < 20
    assert max(lefts) > 90


def test_jitter_changes_brightness_within_its_bounds() -> None:
    own, grey = preprocessing(), Image.new("RGB", (40, 40), (100, 100, 100))
    jitter = Augmentation(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, jitter=0.2)
    levels = [int(pixels(augment(grey, own, jitter, (0, 1, number)))[0, 0, 0]) for number in range(60)]
    assert 79 <= min(levels) < 90
    assert 110 < max(levels) <= 121


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.9, 0.99, 1.0, 1.1, 1.7])
def test_light_that_has_no_colour_is_pillows_brightness(factor: float) -> None:
    image = photo(61, 40)
    expected = ImageEnhance.Brightness(image).enhance(factor)
    np.testing.assert_array_equal(pixels(_apply_gain(image, (factor, factor, factor))), pixels(expected))


def test_tint_changes_every_colour_by_itself_within_its_bounds() -> None:
    own, grey = preprocessing(), Image.new("RGB", (40, 40), (100, 100, 100))
    tint = Augmentation(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, jitter=0.0, color_jitter=0.3)
    levels = np.array([pixels(augment(grey, own, tint, (0, 1, number)))[0, 0] for number in range(100)], np.int64)
    assert (levels.min(axis=0) >= 73).all()  # 100 exp(-0.3) is 74.1, and the contrast's middle is rounded
    assert (levels.min(axis=0) < 80).all()
    assert (levels.max(axis=0) > 126).all()
    assert (levels.max(axis=0) <= 136).all()
    red, green, blue = levels.T.astype(float)
    assert all(abs(float(np.corrcoef(*pair)[0, 1])) < 0.3 for pair in ((red, green), (green, blue), (blue, red)))


def test_without_tint_views_are_what_they_were() -> None:
    own, image = preprocessing(), photo(61, 40)
    frames = [
        draw_view(image.size, own, augmentation, (0, 1, 2))
        for augmentation in (TURNED, replace(TURNED, color_jitter=0.3))
    ]
    assert len(set(frames[0].channel_gain)) == 1
    assert len(set(frames[1].channel_gain)) == 3
    assert replace(frames[1], channel_gain=frames[0].channel_gain) == frames[0]


def turns_of(own: Preprocessing, count: int) -> list[int]:
    return [draw_view((50, 40), own, TURNED, (0, 1, number)).rot90 for number in range(count)]


@pytest.mark.parametrize("size", [(40, 40), (61, 40), (33, 97)])
def test_a_turned_view_is_the_unturned_one_turned_exactly(size: tuple[int, int]) -> None:
    own, image = preprocessing(), photo(*size)
    seen = set()
    for number in range(40):
        key = 0, 1, number
        turns = draw_view(size, own, TURNED, key).rot90
        unturned = pixels(augment(image, own, MILD, key))
        np.testing.assert_array_equal(pixels(augment(image, own, TURNED, key)), np.rot90(unturned, turns))
        seen.add(turns)
    assert seen == {0, 1, 2, 3}


def test_every_turn_of_a_square_view_is_as_likely() -> None:
    found = Counter(turns_of(preprocessing(), 400))
    assert set(found) == {0, 1, 2, 3}
    assert all(70 < count < 130 for count in found.values())


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_a_view_that_is_not_square_is_turned_upside_down_at_most(shape: tuple[int, int]) -> None:
    own, image = preprocessing(shape, 48), photo(50, 40)
    found = Counter(turns_of(own, 200))
    assert set(found) == {0, 2}
    assert 70 < found[2] < 130
    for number in range(10):
        unturned = pixels(augment(image, own, MILD, (0, 1, number)))
        turned = pixels(augment(image, own, TURNED, (0, 1, number)))
        np.testing.assert_array_equal(turned, np.rot90(unturned, turns_of(own, number + 1)[-1]))


def test_without_turns_nothing_is_turned() -> None:
    assert {draw_view((50, 40), preprocessing(), MILD, (0, 1, number)).rot90 for number in range(60)} == {0}


def test_the_plain_view_is_never_turned() -> None:
    image, own = photo(50, 40), preprocessing()
    assert {render(image, own, TURNED, 0, [0], number)[0].tobytes() for number in range(20)} == {
        plain(image, own).tobytes()
    }
