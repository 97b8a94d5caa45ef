"""Real files that are awkward: each is decoded sanely or refused with a reason."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.support.photos import real_photos

from unfreeze.data.checks import check
from unfreeze.data.decode import decode
from unfreeze.data.sources import read_photos
from unfreeze.errors import DecodeError

pytestmark = pytest.mark.regression

# name: width, height, lowest and highest sane mean brightness
PHOTOS = {
    "cmyk.jpg": (100, 100, 5, 30),  # red letters on black
    "exif_orientation_3.jpg": (128, 128, 80, 95),
    "exif_orientation_6.jpg": (128, 128, 80, 95),
    "exif_orientation_8.jpg": (128, 128, 80, 95),
    "exif_orientation_6.webp": (128, 128, 80, 95),
    "uint16_gray.tif": (64, 64, 50, 200),
    "12bit_in_16bit.tif": (100, 100, 20, 200),
    "uint16_noise.tif": (32, 32, 50, 200),
    "uint16.pgm": (128, 128, 60, 100),
    "animated.gif": (245, 245, 100, 140),
    "animated.apng": (245, 245, 100, 140),
    "multipage.tiff": (10, 10, 20, 60),
    "stereo.mpo": (640, 480, 90, 120),
    "palette_transparency.gif": (2, 2, 128, 128),
    "invalid_exif.jpg": (200, 200, 80, 105),
    "icc_big.jpg": (425, 250, 100, 125),
    "bilevel_g4_rot.tif": (590, 88, 200, 250),  # upright, it reads "This is a test file"
    "rgba16.tga": (2, 1, 150, 255),
    "CT_small.dcm": (128, 128, 80, 150),
    "MR_small.dcm": (64, 64, 80, 150),
    "MR_small_RLE.dcm": (64, 64, 80, 150),
    "JPEG2000.dcm": (256, 1024, 20, 100),
    "SC_rgb_jpeg_dcmtk.dcm": (100, 100, 110, 145),
    "liver_1frame.dcm": (512, 512, 20, 60),
    "geotiff_float_1band.tif": (84, 78, 10, 60),  # thin bright slopes round a frame without data
    "png_named_as.jpg": (320, 240, 100, 115),
    "UPPERCASE.JPEG": (320, 240, 100, 115),
    "nom avec espace é中.jpg": (320, 240, 100, 115),
    "gray_alpha.png": (320, 240, 100, 115),  # its second band is 128 throughout, which is no opacity
    "rgba.png": (320, 240, 150, 190),
    "palette.png": (320, 240, 100, 115),
    "bilevel.png": (320, 240, 95, 125),
    "one_pixel.png": (1, 1, 100, 130),
    "extreme_aspect.png": (1200, 6, 95, 120),
    "xray_uint16_fullrange.png": (512, 512, 140, 180),
    "xray_uint16_12bit.png": (512, 512, 140, 180),
    "xray_float32.tif": (512, 512, 140, 180),
    "geotiff_4band_uint8_pixel.tif": (128, 128, 140, 170),
}
REFUSED = {
    "broken_data_stream.png": "can't be read",
    "broken.png": "no photo",
    "webp_compressed.tif": "can't be read",
    "png_text_bomb.png": "suspicious size",
    "photo.psd": "no photo",
    "MR_truncated.dcm": "truncated",
    "truncated.jpg": "truncated",
    "empty.jpg": "empty",
    "text_named_as.png": "no photo",
    "._resource_fork.jpg": "no photo",
    "Thumbs.db": "no photo",
    "bomb_182MP.png": "more than the 178,956,970 pixels",
    "geotiff_6band_uint16_planar.tif": "6 bands",
}


@pytest.fixture(scope="module")
def odd_images() -> Path:
    return real_photos("odd_images")


@pytest.mark.parametrize("name", PHOTOS)
def test_decoded(odd_images: Path, name: str) -> None:
    width, height, darkest, brightest = PHOTOS[name]
    image = decode(odd_images / name)
    assert (image.mode, image.size) == ("RGB", (width, height))
    assert darkest <= np.asarray(image).mean() <= brightest


@pytest.mark.parametrize("name", REFUSED)
def test_refused(odd_images: Path, name: str) -> None:
    with pytest.raises(DecodeError, match=REFUSED[name]) as caught:
        decode(odd_images / name)
    assert caught.value.where == odd_images / name
    assert caught.value.mend


def test_rotations_agree(odd_images: Path) -> None:
    shown = [np.asarray(decode(odd_images / f"exif_orientation_{turn}.jpg"), float) for turn in (3, 6, 8)]
    assert np.abs(shown[0] - shown[1]).mean() < 12
    assert np.abs(shown[0] - shown[2]).mean() < 12


def test_depth_and_range_make_no_difference(odd_images: Path) -> None:
    names = ("xray_uint16_fullrange.png", "xray_uint16_12bit.png", "xray_float32.tif")
    first, *others = (np.asarray(decode(odd_images / name), float) for name in names)
    assert all(np.abs(first - other).mean() < 2 for other in others)


def test_every_row_of_the_folder_is_known(odd_images: Path) -> None:
    assert {path.name for path in odd_images.iterdir()} - {"README.md"} == PHOTOS.keys() | REFUSED.keys()


def test_a_folder_of_odd_images_is_reported_not_fatal(odd_images: Path, tmp_path: Path) -> None:
    shutil.copytree(odd_images, tmp_path / "odd")
    (tmp_path / "good").mkdir()
    for number, name in enumerate(("icc_big.jpg", "stereo.mpo", "UPPERCASE.JPEG")):
        shutil.copy(odd_images / name, tmp_path / "good" / f"{number}.jpg")
        (tmp_path / "odd" / name).unlink()
    (tmp_path / "odd" / "nom avec espace é中.jpg").unlink()  # the same bytes as UPPERCASE.JPEG, now of another class
    checked = check(read_photos(tmp_path))
    assert {sample.path.name for sample in checked.samples if checked.classes[sample.label] == "odd"} == (
        PHOTOS.keys() - {"icc_big.jpg", "stereo.mpo", "UPPERCASE.JPEG", "nom avec espace é中.jpg"}
    )
    assert {entry.file_name for entry in checked.left_out} == {
        f"odd/{name}" for name in REFUSED if name not in ("._resource_fork.jpg", "Thumbs.db")
    }
    assert all(entry.reason for entry in checked.left_out)
