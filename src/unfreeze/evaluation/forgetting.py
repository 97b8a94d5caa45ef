"""Loss of the original task by fine-tuning: the ORIGINAL head on the original and on the tuned backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from unfreeze.evaluation.resampling import FloatArray, IntArray, Interval, mean_interval

TOP = 5


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Measurements on reference images and on the user's own images, each None where it wasn't measured.

    Attributes:
        reference: Name of the reference images, which have labels of the original task.
        n: The number of reference images.
        before: Accuracy of the original head on the original backbone, a fraction.
        after: Accuracy of the original head on the tuned backbone.
        drop: ``before - after``; positive is forgetting.
        drop_ci95: Interval of ``drop`` by the paired bootstrap.
        weights_drop: The part of ``drop`` that remains with BatchNorm's original statistics.
        batch_norm_drop: The part that BatchNorm's moved statistics cause.  The two sum to ``drop``.
        top5_before: As ``before``, for the label among the five most probable classes.
        top5_after: As ``after``, for the five most probable classes.
        top5_drop: As ``drop``, for the five most probable classes.
        top5_drop_ci95: Interval of ``top5_drop`` by the paired bootstrap.
        probe_before: Accuracy of a linear probe, fitted on the original backbone's features (see ``similarity.probe``).
        probe_after: Accuracy of a linear probe, fitted on the tuned backbone's features.
        probe_drop: The loss for any linear head; ``drop`` beyond it is the original head's misalignment.
        probe_drop_ci95: Interval of ``probe_drop`` by the paired bootstrap.
        agreement: Fraction of the user's own held-out images for which the original head's top class is the same.
        agreement_n: The number of images that ``agreement`` is measured on.
        kl: Mean Kullback-Leibler divergence of the original head's predictions on them, after from before, in nats.
        cka: Linear CKA of each trained stage's outputs before and after (see ``similarity.linear_cka``).
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
        """Add the agreement on the user's own images; for arguments and errors see ``agreement``."""
        same = agreement(before_top1, after_top1)
        return replace(self, agreement=same, agreement_n=len(before_top1), kl=kl)

    def with_cka(self, by_stage: Mapping[str, float]) -> Forgetting:
        """Add the linear CKA of each stage's outputs before and after."""
        return replace(self, cka=dict(by_stage))

    def with_probe(self, labels: IntArray, before_top1: IntArray, after_top1: IntArray, seed: int = 0) -> Forgetting:
        """Add the accuracy of linear probes, from their top classes for reference images before and after (N,)."""
        before, after = _same(labels, before_top1), _same(labels, after_top1)
        return replace(
            self,
            probe_before=float(before.mean()),
            probe_after=float(after.mean()),
            probe_drop=float((before - after).mean()),
            probe_drop_ci95=mean_interval(before - after, seed=seed),
        )


def forgetting(
    *, reference: str, before: IntArray, after: IntArray, with_original_bn: IntArray, num_classes: int, seed: int = 0
) -> Forgetting:
    """Measure the accuracy lost on reference images, and split it by cause.

    Args:
        reference: Name of the images, for the report.
        before: Ranks of the labels by the original head on the original backbone (N,); see ``ranks``.
        after: Ranks on the tuned backbone (N,).
        with_original_bn: Ranks on the tuned backbone with the original BatchNorm statistics (N,).
        num_classes: The number of the original head's classes; up to five, top-5 accuracy is left out.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: There are no images, or the shapes differ.
    """
    correct_before, correct_bn, correct_after = (in_top_k(r, before, 1) for r in (before, with_original_bn, after))
    weights, batch_norm, drop = correct_before - correct_bn, correct_bn - correct_after, correct_before - correct_after
    measured = Forgetting(
        reference=reference,
        n=len(before),
        before=float(correct_before.mean()),
        after=float(correct_after.mean()),
        drop=float(drop.mean()),
        drop_ci95=mean_interval(drop, seed=seed),
        weights_drop=float(weights.mean()),
        weights_drop_ci95=mean_interval(weights, seed=seed),
        batch_norm_drop=float(batch_norm.mean()),
        batch_norm_drop_ci95=mean_interval(batch_norm, seed=seed),
    )
    if num_classes <= TOP:
        return measured
    top5_before, top5_after = in_top_k(before, before, TOP), in_top_k(after, before, TOP)
    return replace(
        measured,
        top5_before=float(top5_before.mean()),
        top5_after=float(top5_after.mean()),
        top5_drop=float((top5_before - top5_after).mean()),
        top5_drop_ci95=mean_interval(top5_before - top5_after, seed=seed),
    )


def agreement(before_top1: IntArray, after_top1: IntArray) -> float:
    """Return the fraction of images whose top class (N,) is the same on both backbones; needs no labels.

    Raises:
        ValueError: There are no images, or the shapes differ.
    """
    return float(_same(before_top1, after_top1).mean())


def divergence(before: FloatArray, after: FloatArray) -> float:
    """Return the mean Kullback-Leibler divergence in nats, from the log-probabilities before and after (N, C)."""
    before = before.astype(np.float64)
    return float((np.exp(before) * (before - after)).sum(1).mean())


def ranks(logits: FloatArray, labels: IntArray) -> IntArray:
    """Return the number of classes with a higher logit than the label (N,), from logits (N, C)."""
    own = logits[np.arange(len(labels)), labels]
    return np.asarray((logits > own[:, None]).sum(1), dtype=np.int64)


def in_top_k(label_ranks: IntArray, like: IntArray, k: int) -> FloatArray:
    """Return 1.0 where the label is among the ``k`` most probable classes, else 0.0 (N,); ``like`` has the shape."""
    if label_ranks.ndim != 1 or label_ranks.shape != like.shape or not label_ranks.size:
        raise ValueError(f"ranks of shapes {label_ranks.shape} and {like.shape} must be (N,), N > 0")
    return np.asarray(label_ranks < k, dtype=np.float64)


def _same(a: IntArray, b: IntArray) -> FloatArray:
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(f"top classes of shapes {a.shape} and {b.shape} must be (N,), N > 0")
    return np.asarray(a == b, dtype=np.float64)
