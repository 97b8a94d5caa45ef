"""Which folders are classes and which are sides, and the user's own names of sides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from unfreeze.data.sides import find_sides, parse_sides, side
from unfreeze.data.sources import read_photos
from unfreeze.errors import ConfigError, PhotosError

CLASSES = ("circle", "line", "square")


def lay_out(root: Path, *folders: str, per_class: int = 1) -> Path:
    """Put files that are called photos into each folder."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            (root / folder / f"{number}.jpg").touch()
    return root


def in_classes(*sides: str) -> list[str]:
    return [f"{name}/{kind}" for name in sides for kind in CLASSES]


def counts(root: Path, sides: str | None = None) -> dict[str | None, int]:
    photos = read_photos(root, sides=sides)
    assert photos.classes == CLASSES
    assert not photos.left_out
    return dict(Counter(sample.split for sample in photos.samples))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Training", "train"), ("TRAIN", "train"), ("train_1", "train"), ("01-train", "train"), ("train2017", "train"),
        ("training_set", "train"), ("TrainSet", "train"), ("train images", "train"), ("seg_train", "train"),
        ("Testing", "test"), ("test_data", "test"), ("Validation Set", "val"), ("valid", "val"), ("val2017", "val"),
        ("a. Training Set", "train"), ("evaluation", "test"), ("1) eval", "test"), ("a", None),
        ("trains", None), ("steam_train", None), ("contest", None), ("test_tube", None), ("values", None), ("", None),
    ],
)  # fmt: skip
def test_names_of_sides(name: str, split: str | None) -> None:
    assert side(name) == split


def test_names_with_a_common_part_mean_sides_together() -> None:
    assert find_sides(["flowers_train", "flowers_test"]) == {"flowers_train": "train", "flowers_test": "test"}
    assert find_sides(["FlowersTrain", "FlowersVal", "x"]) == {"FlowersTrain": "train", "FlowersVal": "val"}
    assert find_sides(["steam_train", "test_tube"]) == {}
    assert find_sides(["steam_train", "bus"]) == {}


@pytest.mark.parametrize(
    "folders",
    [
        in_classes("Training", "Testing"),
        in_classes("training_set", "test_set"),
        in_classes("seg_train/seg_train", "seg_test/seg_test"),
        in_classes("train/images", "test/images"),
        in_classes("archive/Train", "archive/Test"),
        in_classes("archive/shapes/shapes_train", "archive/shapes/shapes_test"),
        [f"{kind}/{side}" for kind in CLASSES for side in ("train", "test")],
        [f"archive/{kind}/{side}" for kind in CLASSES for side in ("Training", "Testing")],
        ["train/circle", "train/line", "train/square/deep", "test/circle", "test/line/deep", "test/square"],
    ],
)
def test_layouts_with_a_train_and_a_test_side(tmp_path: Path, folders: list[str]) -> None:
    assert counts(lay_out(tmp_path, *folders)) == {"train": 3, "test": 3}


def test_several_folders_may_be_one_side(tmp_path: Path) -> None:
    root = lay_out(tmp_path, *in_classes("train1", "train2", "val", "test"))
    assert counts(root) == {"train": 6, "val": 3, "test": 3}
    assert any("'train1' is train" in note for note in read_photos(root).notes)


def test_sides_that_the_user_names(tmp_path: Path) -> None:
    root = lay_out(tmp_path, *in_classes("Lernen", "Prüfen", "more"))
    assert len(read_photos(root, sides="train=Lernen,test=prüfen").left_out) == 3
    assert {s.split for s in read_photos(root, sides="train=Lernen,train=more,test=Prüfen").samples} == {
        "train",
        "test",
    }
    first = lay_out(tmp_path / "first", *[f"{kind}/{side}" for kind in CLASSES for side in ("a", "b")])
    assert counts(first, "train=a,test=b") == {"train": 3, "test": 3}
    with pytest.raises(ConfigError, match="called 'lehren'"):
        read_photos(root, sides="train=Lehren,test=Prüfen")


def test_every_folder_is_a_class_where_the_user_says_so(tmp_path: Path) -> None:
    root = lay_out(tmp_path, *in_classes("Training", "Testing"))
    assert read_photos(root, sides="none").classes == ("Testing", "Training")


@pytest.mark.parametrize("text", ["Training", "first=Training", "train=", "train=a,test=a", ""])
def test_sides_that_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_sides(text)


@pytest.mark.parametrize("names", [("Good", "Odd"), ("A", "B"), ("fold1", "fold2", "fold3")])
def test_folders_that_are_divided_alike_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = lay_out(tmp_path, *in_classes(*names))
    with pytest.raises(PhotosError, match=r"hold the same folders, 'circle', 'line', 'square'") as caught:
        read_photos(root)
    assert f"--sides train={names[0]},test={names[1]}" in str(caught.value)
    assert read_photos(root, sides="none").classes == names
    assert len(read_photos(root, to_train=False).classes) == len(names)


def test_classes_of_which_some_are_divided_into_sides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PhotosError, match="'circle' hold 'test', 'train', and 'line' other photos"):
        read_photos(lay_out(tmp_path, "circle/train", "circle/test", "line"))


def test_photos_to_score_need_no_train_side(tmp_path: Path) -> None:
    root = lay_out(tmp_path, *in_classes("Testing"))
    assert read_photos(root, to_train=False).classes == CLASSES
    with pytest.raises(PhotosError, match="no train folder"):
        read_photos(root)


def test_a_class_without_a_test_photo_is_named(tmp_path: Path) -> None:
    photos = read_photos(lay_out(tmp_path, *in_classes("train"), "test/circle", "test/line"))
    assert any("No test photo is of the class 'square'" in note for note in photos.notes)
