"""``--group-by``: tables, DICOM headers, file names and patterns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unfreeze.data.checks import check
from unfreeze.data.group_by import find_groups
from unfreeze.data.sources import PhotoSet, Sample, read_photos
from unfreeze.errors import ConfigError, PhotosError


def paint(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = list(str(path).encode())
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)).save(path)


def table(root: Path, *rows: str, header: str = "file_name,label,group,Site") -> PhotoSet:
    for row in rows:
        paint(root / row.partition(",")[0])
    (root / "photos.csv").write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return read_photos(root / "photos.csv")


def dicom(path: Path, patient: str, study: str = "") -> None:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.dataset.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = pydicom.uid.CTImageStorage, pydicom.uid.generate_uid()
    dataset.PatientID, dataset.PatientName = patient, "Doe^Jane"
    dataset.StudyInstanceUID = study or None
    dataset.Rows = dataset.Columns = 40
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = np.random.default_rng(list(str(path).encode())).integers(0, 256, (40, 40), np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


ROWS = tuple(f"{number}.png,{'ab'[number % 2]},g{number // 4},s{number // 2 % 2}" for number in range(12))


def groups(photos: PhotoSet, group_by: str) -> list[str | None]:
    return [sample.group for sample in check(photos, group_by=group_by).samples]


def test_a_tables_column_is_taken(tmp_path: Path) -> None:
    table(tmp_path, *ROWS)
    found = {
        name: groups(read_photos(tmp_path / "photos.csv", group_by=name), name) for name in ("auto", "site", "Site")
    }
    assert found["auto"] == [f"g{number // 4}" for number in range(12)]
    assert found["site"] == found["Site"] == [f"s{number // 2 % 2}" for number in range(12)]
    assert groups(read_photos(tmp_path / "photos.csv", group_by="none"), "none") == [None] * 12


def test_a_pattern_goes_before_the_tables_groups(tmp_path: Path) -> None:
    table(tmp_path, *ROWS)
    photos = read_photos(tmp_path / "photos.csv", group_by=r"(\d)\.png")
    checked = check(photos, group_by=r"(\d)\.png")
    assert [sample.group for sample in checked.samples] == [str(number % 10) for number in range(12)]
    assert any("--group-by none" in note and r"(\d)\.png" in note for note in checked.notes)


@pytest.mark.parametrize("group_by", ["(unclosed", "no such thing", "PatientID", "numbers:", "numbers:0"])
def test_what_finds_nothing_is_refused(tmp_path: Path, group_by: str) -> None:
    table(tmp_path, *ROWS)
    with pytest.raises(ConfigError) as error:
        check(read_photos(tmp_path / "photos.csv", group_by=group_by), group_by=group_by)
    assert error.value.where == "--group-by"


def test_without_any_word_only_a_tables_groups_count(tmp_path: Path) -> None:
    for number in range(60):
        paint(tmp_path / "ab"[number % 2] / f"patient_{number // 4}_{number}.png")
    photos = read_photos(tmp_path)
    assert {sample.group for sample in check(photos).samples} == {None}
    checked = check(photos, group_by="auto")
    assert [sample.group for sample in checked.samples].count("patient_3") == 4
    assert any(
        note.startswith("15 groups of photos that belong together were found: the number") for note in checked.notes
    )
    assert not any("belong together" in note for note in check(photos, group_by="none").notes)


def test_patients_of_dicom_headers_are_groups_and_their_ids_stay_in_the_files(tmp_path: Path) -> None:
    for number in range(12):
        dicom(tmp_path / "ab"[number % 2] / f"{number}.dcm", f"SECRET-{number // 4}", study=f"1.2.{number // 2}")
    photos = read_photos(tmp_path)
    checked = check(photos, group_by="auto")
    of_photo = {sample.file_name: sample.group for sample in checked.samples}
    assert of_photo["a/8.dcm"] == of_photo["b/11.dcm"] != of_photo["a/0.dcm"]
    assert set(of_photo.values()) == {"patient 1", "patient 2", "patient 3"}
    assert groups(photos, "patientid") == [sample.group for sample in checked.samples]
    assert len(set(groups(photos, "StudyInstanceUID"))) == 6
    assert "PatientID in the DICOM headers has 3 values in 12 photos" in " ".join(checked.notes)
    assert "SECRET" not in repr(checked)


@pytest.mark.parametrize("patient", ["", "ANONYMOUS"])
def test_where_all_patients_have_one_name_the_studies_are_groups(tmp_path: Path, patient: str) -> None:
    for number in range(12):
        dicom(tmp_path / "ab"[number % 2] / f"{number}.dcm", patient, study=f"1.2.{number // 4}")
    assert set(groups(read_photos(tmp_path), "auto")) == {"study 1", "study 2", "study 3"}


def test_a_class_that_is_a_patient_is_refused_unless_groups_are_not_wanted(tmp_path: Path) -> None:
    for number in range(12):
        dicom(tmp_path / "abc"[number % 3] / f"{number}.dcm", f"SECRET-{number % 3}")
    photos = read_photos(tmp_path)
    with pytest.raises(PhotosError, match="No honest score exists: all 12 photos of each of the classes") as error:
        check(photos, group_by="auto")
    assert "of one patient" in str(error.value)
    assert "--group-by none" in str(error.value.mend)
    assert "SECRET" not in str(error.value)
    forced = check(photos, group_by="none")
    assert forced.no_score == error.value.what
    assert {sample.group for sample in forced.samples} == {None}
    assert check(photos).no_score == ""


def test_a_class_that_is_a_group_of_the_table_is_refused(tmp_path: Path) -> None:
    rows = [f"{number}.png,{'ab'[number % 2]},{'p' if number % 2 else f'q{number}'}" for number in range(12)]
    photos = table(tmp_path, *rows, header="file_name,label,group")
    with pytest.raises(PhotosError, match="all 6 photos of the class 'b' are of one group"):
        check(photos, group_by="auto")
    assert check(photos, group_by="none").no_score


def test_photos_without_groups_have_none() -> None:
    assert find_groups([Sample(Path("x"), "x", 0)] * 3, "auto").names == (None, None, None)
