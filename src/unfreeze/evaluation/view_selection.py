"""The choice of the views over which a model's logits are averaged, by validation logits.  Arrays in, choice out."""

from __future__ import annotations

from collections.abc import Sequence

from unfreeze.evaluation.selection import FoldIds, Indices, Logits, ModelSelector


def choose_views(
    options: Sequence[Sequence[Logits]], labels: Sequence[Indices], class_counts: Indices, folds: FoldIds
) -> int:
    """Return the index of the option with the lowest log-loss of those significantly better than the first, or 0.

    Averaging multiplies the cost of inference: it takes the significance that shipping phase 2 does.

    Args:
        options: For each option the logits of each fold's images, each of shape (V, C); the first is the plain view.
        labels: The labels of each fold's images, each of shape (V,).
        class_counts: How many training images each class has (C,).
        folds: The folds whose images choose.
    """
    selector = ModelSelector.of(options[0], labels, class_counts)
    better = [index for index in range(1, len(options)) if selector.accepts(options[index], folds)]

    def log_loss(index: int) -> float:
        return float(selector.validation_scores(options[index], folds).losses.mean())

    return min(better, key=log_loss) if better else 0
