"""BatchNorm with frozen statistics is a scale and a shift: folded into the convolution before it, it costs nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unfreeze.torchvision_shim import ensure_torchvision

Combine = Callable[[nn.Conv2d, nn.BatchNorm2d], nn.Module | None]


def fold(module: nn.Module) -> nn.Module:
    """Return a copy with every BatchNorm folded that ``join`` finds; ``module`` where there is none.

    Compare the copy's output with the original's before you trust it.
    """
    copied = copy.deepcopy(module)
    return copied if join(copied, _fused) else module


def join(module: nn.Module, combine: Combine) -> bool:
    """Put one layer in place of each convolution and the BatchNorm right after it; return whether there was any.

    Which convolution a BatchNorm follows is read off the order in which a block names its layers, as nearly all
    architectures have it: whether the block still computes the same is for the caller to see.

    Args:
        module: Is changed in place.
        combine: Gives the layer, without the activation that the BatchNorm may bring along; None leaves both as they are.
    """
    ensure_torchvision()  # timm imports torchvision
    from timm.layers import BatchNormAct2d, Conv2dSame

    joined = False
    for parent in list(module.modules()):
        for (name, convolution), (after, norm) in pairwise(list(parent.named_children())):
            # Exactly these types: other convolutions compute their weights anew in every pass.
            if type(convolution) not in (nn.Conv2d, Conv2dSame) or type(norm) not in (nn.BatchNorm2d, BatchNormAct2d):
                continue
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            layer = combine(convolution, norm) if norm.running_mean is not None else None
            if layer is not None:
                setattr(parent, name, layer)
                setattr(parent, after, norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())
                joined = True
    return joined


def _fused(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Module:
    fused: nn.Module = fuse_conv_bn_eval(convolution, norm).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fused
