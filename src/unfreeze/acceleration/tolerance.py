"""How far the outputs of accelerated stages may differ from those of plain float32 stages."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MAX_RELATIVE_ERROR = 1e-4  # error norm / output norm; float32 rounding through a hundred layers stays a tenth of that
MIN_COSINE = 0.999  # between each image's output in bf16 and in float32
MIN_PROBE_COSINE = 0.9995  # the same for the probe images; few real ones then fail MIN_COSINE (benchmarks/RESULTS.md)


def outputs_match(output: Tensor, expected: Tensor, precision: torch.dtype) -> bool:
    """Return whether float32 outputs are equal up to rounding, or bf16 outputs have a high cosine for every image."""
    return mismatch(output, expected, precision, MIN_COSINE) is None


def mismatch(output: Tensor, expected: Tensor, precision: torch.dtype, min_cosine: float) -> str | None:
    """Describe the difference between two outputs (N, ...), or return None if they match.

    Args:
        output: Computed by the accelerated stages.
        expected: Computed by plain float32 stages.
        precision: The lowest precision that ``output`` was computed in.
        min_cosine: Exclusive lower limit of each image's cosine, if ``precision`` is not float32.
    """
    relative_error = float(torch.linalg.vector_norm(output - expected) / torch.linalg.vector_norm(expected))
    if relative_error <= MAX_RELATIVE_ERROR:
        return None
    if precision == torch.float32:
        return f"the outputs differ by {relative_error:.2g} of their length"
    lowest = float(nn.functional.cosine_similarity(output.flatten(1), expected.flatten(1)).min())
    return None if lowest > min_cosine else f"the lowest cosine is {lowest:.5f}, not over {min_cosine:g}"
