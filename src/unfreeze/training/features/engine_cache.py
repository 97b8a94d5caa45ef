"""What computes frozen stages is chosen once per weights and machine: the choice is kept beside what was computed.

Making it compiles the whole backbone; a run that finds everything in the store has no other need to.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from torch import Tensor

from unfreeze.acceleration.engine_report import EngineReport
from unfreeze.acceleration.frozen import choice_inputs, choose_engine, known_engine, remember_engine
from unfreeze.models.backbone import Backbone
from unfreeze.training.features.cache import FeatureCache, read_rows

FORMAT = "1"  # of what is kept; another one makes older choices unfindable
KEY = "engine"  # a shelf holds one
PRECISIONS = {str(precision): precision for precision in (torch.float32, torch.bfloat16)}


def engine_of(store: FeatureCache, backbone: Backbone) -> EngineReport:
    """Return what computes the frozen stages: chosen in this process, found in the store, or chosen now and kept there.

    Raises:
        CacheError: It can't be kept.
    """
    fingerprint = backbone.fingerprint()
    shelf = store.namespace("engine", FORMAT, *choice_inputs(backbone, fingerprint))
    report = known_engine(backbone, fingerprint)
    if report is None and (found := shelf.load([KEY])):
        report = _unpacked(read_rows([found[KEY]])[0])
        remember_engine(backbone, fingerprint, report)
    if report is None or not shelf.cached_keys([KEY]):
        report = choose_engine(backbone, fingerprint)
        with shelf.write() as draft:
            draft.append([KEY], _packed(report)[None])
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
