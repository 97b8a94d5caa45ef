"""A fourth band is believed to be opacity only where it looks like opacity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.files import Pixels, write_tiff

from unfreeze.data.decode import decode, inspect
from unfreeze.data.decode.numbers import as_opacity

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (64, 64, 3), np.uint8)
Y, X = np.mgrid[0:64, 0:64]
DISC = np.hypot(X - 32, Y - 32)

DATA = {
    "a dark meadow": RANDOM.normal(60, 8, (64, 64)),
    "one value": np.full((64, 64), 128),
    "noise over the whole range": RANDOM.uniform(0, 256, (64, 64)),
    "a bright field beside dark water": np.where(X < 40, 3, 140) + RANDOM.normal(0, 3, (64, 64)),
    "a saturated cloud": np.where(DISC < 20, 255, 90 + RANDOM.normal(0, 9, (64, 64))),
    "deep water alone": RANDOM.integers(0, 3, (64, 64)),
}
OPACITY = {
    "opaque": np.full((64, 64), 255),
    "a hole": np.where(DISC < 20, 0, 255),
    "a small sprite": np.where(DISC < 6, 255, 0),
    "a soft edge": np.clip((30 - DISC) * 40, 0, 255),
    "a ramp": X * 255 // 63,
    "lossy": np.where(DISC < 20, 253, 2),
}


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_data_is_left_out(tmp_path: Path, kind: str, suffix: str) -> None:
    band = np.clip(DATA[kind], 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([COLOUR, band])).save(tmp_path / f"a.{suffix}", lossless=True, exact=True)
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / f"a.{suffix}")), COLOUR)
    assert inspect(tmp_path / f"a.{suffix}").traits == ("fourth band",)


@pytest.mark.parametrize("kind", OPACITY)
def test_opacity_is_put_on_white(tmp_path: Path, kind: str) -> None:
    band = OPACITY[kind].astype(np.uint8)
    image = Image.fromarray(np.dstack([COLOUR, band]))
    image.save(tmp_path / "a.png")
    white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "a.png")), np.asarray(white))
    assert inspect(tmp_path / "a.png").traits == ()


@pytest.mark.parametrize("full", [np.uint16(65535), np.int16(32767), np.float32(1)])
def test_opacity_of_other_types_is_found(full: Pixels) -> None:
    opacity = as_opacity(np.where(DISC < 20, full, full * 0).astype(full.dtype))
    assert opacity is not None
    assert set(np.unique(opacity)) == {0, 255}
    assert as_opacity((full * (0.2 + 0.1 * RANDOM.uniform(size=(64, 64)))).astype(full.dtype)) is None


def test_colours_are_not_divided_by_what_is_no_opacity(tmp_path: Path) -> None:
    band = RANDOM.integers(60, 120, (64, 64, 1), np.uint8)
    path = write_tiff(tmp_path / "a.tif", np.concatenate([COLOUR, band], axis=2), photometric="rgb", extrasamples=[1])
    np.testing.assert_array_equal(np.asarray(decode(path)), COLOUR)


def test_grey_that_was_multiplied_with_opacity_is_read(tmp_path: Path) -> None:
    grey = np.dstack([COLOUR[..., 0], OPACITY["a hole"].astype(np.uint8)])
    path = write_tiff(
        tmp_path / "a.tif", np.ascontiguousarray(np.moveaxis(grey, -1, 0)), photometric="minisblack",
        planarconfig="separate", extrasamples=[1],
    )  # fmt: skip
    shown = np.asarray(decode(path))
    assert (shown[DISC < 20] == 255).all()
    np.testing.assert_array_equal(shown[DISC >= 20][:, 0], COLOUR[DISC >= 20][:, 0])


def test_a_fourth_band_without_a_meaning_is_noted(tmp_path: Path) -> None:
    four = np.dstack([COLOUR, COLOUR[..., 0]])
    for number, (bands, layout) in enumerate(((four, "contig"), (np.moveaxis(four, -1, 0).copy(), "separate"))):
        path = write_tiff(tmp_path / f"{number}.tif", bands, photometric="rgb", planarconfig=layout, extrasamples=[0])
        np.testing.assert_array_equal(np.asarray(decode(path)), COLOUR)
        assert inspect(path).traits == ("fourth band",)
