"""Photos: drawn ones and how they are rendered, noise as an image or a file, and folders of real ones."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.data.rendering.transforms import Augmentation
from unfreeze.preprocessing import Preprocessing

CLASSES = 3
SIZE = 16
CROPS = Augmentation(area=(0.5, 1.0), aspect=(4 / 5, 5 / 4), flip=0.5, jitter=0.1)
PREPROCESSING = Preprocessing((SIZE, SIZE), SIZE, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3), "bilinear")


def draw(root: Path, count: int) -> tuple[Path, ...]:
    """Draw photos: number i is of class i % CLASSES, which a tint in the noise gives away."""
    root.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 200, (20 + number % 3, 24, 3), np.uint8)
        noise[..., number % CLASSES] += 40
        paths.append(root / f"{number}.png")
        Image.fromarray(noise).save(paths[-1])
    return tuple(paths)


def renderer(paths: Sequence[Path], seed: int = 0) -> Renderer:
    """Return what renders the photos with random crops; one that is missing fails when it is asked for."""
    contents = (path.read_bytes() if path.exists() else str(path).encode() for path in paths)
    digests = tuple(hashlib.sha256(content).hexdigest() for content in contents)
    return Renderer(tuple(paths), PREPROCESSING, CROPS, seed, digests)


def real_photos(name: str) -> Path:
    """Return a folder of real photos; without it the test is skipped, and on CI it fails."""
    folder = Path(os.environ.get("UNFREEZE_TEST_DATA") or "/nonexistent") / name
    if not folder.is_dir():
        message = f"UNFREEZE_TEST_DATA names no folder that holds {name}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder


def noise(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
    """Return a photo of noise, brighter on one side."""
    pixels = np.random.default_rng(seed).integers(0, 160, (height, width, 3), np.uint8)
    pixels[:, : width // 2, seed % 3] += 90
    return Image.fromarray(pixels)


def packed(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return a photo as a file's content."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
