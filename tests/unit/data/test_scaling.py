"""Which bands are used, and which numbers become black and white: one choice for all photos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.support.files import write_dicom, write_png16, write_tiff

from unfreeze.config import make_config
from unfreeze.data.decode import inspect
from unfreeze.data.scaling import choose_reading
from unfreeze.data.sources import Sample
from unfreeze.errors import ConfigError
from unfreeze.reading import Channel, Reading, in_threes

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def chosen(paths: list[Path], n_channels: int = 3, **settings: Any) -> tuple[Reading, str | None]:
    samples = [Sample(path, path.name, 0, traits=inspect(path).traits) for path in paths]
    return choose_reading(make_config({"photos": "photos", **settings}), samples, n_channels)


def bands(reading: Reading) -> list[int]:
    return [channel.band for channel in reading.channels]


def ranges(reading: Reading) -> list[tuple[float | None, float | None]]:
    return [(channel.low, channel.high) for channel in reading.channels]


@pytest.fixture
def grey(tmp_path: Path) -> list[Path]:
    return [write_png16(tmp_path / f"{i}.png", RAMP[..., None] * (i + 1)) for i in range(3)]


@pytest.fixture
def six(tmp_path: Path) -> list[Path]:
    pixels = np.stack([RAMP * (band + 1) for band in range(6)])
    options: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "separate"}
    return [write_tiff(tmp_path / f"{i}.tif", pixels, **options) for i in range(2)]


def test_8_bit_photos_are_read_as_ever(tmp_path: Path) -> None:
    for mode in ("L", "RGB", "RGBA"):
        Image.new(mode, (8, 8)).save(tmp_path / f"{mode}.png")
    assert chosen(sorted(tmp_path.iterdir())) == (Reading(), None)


def test_deep_photos_get_one_scaling_from_all_training_photos(grey: list[Path]) -> None:
    reading, line = chosen(grey)
    pooled = np.concatenate([RAMP.ravel() * (i + 1) for i in range(3)])
    assert reading.scaling == "percentiles"
    assert bands(reading) == [1, 1, 1]
    low, high = ranges(reading)[0]
    assert [low, high] == pytest.approx(np.percentile(pooled, [0.5, 99.5]).tolist())
    assert line == (
        f"numbers 0 to 12285 in 1 band, scaled from {low:g} to {high:g} to black..white, the same for all photos"
    )


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [("full", (0, 65535)), ("reflectance", (0, 10000)), ("100,3000", (100, 3000)), ((5, 6.5), (5, 6.5))],
)
def test_the_user_chooses_the_scaling(grey: list[Path], scaling: object, expected: tuple[float, float]) -> None:
    reading, _ = chosen(grey, scaling=scaling)
    assert ranges(reading) == [expected] * 3


def test_each_photo_by_itself_stays_a_choice(grey: list[Path], six: list[Path]) -> None:
    assert chosen(grey, scaling="image") == (Reading(), None)
    reading, line = chosen(six, scaling="image")
    assert not reading.is_recorded
    assert "how bright it is beside the others is lost" in str(line)


def test_decibels_are_scaled_by_their_own_percentiles(tmp_path: Path) -> None:
    values = np.logspace(-3, 0, 4096, dtype=np.float32).reshape(64, 64)
    reading, line = chosen([write_tiff(tmp_path / "a.tif", values)], scaling="decibel")
    low, high = ranges(reading)[0]
    assert [low, high] == pytest.approx([-30, 0], abs=0.5)
    assert "dB" in str(line)


def test_many_bands_are_used_in_groups_of_three_and_chosen_ones_alone(six: list[Path]) -> None:
    reading, line = chosen(six)
    assert bands(reading) == [1, 2, 3, 4, 5, 6]
    assert ranges(reading)[5][1] == pytest.approx(6 * ranges(reading)[0][1])  # type: ignore[operator]
    assert "6 bands" in str(line)
    assert "2 groups" in str(line)
    assert bands(chosen(six, bands="4,3,2")[0]) == bands(chosen(six, bands=[4, 3, 2])[0]) == [4, 3, 2]
    assert bands(chosen(six, n_channels=6)[0]) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ConfigError, match="no band 7: these photos have 6"):
        chosen(six, bands="7")


def test_a_fourth_band_of_data_is_used(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(40, 200, (64, 64, 4), np.uint8)
    path = write_tiff(tmp_path / "a.tif", noise, photometric="rgb", extrasamples=["unspecified"])
    reading, _ = chosen([path])
    assert bands(reading) == [1, 2, 3, 2, 3, 4]
    assert set(ranges(reading)) == {(0, 255)}


def test_names_of_bands_are_kept(tmp_path: Path) -> None:
    names = "".join(
        f'<Item name="DESCRIPTION" sample="{i}" role="description">{name}</Item>'
        for i, name in enumerate(("red", "green", "nir"))
    )
    tag = (42112, "s", 0, f"<GDALMetadata>{names}</GDALMetadata>", True)
    path = write_tiff(tmp_path / "a.tif", np.stack([RAMP] * 3, axis=2), photometric="rgb", extratags=[tag])
    assert [channel.name for channel in chosen([path])[0].channels] == ["red", "green", "nir"]


def test_photos_of_different_depths_are_read_one_by_one(tmp_path: Path, grey: list[Path]) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "shallow.png")
    reading, line = chosen([*grey, tmp_path / "shallow.png"])
    assert reading == Reading()
    assert "different depths" in str(line)


def test_a_window_that_all_dicom_files_have_is_taken(tmp_path: Path) -> None:
    paths = [
        write_dicom(tmp_path / f"{i}.dcm", RAMP, WindowCenter=1000, WindowWidth=400 + 100 * (i == 2)) for i in range(3)
    ]
    shared, _ = chosen(paths[:2])
    assert (shared.scaling, ranges(shared)[0]) == ("header", (800, 1200))
    assert chosen(paths)[0].scaling == "percentiles"


def test_windows_of_ct_become_channels(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, RescaleIntercept=-1024, RescaleSlope=1)
    one, _ = chosen([path], window="lung")
    assert ranges(one) == [(-1350, 150)] * 3
    three, _ = chosen([path], window="lung+soft-tissue+300,1000")
    assert bands(three) == [1, 1, 1]
    assert ranges(three) == [(-1350, 150), (-150, 250), (-200, 800)]
    assert [channel.name for channel in three.channels] == ["lung", "soft-tissue", ""]


@pytest.mark.parametrize(
    ("flag", "settings"),
    [
        ("--bands", {"bands": "0,1"}),
        ("--bands", {"bands": "red"}),
        ("--scaling", {"scaling": "9,3"}),
        ("--scaling", {"scaling": "some"}),
        ("--window", {"window": "liver"}),
        ("--window", {"window": "40,-80"}),
        (None, {"window": "lung", "bands": "all"}),
        (None, {"window": "lung", "scaling": "full"}),
    ],
)
def test_what_makes_no_sense_is_refused(flag: str | None, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({"photos": "photos", **settings})
    assert caught.value.where == flag


def test_channels_come_in_groups() -> None:
    channels = [Channel(number) for number in range(1, 8)]

    def grouped(count: int, width: int = 3) -> list[int]:
        return [channel.band for channel in in_threes(channels[:count], width)]

    assert grouped(1) == [1, 1, 1]
    assert grouped(2) == [1, 2, 2]
    assert grouped(3) == [1, 2, 3]
    assert grouped(4) == [1, 2, 3, 2, 3, 4]
    assert grouped(7) == [1, 2, 3, 4, 5, 6, 5, 6, 7]
    assert grouped(5, 1) == [1, 2, 3, 4, 5]


def test_a_scaling_changes_the_keys_of_pixels_and_nothing_else_does() -> None:
    reading = Reading(channels=(Channel(1, 0, 9, "red"),), scaling="range")
    assert Reading().numbers_key == ""
    assert reading.numbers_key == replace(reading, channels=(Channel(1, 0, 9),)).numbers_key
    others = [replace(reading, scaling="decibel"), replace(reading, channels=(Channel(1, 0, 8),))]
    assert len({each.numbers_key for each in (reading, *others)}) == 3
