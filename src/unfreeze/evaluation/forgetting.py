"""What fine-tuning cost the original task: the ORIGINAL head, once on the original and once on the tuned backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from unfreeze.evaluation.resampling import FloatArray, IntArray, Interval, mean_interval

TOP = 5


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
        weights_drop: The part of ``drop`` that is left when BatchNorm's original statistics are put back.
        batch_norm_drop: The rest: what BatchNorm's moved statistics cost.  The two sum to ``drop``.
        top5_before: As ``before``, for the label among the five most probable classes.
        top5_after: Likewise.
        top5_drop: Likewise.
        top5_drop_ci95: Likewise.
        probe_before: Accuracy of a linear reader, refitted on the original backbone's features (see ``similarity.probe``).
        probe_after: The same on the tuned backbone's features.
        probe_drop: What was lost for any linear head; ``drop`` beyond it is the original head's misalignment.
        probe_drop_ci95: Paired bootstrap.
        agreement: Fraction of the user's own held-out photos where the original head's top class stayed the same.
        agreement_n: Photos that ``agreement`` is about.
        kl: On the same photos, mean Kullback-Leibler divergence of the original head's answers after from before, nats.
        cka: Of each stage that trained, how alike its output is before and after (see ``similarity.linear_cka``).
    """

    reference: str | None = None
    n: int | None = None
    before: float | None = None
    after: float | None = None
    drop: float | None = None
    drop_ci95: Interval | None = None
    weights_drop: float | None = None
    weights_drop_ci95: Interval | None = None
    batch_norm_drop: float | None = None
    batch_norm_drop_ci95: Interval | None = None
    top5_before: float | None = None
    top5_after: float | None = None
    top5_drop: float | None = None
    top5_drop_ci95: Interval | None = None
    probe_before: float | None = None
    probe_after: float | None = None
    probe_drop: float | None = None
    probe_drop_ci95: Interval | None = None
    agreement: float | None = None
    agreement_n: int | None = None
    kl: float | None = None
    cka: Mapping[str, float] = field(default_factory=dict)

    def with_agreement(self, before_top1: IntArray, after_top1: IntArray, kl: float | None = None) -> Forgetting:
        """Add the evidence of the user's own photos; for arguments and errors see ``agreement``."""
        share = agreement(before_top1, after_top1)
        return replace(self, agreement=share, agreement_n=len(before_top1), kl=kl)

    def with_cka(self, alike: Mapping[str, float]) -> Forgetting:
        """Add how alike each stage's output is before and after."""
        return replace(self, cka=dict(alike))

    def with_probe(self, labels: IntArray, before_top1: IntArray, after_top1: IntArray, seed: int = 0) -> Forgetting:
        """Add what a refitted linear reader finds in the features of reference photos before and after (N,)."""
        before, after = _same(labels, before_top1), _same(labels, after_top1)
        return replace(
            self,
            probe_before=float(before.mean()),
            probe_after=float(after.mean()),
            probe_drop=float((before - after).mean()),
            probe_drop_ci95=mean_interval(before - after, seed=seed),
        )


def forgetting(
    *, reference: str, before: IntArray, after: IntArray, restored: IntArray, outputs: int, seed: int = 0
) -> Forgetting:
    """Measure the accuracy lost on reference photos, and split it by cause.

    Args:
        reference: What the photos are, for the report.
        before: How many classes the original head finds likelier than the label, on the original backbone (N,).
        after: The same on the tuned backbone (N,).
        restored: The same on the tuned backbone with the original BatchNorm statistics (N,).
        outputs: Classes of the original head; where there are no more than five, being among five says nothing.
        seed: Of the bootstrap.

    Raises:
        ValueError: There are no photos, or the shapes differ.
    """
    right = [in_top_k(ranks, before, 1) for ranks in (before, restored, after)]
    weights, batch_norm, drop = right[0] - right[1], right[1] - right[2], right[0] - right[2]
    measured = Forgetting(
        reference=reference,
        n=len(before),
        before=float(right[0].mean()),
        after=float(right[2].mean()),
        drop=float(drop.mean()),
        drop_ci95=mean_interval(drop, seed=seed),
        weights_drop=float(weights.mean()),
        weights_drop_ci95=mean_interval(weights, seed=seed),
        batch_norm_drop=float(batch_norm.mean()),
        batch_norm_drop_ci95=mean_interval(batch_norm, seed=seed),
    )
    if outputs <= TOP:
        return measured
    first, last = in_top_k(before, before, TOP), in_top_k(after, before, TOP)
    return replace(
        measured,
        top5_before=float(first.mean()),
        top5_after=float(last.mean()),
        top5_drop=float((first - last).mean()),
        top5_drop_ci95=mean_interval(first - last, seed=seed),
    )


def agreement(before_top1: IntArray, after_top1: IntArray) -> float:
    """Return the fraction of photos whose top class (N,) is the same on both backbones; needs no labels.

    Raises:
        ValueError: There are no photos, or the shapes differ.
    """
    return float(_same(before_top1, after_top1).mean())


def divergence(before: FloatArray, after: FloatArray) -> float:
    """Return the mean Kullback-Leibler divergence in nats, from the log-probabilities before and after (N, C)."""
    first = before.astype(np.float64)
    return float((np.exp(first) * (first - after)).sum(1).mean())


def ranks(logits: FloatArray, labels: IntArray) -> IntArray:
    """Return how many classes are likelier than the label (N,), from logits (N, C)."""
    own = logits[np.arange(len(labels)), labels]
    return np.asarray((logits > own[:, None]).sum(1), dtype=np.int64)


def in_top_k(found: IntArray, like: IntArray, top: int) -> FloatArray:
    if found.ndim != 1 or found.shape != like.shape or not found.size:
        raise ValueError(f"ranks of shapes {found.shape} and {like.shape} must be (N,), N > 0")
    return np.asarray(found < top, dtype=np.float64)


def _same(a: IntArray, b: IntArray) -> FloatArray:
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(f"top classes of shapes {a.shape} and {b.shape} must be (N,), N > 0")
    return np.asarray(a == b, dtype=np.float64)
