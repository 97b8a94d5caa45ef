from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.backbones import tiny_cnn
from tests.support.training import candidate, recipe

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.orientations import Orientation
from unfreeze.preprocessing import Preprocessing
from unfreeze.training.recipes import LIGHT_AUG, ROTATION_AUG
from unfreeze.training.view_sets import MAX_VIEWS, best_grid, candidate_framings, candidate_views, union
from unfreeze.views import CROP, PLAIN, PLAIN_ONLY, SQUEEZE, EvaluationView, Framing, Grid, tiles

UPRIGHT = (Orientation.IDENTITY,)
MIRRORED = (Orientation.IDENTITY, Orientation.FLIPPED)
TURNED = (Orientation.IDENTITY, Orientation.ROT90, Orientation.ROT180, Orientation.ROT270)
Views = tuple[tuple[Framing, str], ...]


def own(size: tuple[int, int] = (224, 224), resize: int | tuple[int, int] = 256) -> Preprocessing:
    return Preprocessing(size, resize, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bicubic")


@pytest.mark.parametrize(
    ("sizes", "preprocessing", "expected"),
    [
        ([], own(), ()),
        ([(300, 300)], own(), (SQUEEZE,)),  # the crop leaves a margin out
        ([(300, 300), (64, 64)], own(resize=224), ()),  # to the pixel the crop
        ([(300, 300), (64, 65)], own(resize=224), (SQUEEZE,)),
        ([(500, 300)], own(resize=(224, 224)), ()),  # its source squeezes already
        ([(500, 300)], own(resize=(256, 256)), (SQUEEZE, *tiles((1, 2)))),
        ([(450, 300)], own(), (SQUEEZE,)),  # 3:2 is not elongated yet
        ([(300, 460)], own(), (SQUEEZE, *tiles((1, 2)))),
        ([(600, 300), (300, 600)], own(), (SQUEEZE, *tiles((1, 2)))),
        ([(640, 300)], own(), (SQUEEZE, *tiles((1, 3)))),
        ([(3000, 300)], own(), (SQUEEZE, *tiles((1, 4)))),
        ([(600, 450)], own(), (SQUEEZE, *tiles((2, 2)))),
        ([(600, 448)], own(), (SQUEEZE,)),
        ([(4000, 1000)], own(), (SQUEEZE, *tiles((1, 4)))),  # both: along the long side
        ([(300, 300)] * 3 + [(900, 300)] * 2, own(), (SQUEEZE,)),  # in the median
        ([(448, 224)], own((224, 448), (256, 512)), (SQUEEZE,)),  # of the input's shape
        ([(300, 300)], own((224, 448), (256, 512)), (SQUEEZE, *tiles((1, 2)))),
    ],
)
def test_framings_follow_from_the_images_sizes(
    sizes: list[tuple[int, int]], preprocessing: Preprocessing, expected: tuple[Framing, ...]
) -> None:
    assert candidate_framings(sizes, preprocessing) == expected


def views(*parts: tuple[Framing, tuple[Orientation, ...]]) -> tuple[EvaluationView, ...]:
    return tuple(EvaluationView.of(framing, turn) for framing, turns in parts for turn in turns)


def test_upright_photos() -> None:
    assert candidate_views(UPRIGHT, ()) == (PLAIN_ONLY,)
    assert candidate_views(UPRIGHT, (SQUEEZE,)) == (PLAIN_ONLY, views((CROP, UPRIGHT), (SQUEEZE, UPRIGHT)))


def test_mirrored_photos() -> None:
    assert candidate_views(MIRRORED, ()) == (PLAIN_ONLY, views((CROP, MIRRORED)))
    assert candidate_views(MIRRORED, (SQUEEZE,)) == (
        PLAIN_ONLY,
        views((CROP, MIRRORED)),
        views((CROP, UPRIGHT), (SQUEEZE, UPRIGHT)),
        views((CROP, MIRRORED), (SQUEEZE, MIRRORED)),
    )


def test_the_turns_of_photos_without_an_upright_are_spread_over_both_framings() -> None:
    assert candidate_views(TURNED, (SQUEEZE,)) == (
        PLAIN_ONLY,
        views((CROP, TURNED)),
        views((CROP, UPRIGHT), (SQUEEZE, (Orientation.ROT90,))),
        views((CROP, (Orientation.IDENTITY, Orientation.ROT180)), (SQUEEZE, (Orientation.ROT90, Orientation.ROT270))),
    )


@pytest.mark.parametrize("n", [2, 3, 4])
def test_tiles_are_averaged_with_the_crop_or_alone(n: int) -> None:
    tiled = tuple(map(EvaluationView.of, tiles((1, n))))
    found = candidate_views(UPRIGHT, (SQUEEZE, *tiles((1, n))))
    assert found[-2:] == (tiled, (EvaluationView.of(SQUEEZE),))
    assert ((PLAIN, *tiled) in found) == (n < 4)


def test_one_view_of_elongated_photos_may_be_the_whole_photo() -> None:
    whole = (EvaluationView.of(SQUEEZE),)
    assert candidate_views(TURNED, (SQUEEZE, *tiles((1, 3))), 1) == (PLAIN_ONLY, whole)
    assert candidate_views(MIRRORED, (SQUEEZE, *tiles((2, 2))), 1) == (PLAIN_ONLY,)
    assert candidate_views(UPRIGHT, (SQUEEZE,), 1) == (PLAIN_ONLY,)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([(900, 150)], (1, 4)), ([(600, 300)], (1, 2)), ([(300, 640)], (1, 3)), ([(300, 300)], (2, 2)), ([], (2, 2))],
)
def test_tiles_that_the_user_wants_follow_from_the_photos_shape(sizes: list[tuple[int, int]], expected: Grid) -> None:
    assert best_grid(sizes, own()) == expected


