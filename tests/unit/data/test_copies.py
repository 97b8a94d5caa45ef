"""Copies among photos: what was saved anew is found, and what only resembles another photo isn't."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw

from unfreeze.data.copies import find_copies
from unfreeze.data.decode import decode
from unfreeze.data.fingerprints import fingerprint, similar
from unfreeze.data.groups import merge_groups
from unfreeze.data.sources import Sample


def sample(path: Path, image: Image.Image | None = None, label: int = 0) -> Sample:
    """Return a sample as the checks make it, of a file that is written if there is an image."""
    if image is not None:
        image.save(path)
    decoded = decode(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Sample(path, path.name, label, digest=digest, size=decoded.size, fingerprint=fingerprint(decoded))


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Draw smooth light and shade with fine noise, as in a photo."""
    random = np.random.default_rng(seed)
    light = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(light) + random.normal(0, 6, (size[1], size[0], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def plain(seed: int) -> Image.Image:
    """Draw a surface without any feature."""
    random = np.random.default_rng(seed)
    return Image.fromarray(random.normal(150, 4, (200, 200, 3)).clip(0, 255).astype(np.uint8))


def shape(seed: int, shift: int = 0, color: str = "navy") -> Image.Image:
    """Draw a disc on white."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (160, 160), "white")
    x, y = (int(value) for value in random.integers(20, 90, 2))
    ImageDraw.Draw(image).ellipse((x + shift, y, x + shift + 40, y + 40), fill=color)
    return image


SAVED_ANEW: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda image: image.resize((160, 120), Image.Resampling.LANCZOS),
    "an odd size": lambda image: image.resize((213, 161), Image.Resampling.BICUBIC),
    "twice the size": lambda image: image.resize((640, 480)),
    "a little brighter": lambda image: image.point(lambda value: min(255, value + 3)),
}


@pytest.mark.parametrize("quality", [95, 75, 50])
def test_a_photo_in_another_quality_looks_the_same(tmp_path: Path, quality: int) -> None:
    first = sample(tmp_path / "a.png", scene(1))
    scene(1).save(tmp_path / "b.jpg", quality=quality)
    second, other = sample(tmp_path / "b.jpg"), sample(tmp_path / "c.png", scene(2))
    copies = find_copies([first, other, second])
    assert copies.identical == {}
    assert copies.alike == ((second.digest, first.digest),)


@pytest.mark.parametrize("change", SAVED_ANEW)
def test_a_photo_that_was_saved_anew_looks_the_same(tmp_path: Path, change: str) -> None:
    first, second = sample(tmp_path / "a.png", scene(1)), sample(tmp_path / "b.png", SAVED_ANEW[change](scene(1)))
    assert find_copies([first, second]).alike == ((second.digest, first.digest),)


def test_a_jpeg_and_its_pixels_in_another_format_are_identical(tmp_path: Path) -> None:
    scene(1, (900, 700)).save(tmp_path / "a.jpg")  # only a part of a large JPEG's size is decoded at first
    first, second = sample(tmp_path / "a.jpg"), sample(tmp_path / "a.png", decode(tmp_path / "a.jpg"))
    assert find_copies([first, second]).identical == {second.digest: first.digest}


def test_the_copy_of_a_smaller_one_is_found_beside_the_original(tmp_path: Path) -> None:
    small = scene(1).resize((160, 120), Image.Resampling.LANCZOS)
    first, second = sample(tmp_path / "a.png", scene(1)), sample(tmp_path / "b.png", small)
    third = sample(tmp_path / "c.bmp", small)
    copies = find_copies([first, second, third])
    assert copies.identical == {third.digest: second.digest}
    assert copies.alike == ((second.digest, first.digest),)


def test_photos_that_only_resemble_each_other_are_no_copies(tmp_path: Path) -> None:
    images = [
        *(plain(seed) for seed in range(12)),
        *(shape(seed) for seed in range(12)),
        *(shape(1, shift) for shift in (1, 2, 3)),
        shape(1, color="darkgreen"),
        ImageChops.offset(scene(1), 3, 0),
        scene(1),
        scene(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        scene(1).crop((8, 6, 312, 234)),
        scene(1).resize((320, 120)),  # squeezed: another shape
        Image.merge("RGB", scene(1).split()[::-1]),
    ]
    copies = find_copies([sample(tmp_path / f"{number}.png", image) for number, image in enumerate(images)])
    assert copies.identical == {}
    assert copies.alike == ()


def test_blank_photos_are_copies_only_of_the_same_colour_and_size(tmp_path: Path) -> None:
    blanks = [("a", 40, "black"), ("b", 40, "white"), ("c", 41, "black"), ("d", 40, "black")]
    samples = [
        sample(tmp_path / f"{name}.png", Image.new("RGB", (side, 40), color)) for name, side, color in blanks[:3]
    ]
    samples.append(sample(tmp_path / "d.bmp", Image.new("RGB", (40, 40), "black")))
    copies = find_copies(samples)
    assert copies.identical == {samples[3].digest: samples[0].digest}
    assert copies.alike == ()


def test_a_photo_that_is_gone_meanwhile_has_no_copies(tmp_path: Path) -> None:
    samples = [sample(tmp_path / "a.png", scene(1)), sample(tmp_path / "b.bmp", scene(1))]
    samples[0].path.unlink()
    assert find_copies(samples).identical == {}


def test_more_photos_than_are_compared_at_a_time(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    fingerprints = [random.bytes(72).hex() for _ in range(600)]
    fingerprints[599] = fingerprints[3]
    found = [earlier for block in similar(fingerprints) for earlier in block]
    assert len(found) == 600
    assert {index: earlier for index, earlier in enumerate(found) if earlier} == {599: [3]}


def test_photos_of_one_class_that_all_look_the_same_are_not_one_group(tmp_path: Path) -> None:
    for number, quality in enumerate(range(60, 90, 3)):
        scene(1).save(tmp_path / f"{number}.jpg", quality=quality)
    samples = [sample(path) for path in sorted(tmp_path.glob("*.jpg"))]
    copies = find_copies(samples)
    assert len(copies.alike) == 9
    groups = [merged.group for merged in merge_groups(samples, copies)]
    assert groups.count("copies of 0.jpg") == 5
