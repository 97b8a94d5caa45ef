from __future__ import annotations

from dataclasses import asdict

import pytest
from tests.support.photos import PREPROCESSING

from unfreeze.errors import DecodeError
from unfreeze.preprocessing import Preprocessing
from unfreeze.reading import FIRST_FRAME, Frame, Reading


@pytest.mark.parametrize(
    ("frame", "count", "index"),
    [("first", 9, 0), ("middle", 9, 4), ("middle", 2, 1), ("middle", 1, 0), (1, 9, 0), (9, 9, 8), (4, 1, 0)],
)
def test_the_frame_is_counted(frame: Frame, count: int, index: int) -> None:
    assert Reading(frame).frame_index(count) == index


def test_a_frame_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DecodeError, match="9 pages or frames, and number 10"):
        Reading(10).frame_index(9)


def test_preprocessing_keeps_how_files_are_read_in_its_file() -> None:
    fields = asdict(PREPROCESSING)
    assert Preprocessing.from_dict(fields) == PREPROCESSING
    del fields["reading"]  # as earlier versions wrote it
    assert Preprocessing.from_dict(fields).reading == FIRST_FRAME
    fields["reading"] = {"frame": 3}
    assert Preprocessing.from_dict(fields).reading == Reading(3)
