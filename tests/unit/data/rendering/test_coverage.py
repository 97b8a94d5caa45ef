from __future__ import annotations

import pytest

from unfreeze.data.rendering.coverage import describe_sight, seen_share, unseen_note
from unfreeze.preprocessing import Preprocessing
from unfreeze.views import CROP, SQUEEZE, Framing, tiles


def own(size: tuple[int, int] = (224, 224), resize: int | tuple[int, int] = 224) -> Preprocessing:
    return Preprocessing(size, resize, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bicubic")


@pytest.mark.parametrize(
    ("sizes", "preprocessing", "share"),
    [
        ([(300, 300)], own(), 1),
        ([(1600, 900)], own(), 9 / 16),
        ([(900, 1600)], own(), 9 / 16),
        ([(1600, 900), (900, 900)], own(), 25 / 32),  # in the mean
        ([(300, 300)], own(resize=256), (224 / 256) ** 2),  # of a square, the crop leaves a margin out
        ([(900, 150)], own(), 1 / 6),
        ([(30_000, 100)], own(), 1 / 300),
        ([(900, 150)], own(resize=(224, 224)), 1),  # its source squashes
        ([(900, 150)], own(resize=(256, 256)), (224 / 256) ** 2),
        ([(900, 150)], own().fitted("squash"), 1),
        ([(900, 150)], own().fitted("pad"), 1),
        ([(900, 150)], own((224, 448), (224, 448)), 1),
        ([], own(), 1),
    ],
)
def test_the_share_of_the_photos_that_is_seen(
    sizes: list[tuple[int, int]], preprocessing: Preprocessing, share: float
) -> None:
    assert seen_share(sizes, preprocessing) == pytest.approx(share, abs=0.005)
    assert seen_share(sizes, preprocessing, (CROP, SQUEEZE)) == 1
    assert seen_share(sizes, preprocessing, tiles((1, 4))) == 1


@pytest.mark.parametrize(
    ("preprocessing", "framings", "sees"),
    [
        (own(), (CROP,), "the middle 56 % of each photo"),
        (own((160, 320), (160, 320)), (CROP,), "the whole of each photo"),
        (own().fitted("squash"), (CROP,), "the whole of each photo, squashed where its shape differs"),
        (own().fitted("pad"), (CROP,), "the whole of each photo, with borders where its shape differs"),
        (own(), tiles((1, 2)),  "2 overlapping parts that cover each photo"),
        (
            own(), (CROP, SQUEEZE, *tiles((1, 2))),
            "the middle 56 % of each photo, or all of it (squashed or in 2 parts), whichever is better on the folds",
        ),
        (
            own(), (CROP, SQUEEZE),
            "the middle 56 % of each photo, or all of it (squashed), whichever is better on the folds",
        ),
    ],
)  # fmt: skip
def test_what_the_model_sees_is_said(preprocessing: Preprocessing, framings: tuple[Framing, ...], sees: str) -> None:
    width, height = preprocessing.size[::-1]
    said = describe_sight([(1600, 900)], preprocessing, framings)
    assert said == f"the model sees {width} x {height}, {sees}"


def test_a_tenth_may_be_unseen_without_a_note() -> None:
    assert unseen_note(1) is None
    assert unseen_note(0.9) is None
    assert str(unseen_note(0.5625)).startswith("44 % of your photos' area, outside their middle, is never seen: --fit")
