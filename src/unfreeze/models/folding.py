"""BatchNorm with frozen statistics is a scale and a shift: folded into the convolution before it, it costs nothing."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unfreeze.torchvision_shim import ensure_torchvision


def fold(module: nn.Module) -> nn.Module:
    """Return a copy with every BatchNorm folded whose convolution stands right before it; ``module`` where none does.

    Which convolution a BatchNorm follows is read off the order in which a block names its layers, as nearly all
    architectures have it: compare the copy's output with the original's before you trust it.
    """
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
    return copied if changed else module
