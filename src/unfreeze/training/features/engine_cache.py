"""The choice of the engine for frozen stages, made once per weights and machine and cached beside the activations.

Choosing compiles the whole backbone, which a run that finds all its activations in the cache otherwise doesn't need.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from torch import Tensor

from unfreeze.acceleration.engine_report import EngineReport
from unfreeze.acceleration.frozen import choice_inputs, choose_engine, known_engine, remember_engine
from unfreeze.models.backbone import Backbone
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.cache_files import read_rows

FORMAT = "1"  # part of the namespace: a new one leaves older choices unused
KEY = "engine"  # a namespace has one row
PRECISIONS = {str(precision): precision for precision in (torch.float32, torch.bfloat16)}


def engine_of(cache: FeatureCache, backbone: Backbone) -> EngineReport:
    """Return the engine of the frozen stages: chosen in this process, read from the cache, or chosen now and cached.

    Raises:
        CacheError: It can't be written.
    """
    fingerprint = backbone.fingerprint()
    namespace = cache.namespace("engine", FORMAT, *choice_inputs(backbone, fingerprint))
    report = known_engine(backbone, fingerprint)
    if report is None and (rows := namespace.load([KEY])):
        report = _unpacked(read_rows([rows[KEY]])[0])
        remember_engine(backbone, fingerprint, report)
    if report is None or not namespace.cached_keys([KEY]):
        report = choose_engine(backbone, fingerprint)
        with namespace.write() as writer:
            writer.append([KEY], _packed(report)[None])
    return report


def _packed(report: EngineReport) -> Tensor:
    text = json.dumps(asdict(report) | {"precisions": [str(precision) for precision in report.precisions]})
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> EngineReport:
    fields = json.loads(packed.numpy().tobytes())
    return EngineReport(
        backend=fields["backend"],
        way=fields["way"],
        cuts=tuple(fields["cuts"]),
        precisions=tuple(PRECISIONS[name] for name in fields["precisions"]),
        rejected=tuple((tried, reason) for tried, reason in fields["rejected"]),
    )
