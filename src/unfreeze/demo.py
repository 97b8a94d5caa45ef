"""Synthetic images of a brushed metal surface with defects, to try unfreeze without photos of your own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from unfreeze.runtime import generator

SIDE = 160  # pixels
IMAGES_PER_CLASS = 40


def draw_photos(folder: Path, a_class: int = IMAGES_PER_CLASS, seed: int = 0) -> None:
    """Draw ``a_class`` images of each class into ``folder/CLASS/NNN.jpg``; existing files are not overwritten."""
    for label, (name, defect) in enumerate(DEFECTS.items()):
        class_folder = folder / name
        class_folder.mkdir(parents=True, exist_ok=True)
        for number in range(a_class):
            file = class_folder / f"{number:03}.jpg"
            if not file.exists():
                random = generator(seed, label, number)
                photo = _surface(random)
                defect(photo, random)
                photo.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.2))).save(file, quality=90)


def _surface(random: np.random.Generator) -> Image.Image:
    """Return an image of brushed metal: streaks along one axis, uneven light, and small dots as in every class."""
    streaks = random.normal(0, random.uniform(6, 14), (SIDE, 1)) + random.normal(0, 4, (SIDE, SIDE))
    across, down = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE))
    light = random.uniform(-25, 25) * across + random.uniform(-25, 25) * down
    grey: NDArray[np.float64] = random.uniform(95, 165) + streaks + light
    tint = random.uniform(0.94, 1.06, 3)
    photo = Image.fromarray(np.clip(grey[..., None] * tint, 0, 255).astype(np.uint8))
    for _ in range(int(random.integers(0, 4))):
        _dot(photo, random, radius=(1, 2), shade=(-30, 30))
    return photo.rotate(90) if random.random() < 0.5 else photo


def _dot(photo: Image.Image, random: np.random.Generator, radius: tuple[int, int], shade: tuple[int, int]) -> None:
    x, y = random.uniform(20, SIDE - 20, 2)
    size = random.uniform(*radius)
    under = photo.getpixel((int(x), int(y)))
    assert isinstance(under, tuple)
    colour = tuple(int(np.clip(channel + random.uniform(*shade), 0, 255)) for channel in under)
    ImageDraw.Draw(photo).ellipse((x - size, y - size, x + size, y + size), fill=colour)


def _none(photo: Image.Image, random: np.random.Generator) -> None:
    """Leave the surface as it is."""


def _scratch(photo: Image.Image, random: np.random.Generator) -> None:
    angle, length = random.uniform(0, np.pi), random.uniform(40, 90)
    middle = random.uniform(50, SIDE - 50, 2)
    bend = random.normal(0, 4, (5, 2))
    steps = np.linspace(-0.5, 0.5, 5)[:, None] * length
    points = middle + steps * [np.cos(angle), np.sin(angle)] + bend
    grey = int(random.choice([random.uniform(30, 70), random.uniform(190, 230)]))
    ImageDraw.Draw(photo).line([(float(x), float(y)) for x, y in points], fill=(grey, grey, grey), width=1)


def _pits(photo: Image.Image, random: np.random.Generator) -> None:
    for _ in range(int(random.integers(4, 10))):
        _dot(photo, random, radius=(2, 4), shade=(-75, -40))


def _stain(photo: Image.Image, random: np.random.Generator) -> None:
    mask = Image.new("L", photo.size)
    draw = ImageDraw.Draw(mask)
    x, y = random.uniform(45, SIDE - 45, 2)
    for _ in range(6):
        dx, dy = random.normal(0, 10, 2)
        size = random.uniform(8, 18)
        draw.ellipse((x + dx - size, y + dy - size, x + dx + size, y + dy + size), fill=int(random.uniform(50, 90)))
    warm = Image.new("RGB", photo.size, (110, 80, 55))
    photo.paste(warm, mask=mask.filter(ImageFilter.GaussianBlur(5)))


DEFECTS: dict[str, Callable[[Image.Image, np.random.Generator], None]] = {
    "clean": _none,
    "pits": _pits,
    "scratch": _scratch,
    "stain": _stain,
}
