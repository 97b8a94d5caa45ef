"""What fine-tuning cost the original task: the ORIGINAL head, once on the original and once on the tuned backbone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from unfreeze.evaluation.resampling import FloatArray, IntArray, Interval, mean_interval


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Two kinds of evidence, each None where it wasn't measured; ``Forgetting()`` is neither.

    Attributes:
        reference: What the reference photos are, with labels of the original task.
        n: Reference photos.
        before: Accuracy of the original head on the original backbone, a fraction.
        after: Its accuracy on the tuned backbone.
        drop: ``before - after``; positive is forgetting.
        drop_ci95: Paired bootstrap.
        agreement: Fraction of the user's own held-out photos where the original head's top class stayed the same.
        agreement_n: Photos that ``agreement`` is about.
    """

    reference: str | None = None
    n: int | None = None
    before: float | None = None
    after: float | None = None
    drop: float | None = None
    drop_ci95: Interval | None = None
    agreement: float | None = None
    agreement_n: int | None = None

    def with_agreement(self, before_top1: IntArray, after_top1: IntArray) -> Forgetting:
        """Add the evidence of the user's own photos; for arguments and errors see ``agreement``."""
        return replace(self, agreement=agreement(before_top1, after_top1), agreement_n=len(before_top1))


def forgetting(
    *, reference: str, labels: IntArray, before_top1: IntArray, after_top1: IntArray, seed: int = 0
) -> Forgetting:
    """Measure the accuracy lost on reference photos.

    Args:
        reference: What the photos are, for the report.
        labels: Classes of the original task (N,).
        before_top1: The original head's top class on the original backbone (N,).
        after_top1: Its top class on the tuned backbone (N,).
        seed: Of the bootstrap.

    Raises:
        ValueError: There are no photos, or the shapes differ.
    """
    before, after = _same(labels, before_top1), _same(labels, after_top1)
    return Forgetting(
        reference=reference,
        n=len(labels),
        before=float(before.mean()),
        after=float(after.mean()),
        drop=float((before - after).mean()),
        drop_ci95=mean_interval(before - after, seed=seed),
    )


def agreement(before_top1: IntArray, after_top1: IntArray) -> float:
    """Return the fraction of photos whose top class (N,) is the same on both backbones; needs no labels.

    Raises:
        ValueError: There are no photos, or the shapes differ.
    """
    return float(_same(before_top1, after_top1).mean())


def _same(a: IntArray, b: IntArray) -> FloatArray:
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(f"top classes of shapes {a.shape} and {b.shape} must be (N,), N > 0")
    return np.asarray(a == b, dtype=np.float64)
