from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from benchmarks.peers.sets import BRIGHTEST, SETS, TRAINED_ON, draw, read_set, to_rgb
from PIL import Image

from unfreeze.data.sources import PhotoSet, Sample, Split


def photos(counts: dict[str, int], side: Split | None = None) -> list[Sample]:
    return [
        Sample(Path(f"{name}/{side}{number}.png"), f"{name}/{side}{number}.png", label, None, side)
        for label, (name, count) in enumerate(counts.items())
        for number in range(count)
    ]


def image(place: Path, grey: int) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (grey, grey, grey)).save(place)


@pytest.mark.parametrize("seed", range(5))
def test_a_small_class_gives_part_of_itself_and_all_others_are_tested(seed: int) -> None:
    counts = {"many": 120, "few": 12, "one": 1}
    drawn = draw(PhotoSet(Path(), tuple(counts), tuple(photos(counts))), 20, seed)
    assert Counter(sample.label for sample in drawn.train) == {0: 20, 1: int(12 * TRAINED_ON)}
    assert Counter(sample.label for sample in drawn.test) == {0: 100, 1: 5, 2: 1}
    assert drawn.left_over == 106
    assert not {sample.path for sample in drawn.train} & {sample.path for sample in drawn.test}


def test_the_limit_keeps_the_classes_shares() -> None:
    counts = {"many": 400, "few": 100}
    drawn = draw(PhotoSet(Path(), tuple(counts), tuple(photos(counts))), 0, 0, limit=50)
    assert Counter(sample.label for sample in drawn.test) == {0: 40, 1: 10}
    assert drawn.left_over == 500
    assert len(draw(PhotoSet(Path(), tuple(counts), tuple(photos(counts))), 0, 0, limit=0).test) == 500


def test_named_sides_are_kept() -> None:
    counts = {"a": 30, "b": 8}
    both = photos(counts, "train") + photos(counts, "val")
    drawn = draw(PhotoSet(Path(), tuple(counts), tuple(both)), 20, 0)
    assert {sample.split for sample in drawn.train} == {"train"}
    assert {sample.split for sample in drawn.test} == {"val"}
    assert Counter(sample.label for sample in drawn.train) == {0: 20, 1: 8}


@pytest.mark.parametrize("seed", range(5))
def test_no_group_trains_and_is_tested_and_rare_classes_do_both(seed: int) -> None:
    # 5 of 40 patients have the rare class.
    samples = tuple(
        Sample(
            Path(f"{patient}-{number}.png"), f"{patient}-{number}.png", int(patient < 5 and number == 0), f"p{patient}"
        )
        for patient in range(40)
        for number in range(6)
    )
    drawn = draw(PhotoSet(Path(), ("ok", "defect"), samples), 20, seed)
    trained, tested = ({sample.group for sample in side} for side in (drawn.train, drawn.test))
    assert not trained & tested
    assert Counter(sample.label for sample in drawn.train) == {0: 20, 1: 3}
    assert Counter(sample.label for sample in drawn.test) == {0: 16 * 6 - 2, 1: 2}


def test_another_camera_s_images_are_tested_under_the_same_classes(tmp_path: Path) -> None:
    for grey, name in enumerate(("basophil", "eosinophil", "lymphocyte")):
        image(tmp_path / "wbc5" / "domain1_tecom" / name / "1.png", grey)
    for grey, name in enumerate(("eosinophil", "lymphocyte"), start=10):
        image(tmp_path / "wbc5" / "domain2_cellavision" / name / "2.png", grey)
    found = read_set("wbc5_other_camera", tmp_path)
    assert found.classes == ("eosinophil", "lymphocyte")
    assert sorted((sample.split, found.classes[sample.label], sample.path.name) for sample in found.samples) == [
        ("test", "eosinophil", "2.png"), ("test", "lymphocyte", "2.png"),
        ("train", "eosinophil", "1.png"), ("train", "lymphocyte", "1.png"),
    ]  # fmt: skip


def test_groups_are_read_and_copies_are_left_out(tmp_path: Path) -> None:
    greys = {"ok/1.png": 1, "ok/2.png": 2, "ok/copy.png": 2, "ok/both.png": 3, "defect/both.png": 3, "defect/4.png": 4}
    for place, grey in greys.items():
        image(tmp_path / "kolektor28" / place, grey)
    with (tmp_path / "kolektor28" / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "group"])
        writer.writerows(
            [place, place.split("/")[0], f"item{number % 2}"] for number, place in enumerate(sorted(greys))
        )
    found = read_set("kolektor28", tmp_path)
    assert {sample.file_name: sample.group for sample in found.samples} == {
        "defect/4.png": "item0", "ok/1.png": "item0", "ok/2.png": "item1"
    }  # fmt: skip


def test_satellite_images_are_written_once_with_a_fixed_stretch(tmp_path: Path) -> None:
    bands = np.zeros((2, 2, 13), np.uint16)
    bands[..., 3], bands[..., 2], bands[..., 1] = BRIGHTEST, BRIGHTEST // 5, 9 * BRIGHTEST
    bands[0, 0] = 0
    expected = np.array([[[0, 0, 0], [255, 51, 255]], [[255, 51, 255], [255, 51, 255]]], np.uint8)
    assert (to_rgb(bands) == expected).all()
    for number, name in enumerate(("Forest", "River")):
        (tmp_path / "eurosat_ms20" / name).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "eurosat_ms20" / name / "1.tif", bands + number, photometric="minisblack")
    assert read_set("eurosat_rgb", tmp_path).classes == ("Forest", "River")
    assert (np.asarray(Image.open(tmp_path / "eurosat_rgb" / "Forest" / "1.png")) == expected).all()


def test_ceilings_and_another_camera_do_not_count_for_accuracy() -> None:
    assert {name for name, one in SETS.items() if one.role != "accuracy"} == {
        "hymenoptera", "bccd_cells", "wbc5_other_camera"
    }  # fmt: skip