@pytest.mark.parametrize("turns", [UPRIGHT, MIRRORED, TURNED, (Orientation.IDENTITY, Orientation.ROT180)])
@pytest.mark.parametrize("tiled", [(), *(tiles((1, n)) for n in (2, 3, 4)), tiles((2, 2))])
def test_predicting_takes_at_most_four_times_as_long(
    turns: tuple[Orientation, ...], tiled: tuple[Framing, ...]
) -> None:
    found = candidate_views(turns, (SQUEEZE, *tiled))
    assert found[0] == PLAIN_ONLY
    assert len(set(found)) == len(found)
    assert all(1 <= len(each) <= MAX_VIEWS and len(set(each)) == len(each) for each in found)
    shown = {view.orientation for each in found for view in each}
    assert shown <= set(turns)


def test_options_of_both_symmetries_have_the_same_places() -> None:
    """Folds that choose another symmetry choose among the same kinds of sets."""
    for framings in ((), (SQUEEZE,), (SQUEEZE, *tiles((1, 3)))):
        mirrored, turned = candidate_views(MIRRORED, framings), candidate_views(TURNED, framings)
        assert len(mirrored) == len(turned)
        for one, other in zip(mirrored, turned, strict=True):
            assert {view.framing for view in one} == {view.framing for view in other}


def test_the_head_learns_from_every_view_that_may_be_averaged() -> None:
    backbone = tiny_cnn()
    how = replace(recipe(backbone, candidate(backbone)), allow_tta=True, framings=(SQUEEZE,))
    for augmentation in (LIGHT_AUG, ROTATION_AUG):
        renderer = Renderer((), backbone.network.preprocessing, augmentation)
        sets = how.view_sets(renderer)
        assert how.evaluation_views(renderer) == union(sets)
        assert how.head_views(renderer) == (0, 1, *union(sets)[1:])
        without = replace(how, framings=()).head_views(renderer)
        assert how.head_views(renderer)[: len(without)] == without == (0, 1, *renderer.tta_orientations[1:])
        assert replace(how, allow_tta=False).head_views(renderer) == (0, 1)
    assert PLAIN not in union(sets)[1:]
