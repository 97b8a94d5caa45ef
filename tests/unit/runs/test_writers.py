from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.backbones import tiny_cnn

from unfreeze.config import make_config
from unfreeze.data.sources import PhotoSet, Sample
from unfreeze.data.splits import FOLDS, split
from unfreeze.runs.writers import describe
from unfreeze.training.recipes import recipe_for

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "phase 2 from layer3 at 0.0003"),
        ({"distill": 1.0}, "phase 2 from layer3 at 0.0003, with distillation"),
        ({"recipe": "head-only"}, "no phase 2"),
    ],
)
def test_what_will_be_done_is_said_before_it_is(settings: dict[str, object], says: str) -> None:
    samples = tuple(Sample(Path(f"{number}.png"), f"{number}.png", number % 2, size=(32, 24)) for number in range(40))
    photos, backbone = PhotoSet(Path("photos"), ("dent", "good"), samples), tiny_cnn()
    recipe = recipe_for(make_config({"photos": "x", **settings}), backbone, 40, 2)
    lines = list(describe(photos, split(photos, test_size=None, folds=FOLDS, seed=0), backbone, recipe, None))
    assert lines == [
        "40 photos of 2 classes: all train, and each is scored by models of the 5 folds that never saw it",
        f"tiny_cnn on cpu, recipe {recipe.name}: {says}",
        "the model sees 16 x 16, the middle 76 % of each photo",
        "note: 24 % of your photos' area, outside their middle, is never seen: --fit squash or --fit pad shows the model "
        "all of it",
    ]


@pytest.mark.parametrize(
    ("settings", "sees"),
    [
        ({}, "the middle 25 % of each photo, or all of it (squashed or in 4 parts), whichever is better on the folds"),
        ({"tta": False}, "the middle 25 % of each photo, or all of it (squashed), whichever is better on the folds"),
        ({"fit": "tiles"}, "4 overlapping parts that cover each photo"),
    ],
)
def test_nothing_is_noted_where_the_whole_photo_may_be_seen(settings: dict[str, object], sees: str) -> None:
    samples = tuple(Sample(Path(f"{n}.png"), f"{n}.png", n % 2, size=(96, 24)) for n in range(40))
    photos, backbone = PhotoSet(Path("photos"), ("dent", "good"), samples), tiny_cnn()
    recipe = recipe_for(make_config({"photos": "x", **settings}), backbone, 40, 2, [(96, 24)] * 40)
    lines = list(describe(photos, split(photos, test_size=None, folds=FOLDS, seed=0), backbone, recipe, None))
    assert lines[-1].startswith(f"the model sees 16 x 16, {sees}")
