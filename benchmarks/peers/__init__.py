"""unfreeze against its peers.  Importing this mends torchvision beside a CPU build of torch, before anything imports it."""

from __future__ import annotations

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:  # its compiled operators are those of a CUDA build
    OPERATORS = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
