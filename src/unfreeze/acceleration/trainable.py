"""Trainable stages: the same function of the same parameters, at less cost.

BatchNorm with frozen statistics is a scale and a shift that train.  Folded into the weights of the convolution before
it in every step, they still train, and need no pass over the activations, neither forward nor backward.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from unfreeze.acceleration.depthwise import depthwise, is_depthwise
from unfreeze.acceleration.folding import replace_conv_bn
from unfreeze.acceleration.tolerance import outputs_match
from unfreeze.models.backbone import Backbone, BatchNorm
from unfreeze.models.pooling import join

N_CHECKED = 4  # images whose outputs are compared with those of the plain stages
Forward = Callable[[Tensor], Tensor]


def trainable_forward(backbone: Backbone, start: int, example: Tensor) -> Forward:
    """Return the stages from ``start`` on as one function to float32 features that the head reads, for training.

    The features of stages below ``start`` are not among them.

    Where the backbone's precision is bf16, the stages compute in bf16 with float32 parameters (automatic mixed
    precision). The function's output is compared with that of the plain stages on a few images; if it differs, the
    plain stages are used.

    Args:
        backbone: Every layer in the mode that it trains in; its parameters are the trained ones.
        start: The boundary of ``example``.
        example: Activations (N, ...) of some images.
    """

    def plain(x: Tensor) -> Tensor:
        return backbone.features(x, start)

    stages = FeatureStages(backbone, start)
    if any(isinstance(layer, BatchNorm) and layer.training for layer in stages.modules()):
        return plain  # a trial would update the statistics
    for precision in dict.fromkeys((backbone.precision, torch.float32)):
        for candidate in (with_folded_bn(stages), stages):
            forward = _with_autocast(precision, candidate)
            try:
                if outputs_match(_trial(forward, example), _trial(plain, example), precision):
                    return forward
            except (AttributeError, RuntimeError, TypeError):  # uses its BatchNorm otherwise, or needs float32
                continue
    return plain


def _with_autocast(precision: torch.dtype, stages: nn.Module) -> Forward:
    def forward(x: Tensor) -> Tensor:
        autocast: AbstractContextManager[object] = torch.autocast(
            x.device.type, torch.bfloat16, enabled=precision != torch.float32
        )
        with autocast:
            out: Tensor = stages(x)
        return out.float()

    return forward


def _trial(forward: Forward, example: Tensor) -> Tensor:
    """Compute a few images, with the same dropout every time."""
    gpus = [example.device] if example.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), torch.no_grad():
        torch.manual_seed(0)
        return forward(example[:N_CHECKED])


class FeatureStages(nn.Module):
    """The stages from ``start`` on as one module, from activations to the features that the head reads from them."""

    def __init__(self, backbone: Backbone, start: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stage.module for stage in backbone.stages[start:])
        self.read = tuple(stage - start for stage in backbone.head_stages if stage >= start)
        self.pooling = backbone.pooling

    def forward(self, x: Tensor) -> Tensor:
        """Return features (N, D); the last stage's output where the head reads none of the others."""
        pooled = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.read:
                pooled.append(self.pooling(x))
        return join(torch.cat(pooled, dim=1) if pooled else None, x)


class _FoldedConvolution(nn.Module):
    """A convolution with the frozen BatchNorm after it folded into its weights in every step."""

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
    """Return the stages with every BatchNorm folded into the convolution right before it; all parameters are shared."""
    shared = {id(value): value for value in (*stages.parameters(), *stages.buffers())}
    folded = copy.deepcopy(stages, shared)
    replace_conv_bn(folded, _fold)
    return folded


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Module | None:
    foldable = (
        norm.weight is not None and convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
    )
    return _FoldedConvolution(convolution, norm) if foldable else None
