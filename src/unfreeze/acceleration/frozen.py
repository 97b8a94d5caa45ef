"""Frozen stages: BatchNorm fused, bf16 where the hardware supports it, compiled by OpenVINO if a CPU has it.

The hardware and the installed libraries decide, not a timing, so the same command gives the same bits again.  The
engine is chosen once per weights, for the whole backbone: each one, the fastest first, is compared with plain float32
stages on synthetic images (``probe.py``) that are the same in every process.  The images of a run and their order have
no influence.

Where bf16 throughout differs too much, the lower half of the stages is computed in float32: rounding in the first
layers passes through all others, and in EfficientNet-Lite0 causes nearly all of the difference
(benchmarks/RESULTS.md).

Activations at a boundary have the same bits whether computed directly or from activations cached at a lower boundary.
The network is cut at fixed boundaries (``EngineReport.cuts``).  The stages between two cuts are a part.  Each part is
compiled by itself, so nothing is fused across a cut, and rounds its input to its own precision, so an input cached in
that precision equals the output of the part below.  A longer range is several parts in sequence; only a cut may be a
source.  A boundary that is no cut is computed from the cut below it by plain float32 stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

import torch
from torch import Tensor, nn

from unfreeze.acceleration.engine_report import WAYS, EngineReport, Way
from unfreeze.acceleration.folding import fuse_batchnorm
from unfreeze.acceleration.openvino import convert_stages, openvino_version
from unfreeze.acceleration.parts import Forward, Part, Pipeline, in_torch
from unfreeze.acceleration.precision import cpu_capabilities
from unfreeze.acceleration.probe import probe_images
from unfreeze.acceleration.tolerance import MIN_PROBE_COSINE, mismatch
from unfreeze.models.backbone import Backbone
from unfreeze.models.pooling import join

PROBE_VERSION = "1"  # of the probe images and the comparison; a new version invalidates cached choices


def backend_version(device: torch.device) -> str:
    """Return the fastest library that could compute frozen stages on ``device``, with versions."""
    return _backend("openvino" if _has_openvino(device) else "fused")


def _backend(way: Way) -> str:
    torch_version = f"torch {torch.__version__}"
    return f"openvino {openvino_version()}, {torch_version}" if way == "openvino" else torch_version


def _has_openvino(device: torch.device) -> bool:
    return device.type == "cpu" and openvino_version() is not None


def choice_inputs(backbone: Backbone, fingerprint: str) -> tuple[str, ...]:
    """Return everything that ``choose_engine`` depends on; ``fingerprint`` identifies all weights."""
    device = backbone.device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else repr(sorted(cpu_capabilities().items()))
    return (
        PROBE_VERSION,
        backend_version(device),
        f"{device.type} {machine}",
        str(backbone.precision),
        f"{backbone.architecture} {sorted(backbone.architecture.arguments.items())}",
        *([f"pooled after {backbone.head_stages}"] if backbone.head_stages else []),
        repr(backbone.network.preprocessing),
        fingerprint,
    )


def choose_engine(backbone: Backbone, fingerprint: str | None = None) -> EngineReport:
    """Return the engine of the frozen stages, chosen and compiled once for these weights on the probe images.

    A new choice puts the backbone into evaluation mode.
    """
    inputs = choice_inputs(backbone, backbone.fingerprint() if fingerprint is None else fingerprint)
    if inputs not in backbone.compiled:
        with torch.inference_mode():
            backbone.compiled[inputs] = _choose(backbone)
    report: EngineReport = backbone.compiled[inputs]
    return report


def remember_engine(backbone: Backbone, fingerprint: str, report: EngineReport) -> None:
    """Store an earlier choice that was made for the same ``choice_inputs``."""
    backbone.compiled[choice_inputs(backbone, fingerprint)] = report


def known_engine(backbone: Backbone, fingerprint: str | None = None) -> EngineReport | None:
    """Return the engine chosen for these weights, or None."""
    inputs = choice_inputs(backbone, backbone.fingerprint() if fingerprint is None else fingerprint)
    report: EngineReport | None = backbone.compiled.get(inputs)
    return report


def frozen_forward(backbone: Backbone, start: int, stop: int) -> Pipeline:
    """Return stages ``start`` to ``stop`` as one function from float32 to float32, computed by the chosen engine.

    Args:
        backbone: In evaluation mode.
        start: The boundary of the input.
        stop: The boundary of the output.
    """
    fingerprints = backbone.fingerprints()
    report = choose_engine(backbone, fingerprints[-1])
    bounds = sorted({start, stop, *(cut for cut in report.cuts if start < cut < stop)})
    with torch.inference_mode():
        try:
            return _pipeline(backbone, report, bounds, fingerprints)
        except Exception:  # an earlier process could compile this choice, this one can't: choose again
            backbone.compiled.pop(choice_inputs(backbone, fingerprints[-1]), None)
    report = choose_engine(backbone, fingerprints[-1])
    return _pipeline(backbone, report, bounds, fingerprints)


def frozen_features(backbone: Backbone) -> Forward:
    """Return all stages as one function from images to what the head reads, computed by the chosen engine."""
    forward = frozen_forward(backbone, 0, backbone.head_boundary)

    def features(x: Tensor) -> Tensor:
        x, below = forward.with_features(x, None)
        return join(below, x)

    return features


def engine_used(backbone: Backbone) -> EngineReport | None:
    """Return the last engine chosen for this network at its precision, even if some stages have trained since."""
    inputs = choice_inputs(backbone, "")[:-1]  # without the fingerprint
    reports = [report for key, report in backbone.compiled.items() if key[:-1] == inputs]
    return reports[-1] if reports else None


def uses_reduced_precision(backbone: Backbone) -> bool:
    """Return whether the last engine chosen for ``backbone`` computes any stage in less than float32."""
    report = engine_used(backbone)
    return report is not None and set(report.precisions) != {torch.float32}


def _choose(backbone: Backbone) -> EngineReport:
    for stage in backbone.stages:
        stage.module.eval()
    activations = [probe_images(backbone.network.preprocessing, backbone.device)]
    for stage in backbone.stages:
        activations.append(stage.module(activations[-1]))
    cuts = _cuts(backbone, activations)
    fingerprints = backbone.fingerprints()
    rejected: list[tuple[str, str]] = []
    if backbone.device.type == "cpu" and openvino_version() is None:
        rejected.append(("openvino", "it is not installed"))
    for way in _ways(backbone):
        for precisions in _mixes(backbone):
            report = EngineReport(_backend(way), way, cuts, precisions, tuple(rejected))
            try:
                reason = _compare(backbone, report, activations, fingerprints)
            except Exception as error:  # fusing, OpenVINO or bf16 may fail on a network
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            if reason is None:
                return report
            rejected.append((f"{WAYS[way]}, {report.precision}", reason))
    return EngineReport(_backend("plain"), "plain", cuts, _mixes(backbone)[-1], tuple(rejected))


def _cuts(backbone: Backbone, activations: Sequence[Tensor]) -> tuple[int, ...]:
    """Return the cuts: all boundaries of the upper half, and lower ones whose activations are no larger than an image.

    The outputs of stages that the head reads are cuts, too.  A cut costs a pass over its activations, which in the first
    layers of a CNN are many times the size of the image.
    """
    middle, last = len(backbone.stages) // 2, len(backbone.stages)
    small = (b for b in range(1, middle) if activations[b].numel() <= activations[0].numel())
    read = (stage + 1 for stage in backbone.head_stages)
    return tuple(sorted({0, *small, *read, *range(max(1, middle), last), last}))


def _ways(backbone: Backbone) -> tuple[Way, ...]:
    ways: tuple[Way, ...] = get_args(Way)
    return ways if _has_openvino(backbone.device) else ways[1:]


def _mixes(backbone: Backbone) -> list[tuple[torch.dtype, ...]]:
    """Return the precisions of the stages to try, the fastest first."""
    count, lowest = len(backbone.stages), backbone.precision
    middle = max(1, count // 2)
    in_float32 = (torch.float32,) * count
    return list(dict.fromkeys(((lowest,) * count, in_float32[:middle] + (lowest,) * (count - middle), in_float32)))


def _compare(
    backbone: Backbone, report: EngineReport, activations: Sequence[Tensor], fingerprints: Sequence[str]
) -> str | None:
    """Describe where and by how much the parts differ from plain stages; None if they match at all cuts."""
    x = activations[0]
    for start, stop in pairwise(report.cuts):
        x = _part(backbone, report, start, stop, fingerprints, activations[start])(x)
        lowest = next((low for low in report.precisions[:stop] if low != torch.float32), torch.float32)
        difference = mismatch(x.float(), activations[stop], lowest, MIN_PROBE_COSINE)
        if difference is not None:
            return f"below {backbone.depths()[stop]} {difference}"
    return None


def _pipeline(backbone: Backbone, report: EngineReport, bounds: Sequence[int], fingerprints: Sequence[str]) -> Pipeline:
    spans = list(pairwise(bounds))
    return Pipeline(
        tuple(_part(backbone, report, start, stop, fingerprints) for start, stop in spans),
        tuple(backbone.pooling if stop - 1 in backbone.head_stages else None for _, stop in spans),
    )


def _part(
    backbone: Backbone,
    report: EngineReport,
    start: int,
    stop: int,
    fingerprints: Sequence[str],
    example: Tensor | None = None,
) -> Part:
    """Return stages ``start`` to ``stop``, compiled once for these weights; plain if either boundary is no cut."""
    between_cuts = start in report.cuts and stop in report.cuts
    way: Way = report.way if between_cuts else "plain"
    precision = report.precisions[start] if between_cuts else torch.float32
    built_from = (way, _backend(way), start, stop, fingerprints[stop])
    compiled = backbone.compiled
    if (precision, *built_from) not in compiled:
        stages = nn.Sequential(*(stage.module for stage in backbone.stages[start:stop]))
        if way != "plain":
            stages = nn.Sequential(*map(fuse_batchnorm, stages))
        # Converting takes most of the time: once for all precisions.
        if way == "openvino" and built_from not in compiled:
            if example is None:
                image = probe_images(backbone.network.preprocessing, backbone.device)[:1]
                example = backbone.run(image, 0, start)
            compiled[built_from] = convert_stages(stages, example)
        compute = compiled[built_from](precision) if way == "openvino" else in_torch(stages, precision)
        compiled[precision, *built_from] = Part(compute, precision)
    part: Part = compiled[precision, *built_from]
    return part
