"""How frozen stages are computed: with BatchNorm fused, in bf16 where the hardware has units for it, and in OpenVINO where
a CPU has it installed.

What the machine has decides, and not a timing, so that the same command gives the same bits again.  The choice is made once
per weights, for the whole backbone: each way, the fastest first, is compared with plain float32 stages on drawn images
(``probe.py``) that are the same in every process.  The images of a run have no say, nor has their order.

Where bf16 throughout differs too much, the lower half of the stages is computed in float32: what is rounded in the first
layers goes through all others, and in EfficientNet-Lite0 it is nearly all of the difference (benchmarks/RESULTS.md).

What crosses a boundary has the same bits whether it is computed directly or from a tensor kept at a boundary below.  The
network is cut at fixed boundaries (``EngineReport.cuts``): from one cut to the next is a part, which is compiled by itself,
so that nothing is fused across a cut, and which rounds its input to its own precision.  A tensor kept in that precision is
therefore what the part below would have handed on.  Any longer range is these parts, one after another; only a cut may be a
source.  A boundary that is no cut is reached from the cut below it by plain stages in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from unfreeze.acceleration.folding import fuse_batchnorm
from unfreeze.acceleration.openvino import convert_stages, openvino_version
from unfreeze.acceleration.probe import probe_images
from unfreeze.errors import ConfigError
from unfreeze.models.backbone import Backbone

Forward = Callable[[Tensor], Tensor]
Way = Literal["openvino", "fused", "plain"]

WAYS: dict[Way, str] = {
    "openvino": "compiled by OpenVINO",
    "fused": "in torch with BatchNorm fused",
    "plain": "in torch as the stages are",
}
PROBE = "1"  # of the drawn images and of what is compared; another one makes remembered choices void
CHECKED = 4  # images that a choice for trained stages is checked on
ROUNDING = 1e-4  # of the output's length; float32 rounding through a hundred layers stays a tenth of that
COSINE = 0.999  # of each image's output in bf16 and in float32
STRICT = 0.9995  # the same of the drawn images: of real photos, few then fall below COSINE (benchmarks/RESULTS.md)


@dataclass(frozen=True)
class EngineReport:
    """What computes the frozen stages of a backbone, and why nothing faster does.

    Attributes:
        backend: The libraries that compute, with versions: another one rounds differently.
        way: In OpenVINO; in torch with BatchNorm fused; or in torch as the stages are.
        cuts: The boundaries between parts, from 0 to the head's.
        precisions: Of every stage.
        rejected: Faster ways in the order in which they were tried, each with the reason why it wasn't taken.
    """

    backend: str
    way: Way
    cuts: tuple[int, ...]
    precisions: tuple[torch.dtype, ...]
    rejected: tuple[tuple[str, str], ...] = ()

    @property
    def computed_by(self) -> str:
        """What computes, in words."""
        return f"{self.backend}, {WAYS[self.way]}"

    @property
    def precision(self) -> str:
        """The precision in words."""
        names = [_short(precision) for precision in self.precisions]
        upper = next((stage for stage, name in enumerate(names) if name != names[0]), None)
        return names[0] if upper is None else f"{names[0]} below stage {upper}, {names[-1]} from it on"

    def kept_dtype(self, boundary: int) -> torch.dtype:
        """Return the type that loses nothing of what crosses ``boundary``: that which the part above rounds to."""
        inner = boundary in self.cuts[:-1]
        return self.precisions[boundary] if inner else torch.float32

    def sources(self, boundary: int) -> tuple[int, ...]:
        """Return the boundaries from which ``boundary`` may be computed: the cuts below it, 0 (the images) first."""
        return tuple(cut for cut in self.cuts if cut < boundary)

    def describe_range(self, boundary: int) -> str:
        """Return everything that decides, apart from the weights, the bits of what crosses ``boundary``."""
        below = [_short(precision) for precision in self.precisions[:boundary]]
        cuts = [cut for cut in self.cuts if cut <= boundary]
        return f"{self.backend}, {self.way}, {below} cut at {cuts}, kept in {_short(self.kept_dtype(boundary))}"


@dataclass(frozen=True)
class Part:
    """Stages that are compiled together; they round their input to ``precision`` first."""

    compute: Forward
    precision: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the stages on what crosses the first one's boundary, of any floating type and memory layout."""
        return self.compute(x.to(self.precision))


