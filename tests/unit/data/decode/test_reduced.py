"""Large images are decoded at a reduced size, in bounded memory."""

from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.support.files import Pixels, write_png16, write_tiff

from unfreeze.data.decode import decode, inspect, reduced
from unfreeze.data.decode.memory import DecodeBudget, free_memory
from unfreeze.data.decode.reduced import reduce_rows, reduction

Y, X = np.mgrid[0:300, 0:410]
WAVES = 500 + 400 * np.sin(X / 60) + 90 * np.cos(Y / 40)
COLOUR = np.stack([WAVES, WAVES / 2, WAVES[::-1]], axis=2).astype(np.uint16)
PLANES = {"photometric": "rgb", "planarconfig": "separate"}
FILES: dict[str, tuple[Pixels, dict[str, Any]]] = {
    "grey strips": (COLOUR[..., 0], {"photometric": "minisblack", "compression": "deflate", "rowsperstrip": 7}),
    "grey, one strip": (COLOUR[..., 0], {"photometric": "minisblack"}),
    "grey, big-endian": (COLOUR[..., 0], {"photometric": "minisblack", "byteorder": ">"}),
    "grey tiles": (COLOUR[..., 0], {"photometric": "minisblack", "tile": (64, 48), "compression": "deflate"}),
    "floats": (WAVES.astype(np.float32), {"photometric": "minisblack", "tile": (16, 16)}),
    "colour": (COLOUR, {"photometric": "rgb"}),
    "colour tiles": (COLOUR, {"photometric": "rgb", "tile": (32, 32)}),
    "planes": (np.moveaxis(COLOUR, -1, 0).copy(), {**PLANES, "rowsperstrip": 11}),
    "tiles in planes": (np.moveaxis(COLOUR, -1, 0).copy(), {**PLANES, "tile": (32, 48), "compression": "deflate"}),
    "eight bits": ((COLOUR // 4).astype(np.uint8), {"photometric": "rgb", "compression": "deflate"}),
    "eight bits, grey": ((COLOUR[..., 0] // 4).astype(np.uint8), {"photometric": "miniswhite"}),
}


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduced, "LARGE", 1000)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("by_tifffile", [True, False])
def test_a_large_image_is_the_whole_one_made_smaller(
    tmp_path: Path, kind: str, by_tifffile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, options = FILES[kind]
    path = write_tiff(tmp_path / "a.tif", values, **options)
    if not by_tifffile:
        monkeypatch.setattr("unfreeze.data.decode.decoding.can_be_read_in_parts", lambda file: False)
    whole = decode(path)
    small = inspect(path, 70)
    assert small.size == whole.size == (410, 300)
    assert small.image.size == (103, 75)
    assert "reduced" in small.traits
    difference = np.asarray(small.image, float) - np.asarray(whole.resize((103, 75), Image.Resampling.BOX), float)
    assert np.abs(difference[:-1, :-1]).max() <= 6


@pytest.mark.usefixtures("everything_is_large")
def test_other_large_files_are_made_smaller_too(tmp_path: Path) -> None:
    Image.fromarray((COLOUR // 4).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray((COLOUR[..., 0] // 4).astype(np.uint8)).convert("P").save(tmp_path / "a.gif")
    write_png16(tmp_path / "b.png", COLOUR)
    for name in ("a.png", "a.gif", "b.png"):
        small = inspect(tmp_path / name, 70)
        assert small.image.size == (103, 75)
        assert small.size == (410, 300)


def test_only_large_images_are_reduced() -> None:
    assert reduction((5000, 5000), 100) == 1
    assert reduction((10_000, 10_000), 768) == 13
    assert reduction((10_000, 10_000), 9000) == 1
    assert reduction((10_000, 10_000), 32) == 16
    assert reduction((10_000, 10_000), None) == 1


def test_averages_ignore_missing_numbers() -> None:
    values = np.full((5, 7), 3, np.float32)
    values[0, 0], values[4], values[1, 1] = np.nan, -9999, 9
    image, sample = reduce_rows([values[:1], values[1:4], values[4:]], 2, nodata=-9999)
    assert image.shape == (3, 4)
    assert image[0, 0] == 5
    assert (image[:2, 1:] == 3).all()
    assert np.isnan(image[2]).all()
    assert np.isfinite(sample).sum() == 5 * 7 - 8


def test_a_large_tile_takes_little_memory(tmp_path: Path) -> None:
    values = np.tile(np.random.default_rng(0).integers(0, 4000, (600, 600)).astype(np.uint16), (10, 10))
    path = write_tiff(tmp_path / "a.tif", values, photometric="minisblack", compression="deflate", rowsperstrip=64)
    decode(path, 700)
    tracemalloc.start()
    assert decode(path, 700).size == (750, 750)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < values.nbytes / 2


def test_images_in_decoding_share_a_budget() -> None:
    budget = DecodeBudget(100)
    entered = threading.Event()

    def second() -> None:
        with budget.reserve(60):
            entered.set()

    thread = threading.Thread(target=second)
    with budget.reserve(60):
        thread.start()
        assert not entered.wait(0.05)
        with budget.reserve(40):
            pass
    thread.join()
    assert entered.is_set()
    with budget.reserve(1000):  # larger than the budget: alone
        pass


def test_free_memory_is_what_machine_and_container_leave(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4000 kB\n")
    group = tmp_path / "group"
    assert free_memory(tmp_path / "meminfo", group) == 4000 * 1024
    group.mkdir()
    (group / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("max\n")
    assert free_memory(tmp_path / "meminfo", group) == 4000 * 1024
    (group / "memory.max").write_text("3000\n")
    assert free_memory(tmp_path / "meminfo", group) == 2000
    assert free_memory(tmp_path / "none", tmp_path / "neither") is None
