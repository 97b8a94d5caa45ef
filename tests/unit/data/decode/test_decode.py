import contextlib
import io
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unfreeze.data.decode import ANY_PHOTO, PHOTO_SUFFIXES, DecodeLimits, decode, inspect
from unfreeze.errors import DecodeError, FormatError, MissingExtraError, SizeError

RAMP = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
COLOURS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = decode(path)
    assert image.mode == "RGB"
    assert type(image) is Image.Image
    return np.asarray(image)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".tga"])
def test_eight_bit_colours_are_exact(tmp_path: Path, suffix: str) -> None:
    assert suffix in PHOTO_SUFFIXES
    np.testing.assert_array_equal(pixels(saved(tmp_path / f"a{suffix}", Image.fromarray(COLOURS))), COLOURS)


def test_dark_eight_bit_grey_stays_dark(tmp_path: Path) -> None:
    grey = RAMP // 8
    np.testing.assert_array_equal(pixels(saved(tmp_path / "a.png", Image.fromarray(grey)))[..., 1], grey)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(COLOURS)
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how a camera in that position stores the upright photo
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[274] = orientation
    np.testing.assert_array_equal(pixels(saved(tmp_path / "a.png", stored, exif=exif)), COLOURS)


def test_malformed_exif_does_no_harm(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (8, 8), "red"), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert pixels(path).shape == (8, 8, 3)


def test_transparency_turns_white(tmp_path: Path) -> None:
    rgba = np.dstack([COLOURS, np.full(COLOURS.shape[:2], 255, np.uint8)])
    rgba[:, :10, 3] = 0
    shown = pixels(saved(tmp_path / "a.png", Image.fromarray(rgba)))
    assert (shown[:, :10] == 255).all()
    np.testing.assert_array_equal(shown[:, 10:], COLOURS[:, 10:])
    palette = Image.fromarray(COLOURS[..., 0] % 4).convert("P")
    palette.putpalette([0, 0, 0, 10, 10, 10, 20, 20, 20, 30, 30, 30])
    shown = pixels(saved(tmp_path / "b.png", palette, transparency=bytes([0, 255, 255, 255])))
    assert set(np.unique(shown)) == {10, 20, 30, 255}


def test_an_alpha_channel_of_zeros_is_unused(tmp_path: Path) -> None:
    rgba = np.dstack([COLOURS, np.zeros(COLOURS.shape[:2], np.uint8)])
    np.testing.assert_array_equal(pixels(saved(tmp_path / "a.png", Image.fromarray(rgba))), COLOURS)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("CMYK", "jpg"), ("1", "png"), ("LA", "png"), ("P", "gif"), ("L", "webp")]
)
def test_other_modes(tmp_path: Path, mode: str, suffix: str) -> None:
    image = Image.new("RGB", (32, 16), (250, 250, 250))
    assert pixels(saved(tmp_path / f"a.{suffix}", image.convert(mode))).mean() == pytest.approx(250, abs=6)


@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        (RAMP.astype(np.uint16) * 16, "png"),
        (RAMP.astype(">u2") * 16, "tif"),
        (RAMP.astype(np.int32) - 128, "tif"),
        (RAMP.astype(np.float32) / 255, "tif"),
    ],
)
def test_deep_grey_is_stretched(
    tmp_path: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], suffix: str
) -> None:
    grey = pixels(saved(tmp_path / f"a.{suffix}", Image.fromarray(values)))[..., 0].astype(int)
    assert np.abs(grey - RAMP).max() <= 3


def test_non_finite_and_no_data_pixels_are_black(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32) + 100
    values[0, :4] = [np.nan, -np.inf, -9999, 3e38]
    values[1:, :8] = -9999
    grey = pixels(saved(tmp_path / "a.tif", Image.fromarray(values), tiffinfo={42113: "-9999"}))[..., 0]
    assert grey[0, :4].tolist() == [0, 0, 0, 255]
    assert grey[:, 128].mean() == pytest.approx(128, abs=6)
    nothing = np.full((4, 4), np.nan, np.float32)
    assert not pixels(saved(tmp_path / "b.tif", Image.fromarray(nothing))).any()


