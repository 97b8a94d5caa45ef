"""How the stages that train are computed: the same function of the same parameters, at less cost.

BatchNorm with frozen statistics is a scale and a shift that train.  Folded into the weights of the convolution before it in
every step, they still train, and need no pass over the activations, neither forward nor backward.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from unfreeze.acceleration.depthwise import depthwise, is_depthwise
from unfreeze.acceleration.folding import replace_conv_bn
from unfreeze.acceleration.frozen import CHECKED, outputs_match
from unfreeze.models.backbone import Backbone, BatchNorm

Forward = Callable[[Tensor], Tensor]


def trainable_forward(backbone: Backbone, start: int, example: Tensor) -> Forward:
    """Return the stages from ``start`` on as one function to float32 features, for training.

    Where the backbone's precision is bf16, they compute in it and learn in float32 (automatic mixed precision).  What the
    function computes is compared with the plain stages' output on a few photos, and these serve where it differs.

    Args:
        backbone: Every layer in the mode that it trains in; its parameters are those that learn.
        start: The boundary that ``example`` crosses.
        example: What crosses it for some photos.
    """

    def plain(x: Tensor) -> Tensor:
        return backbone.run(x, start)

    stages = nn.Sequential(*(stage.module for stage in backbone.stages[start:]))
    if any(isinstance(layer, BatchNorm) and layer.training for layer in stages.modules()):
        return plain  # a trial would move the statistics
    for precision in dict.fromkeys((backbone.precision, torch.float32)):
        for candidate in (with_folded_bn(stages), stages):
            forward = _in(precision, candidate)
            try:
                if outputs_match(_trial(forward, example), _trial(plain, example), precision):
                    return forward
            except (AttributeError, RuntimeError, TypeError):  # asks its BatchNorm for more, or needs float32
                continue
    return plain


def _in(precision: torch.dtype, stages: nn.Module) -> Forward:
    def forward(x: Tensor) -> Tensor:
        mixed: AbstractContextManager[object] = torch.autocast(
            x.device.type, torch.bfloat16, enabled=precision != torch.float32
        )
        with mixed:
            out: Tensor = stages(x)
        return out.float()

    return forward


def _trial(forward: Forward, example: Tensor) -> Tensor:
    """Run a few photos, with the same dropout every time."""
    cards = [example.device] if example.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards), torch.no_grad():
        torch.manual_seed(0)
        return forward(example[:CHECKED])


class _NormedConvolution(nn.Module):
    """A convolution and the frozen BatchNorm after it, in one."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        convolution, norm = self.convolution, self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = convolution.weight * scale[:, None, None, None]
        shift = -norm.running_mean if convolution.bias is None else convolution.bias - norm.running_mean
        bias = norm.bias + shift * scale
        padding = convolution.padding
        if type(convolution) is not nn.Conv2d:  # timm's Conv2dSame pads as TensorFlow does
            from timm.layers import pad_same

            x = pad_same(x, convolution.kernel_size, convolution.stride, convolution.dilation)
        assert not isinstance(padding, str)
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and is_depthwise(convolution):
            x = x.to(torch.get_autocast_dtype("cpu"))
            return depthwise(x, weight, bias, convolution.stride, padding)  # type: ignore[arg-type]
        return nn.functional.conv2d(
            x, weight, bias, convolution.stride, padding, convolution.dilation, convolution.groups
        )


def with_folded_bn(stages: nn.Module) -> nn.Module:
    """Return the stages with every BatchNorm folded whose convolution stands right before it; all parameters are shared."""
    shared = {id(value): value for value in (*stages.parameters(), *stages.buffers())}
    twin = copy.deepcopy(stages, shared)
    replace_conv_bn(twin, _with_norm)
    return twin


def _with_norm(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Module | None:
    plain = norm.weight is not None and convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
    return _NormedConvolution(convolution, norm) if plain else None
