from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group

from unfreeze.evaluation.similarity import linear_cka, probe


def test_the_same_up_to_rotation_and_scale_is_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6))
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, 3 * x @ ortho_group.rvs(6, random_state=1) + 5) == pytest.approx(1)


def test_wide_features_that_have_nothing_in_common_are_not_alike() -> None:
    rng = np.random.default_rng(1)
    found = [linear_cka(rng.normal(size=(30, 500)), rng.normal(size=(30, 500))) for _ in range(20)]
    assert all(value is not None for value in found)
    assert abs(np.mean([value or 0 for value in found])) < 0.05


def test_with_many_photos_it_is_kornbliths() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(5000, 5))
    y = x @ rng.normal(size=(5, 4)) + rng.normal(size=(5000, 4))
    x, y = x - x.mean(0), y - y.mean(0)
    plain = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert linear_cka(x, y) == pytest.approx(plain, abs=0.003)


def test_too_few_photos_and_constant_features_have_none() -> None:
    assert linear_cka(np.eye(3), np.eye(3)) is None
    assert linear_cka(np.ones((9, 2)), np.random.default_rng(0).normal(size=(9, 2))) is None


def test_a_reader_finds_what_is_only_rotated_and_not_what_is_lost() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 12))
    logits = x @ rng.normal(size=(12, 8))
    turned = x @ ortho_group.rvs(12, random_state=1)
    right = [float((probe(features, logits) == logits.argmax(1)).mean()) for features in (x, turned, turned[:, :3])]
    assert right[0] > 0.95
    assert right[1] > 0.95
    assert right[2] < 0.7