def test_a_flat_deep_image_and_a_single_bright_spot(tmp_path: Path) -> None:
    flat = np.full((40, 40), 700, np.uint16)
    assert np.unique(pixels(saved(tmp_path / "a.png", Image.fromarray(flat)))).size == 1
    flat[3, 3] = 900
    assert np.unique(pixels(saved(tmp_path / "b.png", Image.fromarray(flat)))).tolist() == [0, 255]


def test_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "tif", "webp", "png"):
        path = saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])
        assert pixels(path)[4, 4].tolist() == pytest.approx([255, 0, 0], abs=4)


def damaged() -> dict[str, bytes]:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    return {
        "empty.jpg": b"",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "text.png": b"<html>404</html>",
        "head.png": b"\x89PNG\r\n\x1a\n",
        "cut.tif": b"II*\0\x08\0\0\0",
        "a.dcm": b"no dicom" * 40,
        "evil.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }


@pytest.mark.parametrize("name", damaged())
def test_damaged_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(damaged()[name])
    with pytest.raises(DecodeError) as caught:
        decode(tmp_path / name)
    assert caught.value.where == tmp_path / name
    assert caught.value.mend


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="No such file"):
        decode(tmp_path / "gone.jpg")


def test_every_truncation_of_every_format_is_a_decode_error_or_a_photo(tmp_path: Path) -> None:
    for suffix in ("jpg", "png", "webp", "gif", "tif", "bmp", "ppm", "tga"):
        data = saved(tmp_path / f"whole.{suffix}", Image.fromarray(COLOURS)).read_bytes()
        for length in range(0, len(data), max(1, len(data) // 25)):
            path = tmp_path / f"cut.{suffix}"
            path.write_bytes(data[:length])
            with contextlib.suppress(DecodeError):
                assert decode(path).mode == "RGB"


@pytest.mark.parametrize("size", [(20_000, 5_000), (20_000, 20_000)])
def test_bombs_are_refused_from_the_header(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6 %d %d 255\n" % size)
    with pytest.raises(SizeError, match="more than the 1,000,000 pixels"):
        decode(path, limits=DecodeLimits(ANY_PHOTO.formats, 1_000_000))


def test_a_tiff_of_thousands_of_bands_is_refused_from_the_header(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((500, 8, 8), np.uint16), planarconfig="separate", photometric="minisblack")
    with pytest.raises(SizeError):
        decode(path, limits=DecodeLimits(("TIFF",), 1000))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "dcm"])
def test_an_open_file_is_decoded_as_the_file_on_disk(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "dcm":
        write_dicom(path, RAMP.astype(np.uint16) * 10)
    elif suffix == "tif":
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(path, np.stack([RAMP.astype(np.uint16)] * 3), photometric="rgb", planarconfig="separate")
    else:
        saved(path, waves(640, 480))
    upload = io.BytesIO(path.read_bytes())
    assert np.array_equal(np.asarray(decode(upload, 200)), np.asarray(decode(path, 200)))
    assert not upload.closed


def test_formats_that_are_not_accepted_are_refused_whatever_they_are_called(tmp_path: Path) -> None:
    accepted = DecodeLimits(("JPEG", "TIFF"), 1_000_000)
    with pytest.raises(FormatError):
        decode(saved(tmp_path / "a.png", Image.fromarray(COLOURS)).rename(tmp_path / "a.jpg"), limits=accepted)
    dicom = write_dicom(tmp_path / "a.dcm", RAMP.astype(np.uint16))
    with pytest.raises(FormatError):
        decode(dicom, limits=accepted)
    stamp = bytearray(saved(tmp_path / "a.tif", waves(64, 48)).read_bytes())
    stamp[128:132] = b"DICM"  # in the pixels
    assert decode(io.BytesIO(stamp), limits=accepted).size == (64, 48)


def test_threads_leave_the_warning_filters_as_they_were(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (64, 64)), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\0")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        sizes = {image.size for image in pool.map(decode, [path] * 200)}
    assert sizes == {(64, 64)}
    assert list(warnings.filters) == before


@pytest.mark.parametrize(("bands", "kind"), [(3, np.uint16), (4, np.float32), (1, np.float64)])
def test_scientific_tiff(tmp_path: Path, bands: int, kind: type) -> None:
    tifffile = pytest.importorskip("tifffile")
    values: np.ndarray[tuple[int, ...], Any] = np.stack([RAMP.astype(kind) * (band + 1) for band in range(bands)])
    layout = {"photometric": "rgb", "planarconfig": "separate"} if bands > 1 else {"photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", values.squeeze(), **layout)
    shown = pixels(tmp_path / "a.tif").astype(int)
    assert shown.shape == (16, 256, 3)
    assert shown[0, 200].tolist() == pytest.approx([200 / 3, 400 / 3, 200] if bands > 1 else [200] * 3, abs=4)


def test_tiff_with_many_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = np.zeros((7, 8, 8), np.uint16)
    pixels[2, :, 4:] = 500
    pixels[5] = 9000
    tifffile.imwrite(tmp_path / "a.tif", pixels, planarconfig="separate", photometric="minisblack")
    found = inspect(tmp_path / "a.tif")
    assert found.traits == ("deep", "bands")
    assert np.asarray(found.image)[0, [0, 7]].tolist() == [[0, 0, 0], [0, 0, 255]]
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(DecodeError, match=r"unfreeze\[tiff\]"):
        decode(tmp_path / "a.tif")


def write_dicom(path: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.uint16]], **elements: object) -> Path:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *values.shape, 1
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.PhotometricInterpretation = 15, 0, "MONOCHROME2"
    dataset.PixelData = values.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_dicom_window_slope_and_inversion(tmp_path: Path) -> None:
    stored = RAMP.astype(np.uint16) * 10
    window = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": [1000, 0], "WindowWidth": [2000, 1]}
    grey = pixels(write_dicom(tmp_path / "a.dcm", stored, **window))[0, :, 0].astype(int)
    np.testing.assert_allclose(grey, np.clip((RAMP[0] * 20.0 - 1000) / 2000 * 255, 0, 255), atol=1)
    inverted = pixels(write_dicom(tmp_path / "b.dcm", stored, PhotometricInterpretation="MONOCHROME1", **window))
    np.testing.assert_array_equal(inverted[0, :, 0], 255 - grey)
    stretched = pixels(write_dicom(tmp_path / "c", stored))[0, :, 0].astype(int)
    assert np.abs(stretched - RAMP[0]).max() <= 3


