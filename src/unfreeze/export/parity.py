"""Compare the outputs of an exported file with the run's on real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.errors import ModelError, reason

TOLERANCE = 1e-4
"""Accepted difference of a probability; of logits, relative to the largest.  Float32 runtimes differ by 1e-6."""

BATCH = 32

Outputs = NDArray[np.float32]
PredictFn = Callable[[Tensor], Outputs]


def run_all(predict: PredictFn, batches: Sequence[Tensor]) -> Outputs:
    """Return the outputs for all batches, shape (N, C)."""
    return np.concatenate([predict(batch) for batch in batches])


def max_abs_difference(predict: PredictFn, views: Tensor, expected: Outputs, path: Path) -> float:
    """Compare a file's outputs with the run's, for a single view and for batches.

    Args:
        predict: Runs the file in its own runtime.
        views: Two or more rendered images, uint8, shape (N, ..., 3, height, width).
        expected: The run's outputs (N, C).
        path: The file, for error messages.

    Returns:
        The largest absolute difference.

    Raises:
        ModelError: The file can't be run, or the difference exceeds ``TOLERANCE`` or is NaN.
    """
    try:
        single, batched = predict(views[:1]), run_all(predict, torch.split(views, BATCH))
    except Exception as error:  # a foreign runtime: it may fail in any way
        raise ModelError(f"The exported file can't be run, and is removed: {reason(error)}", where=path.name) from error
    difference = max(float(np.abs(single - expected[:1]).max()), float(np.abs(batched - expected).max()))
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ModelError(
            f"The exported file's answers differ from the run's by up to {difference:.2g}, more than {TOLERANCE:g}: "
            "it is removed.",
            where=path.name,
            mend="Take another format, and please report which backbone it was.",
        )
    return difference
