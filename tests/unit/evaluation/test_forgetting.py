from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

from unfreeze.evaluation.forgetting import Forgetting, agreement, divergence, forgetting, ranks
from unfreeze.evaluation.resampling import IntArray


def measured(before: IntArray, after: IntArray, restored: IntArray | None = None, outputs: int = 1000) -> Forgetting:
    middle = after if restored is None else restored
    return forgetting(reference="flowers", before=before, after=after, with_original_bn=middle, num_classes=outputs)


def test_an_untouched_backbone_forgets_exactly_nothing() -> None:
    found = np.arange(30) % 7
    lost = measured(found, found.copy())
    assert (lost.reference, lost.n) == ("flowers", 30)
    assert lost.before == lost.after == np.mean(found == 0)
    assert (lost.drop, lost.weights_drop, lost.batch_norm_drop, lost.top5_drop) == (0.0, 0.0, 0.0, 0.0)
    assert lost.drop_ci95 == (0.0, 0.0)


def test_the_drop_is_paired() -> None:
    before = np.repeat([0, 1], 200)
    after = np.repeat([0, 1], [160, 240])
    lost = measured(before, after)
    assert (lost.before, lost.after, lost.drop) == pytest.approx((0.5, 0.4, 0.1))
    assert lost.drop_ci95 is not None
    # 40 of 400 pairs differ: a standard error of 1.5 points, where two unpaired samples would have 3.5
    assert lost.drop_ci95 == pytest.approx((0.1 - 1.96 * 0.015, 0.1 + 1.96 * 0.015), abs=0.005)


def test_the_causes_sum_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    before, after, restored = rng.integers(0, 3, (3, 500))
    lost = measured(before, after, restored)
    assert lost.weights_drop is not None
    assert lost.batch_norm_drop is not None
    assert lost.weights_drop + lost.batch_norm_drop == pytest.approx(lost.drop, abs=1e-12)
    assert lost.weights_drop == pytest.approx(np.mean(before == 0) - np.mean(restored == 0))


def test_top_5() -> None:
    lost = measured(np.array([0, 4, 5, 0]), np.array([1, 5, 4, 9]))
    assert (lost.top5_before, lost.top5_after, lost.top5_drop) == (0.75, 0.5, 0.25)
    assert measured(np.array([0, 4]), np.array([1, 0]), outputs=5).top5_drop is None


def test_the_two_kinds_of_evidence_are_independent() -> None:
    before, after = np.array([1, 2, 3, 4]), np.array([1, 2, 3, 0])
    assert agreement(before, after) == 0.75
    own = Forgetting().with_agreement(before, after, 0.2)
    assert own == Forgetting(agreement=0.75, agreement_n=4, kl=0.2)
    lost = measured(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 3]))
    both = lost.with_agreement(before, after)
    assert (both.drop, both.agreement) == (0.25, 0.75)
    assert lost.agreement is None


def test_what_a_new_reader_finds() -> None:
    labels = np.array([0, 1, 2, 3])
    found = Forgetting().with_probe(labels, labels, np.array([0, 1, 2, 0]))
    assert (found.probe_before, found.probe_after, found.probe_drop) == (1.0, 0.75, 0.25)
    assert found.probe_drop_ci95 is not None
    assert found.probe_drop_ci95[0] < 0.25 < found.probe_drop_ci95[1]


def test_divergence_is_scipys() -> None:
    before, after = log_softmax(np.random.default_rng(0).normal(size=(2, 9, 4)), axis=2)
    assert divergence(before, after) == pytest.approx(entropy(np.exp(before), np.exp(after), axis=1).mean())
    assert divergence(before, before) == 0


def test_a_rank_counts_the_likelier_classes() -> None:
    logits = np.array([[3.0, 1, 2], [3, 1, 2], [0, 0, 0]])
    assert ranks(logits, np.array([0, 1, 2])).tolist() == [0, 2, 0]


def test_one_photo() -> None:
    lost = measured(np.array([0]), np.array([1]))
    assert (lost.drop, lost.drop_ci95) == (1.0, (1.0, 1.0))


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match="must be"):
        agreement(np.array([1]), np.array([1, 2]))
    with pytest.raises(ValueError, match="must be"):
        agreement(np.array([], int), np.array([], int))
    with pytest.raises(ValueError, match="must be"):
        measured(np.zeros(3, int), np.zeros(2, int))
