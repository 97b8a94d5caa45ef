"""Files that hold several pages or frames."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.files import write_dicom, write_tiff

from unfreeze.data.decode import decode, inspect, pixel_key, trait_notes
from unfreeze.errors import DecodeError
from unfreeze.reading import FIRST_FRAME, Frame, Reading

LEVELS = (10, 60, 110, 160, 210)
STACK = np.stack([np.full((16, 24), level, np.uint8) for level in LEVELS])
SUFFIXES = ["tif", "gif", "webp", "png", "dcm", "planes.tif"]


def write_stack(path: Path) -> Path:
    if path.suffix == ".dcm":
        return write_dicom(path, STACK)
    if path.name == "planes.tif":
        colour = np.repeat(STACK[:, None], 3, axis=1)
        return write_tiff(path, colour, photometric="rgb", planarconfig="separate")
    first, *rest = [Image.fromarray(np.repeat(page[..., None], 3, axis=2)) for page in STACK]
    first.save(path, save_all=True, append_images=rest, lossless=True)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("frame", "level"), [("first", 10), ("middle", 110), (1, 10), (4, 160), (5, 210)])
def test_the_frame_that_was_asked_for_is_decoded(tmp_path: Path, suffix: str, frame: Frame, level: int) -> None:
    path = write_stack(tmp_path / suffix if "." in suffix else tmp_path / f"a.{suffix}")
    decoded = inspect(path, reading=Reading(frame))
    assert decoded.traits == ("frames",)
    assert np.asarray(decoded.image).mean() == pytest.approx(level, abs=1)
    np.testing.assert_array_equal(np.asarray(decode(path, reading=Reading(frame))), np.asarray(decoded.image))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_frame_that_is_not_there_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write_stack(tmp_path / suffix if "." in suffix else tmp_path / f"a.{suffix}")
    with pytest.raises(DecodeError, match="5 pages or frames, and number 6"):
        decode(path, reading=Reading(6))


@pytest.mark.parametrize("frame", ["middle", 7])
def test_a_file_of_one_frame_has_no_other(tmp_path: Path, frame: Frame) -> None:
    for name in ("a.png", "a.jpg", "a.tif", "a.gif"):
        Image.fromarray(STACK[2]).save(tmp_path / name)
        decoded = inspect(tmp_path / name, reading=Reading(frame))
        assert decoded.traits == ()
        assert np.asarray(decoded.image).mean() == pytest.approx(110, abs=1)


def test_deep_pages_are_taken_from_the_stack(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 5, (16, 1))
    stack = np.stack([np.stack([page] * 3, axis=-1) for page in (ramp, ramp[:, ::-1], ramp)])
    path = write_tiff(tmp_path / "a.tif", stack, photometric="rgb")
    shown = np.asarray(decode(path, reading=Reading("middle")))[0, :, 0].astype(int)
    assert np.abs(shown - np.arange(256)[::-1]).max() <= 3
    assert inspect(path).traits == ("deep", "frames")


def test_slices_in_one_page_are_frames(tmp_path: Path) -> None:
    options = {"photometric": "minisblack", "volumetric": True, "tile": (5, 16, 16)}
    path = write_tiff(tmp_path / "a.tif", STACK, **options)
    assert inspect(path).traits == ("frames",)
    assert np.asarray(decode(path, reading=Reading(4))).mean() == pytest.approx(160, abs=1)


def test_smaller_copies_and_masks_are_no_pages(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(STACK[0], photometric="minisblack")
        for _ in range(2):
            tiff.write(STACK[1, ::2, ::2], photometric="minisblack", subfiletype=1)
    first, second, third = path.read_bytes().split(struct.pack("<HHII", 254, 4, 1, 1))
    path.write_bytes(first + struct.pack("<HHII", 254, 4, 1, 1) + second + struct.pack("<HHII", 254, 4, 1, 4) + third)
    assert inspect(path).traits == ()
    assert np.asarray(decode(path, reading=Reading("middle"))).mean() == 10


def test_the_preview_in_a_camera_photo_is_no_frame(tmp_path: Path) -> None:
    first, second = (Image.fromarray(page) for page in STACK[:2])
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[second])
    decoded = inspect(tmp_path / "a.mpo", reading=Reading("middle"))
    assert decoded.traits == ()
    assert np.asarray(decoded.image).mean() == pytest.approx(10, abs=1)


@pytest.mark.parametrize(("frame", "words"), [("first", "the first"), ("middle", "the middle one"), (3, "number 3")])
def test_one_note_says_what_is_looked_at(frame: Frame, words: str) -> None:
    (note,) = trait_notes([("frames",), (), ("frames",)], Reading(frame))
    assert note.startswith(f"Files that hold several pages or frames: 2; {words} of each is looked at")
    assert ("--frame" in note) == (frame == "first")
    assert not list(trait_notes([(), ("reduced",)], FIRST_FRAME))


def test_keys_differ_where_pixels_do() -> None:
    middle = Reading("middle")
    assert pixel_key("f0", (), middle) == pixel_key("f0", ("frames",), FIRST_FRAME) == "f0"
    keys = [
        pixel_key("f0", ("frames",), middle),
        pixel_key("f0", ("frames",), Reading(2)),
        pixel_key("f0", ("deep",), FIRST_FRAME),
    ]
    assert len({"f0", *keys}) == 4
