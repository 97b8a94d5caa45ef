"""How frozen stages are computed: with BatchNorm folded, in bf16 where the hardware has units for it, and in OpenVINO where
a CPU has it installed.

What the machine has decides, and not a timing, so that the same command gives the same bits again; and whatever is chosen
must agree with plain float32 on the first photos, or the next choice is taken.

Where bf16 throughout doesn't agree, the lower half of the network is computed in float32: what is rounded in the first
layers goes through all others, and in EfficientNet-Lite0 it is nearly all of the difference (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor, nn

from unfreeze.errors import ConfigError
from unfreeze.models.backbone import Backbone
from unfreeze.models.folding import fold
from unfreeze.models.openvino_engine import convert_stages, openvino_version

Forward = Callable[[Tensor], Tensor]
Compiler = Callable[[torch.dtype], Forward]

CHECKED = 4  # photos that a choice is checked on
ROUNDING = 1e-4  # of the output's length; float32 rounding through a hundred layers stays a tenth of that
COSINE = 0.999  # of each photo's output in bf16 and in float32


@dataclass(frozen=True)
class InTurn:
    """Parts of a network, each computed in its own precision, as one function."""

    parts: tuple[Forward, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Send ``x`` through all parts."""
        for part in self.parts:
            x = part(x)
        return x


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
    middle = min(max(len(backbone.stages) // 2, start), stop)
    crossing = backbone.run(few, start, middle)
    expected = backbone.run(crossing, middle, stop)
    halves = [half for half in ((start, middle, few), (middle, stop, crossing)) if half[0] < half[1]]
    for compilers in _ways(backbone, halves):
        for precisions in _mixes(backbone.precision, len(halves)):
            lowest = precisions[-1]
            if lowest == torch.float32 and exact is not None:
                return exact, lowest
            try:
                pairs = zip(compilers, precisions, strict=True)
                candidate = InTurn(tuple(compiler(precision) for compiler, precision in pairs))
                if agrees(candidate(few), expected, lowest):
                    return candidate, lowest
            except Exception:  # a network may ask its BatchNorm for more, need float32, or be too odd for OpenVINO
                continue
    return partial(backbone.run, start=start, stop=stop), torch.float32


def _mixes(lowest: torch.dtype, halves: int) -> dict[tuple[torch.dtype, ...], None]:
    """Return in which precisions to compute the halves, the fastest first."""
    exactly = torch.float32
    everywhere, above = (lowest,) * halves, (exactly,) * (halves - 1) + (lowest,)
    return dict.fromkeys((everywhere, above, (exactly,) * halves))


def _ways(backbone: Backbone, halves: Sequence[tuple[int, int, Tensor]]) -> Iterator[list[Compiler]]:
    """Yield what compiles the halves, each from its first stage to its last on what crosses it; the fastest way first."""
    plain = [nn.Sequential(*(stage.module for stage in backbone.stages[start:stop])) for start, stop, _ in halves]
    folded = [nn.Sequential(*(fold(stage) for stage in half)) for half in plain]
    if _has_openvino(backbone.device):
        with suppress(Exception):
            yield [cache(convert_stages(half, example)) for half, (_, _, example) in zip(folded, halves, strict=True)]
    for way in (folded, plain):
        yield [cache(partial(_in_torch, half)) for half in way]


def agrees(found: Tensor, expected: Tensor, precision: torch.dtype) -> bool:
    """Return whether float32 outputs are the same up to rounding, or, of a lower precision, close enough for each photo."""
    difference = torch.linalg.vector_norm(found - expected)
    if difference <= ROUNDING * torch.linalg.vector_norm(expected):
        return True
    if precision == torch.float32:
        return False
    return bool((nn.functional.cosine_similarity(found.flatten(1), expected.flatten(1)) > COSINE).all())


def _in_torch(stages: nn.Module, precision: torch.dtype) -> Forward:
    if precision == torch.float32:
        return stages
    low = copy.deepcopy(stages).to(dtype=precision, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def lowered(x: Tensor) -> Tensor:
        out: Tensor = low(x.to(precision))
        return out.float()

    return lowered
