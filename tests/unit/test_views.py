from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from unfreeze.orientations import Orientation
from unfreeze.views import (
    CROP,
    FRAMINGS,
    GRIDS,
    PLAIN,
    PLAIN_ONLY,
    SQUEEZE,
    EvaluationView,
    Views,
    describe_views,
    framings_of,
    select_views,
    tiles,
    views_from,
)

FLIPPED = EvaluationView(Orientation.FLIPPED)
EVERY = tuple(EvaluationView.of(framing, orientation) for framing in FRAMINGS for orientation in Orientation)


def test_a_view_is_a_number_and_none_is_another_views_or_a_random_ones() -> None:
    assert sorted(EVERY, reverse=True) == list(range(0, -len(FRAMINGS) * len(Orientation), -1))
    for framing in FRAMINGS:
        for orientation in Orientation:
            view = EvaluationView.of(framing, orientation)
            assert (view.framing, view.orientation) == (framing, orientation)
            assert EvaluationView(int(view)) == view == copy.deepcopy(view) == pickle.loads(pickle.dumps(view))
            assert copy.deepcopy(view).framing == framing


def test_activations_of_earlier_runs_are_found_under_their_numbers() -> None:
    assert [EvaluationView.of(CROP, orientation) for orientation in Orientation] == [0, -1, -2, -3, -4]
    assert [EvaluationView.of(SQUEEZE, orientation) for orientation in Orientation] == [-5, -6, -7, -8, -9]
    assert [EvaluationView.of(tile) for grid in GRIDS for tile in tiles(grid)] == [-5 * n for n in range(2, 15)]


@pytest.mark.parametrize("number", [1, -5 * len(FRAMINGS), 10**6])
def test_another_number_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="no evaluation view"):
        EvaluationView(number)


def test_files_name_views_uniquely() -> None:
    assert [EvaluationView.from_dict(view.to_dict()) for view in EVERY] == list(EVERY)
    assert EvaluationView.of(tiles((1, 3))[1]).to_dict() == {"framing": "tile 2 of 3", "orientation": "identity"}
    assert EvaluationView.of(tiles((2, 2))[3]).to_dict()["framing"] == "tile 4 of 2x2"


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({}, PLAIN_ONLY),
        ({"orientations": ["identity", "flipped"]}, (PLAIN, FLIPPED)),
        ({"poses": ["plain", "mirrored"]}, (PLAIN, FLIPPED)),
        (
            {"views": [{"framing": "squeeze", "orientation": "rot90"}]},
            (EvaluationView.of(SQUEEZE, Orientation.ROT90),),
        ),
    ],
)
def test_models_of_every_version_are_read(described: dict[str, Any], expected: Views) -> None:
    assert views_from(described) == expected


@pytest.mark.parametrize(
    "described", [{"views": []}, {"orientations": []}, {"views": [{"framing": "round"}]}, {"views": ["crop"]}]
)
def test_a_damaged_description_is_refused(described: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        views_from(described)


def test_views_are_taken_from_framed_images() -> None:
    images = torch.arange(2 * 2 * 3 * 4 * 4).view(2, 2, 3, 4, 4)
    views = (EvaluationView.of(SQUEEZE), PLAIN, EvaluationView.of(SQUEEZE, Orientation.ROT90))
    assert framings_of(views) == (SQUEEZE, CROP)
    squeezed, plain, turned = select_views(images, views)
    assert torch.equal(squeezed, images[:, 0])
    assert torch.equal(plain, images[:, 1])
    assert torch.equal(turned, images[:, 0].rot90(1, (2, 3)))
    same, flipped = select_views(images[:, 0], (PLAIN, FLIPPED))
    assert torch.equal(same, images[:, 0])
    assert torch.equal(flipped, images[:, 0].flip(3))
    tokens = torch.randn(2, 7, 5)
    assert select_views(tokens, PLAIN_ONLY)[0] is tokens


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        (PLAIN_ONLY, "centre crop"),
        ((PLAIN, FLIPPED), "centre crop, as it is and mirrored"),
        ((PLAIN, EvaluationView.of(SQUEEZE)), "centre crop and whole photo"),
        (
            tuple(
                EvaluationView.of(f, o) for f in (CROP, SQUEEZE) for o in (Orientation.IDENTITY, Orientation.FLIPPED)
            ),
            "centre crop and whole photo, each as it is and mirrored",
        ),
        (
            (
                PLAIN,
                EvaluationView(-3),
                *(EvaluationView.of(SQUEEZE, o) for o in (Orientation.ROT90, Orientation.ROT270)),
            ),
            "centre crop (as it is and upside down) and whole photo (turned left and turned right)",
        ),
        (
            (PLAIN, *map(EvaluationView.of, tiles((1, 3)))),
            "centre crop and 3 overlapping parts that cover the photo",
        ),
    ],
)
def test_people_are_told_how_a_photo_is_looked_at(views: Views, expected: str) -> None:
    assert describe_views(views) == expected
