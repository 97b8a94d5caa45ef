from pathlib import Path

import pytest
from PIL import Image

from unfreeze.data.reference import read_reference
from unfreeze.errors import PhotosError

NAMES = [["n01", "tench", "Tinca tinca"], ["n02", "crane"], ["n03", "crane", "derrick"], ["n04", "Great White_shark"]]


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)
    return root


def test_folders_are_matched_by_any_name(tmp_path: Path) -> None:
    put(tmp_path, "N01/1.jpg", "tinca_Tinca/2.jpg", "derrick/deep/3.png", "great white shark/4.png", "n02/._5.png")
    photos = read_reference(tmp_path, NAMES)
    assert {(sample.file_name, sample.label) for sample in photos.samples} == {
        ("N01/1.jpg", 0), ("tinca_Tinca/2.jpg", 0), ("derrick/deep/3.png", 2), ("great white shark/4.png", 3),
    }  # fmt: skip
    assert photos.classes == ("n01", "n02", "n03", "n04")
    assert not photos.left_out
    assert not photos.notes


def test_unknown_and_ambiguous_folders_are_left_out(tmp_path: Path) -> None:
    photos = read_reference(put(tmp_path, "n01/1.jpg", "crane/1.jpg", "unicorn/1.jpg"), NAMES)
    assert [sample.label for sample in photos.samples] == [0]
    assert [(entry.file_name, entry.reason) for entry in photos.left_out] == [
        ("crane", "names several classes: 'n02', 'n03'"),
        ("unicorn", "names no class of the original head"),
    ]
    assert "'crane', 'unicorn'" in photos.notes[0]


def test_nothing_fits(tmp_path: Path) -> None:
    with pytest.raises(PhotosError, match="there are 'crane', 'unicorn'"):
        read_reference(put(tmp_path, "crane/1.jpg", "unicorn/1.jpg"), NAMES)
    with pytest.raises(PhotosError, match="no such folder"):
        read_reference(tmp_path / "gone", NAMES)
