"""Let torchvision's models and transforms import beside a build of torch that its compiled operators don't match.

The Linux wheel of torchvision on PyPI is compiled for a CUDA build of torch.  Beside a CPU build its operators stay
unregistered, and ``import torchvision`` (and so ``import timm``) stops with "operator torchvision::nms does not exist".
Declaring the two schemas that its Python files decorate is enough for models and transforms; ``torchvision.io`` and the
detection operators stay unavailable, and nothing here uses them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def ensure_torchvision() -> tuple[Any, ...]:
    """Make ``import torchvision`` work; call it before the first import of torchvision or timm.

    Returns:
        What must stay alive for the shim to hold: empty where torchvision's own operators are there.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return ()
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    import torchvision

    return (library, torchvision)
