"""BatchNorm with frozen statistics is a scale and a shift: fused into the convolution before it, it is free."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unfreeze.torchvision_shim import ensure_torchvision

Combine = Callable[[nn.Conv2d, nn.BatchNorm2d], nn.Module | None]


def fuse_batchnorm(module: nn.Module) -> nn.Module:
    """Return a copy in which every BatchNorm that ``replace_conv_bn`` finds is fused; ``module`` itself if none.

    The caller must compare the copy's output with the original's.
    """
    fused = copy.deepcopy(module)
    return fused if replace_conv_bn(fused, _fused) else module


def replace_conv_bn(module: nn.Module, combine: Combine) -> bool:
    """Replace each convolution and the BatchNorm right after it by one layer; return whether there was any.

    A BatchNorm is assumed to follow the convolution that its block defines right before it, as in nearly all
    architectures; the caller must check that the block still computes the same function.

    Args:
        module: Changed in place.
        combine: Returns the layer, without the activation that the BatchNorm may include; None leaves both layers.
    """
    ensure_torchvision()  # timm imports torchvision
    from timm.layers import BatchNormAct2d, Conv2dSame

    replaced = False
    for parent in list(module.modules()):
        for (name, convolution), (norm_name, norm) in pairwise(list(parent.named_children())):
            # Exactly these types: subclasses may recompute their weights in every pass.
            if type(convolution) not in (nn.Conv2d, Conv2dSame) or type(norm) not in (nn.BatchNorm2d, BatchNormAct2d):
                continue
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            combined = combine(convolution, norm) if norm.running_mean is not None else None
            if combined is not None:
                setattr(parent, name, combined)
                setattr(parent, norm_name, norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())
                replaced = True
    return replaced


def _fused(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Module:
    fused: nn.Module = fuse_conv_bn_eval(convolution, norm).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fused
