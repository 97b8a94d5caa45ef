"""Depthwise convolutions that train on a CPU in bf16: the same gradients, computed by oneDNN's fast kernels.

In bf16 oneDNN has no fast kernel for the weight gradient of a depthwise convolution larger than 3 x 3, nor for the
input gradient of one with a stride: they took half of a training step's time in an EfficientNet (benchmarks/step.py).
The weight gradient is therefore computed from 3 x 3 windows of the kernel, and strided input gradients in float32.  In
float32, oneDNN's own kernels are at least as fast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

WINDOW = 3  # the largest kernel size whose weight gradient is fast
Pair = tuple[int, int]


def is_depthwise(convolution: nn.Conv2d) -> bool:
    """Return whether each channel is convolved separately, with a square kernel and no dilation."""
    depthwise_groups = convolution.groups == convolution.in_channels == convolution.out_channels > 1
    return depthwise_groups and len(set(convolution.kernel_size)) == 1 and convolution.dilation == (1, 1)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Convolve each channel separately, in the precision of ``x``.

    Args:
        x: Shape (N, C, H, W).
        weight: Shape (C, 1, K, K); it and its gradient are float32.
        bias: Shape (C,); it and its gradient are float32.
        stride: Vertical and horizontal, in pixels.
        padding: Zeros on either side, vertical and horizontal, in pixels.
    """
    out: Tensor = _Depthwise.apply(x, weight, bias, stride, padding)  # type: ignore[no-untyped-call]
    return out


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return nn.functional.conv2d(x, weight.to(x), bias.to(x), stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            dtype = torch.float32 if max(ctx.stride) > 1 else x.dtype
            grad_x = _gradient(grad.to(dtype), x.to(dtype), weight.to(dtype), ctx.stride, ctx.padding, of_input=True)
            grad_x = grad_x.to(x)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(grad, x, weight.to(x), ctx.stride, ctx.padding).to(weight)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 2, 3), dtype=weight.dtype)
        return grad_x, grad_weight, grad_bias, None, None


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the gradient of ``weight`` by windows: each is the gradient of a smaller kernel on a crop of ``x``."""
    size = weight.shape[-1]
    if size <= WINDOW:
        return _gradient(grad, x, weight, stride, padding, of_input=False)
    padded = nn.functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    height, width = ((side - 1) * step + WINDOW for side, step in zip(grad.shape[2:], stride, strict=True))
    corner = weight[:, :, :WINDOW, :WINDOW].contiguous()
    starts = sorted({min(start, size - WINDOW) for start in range(0, size, WINDOW)})
    gradient = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for top in starts:
        for left in starts:
            crop = padded[:, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
            gradient[:, :, top : top + WINDOW, left : left + WINDOW] = _gradient(
                grad, crop, corner, stride, (0, 0), of_input=False
            )
    return gradient


def _gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, *, of_input: bool) -> Tensor:
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), (of_input, not of_input, False)
    )
    gradient: Tensor = grad_x if of_input else grad_weight
    return gradient
