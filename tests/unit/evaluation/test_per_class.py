from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
)
from sklearn.metrics import confusion_matrix as sklearn_confusion

from unfreeze.evaluation.metrics import MAX_CONFUSION_CLASSES, score
from unfreeze.evaluation.per_class import class_scores, confusion_matrix
from unfreeze.evaluation.proportions import kappa_interval, wilson
from unfreeze.evaluation.resampling import FloatArray, IntArray


def drawn(n: int, classes: int, seed: int = 0) -> tuple[IntArray, FloatArray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes))
    labels = rng.choice(classes, n, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits[np.arange(n), labels] += 1.2
    powers = np.exp(logits)
    return labels, powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 5])
def test_every_class_agrees_with_sklearn(classes: int) -> None:
    labels, stated = drawn(300, classes)
    scores = score(labels, stated)
    given = stated.argmax(1)
    precision, recall, f1, support = precision_recall_fscore_support(labels, given)
    for k, row in enumerate(scores.per_class):
        assert (row.n, row.predicted) == (support[k], int((given == k).sum()))
        assert (row.precision, row.recall, row.f1) == pytest.approx((precision[k], recall[k], f1[k]))
        assert row.roc_auc == pytest.approx(roc_auc_score(labels == k, stated[:, k]))
        assert row.pr_auc == pytest.approx(average_precision_score(labels == k, stated[:, k]))
        assert (row.sensitivity_at_95 is not None) is (classes == 2)
        for value, interval in (
            (row.recall, row.recall_ci95), (row.precision, row.precision_ci95), (row.f1, row.f1_ci95),
            (row.roc_auc, row.roc_auc_ci95), (row.pr_auc, row.pr_auc_ci95),
        ):  # fmt: skip
            assert value is not None
            assert interval is not None
            assert 0 <= interval[0] < value < interval[1] <= 1
    assert scores.macro_f1 == pytest.approx(f1_score(labels, given, average="macro"))
    assert scores.kappa == pytest.approx(cohen_kappa_score(labels, given))
    several = stated if classes > 2 else stated[:, 1]
    assert scores.roc_auc == pytest.approx(roc_auc_score(labels, several, multi_class="ovr"))
    assert scores.pr_auc == pytest.approx(np.mean([row.pr_auc for row in scores.per_class]))
    assert scores.confusion == tuple(map(tuple, sklearn_confusion(labels, given).tolist()))


def test_what_is_undefined_is_absent() -> None:
    labels = np.array([0, 0, 2, 2])
    stated = np.array([[0.8, 0.1, 0.1, 0], [0.1, 0.8, 0.1, 0], [0.1, 0.1, 0.8, 0], [0.1, 0.1, 0.8, 0]])
    missing, never = class_scores(labels, stated).rows[1], class_scores(labels, stated).rows[3]
    assert (missing.n, missing.predicted, missing.recall, missing.precision, missing.f1) == (0, 1, None, 0.0, 0.0)
    assert (never.recall, never.precision, never.f1, never.roc_auc) == (None, None, None, None)
    alone = score(np.array([1, 1]), np.array([[0.2, 0.8], [0.3, 0.7]]))
    assert (alone.kappa, alone.roc_auc, alone.pr_auc) == (None, None, None)
    assert alone.macro_f1 == 1


def test_many_classes_have_no_confusion_matrix() -> None:
    labels, stated = drawn(300, MAX_CONFUSION_CLASSES + 1)
    assert score(labels, stated).confusion is None


def test_groups_widen_every_class() -> None:
    labels, stated = drawn(50, 3)
    each = [f"patient {number}" for number in range(50)] * 6
    alone = class_scores(np.tile(labels, 6), np.tile(stated, (6, 1)))
    grouped = class_scores(np.tile(labels, 6), np.tile(stated, (6, 1)), groups=each)
    for narrow, wide in zip(alone.rows, grouped.rows, strict=True):
        for name in ("recall", "precision", "f1", "roc_auc", "pr_auc"):
            (low, high), (lower, higher) = getattr(narrow, f"{name}_ci95"), getattr(wide, f"{name}_ci95")
            assert getattr(narrow, name) == getattr(wide, name)
            assert higher - lower > high - low


@pytest.mark.slow
def test_intervals_of_means_hold_95_per_cent() -> None:
    """The truth is what 200 000 photos say."""
    many, stated = drawn(200_000, 4, seed=99)
    given, own = stated.argmax(1), np.eye(4)[many]
    truths = (
        f1_score(many, given, average="macro"), roc_auc_score(own, stated), average_precision_score(own, stated),
        cohen_kappa_score(many, given),
    )  # fmt: skip
    sets = 500
    held = np.zeros(4)
    for seed in range(sets):
        labels, stated = drawn(150, 4, seed)
        whole, matrix = class_scores(labels, stated), confusion_matrix(labels, stated)
        assert whole.roc_auc is not None
        assert whole.pr_auc is not None
        kappa = kappa_interval(wilson(int(np.trace(matrix)), 150), float(matrix.sum(0) @ matrix.sum(1)) / 150**2)
        for place, (low, high) in enumerate((whole.macro_f1[1], whole.roc_auc[1], whole.pr_auc[1], kappa)):
            held[place] += low <= truths[place] <= high
    assert all(0.93 <= share <= 0.97 for share in held / sets), held / sets