@dataclass(frozen=True)
class Pipeline:
    """Parts of a network, one after another, as one function from float32 to float32."""

    parts: tuple[Part, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Send ``x`` through all parts."""
        for part in self.parts:
            x = part(x)
        return x.float()


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
    units = _cpu_capabilities() if device.type == "cpu" else {}
    return any(units.get(unit) is True for unit in ("amx_bf16", "avx512_bf16"))


def _cpu_capabilities() -> dict[str, object]:
    return dict(torch.cpu.get_capabilities()) if hasattr(torch.cpu, "get_capabilities") else {}  # older torch has none


def backend_version(device: torch.device) -> str:
    """Return the fastest library that could compute frozen stages on ``device``, with versions."""
    return _backend("openvino" if _has_openvino(device) else "fused")


def _backend(way: Way) -> str:
    torch_too = f"torch {torch.__version__}"
    return f"openvino {openvino_version()}, {torch_too}" if way == "openvino" else torch_too


def _has_openvino(device: torch.device) -> bool:
    return device.type == "cpu" and openvino_version() is not None


def choice_inputs(backbone: Backbone, fingerprint: str) -> tuple[str, ...]:
    """Return everything that decides what ``choose_engine`` chooses; ``fingerprint`` is that of all weights."""
    device = backbone.device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else repr(sorted(_cpu_capabilities().items()))
    return (
        PROBE,
        backend_version(device),
        f"{device.type} {machine}",
        str(backbone.precision),
        f"{backbone.architecture} {sorted(backbone.architecture.arguments.items())}",
        repr(backbone.network.preprocessing),
        fingerprint,
    )


def choose_engine(backbone: Backbone, fingerprint: str | None = None) -> EngineReport:
    """Return what computes the frozen stages; chosen once for these weights on drawn images, and compiled.

    Puts the backbone into evaluation mode where the choice is made.
    """
    wanted = choice_inputs(backbone, backbone.fingerprint() if fingerprint is None else fingerprint)
    if wanted not in backbone.compiled:
        with torch.inference_mode():
            backbone.compiled[wanted] = _choose(backbone)
    report: EngineReport = backbone.compiled[wanted]
    return report


def remember_engine(backbone: Backbone, fingerprint: str, report: EngineReport) -> None:
    """Take a choice that was made for the same ``choice_inputs`` before."""
    backbone.compiled[choice_inputs(backbone, fingerprint)] = report


def known_engine(backbone: Backbone, fingerprint: str | None = None) -> EngineReport | None:
    """Return what was chosen for these weights, if anything was."""
    wanted = choice_inputs(backbone, backbone.fingerprint() if fingerprint is None else fingerprint)
    report: EngineReport | None = backbone.compiled.get(wanted)
    return report


def frozen_forward(backbone: Backbone, start: int, stop: int) -> Forward:
    """Return stages ``start`` to ``stop`` as one function from float32 to float32, as ``choose_engine`` has it within.

    Args:
        backbone: In evaluation mode.
        start: The boundary that the tensors cross first.
        stop: The boundary that they cross last.
    """
    fingerprints = backbone.fingerprints()
    report = choose_engine(backbone, fingerprints[-1])
    bounds = sorted({start, stop, *(cut for cut in report.cuts if start < cut < stop)})
    with torch.inference_mode():
        try:
            return _pipeline(backbone, report, bounds, fingerprints)
        except Exception:  # what an earlier process could compile, this one can't: choose anew
            backbone.compiled.pop(choice_inputs(backbone, fingerprints[-1]), None)
    report = choose_engine(backbone, fingerprints[-1])
    return _pipeline(backbone, report, bounds, fingerprints)


def engine_used(backbone: Backbone) -> EngineReport | None:
    """Return what was chosen last for this network at its precision, whether or not stages above have trained since."""
    same = choice_inputs(backbone, "")[:-1]
    reports = [report for name, report in backbone.compiled.items() if name[:-1] == same]
    return reports[-1] if reports else None


def uses_reduced_precision(backbone: Backbone) -> bool:
    """Return whether what was chosen for ``backbone`` computes anything in less than float32."""
    report = engine_used(backbone)
    return report is not None and set(report.precisions) != {torch.float32}


def _choose(backbone: Backbone) -> EngineReport:
    for stage in backbone.stages:
        stage.module.eval()
    crossings = [probe_images(backbone.network.preprocessing, backbone.device)]
    for stage in backbone.stages:
        crossings.append(stage.module(crossings[-1]))
    cuts = _cuts(backbone, crossings)
    fingerprints = backbone.fingerprints()
    rejected: list[tuple[str, str]] = []
    if backbone.device.type == "cpu" and openvino_version() is None:
        rejected.append(("openvino", "it is not installed"))
    for way in _ways(backbone):
        for precisions in _mixes(backbone):
            report = EngineReport(_backend(way), way, cuts, precisions, tuple(rejected))
            try:
                reason = _compare(backbone, report, crossings, fingerprints)
            except Exception as error:  # a network may need float32, or be too odd for fusing or for OpenVINO
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            if reason is None:
                return report
            rejected.append((f"{WAYS[way]}, {report.precision}", reason))
    return EngineReport(_backend("plain"), "plain", cuts, _mixes(backbone)[-1], tuple(rejected))


def _cuts(backbone: Backbone, crossings: Sequence[Tensor]) -> tuple[int, ...]:
    """Return where the network is cut: at all boundaries of the upper half, below where no more crosses than an image has.

    A cut costs a pass over what crosses it, which in the first layers of a CNN is many times the image.
    """
    middle, last = len(backbone.stages) // 2, len(backbone.stages)
    small = (b for b in range(1, middle) if crossings[b].numel() <= crossings[0].numel())
    return tuple(sorted({0, *small, *range(max(1, middle), last), last}))


def _ways(backbone: Backbone) -> tuple[Way, ...]:
    ways: tuple[Way, ...] = get_args(Way)
    return ways if _has_openvino(backbone.device) else ways[1:]


def _mixes(backbone: Backbone) -> list[tuple[torch.dtype, ...]]:
    """Return in which precisions to compute the stages, the fastest first."""
    count, lowest = len(backbone.stages), backbone.precision
    middle = max(1, count // 2)
    exactly = (torch.float32,) * count
    return list(dict.fromkeys(((lowest,) * count, exactly[:middle] + (lowest,) * (count - middle), exactly)))


def _compare(
    backbone: Backbone, report: EngineReport, crossings: Sequence[Tensor], fingerprints: Sequence[str]
) -> str | None:
    """Return where and by how much the parts differ from plain stages, or None where they are close enough at all cuts."""
    x = crossings[0]
    for start, stop in pairwise(report.cuts):
        x = _part(backbone, report, start, stop, fingerprints, crossings[start])(x)
        lowest = next((low for low in report.precisions[:stop] if low != torch.float32), torch.float32)
        difference = _difference(x.float(), crossings[stop], lowest, STRICT)
        if difference is not None:
            return f"below {backbone.depths()[stop]} {difference}"
    return None


def _pipeline(backbone: Backbone, report: EngineReport, bounds: Sequence[int], fingerprints: Sequence[str]) -> Pipeline:
    spans = pairwise(bounds)
    return Pipeline(tuple(_part(backbone, report, start, stop, fingerprints) for start, stop in spans))


def _part(
    backbone: Backbone,
    report: EngineReport,
    start: int,
    stop: int,
    fingerprints: Sequence[str],
    example: Tensor | None = None,
) -> Part:
    """Return stages ``start`` to ``stop`` compiled, once for these weights; plainly where either is no cut."""
    whole = start in report.cuts and stop in report.cuts
    way: Way = report.way if whole else "plain"
    precision = report.precisions[start] if whole else torch.float32
    built_from = (way, _backend(way), start, stop, fingerprints[stop])
    compiled = backbone.compiled
    if (precision, *built_from) not in compiled:
        stages = nn.Sequential(*(stage.module for stage in backbone.stages[start:stop]))
        if way != "plain":
            stages = nn.Sequential(*map(fuse_batchnorm, stages))
        if (
            way == "openvino" and built_from not in compiled
        ):  # converting takes most of the time: once for all precisions
            if example is None:
                image = probe_images(backbone.network.preprocessing, backbone.device)[:1]
                example = backbone.run(image, 0, start)
            compiled[built_from] = convert_stages(stages, example)
        compute = compiled[built_from](precision) if way == "openvino" else _in_torch(stages, precision)
        compiled[precision, *built_from] = Part(compute, precision)
    part: Part = compiled[precision, *built_from]
    return part


def _in_torch(stages: nn.Module, precision: torch.dtype) -> Forward:
    if precision != torch.float32:
        stages = copy.deepcopy(stages).to(dtype=precision, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compute(x: Tensor) -> Tensor:
        # One memory layout, wherever the tensor comes from: another one is rounded otherwise.
        out: Tensor = stages(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous())
        return out

    return compute


def outputs_match(found: Tensor, expected: Tensor, precision: torch.dtype) -> bool:
    """Return whether float32 outputs are the same up to rounding, or, of a lower precision, close enough for each image."""
    return _difference(found, expected, precision, COSINE) is None


def _difference(found: Tensor, expected: Tensor, precision: torch.dtype, enough: float) -> str | None:
    """Return by how much outputs differ, or None where they match; ``enough``: of the cosine, where bf16 was used."""
    relative = float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))
    if relative <= ROUNDING:
        return None
    if precision == torch.float32:
        return f"the outputs differ by {relative:.2g} of their length"
    lowest = float(nn.functional.cosine_similarity(found.flatten(1), expected.flatten(1)).min())
    return None if lowest > enough else f"the lowest cosine is {lowest:.5f}, not over {enough:g}"


def _short(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")
