"""BatchNorm with frozen statistics is a scale and a shift: folded into the convolution before it, it costs nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unfreeze.models.backbone import Backbone
from unfreeze.torchvision_shim import ensure_torchvision

TOLERANCE = 1e-4  # of the output's length; float32 rounding through a hundred layers stays a tenth of that


def frozen_forward(backbone: Backbone, start: int, stop: int, example: Tensor) -> Callable[[Tensor], Tensor]:
    """Return stages ``start`` to ``stop`` as one function in evaluation mode, with BatchNorm folded where that is sound.

    Which convolution a BatchNorm follows is read off the order in which a block names its layers, as nearly all
    architectures have it; so the result is compared on ``example``, and where it differs the stages run as they are.

    Args:
        backbone: In evaluation mode.
        start: The boundary that the tensors cross first.
        stop: The boundary that they cross last.
        example: What crosses ``start`` for a few photos.
    """

    def plain(x: Tensor) -> Tensor:
        return backbone.run(x, start, stop)

    stages = [_folded(stage.module) for stage in backbone.stages[start:stop]]
    if not any(changed for _, changed in stages):
        return plain

    def folded(x: Tensor) -> Tensor:
        for module, _ in stages:
            x = module(x)
        return x

    expected = plain(example)
    try:
        difference = torch.linalg.vector_norm(folded(example) - expected)
    except (AttributeError, RuntimeError, TypeError):  # a block that asks its BatchNorm for something
        return plain
    return folded if difference <= TOLERANCE * torch.linalg.vector_norm(expected) else plain


def _folded(module: nn.Module) -> tuple[nn.Module, bool]:
    """Return a copy with every BatchNorm folded whose convolution stands right before it, and whether there was one."""
    ensure_torchvision()  # timm imports torchvision
    from timm.layers import BatchNormAct2d, Conv2dSame

    copied = copy.deepcopy(module)
    changed = False
    for parent in list(copied.modules()):
        for (name, convolution), (after, norm) in pairwise(list(parent.named_children())):
            # Exactly these types: other convolutions compute their weights anew in every pass.
            if type(convolution) not in (nn.Conv2d, Conv2dSame) or type(norm) not in (nn.BatchNorm2d, BatchNormAct2d):
                continue
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d | BatchNormAct2d)
            if norm.running_mean is None:
                continue
            fused = fuse_conv_bn_eval(convolution, norm).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            setattr(parent, name, fused)
            setattr(parent, after, norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())
            changed = True
    return copied, changed
