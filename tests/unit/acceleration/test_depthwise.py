from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unfreeze.acceleration.depthwise import depthwise, is_depthwise

CHANNELS = 6


def problem(kernel: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(kernel * 100 + size)
    x = torch.randn(3, CHANNELS, size, size + 2, generator=random).to(memory_format=torch.channels_last)
    weight = torch.randn(CHANNELS, 1, kernel, kernel, generator=random)
    return x.requires_grad_(), weight.requires_grad_(), torch.randn(CHANNELS, generator=random).requires_grad_()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 1), (4, 1), (5, 2), (5, 0), (7, 3), (9, 4)])
def test_output_and_gradients_are_torchs_own(kernel: int, padding: int, stride: int) -> None:
    x, weight, bias = problem(kernel, 11)
    steps, sides = (stride, stride), (padding, padding)
    found = depthwise(x, weight, bias, steps, sides)
    expected = nn.functional.conv2d(x, weight, bias, steps, sides, groups=CHANNELS)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad(found, (x, weight, bias), upstream)
    theirs = torch.autograd.grad(expected, (x, weight, bias), upstream)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_in_bf16_weights_learn_in_float32(stride: int) -> None:
    x, weight, bias = problem(5, 12)
    low = x.detach().bfloat16().requires_grad_()
    found = depthwise(low, weight, bias, (stride, stride), (2, 2))
    expected = nn.functional.conv2d(x, weight, bias, stride, 2, groups=CHANNELS)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad(found, (low, weight, bias), upstream.bfloat16())
    theirs = torch.autograd.grad(expected, (x, weight, bias), upstream)
    assert found.dtype == ours[0].dtype == torch.bfloat16
    assert ours[1].dtype == ours[2].dtype == torch.float32
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.float(), other, rtol=0.05, atol=0.05 * float(other.abs().max()))


def test_what_needs_no_gradient_gets_none() -> None:
    x, weight, bias = problem(5, 9)
    depthwise(x.detach(), weight, bias.detach(), (1, 1), (2, 2)).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is None
    assert bias.grad is None
    assert weight.grad is not None


def test_which_convolutions_are_depthwise() -> None:
    assert is_depthwise(nn.Conv2d(4, 4, 3, groups=4))
    assert not is_depthwise(nn.Conv2d(4, 4, 3))
    assert not is_depthwise(nn.Conv2d(4, 8, 3, groups=4))
    assert not is_depthwise(nn.Conv2d(4, 4, 3, groups=4, dilation=2))
    assert not is_depthwise(nn.Conv2d(4, 4, (3, 5), groups=4))
    assert not is_depthwise(nn.Conv2d(1, 1, 3))
