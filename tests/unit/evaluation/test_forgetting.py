from __future__ import annotations

import numpy as np
import pytest

from unfreeze.evaluation.forgetting import Forgetting, agreement, forgetting


def test_an_untouched_backbone_forgets_exactly_nothing() -> None:
    labels, top1 = np.arange(30) % 7, np.arange(30) % 5
    lost = forgetting(reference="flowers", labels=labels, before_top1=top1, after_top1=top1.copy())
    assert (lost.reference, lost.n) == ("flowers", 30)
    assert lost.before == lost.after == np.mean(labels == top1)
    assert lost.drop == 0.0
    assert lost.drop_ci95 == (0.0, 0.0)


def test_the_drop_is_paired() -> None:
    labels = np.zeros(400, int)
    before = np.repeat([0, 1], 200)
    after = np.repeat([0, 1], [160, 240])
    lost = forgetting(reference="flowers", labels=labels, before_top1=before, after_top1=after)
    assert (lost.before, lost.after, lost.drop) == pytest.approx((0.5, 0.4, 0.1))
    assert lost.drop_ci95 is not None
    # 40 of 400 pairs differ: a standard error of 1.5 points, where two unpaired samples would have 3.5
    assert lost.drop_ci95 == pytest.approx((0.1 - 1.96 * 0.015, 0.1 + 1.96 * 0.015), abs=0.005)


def test_the_two_kinds_of_evidence_are_independent() -> None:
    before, after = np.array([1, 2, 3, 4]), np.array([1, 2, 3, 0])
    assert agreement(before, after) == 0.75
    own = Forgetting().with_agreement(before, after)
    assert own == Forgetting(agreement=0.75, agreement_n=4)
    lost = forgetting(reference="flowers", labels=before, before_top1=before, after_top1=after)
    both = lost.with_agreement(before, after)
    assert (both.drop, both.agreement) == (0.25, 0.75)
    assert lost.agreement is None


def test_one_photo() -> None:
    lost = forgetting(reference="one", labels=np.array([1]), before_top1=np.array([1]), after_top1=np.array([0]))
    assert (lost.drop, lost.drop_ci95) == (1.0, (1.0, 1.0))


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match="must be"):
        agreement(np.array([1]), np.array([1, 2]))
    with pytest.raises(ValueError, match="must be"):
        agreement(np.array([], int), np.array([], int))
    with pytest.raises(ValueError, match="must be"):
        forgetting(reference="x", labels=np.zeros(3, int), before_top1=np.zeros(2, int), after_top1=np.zeros(2, int))
