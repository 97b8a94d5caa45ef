"""What is said of files that can't be decoded, and what the libraries don't say."""

from __future__ import annotations

import logging
import os
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.support.files import Pixels, write_dicom, write_tiff

from unfreeze.data.decode import decode, inspect
from unfreeze.data.decode.reasons import mend_of
from unfreeze.errors import DecodeError, FormatError

RAMP = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
LIBRARY_WORDS = re.compile(r"libtiff|tifffile|decoder|0x|object has no|unpack|\bNone\b|tag|bytes not|force=|<\w")


def refused(path: Path) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode(path)
    assert caught.value.where == path
    assert caught.value.mend
    assert not LIBRARY_WORDS.search(caught.value.what), caught.value.what
    return caught.value


def damaged_tiffs() -> dict[str, bytes]:
    def tiff(*entries: tuple[int, int, int, int]) -> bytes:
        body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        return b"II*\0\x08\0\0\0" + len(entries).to_bytes(2, "little") + body + bytes(64)

    size = ((256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8))
    return {
        "no directory": b"II*\0\xff\xff\0\0",
        "no pixels": tiff(*size, (262, 3, 1, 1)),
        "thirteen bands": tiff(*size, (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 13), (278, 3, 1, 8), (279, 4, 1, 64)),
        "unknown compression": tiff(*size, (259, 3, 1, 50001), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 64)),
        "bad deflate": tiff(*size, (259, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), (278, 3, 1, 8), (279, 4, 1, 64)),
        "bad JPEG": tiff(*size, (259, 3, 1, 7), (262, 3, 1, 1), (273, 4, 1, 8), (278, 3, 1, 8), (279, 4, 1, 64)),
    }


@pytest.mark.parametrize("kind", damaged_tiffs())
def test_damaged_tiffs_are_refused_in_plain_words_alone(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's would keep the last resort from printing
    (tmp_path / "a.tif").write_bytes(damaged_tiffs()[kind])
    refused(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


def test_a_program_that_set_up_logging_still_hears_the_libraries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.tif").write_bytes(damaged_tiffs()["thirteen bands"])
    refused(tmp_path / "a.tif")
    assert "samples per pixel" in caplog.text


def test_an_unreadable_file_is_told_by_the_systems_words(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "gone.tif").what
    (tmp_path / "folder.png").mkdir()
    assert "directory" in refused(tmp_path / "folder.png").what.lower() or os.name == "nt"


def test_a_codec_that_is_missing_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile = pytest.importorskip("tifffile")

    def missing(*_: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    path = write_tiff(tmp_path / "a.tif", RAMP.astype(np.float64), photometric="minisblack")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", missing)
    error = refused(path)
    assert "imagecodecs" in error.what
    assert "unfreeze[tiff]" in str(error.mend)


# DICOM


@pytest.mark.parametrize("little_endian", [True, False])
@pytest.mark.parametrize("name", ["a.dcm", "a", "a.IMA", "IM0001"])
def test_dicom_without_preamble_is_read(tmp_path: Path, name: str, little_endian: bool) -> None:
    path = write_dicom(tmp_path / name, RAMP, little_endian=little_endian, preamble=False)
    np.testing.assert_array_equal(np.asarray(decode(path))[..., 0], RAMP)


@pytest.mark.parametrize("little_endian", [True, False])
def test_a_dicom_palette_of_16_bits_has_its_colours(tmp_path: Path, little_endian: bool) -> None:
    table = (np.arange(256) << 8).astype("<u2" if little_endian else ">u2").tobytes()
    palette: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        palette[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{colour}PaletteColorLookupTableData"] = table
    path = write_dicom(tmp_path / "a.dcm", RAMP, little_endian=little_endian, **palette)
    np.testing.assert_array_equal(np.asarray(decode(path))[..., 2], RAMP)


def test_dicom_of_fewer_than_8_bits_fills_the_range(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP // 2, BitsStored=7, HighBit=6)
    grey = np.asarray(decode(path))[0, :, 0].astype(int)
    assert (grey[0], grey[-1]) == (0, 255)


@pytest.mark.parametrize("preamble", [True, False])
def test_a_dicom_object_without_pixels_is_no_image(tmp_path: Path, preamble: bool) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, preamble=preamble, Modality="SR")
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.dcmread(path, force=True)
    del dataset.PixelData
    dataset.save_as(tmp_path / "pixels.dcm", **({} if preamble else {"implicit_vr": False, "little_endian": True}))
    for name in ("Rows", "Columns"):
        delattr(dataset, name)
    dataset.save_as(tmp_path / "rows.dcm", **({} if preamble else {"implicit_vr": False, "little_endian": True}))
    for name in ("pixels.dcm", "rows.dcm"):
        error = refused(tmp_path / name)
        assert isinstance(error, FormatError)
        assert "no image in" in error.what


def test_what_is_only_called_dicom_is_refused(tmp_path: Path) -> None:
    for content in (b"no dicom" * 40, b"\0" * 300, b"\x08\0\x05\0CS"):
        (tmp_path / "a.dcm").write_bytes(content)
        refused(tmp_path / "a.dcm")


def test_a_dicom_codec_that_is_missing_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = pytest.importorskip("pydicom.pixels")

    def missing(*_: object, **__: object) -> Pixels:
        raise RuntimeError("Unable to decompress 'JPEG-LS' because all plugins are missing dependencies:\n\tgdcm")

    monkeypatch.setattr(pixels, "pixel_array", missing)
    error = refused(write_dicom(tmp_path / "a.dcm", RAMP))
    assert error.mend == 'pip install "unfreeze[dicom]"'


def test_decoding_needs_no_tifffile_for_deep_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiff(tmp_path / "a.tif", np.dstack([RAMP.astype(np.uint16) * 9] * 3), photometric="rgb")
    Image.fromarray(RAMP).save(tmp_path / "b.tif")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert inspect(path).traits == ("deep",)
    assert inspect(tmp_path / "b.tif").traits == ()


def test_a_file_that_is_not_there_cannot_be_saved_anew(tmp_path: Path) -> None:
    error = refused(tmp_path / "gone.jpg")
    assert "Check its path" in (error.mend or "")


@pytest.mark.parametrize(
    ("error", "words"),
    [(PermissionError(13, "x"), "who may read"), (OSError(5, "x"), "Save it anew"), (ValueError(), "anew")],
)
def test_what_to_do_follows_the_cause(error: Exception, words: str) -> None:
    assert words in mend_of(error)


@pytest.mark.parametrize("installed", [True, False])
def test_a_compressed_dicom_that_pillow_alone_cannot_read_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", RAMP.astype(np.uint16)))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGExtended12Bit
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(64)])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(tmp_path / "b.dcm")
    monkeypatch.setattr("unfreeze.data.decode.dicom.find_spec", lambda name: name if installed else None)
    assert ("unfreeze[dicom]" in str(refused(tmp_path / "b.dcm").mend)) is not installed
