"""Whether a file says of real photos what the run says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.errors import ModelError, reason

LARGEST = 1e-4
"""How far a probability may be off; of logits, as a share of the largest.  Float32 of two runtimes differs by 1e-6."""

BATCH = 32

Rows = NDArray[np.float32]
Answers = Callable[[Tensor], Rows]


def run_all(answers: Answers, batches: Sequence[Tensor]) -> Rows:
    """Return the answers to all photos, shape (N, C)."""
    return np.concatenate([answers(batch) for batch in batches])


def max_abs_difference(answers: Answers, views: Tensor, expected: Rows, place: Path) -> float:
    """Compare a file's answers with the run's, on one photo and on many at a time.

    Args:
        answers: What the file's own runtime says.
        views: Photos, rendered: two or more.
        expected: What the run says of them (N, C).
        place: The file, for the error.

    Returns:
        The largest difference.

    Raises:
        ModelError: It is larger than ``LARGEST``, or no number.
    """
    try:
        alone, together = answers(views[:1]), run_all(answers, torch.split(views, BATCH))
    except Exception as error:  # a foreign runtime: it may fail in any way
        raise ModelError(
            f"The exported file can't be run, and is removed: {reason(error)}", where=place.name
        ) from error
    worst = max(float(np.abs(alone - expected[:1]).max()), float(np.abs(together - expected).max()))
    if not worst <= LARGEST * max(1.0, float(np.abs(expected).max())):
        raise ModelError(
            f"The exported file's answers differ from the run's by up to {worst:.2g}, more than {LARGEST:g}: "
            "it is removed.",
            where=place.name,
            mend="Take another format, and please report which backbone it was.",
        )
    return worst
