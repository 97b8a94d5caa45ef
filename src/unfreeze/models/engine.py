"""How frozen stages are computed: with BatchNorm folded, and in bf16 where the hardware has units for it.

What the machine has decides, and not a timing, so that the same command gives the same bits again; and whatever is chosen
must agree with plain float32 on the first photos, or the next choice is taken.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from unfreeze.errors import ConfigError
from unfreeze.models.backbone import Backbone
from unfreeze.models.folding import fold

Forward = Callable[[Tensor], Tensor]

CHECKED = 4  # photos that a choice is checked on
ROUNDING = 1e-4  # of the output's length; float32 rounding through a hundred layers stays a tenth of that
COSINE = 0.999  # of each photo's output in bf16 and in float32


def choose_precision(name: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.dtype:
    """Return what frozen stages compute in; ``auto`` is bf16 where the hardware has units for it.

    Raises:
        ConfigError: bf16 is asked for on a device that has none.
    """
    has_bf16 = _has_bf16(device)
    if name == "bf16" and not has_bf16:
        raise ConfigError(
            f"This machine's {device.type} has no bf16 units: it would be slower, not faster.",
            where="--precision",
            mend="Leave --precision out, or take fp32.",
        )
    return torch.bfloat16 if has_bf16 and name != "fp32" else torch.float32


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # older torch doesn't tell
        return False
    units = torch.cpu.get_capabilities()
    return any(units.get(unit) is True for unit in ("amx_bf16", "avx512_bf16"))


def frozen_forward(backbone: Backbone, start: int, stop: int, example: Tensor) -> Forward:
    """Return stages ``start`` to ``stop`` as one function from float32 to float32, in the backbone's precision within.

    Args:
        backbone: In evaluation mode.
        start: The boundary that the tensors cross first.
        stop: The boundary that they cross last.
        example: What crosses ``start`` for some photos; the first few are checked.
    """

    def plain(x: Tensor) -> Tensor:
        return backbone.run(x, start, stop)

    few = example[:CHECKED]
    expected = plain(few)
    for candidate in _candidates(backbone, start, stop):
        try:
            found = candidate(few)
        except (AttributeError, RuntimeError, TypeError):  # asks its BatchNorm for more, or needs float32
            continue
        if agrees(found, expected, backbone.precision):
            return candidate
    return plain


def _candidates(backbone: Backbone, start: int, stop: int) -> Iterator[Forward]:
    """Yield functions from the fastest on; the next one serves where one is wrong."""
    folded = nn.Sequential(*(fold(stage.module) for stage in backbone.stages[start:stop]))
    if backbone.precision == torch.float32:
        yield folded
        return
    yield _lowered(folded, backbone.precision)
    yield _lowered(nn.Sequential(*(stage.module for stage in backbone.stages[start:stop])), backbone.precision)
    yield folded


def agrees(found: Tensor, expected: Tensor, precision: torch.dtype) -> bool:
    """Return whether float32 outputs are the same up to rounding, or, of a lower precision, close enough for each photo."""
    difference = torch.linalg.vector_norm(found - expected)
    if difference <= ROUNDING * torch.linalg.vector_norm(expected):
        return True
    if precision == torch.float32:
        return False
    return bool((nn.functional.cosine_similarity(found.flatten(1), expected.flatten(1)) > COSINE).all())


def _lowered(stages: nn.Module, precision: torch.dtype) -> Forward:
    low = copy.deepcopy(stages).to(dtype=precision, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def lowered(x: Tensor) -> Tensor:
        out: Tensor = low(x.to(precision))
        return out.float()

    return lowered
