"""DICOM files in every coding: files with the same pixels look the same, and the rest is refused with a reason."""

import csv
from collections import defaultdict

import pytest
from tests.support.photos import real_photos

from unfreeze.data.decode import decode
from unfreeze.errors import DecodeError

pytestmark = pytest.mark.regression


def test_files_with_the_same_pixels_decode_alike_in_whatever_coding() -> None:
    folder = real_photos("dicom_zoo")
    refused: list[DecodeError] = []
    shown: dict[str, set[bytes]] = defaultdict(set)
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table):
            try:
                image = decode(folder / row["file"])
            except DecodeError as error:
                refused.append(error)
                continue
            if row["pixel_md5"]:
                shown[row["pixel_md5"]].add(repr(image.size).encode() + image.tobytes())
    assert all(error.mend and error.where for error in refused)
    assert len(shown) > 10
    assert {md5 for md5, images in shown.items() if len(images) > 1} == set()
