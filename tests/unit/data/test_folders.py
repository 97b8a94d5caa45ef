"""What in a folder is a photo, and that nothing which may be one is passed over without a word."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.support.photos import noise, packed

from unfreeze.data.decode import decode
from unfreeze.data.folders import FolderWalk
from unfreeze.data.places import find_photos, iter_photos
from unfreeze.data.signatures import photo_format
from unfreeze.data.sources import read_photos
from unfreeze.errors import MissingExtraError, PhotosError

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def put(root: Path, name: str, content: bytes = b"\xff\xd8\xff") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000"])
def test_formats_by_content(kind: str) -> None:
    assert photo_format(packed(noise(), kind)) == kind


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (HEIC, "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", None),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", None),
        (b"\0\0\0\x18ftypcrx ", None),
        (bytes(128) + b"DICM", "DICOM"),
        (b"\x08\0\x05\0CS\x0a\0ISO_IR 100", "DICOM"),
        (b"\x08\0\0\0\x04\0\0\0\x84\1\0\0", "DICOM"),
        (b"BMW is no bitmap", None),
        (b"P45 form", None),
        (b"", None),
    ],
)
def test_formats_by_first_bytes(content: bytes, kind: str | None) -> None:
    assert photo_format(content) == kind


def test_photos_with_unknown_suffixes_are_used_and_said(tmp_path: Path) -> None:
    for name in ("a/1", "a/IMG.IMA", "a/x.heic", "a/1.2.840.113", "a/photo.jpg_large", "b/1.jpg"):
        put(tmp_path, name)
    put(tmp_path, "b/real.heic", HEIC)
    photos = read_photos(tmp_path)
    assert len(photos.samples) == 7
    assert photos.left_out == ()
    assert photos.notes == (
        "Photos by their content, whatever their suffix says, are used: "
        "2 without suffix, 1 '.ima', 1 '.jpg_large', 1 '.heic'.",
    )


def test_a_class_of_which_nothing_is_read_is_named(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg", "c/1.cr2", "c/2.NEF", "c/deep/3.nef"):
        put(tmp_path, name, b"II*\0" if "c/" in name else b"")
    photos = read_photos(tmp_path)
    assert photos.classes == ("a", "b")
    assert any("The class 'c' is lost, as none of its files is read: 2 '.nef', 1 '.cr2'" in n for n in photos.notes)
    assert not any("without photos" in note for note in photos.notes)


@pytest.mark.parametrize("suffix", [".cr2", ".mp4", ".npy", ""])
def test_where_no_file_is_read_the_suffixes_are_named(tmp_path: Path, suffix: str) -> None:
    for name in ("a/1", "b/1", "b/2"):
        put(tmp_path, name + suffix, b"?")
    with pytest.raises(PhotosError, match=f"3 '{suffix}'" if suffix else "3 without suffix") as caught:
        read_photos(tmp_path)
    assert "layout" not in str(caught.value).lower()
    with pytest.raises(PhotosError, match=f"3 '{suffix}'" if suffix else "3 without suffix"):
        find_photos([tmp_path])


def test_hidden_folders_and_files_with_photos_are_named(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg", ".cat/1.jpg", ".cat/deep/2.png", ".git/3.jpg", "b/.d/4.jpg", "b/.5.jpg", ".x/y"):
        put(tmp_path, name)
    photos = read_photos(tmp_path)
    assert photos.classes == ("a", "b")
    assert {skipped.file_name for skipped in photos.left_out} == {".cat", "b/.d", "b/.5.jpg"}
    assert any("'.cat' (2 photos), 'b/.d' (1 photo)" in note for note in photos.notes)
    assert any("'b/.5.jpg'" in note for note in photos.notes)


def test_hidden_class_folders_alone_are_named_in_the_error(tmp_path: Path) -> None:
    put(tmp_path, ".cat/1.jpg")
    put(tmp_path, ".dog/1.jpg")
    with pytest.raises(PhotosError, match=r"\.cat: is hidden"):
        read_photos(tmp_path)


def test_places_say_what_they_pass_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("1.jpg", "2.jpg", "notes.txt", "3.cr2", ".hidden/4.jpg", "5"):
        put(tmp_path, name)
    notes: list[str] = []
    assert [path.name for path in iter_photos([tmp_path], notes)] == ["1.jpg", "2.jpg", "5"]
    assert len(notes) == 4
    assert all(note.startswith(f"{tmp_path}: ") for note in notes)
    find_photos([tmp_path])
    assert "1 '.cr2'" in capsys.readouterr().err


def test_a_tree_is_read_level_by_level(tmp_path: Path) -> None:
    put(tmp_path, "a/link-target/1.jpg")
    put(tmp_path, "b/2.jpg")
    if sys.platform != "win32":
        (tmp_path / "a" / "link-target" / "b").symlink_to(tmp_path / "b")
    tree = FolderWalk(tmp_path).tree()
    assert [[path.name for path in folder.all_photos()] for folder in tree.folders] == [["1.jpg"], ["2.jpg"]]


def test_heic_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    put(tmp_path, "1.jpg", HEIC)
    with pytest.raises(MissingExtraError, match=r"unfreeze\[heic\]"):
        decode(tmp_path / "1.jpg")


def test_heic_is_read() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, "HEIF")
    assert decode(io.BytesIO(file.getvalue())).size == (64, 48)


def test_dicom_without_its_preamble_is_read(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")

    dataset = pydicom.Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 4, 6, 1
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.PhotometricInterpretation = 7, 0, "MONOCHROME2"
    dataset.PixelData = bytes(range(24))
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False)
    put(tmp_path, "a.IMA", file.getvalue())
    assert photo_format(file.getvalue()) == "DICOM"
    assert decode(tmp_path / "a.IMA").size == (6, 4)


@pytest.mark.parametrize("names", [["verdict.json"], ["compare.json"], ["args.toml", "checks.csv"]])
@pytest.mark.parametrize("place", ["runs/train", "out", "cat/out"])
def test_runs_among_the_photos_are_no_class_and_no_photos(tmp_path: Path, names: list[str], place: str) -> None:
    for name in ("cat/1.jpg", "dog/1.jpg", f"{place}/plots/1.png", f"{place}/heatmaps/1.jpg"):
        put(tmp_path, name)
    for name in names:
        put(tmp_path, f"{place}/{name}", b"{}")
    dataset = read_photos(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.samples) == 2
    assert any(f"Left out: '{place}': is the folder of a run" in note for note in dataset.notes)
    assert len(find_photos([tmp_path])) == 2
    assert len(find_photos([tmp_path / place])) == 2, "its pictures are predicted where they are asked for"