def test_dicom_without_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    (tmp_path / "a.dcm").write_bytes(b"DICM")
    with pytest.raises(MissingExtraError, match=r"unfreeze\[dicom\]"):
        decode(tmp_path / "a.dcm")


# Large JPEGs


def waves(width: int, height: int) -> Image.Image:
    """A smooth picture, as photos are at the scale of single pixels."""
    y, x = np.mgrid[0:height, 0:width]
    shades = [127 + 120 * np.sin(x / (30 + 9 * band) + y / 50) for band in range(3)]
    return Image.fromarray(np.stack(shades, axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    ("enough", "size"),
    [(None, (640, 480)), (241, (640, 480)), (240, (320, 240)), (121, (320, 240)), (60, (80, 60)), (1, (80, 60))],
)
def test_a_large_jpeg_comes_no_smaller_than_enough(tmp_path: Path, enough: int | None, size: tuple[int, int]) -> None:
    path = saved(tmp_path / "a.jpg", waves(640, 480), quality=95)
    assert decode(path, enough).size == size


def test_a_reduced_jpeg_renders_as_the_whole_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", waves(640, 480), quality=95)
    whole, reduced = (np.asarray(decode(path, enough).resize((80, 60)), float) for enough in (None, 180))
    assert np.abs(whole - reduced).max() <= 3


def test_a_reduced_jpeg_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = saved(tmp_path / "a.jpg", waves(640, 480), exif=exif)
    assert decode(path, 200).size == (240, 320)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".gif", ".bmp"])
def test_other_formats_come_in_their_own_size(tmp_path: Path, suffix: str) -> None:
    assert decode(saved(tmp_path / f"a{suffix}", waves(64, 48)), 10).size == (64, 48)


def test_a_truncated_jpeg_is_refused_at_every_scale(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", waves(640, 480), quality=95)
    path.write_bytes(path.read_bytes()[:-4000])
    for enough in (None, 200, 1):
        with pytest.raises(DecodeError, match="truncated"):
            decode(path, enough)
