"""The same numbers look the same, whatever their layout, depth, number of bands and container are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.files import Pixels, write_dicom, write_png16, write_ppm16, write_tiff

from unfreeze.data.decode import decode, inspect

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(400, 1000, (24, 40, 3)).astype(np.uint16)  # as reflectances and 12-bit cameras have
GREY = COLOUR[..., 0]
NEAR_INFRARED = RANDOM.integers(2000, 3000, (24, 40, 1)).astype(np.uint16)
FOUR = np.concatenate([COLOUR, NEAR_INFRARED], axis=2)
PLANES = {"photometric": "rgb", "planarconfig": "separate"}


def pixels(path: Path) -> Pixels:
    return np.asarray(decode(path))


def planes(bands: Pixels) -> Pixels:
    return np.ascontiguousarray(np.moveaxis(bands, -1, 0))


COLOUR_FILES: dict[str, Callable[[Path], Path]] = {
    "PNG": lambda path: write_png16(path, COLOUR),
    "PPM": lambda path: write_ppm16(path, COLOUR),
    "PPM of 12 bits": lambda path: write_ppm16(path, COLOUR, 4095),
    "TIFF": lambda path: write_tiff(path, COLOUR, photometric="rgb"),
    "TIFF, big-endian": lambda path: write_tiff(path, COLOUR, photometric="rgb", byteorder=">"),
    "TIFF, compressed": lambda path: write_tiff(path, COLOUR, photometric="rgb", compression="deflate", predictor=True),
    "TIFF, tiles": lambda path: write_tiff(path, COLOUR, photometric="rgb", tile=(16, 16)),
    "TIFF, planes": lambda path: write_tiff(path, planes(COLOUR), **PLANES),
    "TIFF, planes, compressed": lambda path: write_tiff(path, planes(COLOUR), **PLANES, compression="deflate"),
    "TIFF, not marked as colour": lambda path: write_tiff(
        path, COLOUR, photometric="minisblack", planarconfig="contig"
    ),
    "TIFF of 32 bits": lambda path: write_tiff(path, COLOUR.astype(np.uint32), photometric="rgb"),
    "TIFF, signed": lambda path: write_tiff(path, COLOUR.astype(np.int16), photometric="rgb"),
    "TIFF of floats": lambda path: write_tiff(path, COLOUR.astype(np.float32), photometric="rgb"),
    "TIFF of floats, planes": lambda path: write_tiff(path, planes(COLOUR.astype(np.float64)), **PLANES),
    "DICOM": lambda path: write_dicom(path, COLOUR),
    "DICOM, big-endian": lambda path: write_dicom(path, COLOUR, little_endian=False),
    "four bands": lambda path: write_tiff(path, FOUR, photometric="rgb", extrasamples=[0]),
    "four bands, planes": lambda path: write_tiff(path, planes(FOUR), **PLANES, extrasamples=[0]),
    "four bands, the last tagged as opacity": lambda path: write_tiff(path, FOUR, photometric="rgb", extrasamples=[2]),
    "the same, as multiplied with": lambda path: write_tiff(path, FOUR, photometric="rgb", extrasamples=[1]),
    "the same, planes": lambda path: write_tiff(path, planes(FOUR), **PLANES, extrasamples=[2]),
    "PNG of four bands": lambda path: write_png16(path, FOUR),
    "five bands": lambda path: write_tiff(path, np.dstack([FOUR, GREY]), photometric="rgb", extrasamples=[0, 0]),
}
GREY_FILES: dict[str, Callable[[Path], Path]] = {
    "PNG": lambda path: write_png16(path, GREY[..., None]),
    "PNG with a second band": lambda path: write_png16(path, np.dstack([GREY, NEAR_INFRARED])),
    "TIFF": lambda path: write_tiff(path, GREY, photometric="minisblack"),
    "TIFF of floats": lambda path: write_tiff(path, GREY.astype(np.float32), photometric="minisblack"),
    "TIFF, white is zero": lambda path: write_tiff(path, 5000 - GREY, photometric="miniswhite"),
    "DICOM": lambda path: write_dicom(path, GREY),
    "DICOM, big-endian": lambda path: write_dicom(path, GREY, little_endian=False),
}


@pytest.mark.parametrize("kind", COLOUR_FILES)
def test_deep_colour_looks_the_same_in_every_file(tmp_path: Path, kind: str) -> None:
    path = COLOUR_FILES[kind](tmp_path / "a")
    low, high = np.percentile(COLOUR.astype(np.float32), (0.5, 99.5))
    expected = np.clip((COLOUR - low) / (high - low), 0, 1) * 255
    assert np.abs(pixels(path) - expected).max() <= 1
    assert "deep" in inspect(path).traits


@pytest.mark.parametrize("kind", GREY_FILES)
def test_deep_grey_looks_the_same_in_every_file(tmp_path: Path, kind: str) -> None:
    path = GREY_FILES[kind](tmp_path / "a")
    low, high = np.percentile(GREY.astype(np.float32), (0.5, 99.5))
    expected = np.clip((GREY - low) / (high - low), 0, 1) * 255
    assert np.abs(pixels(path)[..., 1] - expected).max() <= 1
    assert "deep" in inspect(path).traits


@pytest.mark.parametrize("suffix", ["png", "tif", "dcm"])
def test_eight_bits_are_shown_as_they_are(tmp_path: Path, suffix: str) -> None:
    dark = RANDOM.integers(0, 40, (12, 20)).astype(np.uint8)
    path = tmp_path / f"a.{suffix}"
    if suffix == "dcm":
        write_dicom(path, dark)
    else:
        Image.fromarray(dark).save(path)
    np.testing.assert_array_equal(pixels(path)[..., 0], dark)
    assert inspect(path).traits == ()


def test_deep_planes_are_turned_upright_as_the_others(tmp_path: Path) -> None:
    turn = [(274, "H", 1, 6, True)]
    lying = write_tiff(tmp_path / "a.tif", planes(COLOUR), **PLANES, extratags=turn)
    interleaved = write_tiff(tmp_path / "b.tif", COLOUR, photometric="rgb", extratags=turn)
    np.testing.assert_array_equal(pixels(lying), pixels(interleaved))
    assert inspect(lying).size == inspect(interleaved).size == (24, 40)


def test_pixels_without_data_are_black_in_colour_too(tmp_path: Path) -> None:
    colour = COLOUR.copy()
    colour[:4] = 9999
    tag = [(42113, "s", 0, "9999", True)]
    for number, options in enumerate(({"planarconfig": "separate"}, {})):
        bands = planes(colour) if options else colour.astype(np.float32)
        shown = pixels(write_tiff(tmp_path / f"{number}.tif", bands, photometric="rgb", extratags=tag, **options))
        assert not shown[:4].any()
        assert shown[4:].mean() == pytest.approx(128, abs=10)


def test_sixteen_bits_for_all_three_bands_are_not_deep(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8), (248, 0, 248))
    picture.save(tmp_path / "a.bmp")
    bmp = bytearray((tmp_path / "a.bmp").read_bytes()[:54])
    bmp[28], bmp[30] = 16, 3  # bits a pixel, and that masks say which
    masks = b"".join(mask.to_bytes(4, "little") for mask in (0xF800, 0x07E0, 0x001F))
    bmp[10] = 54 + len(masks)
    (tmp_path / "b.bmp").write_bytes(bytes(bmp) + masks + (0xF81F).to_bytes(2, "little") * 64)
    assert pixels(tmp_path / "b.bmp")[0, 0].tolist() == [255, 0, 255]
    assert inspect(tmp_path / "b.bmp").traits == ()


def test_jpeg_2000_of_more_than_8_bits_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.j2k"
    Image.fromarray((COLOUR // 4).astype(np.uint8)).save(path, no_jp2=True)
    assert inspect(path).traits == ()
    data = bytearray(path.read_bytes())
    data[42:51:3] = bytes([11, 11, 11])  # 12 bits in the header
    path.write_bytes(data)
    assert inspect(path).traits == ("upper bits",)


def test_opacity_of_16_bits_is_put_on_white(tmp_path: Path) -> None:
    opacity = np.full((24, 40, 1), 65535, np.uint16)
    opacity[:, :10] = 0
    shown = pixels(write_png16(tmp_path / "a.png", np.concatenate([COLOUR, opacity], axis=2)))
    assert (shown[:, :10] == 255).all()
    assert shown[:, 10:].mean() == pytest.approx(128, abs=10)
    assert inspect(tmp_path / "a.png").traits == ("deep",)


def test_a_transparent_colour_of_16_bits_is_put_on_white(tmp_path: Path) -> None:
    colour = COLOUR.copy()
    colour[:6] = (1, 2, 3)
    shown = pixels(write_png16(tmp_path / "a.png", colour, colour_key=(1, 2, 3)))
    assert (shown[:6] == 255).all()
    assert shown[6:].mean() == pytest.approx(128, abs=10)
