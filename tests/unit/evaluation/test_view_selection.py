from __future__ import annotations

import numpy as np
import pytest

from unfreeze.evaluation.selection import Logits
from unfreeze.evaluation.view_selection import choose_views

FOLDS, CLASSES, IMAGES = 4, 3, 25
LABELS = [np.random.default_rng(fold).integers(0, CLASSES, IMAGES) for fold in range(FOLDS)]
COUNTS = np.bincount(np.concatenate(LABELS))


def option(strength: float, noise: float, seed: int = 9) -> list[Logits]:
    """Return logits that point to the label, among noise."""
    random = np.random.default_rng(seed)
    return [
        (strength * np.eye(CLASSES)[labels] + noise * random.normal(size=(IMAGES, CLASSES))).astype(np.float32)
        for labels in LABELS
    ]


PLAIN, BETTER, BEST = option(1.5, 1.0), option(3, 1.0), option(5, 1.0)
LUCKY = [logits + noise for logits, noise in zip(PLAIN, option(0, 0.05, seed=7), strict=True)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([PLAIN], 0),
        ([PLAIN, PLAIN], 0),
        ([PLAIN, BETTER], 1),
        ([PLAIN, BETTER, BEST], 2),
        ([PLAIN, BEST, BETTER], 1),
        ([BEST, PLAIN, BETTER], 0),
        ([PLAIN, LUCKY], 0),
    ],
)
def test_the_best_of_those_that_are_clearly_better_is_chosen(options: list[list[Logits]], expected: int) -> None:
    assert choose_views(options, LABELS, COUNTS, range(FOLDS)) == expected


def test_the_given_folds_choose() -> None:
    mixed = [BEST[0], *PLAIN[1:]]
    assert choose_views([PLAIN, mixed], LABELS, COUNTS, [0]) == 1
    assert choose_views([PLAIN, mixed], LABELS, COUNTS, [1, 2, 3]) == 0
