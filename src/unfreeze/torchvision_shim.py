"""Import of torchvision's models and transforms with a build of torch that doesn't match its compiled operators.

The Linux wheel of torchvision on PyPI is compiled for a CUDA build of torch.  With a CPU build, its operators are not
registered, and ``import torchvision`` (and ``import timm``) fails with "operator torchvision::nms does not exist".
Declaring the two schemas that its Python files decorate suffices for models and transforms.  ``torchvision.io`` and the
detection operators remain unavailable; this project doesn't use them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def ensure_torchvision() -> tuple[Any, ...]:
    """Make ``import torchvision`` work; to be called before the first import of torchvision or timm.

    Returns:
        Objects that must stay alive for the shim to work; empty if torchvision has its own operators.
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
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    import torchvision

    return (library, torchvision)
