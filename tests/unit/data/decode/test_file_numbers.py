"""Photos whose numbers are data: what is in the file reaches the network, in every container and layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.support.files import write_dicom, write_png16, write_ppm16, write_tiff

from unfreeze.data.decode import BandImage, decode, decode_pixels, inspect, inspect_numbers
from unfreeze.data.rendering.transforms import framed_batch
from unfreeze.errors import DecodeError
from unfreeze.preprocessing import Preprocessing
from unfreeze.reading import Channel, Reading
from unfreeze.views import CROP

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
SIX = np.stack([RAMP + 100 * band for band in range(6)], axis=2)
TWELVE_BITS = Reading(channels=(Channel(1, 0, 4095),) * 3, scaling="range")


def band(number: int, low: float = 0, high: float = 4095) -> Reading:
    return Reading(channels=(Channel(number, low, high),), scaling="range")


def write(path: Path, kind: str) -> Path:
    """Write the 12-bit ramp."""
    if kind == "png":
        return write_png16(path, RAMP[..., None])
    if kind == "dicom":
        return write_dicom(path, RAMP)
    if kind == "ppm":
        return write_ppm16(path, np.stack([RAMP] * 3, axis=2))
    options: dict[str, dict[str, Any]] = {
        "tiff": {},
        "tiles": {"tile": (16, 16)},
        "big-endian": {"byteorder": ">"},
        "bigtiff": {"bigtiff": True},
        "deflate": {"compression": "zlib", "predictor": True},
        "float": {},
    }
    return write_tiff(path, RAMP.astype(np.float32) if kind == "float" else RAMP, **options[kind])


@pytest.mark.parametrize("kind", ["png", "ppm", "dicom", "tiff", "tiles", "big-endian", "bigtiff", "deflate", "float"])
def test_every_level_of_12_bits_reaches_the_network_in_order(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a.dat", kind)
    image = decode_pixels(path, reading=TWELVE_BITS)
    views = framed_batch(image, Preprocessing((64, 64), 64, (0.5,) * 3, (0.5,) * 3, "bicubic"), (CROP,))
    assert views.shape == (1, 3, 64, 64)
    levels = views[0, 0].flatten().tolist()
    assert len(set(levels)) == 4096
    assert (levels[0], levels[-1]) == (0, 65535)
    assert levels == sorted(levels)


@pytest.mark.parametrize("layout", ["together", "planes", "tiles"])
def test_all_bands_of_a_tiff_are_numbers(tmp_path: Path, layout: str) -> None:
    options: dict[str, dict[str, Any]] = {
        "together": {"planarconfig": "contig"},
        "tiles": {"planarconfig": "contig", "tile": (32, 32)},
    }
    pixels = np.moveaxis(SIX, 2, 0) if layout == "planes" else SIX
    given = options.get(layout, {"planarconfig": "separate"})
    path = write_tiff(tmp_path / "a.tif", pixels, photometric="minisblack", **given)
    np.testing.assert_array_equal(inspect_numbers(path).bands, SIX)
    image = decode_pixels(path, reading=Reading(channels=(Channel(5, 400, 4495), Channel(1, 0, 4095))))
    assert isinstance(image, BandImage)
    np.testing.assert_array_equal(image.to_array()[..., 0], image.to_array()[..., 1])
    assert decode(path, reading=band(5)).mode == "RGB"  # for people


def test_missing_numbers_are_black_and_count_for_nothing(tmp_path: Path) -> None:
    values = np.where(RAMP % 7 == 0, np.float32(-9999), RAMP.astype(np.float32))
    path = write_tiff(tmp_path / "a.tif", values, extratags=[(42113, "s", 0, "-9999", True)])
    found = inspect_numbers(path).bands[..., 0]
    assert np.isnan(found[RAMP % 7 == 0]).all()
    assert inspect(path, reading=band(1)).traits == ()
    assert np.asarray(decode(path, reading=band(1)))[RAMP % 7 == 0].max() == 0


def test_dicom_numbers_are_those_after_slope_and_intercept(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm", RAMP, RescaleSlope=2, RescaleIntercept=-1024, BitsStored=12, HighBit=11,
        WindowCenter=40, WindowWidth=80,
    )  # fmt: skip
    found = inspect_numbers(path)
    np.testing.assert_array_equal(found.bands[..., 0], RAMP * 2.0 - 1024)
    assert (found.full, found.window) == ((-1024, 7166), (0, 80))


def test_padding_of_dicom_is_unknown_and_inverted_grey_is_turned(tmp_path: Path) -> None:
    padded = write_dicom(tmp_path / "a.dcm", RAMP, PixelPaddingValue=0)
    assert np.isnan(inspect_numbers(padded).bands).sum() == 1
    inverted: dict[str, Any] = {"BitsStored": 12, "HighBit": 11, "PhotometricInterpretation": "MONOCHROME1"}
    turned = write_dicom(tmp_path / "b.dcm", 4095 - RAMP, **inverted)
    np.testing.assert_array_equal(inspect_numbers(turned).bands[..., 0], RAMP)


def test_opacity_is_no_band_but_a_fourth_band_of_data_is(tmp_path: Path) -> None:
    opaque = np.dstack([SIX[..., :3], np.full_like(RAMP, 65535)])
    assert inspect_numbers(write_png16(tmp_path / "a.png", opaque)).bands.shape[2] == 3
    data = np.dstack([SIX[..., :3], RAMP[::-1] * 16])
    assert inspect_numbers(write_png16(tmp_path / "b.png", data)).bands.shape[2] == 4
    tagged = write_tiff(tmp_path / "c.tif", data, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(inspect_numbers(tagged).bands, data)


@pytest.mark.parametrize(("mode", "bands"), [("L", 1), ("1", 1), ("RGB", 3), ("P", 3), ("CMYK", 3), ("RGBA", 3)])
def test_8_bit_photos_are_numbers_from_0_to_255(tmp_path: Path, mode: str, bands: int) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new("L", (8, 8), 255).convert(mode).save(tmp_path / f"a.{suffix}")
    found = inspect_numbers(tmp_path / f"a.{suffix}").bands
    assert found.shape == (8, 8, bands)
    assert found.max() == 255


def test_a_file_with_fewer_bands_says_so(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", SIX[..., :3], photometric="rgb")
    with pytest.raises(DecodeError, match="has 3 bands, and band 5 is needed") as caught:
        decode_pixels(path, reading=band(5))
    assert caught.value.where == path


def test_numbers_far_outside_of_the_scaling_are_noted(tmp_path: Path) -> None:
    path = write_png16(tmp_path / "a.png", RAMP[..., None])
    assert inspect(path, reading=band(1, 0, 1000)).traits == ("clipped",)
    assert inspect(path, reading=band(1, 0, 3000)).traits == ()
    brain = Reading(channels=(Channel(1, 0, 80),), scaling="window")
    assert inspect(path, reading=brain).traits == (), "a window leaves most out by intention"


def test_files_are_turned_as_their_orientation_says(tmp_path: Path) -> None:
    options: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
    path = write_tiff(tmp_path / "a.tif", SIX[:32], extratags=[(274, "H", 1, 6, True)], **options)
    image = decode_pixels(path, reading=band(2))
    assert inspect(path, reading=band(2)).size == image.size == (32, 64)
    expected = np.rot90(SIX[:32, :, 1], -1).clip(0, 4095) / 4095 * 65535
    np.testing.assert_allclose(image.to_array()[..., 0], expected, atol=1)  # type: ignore[union-attr]


def test_decibels_of_radar_are_scaled(tmp_path: Path) -> None:
    amplitude = np.array([[0.0, 0.001, 0.1, 1.0]], np.float32).repeat(4, axis=0)
    path = write_tiff(tmp_path / "a.tif", amplitude)
    reading = Reading(channels=(Channel(1, -30, 0),), scaling="decibel")
    shown = np.asarray(decode(path, reading=reading))[0, :, 0]
    assert shown.tolist() == [0, 0, 170, 255]


def test_each_photo_by_itself_loses_how_bright_it_is(tmp_path: Path) -> None:
    reading = Reading(channels=(Channel(1),) * 3, scaling="image")
    shown = [
        np.asarray(decode(write_png16(tmp_path / f"{factor}.png", RAMP[..., None] * factor), reading=reading))
        for factor in (1, 8)
    ]
    np.testing.assert_allclose(shown[0].astype(int), shown[1], atol=1)
