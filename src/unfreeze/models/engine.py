"""How frozen stages are computed: with BatchNorm folded, in bf16 where the hardware has units for it, and in OpenVINO where
a CPU has it installed.

What the machine has decides, and not a timing, so that the same command gives the same bits again; and whatever is chosen
must agree with plain float32 on the first photos, or the next choice is taken.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from unfreeze.errors import ConfigError
from unfreeze.models.backbone import Backbone
from unfreeze.models.folding import fold
from unfreeze.models.openvino_engine import compile_stages, openvino_version

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


def computed_by(device: torch.device) -> str:
    """Return what computes frozen stages on ``device``, with versions: another one rounds differently."""
    torch_too = f"torch {torch.__version__}"
    return f"openvino {openvino_version()}, {torch_too}" if _has_openvino(device) else torch_too


def _has_openvino(device: torch.device) -> bool:
    return device.type == "cpu" and openvino_version() is not None


def frozen_forward(backbone: Backbone, start: int, stop: int, example: Tensor) -> Forward:
    """Return stages ``start`` to ``stop`` as one function from float32 to float32, in the backbone's precision within.

    What was built once for these weights is taken again, so that a run decides once; what serves bf16 in its stead serves
    float32 too.

    Args:
        backbone: In evaluation mode.
        start: The boundary that the tensors cross first.
        stop: The boundary that they cross last.
        example: What crosses ``start`` for some photos; the first few are checked.
    """
    what = start, stop, tuple(example.shape[1:]), backbone.fingerprint(stop)
    wanted = (backbone.precision, *what)
    if wanted not in backbone.built:
        forward, precision = _build(
            backbone, start, stop, example[:CHECKED], backbone.built.get((torch.float32, *what))
        )
        backbone.built[precision, *what] = backbone.built[wanted] = forward
    return backbone.built[wanted]


def is_lowered(backbone: Backbone) -> bool:
    """Return whether anything that was built for ``backbone`` computes in less than float32."""
    built = backbone.built
    return any(forward is not built.get((torch.float32, *what)) for (_, *what), forward in built.items())


def _build(
    backbone: Backbone, start: int, stop: int, few: Tensor, exact: Forward | None
) -> tuple[Forward, torch.dtype]:
    """Return what computes the stages, and in which precision; ``exact`` is what does so in float32, if it is built."""

    def plain(x: Tensor) -> Tensor:
        return backbone.run(x, start, stop)

    expected = plain(few)
    for precision, build in _candidates(backbone, start, stop, few):
        if precision == torch.float32 and exact is not None:
            return exact, precision
        try:
            candidate = build()
            if agrees(candidate(few), expected, precision):
                return candidate, precision
        except Exception:  # a network may ask its BatchNorm for more, need float32, or do what OpenVINO has no name for
            continue
    return plain, torch.float32


def _candidates(
    backbone: Backbone, start: int, stop: int, example: Tensor
) -> Iterator[tuple[torch.dtype, Callable[[], Forward]]]:
    """Yield what builds a function and its precision, the fastest one first; the next one serves where one is wrong."""
    stages = nn.Sequential(*(stage.module for stage in backbone.stages[start:stop]))
    folded = nn.Sequential(*(fold(stage) for stage in stages))
    if _has_openvino(backbone.device):
        precisions = dict.fromkeys((backbone.precision, torch.float32))
        compiled = compile_stages(folded, precisions, example)
        yield from ((precision, partial(next, compiled)) for precision in precisions)
    if backbone.precision != torch.float32:
        yield backbone.precision, partial(_lowered, folded, backbone.precision)
        yield backbone.precision, partial(_lowered, stages, backbone.precision)
    yield torch.float32, lambda: folded


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
