from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.support.backbones import CPU, shake, tiny_cnn, tiny_vit
from tests.support.photos import PREPROCESSING, SIZE
from torch import Tensor, nn

from unfreeze.acceleration.trainable import trainable_forward
from unfreeze.models.backbone import Architecture, Backbone, Network, assemble
from unfreeze.models.freezing import apply, plan_from
from unfreeze.torchvision_shim import ensure_torchvision

ensure_torchvision()
from timm.layers import BatchNormAct2d, create_conv2d  # noqa: E402 (torchvision must be mended first)


class Inverted(nn.Module):
    """An EfficientNet's block: expand, depthwise, project, each with its BatchNorm; padded as TensorFlow does."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_pw = create_conv2d(channels, 2 * channels, 1, padding="same")
        self.bn1 = BatchNormAct2d(2 * channels, act_layer=nn.ReLU6)
        self.conv_dw = create_conv2d(2 * channels, 2 * channels, kernel, stride=stride, padding="same", depthwise=True)
        self.bn2 = BatchNormAct2d(2 * channels, act_layer=nn.ReLU6)
        self.conv_pwl = create_conv2d(2 * channels, channels, 1, padding="same")
        self.bn3 = BatchNormAct2d(channels, apply_act=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn3(self.conv_pwl(self.bn2(self.conv_dw(self.bn1(self.conv_pw(x))))))
        return out


class TinyMobile(nn.Module):
    def __init__(self, block: type[nn.Module] = Inverted) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1, bias=False)
        self.blocks = nn.Sequential(block(4, 3, 1), block(4, 5, 2), block(4, 5, 1), block(4, 3, 2))
        self.fc = nn.Linear(4, 7)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.blocks(self.stem(images)).mean(dim=(2, 3)))
        return logits


def mobile(block: type[nn.Module] = Inverted) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = TinyMobile(block)
    shake(module)
    return assemble("mobile", Architecture("timm", "mobile"), Network(module, "fc", 7, (), PREPROCESSING), CPU)


def photos(count: int = 6) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


def learn(backbone: Backbone, boundary: int) -> Tensor:
    """Let everything above the boundary learn, and return what crosses it."""
    apply(plan_from(backbone, boundary, lr=1e-3, head_lr=1e-3), backbone)
    with torch.no_grad():
        return backbone.run(photos(), 0, boundary)


def gradients(out: Tensor, backbone: Backbone) -> dict[str, Tensor]:
    backbone.network.module.zero_grad()
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    (out * weights).sum().backward()  # type: ignore[no-untyped-call]
    return {
        name: value.grad.clone() for name, value in backbone.network.module.named_parameters() if value.grad is not None
    }


@pytest.mark.parametrize("boundary", [0, 2])
@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit, mobile])
def test_output_and_every_gradient_are_those_of_the_plain_stages(make: Callable[[], Backbone], boundary: int) -> None:
    backbone = make()
    x = learn(backbone, boundary)
    forward = trainable_forward(backbone, boundary, x)
    expected = backbone.run(x, boundary)
    plain = gradients(expected, backbone)
    found = forward(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    tuned = gradients(found, backbone)
    assert tuned.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(tuned[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()) + 1e-6)


def test_batch_norm_costs_no_layer_of_its_own() -> None:
    backbone = mobile()
    x = learn(backbone, 1)
    forward = trainable_forward(backbone, 1, x)
    with torch.profiler.profile() as profile:
        forward(x)
    assert not [event for event in profile.key_averages() if "batch_norm" in event.key]


@pytest.mark.parametrize("make", [tiny_cnn, mobile])
def test_the_same_parameters_learn_and_restored_ones_are_seen(make: Callable[[], Backbone]) -> None:
    backbone = make()
    x = learn(backbone, 1)
    forward = trainable_forward(backbone, 1, x)
    before = backbone.snapshot()
    with torch.no_grad():
        for value in backbone.network.module.parameters():
            value.mul_(1.1)
    torch.testing.assert_close(forward(x), backbone.run(x, 1), rtol=1e-4, atol=1e-5)
    backbone.restore(before)
    torch.testing.assert_close(forward(x), backbone.run(x, 1), rtol=1e-4, atol=1e-5)


def test_training_moves_no_statistics() -> None:
    backbone = mobile()
    x = learn(backbone, 0)
    before = {name: value.clone() for name, value in backbone.network.module.named_buffers()}
    forward = trainable_forward(backbone, 0, x)
    gradients(forward(x), backbone)
    for name, value in backbone.network.module.named_buffers():
        assert torch.equal(value, before[name]), name


def test_where_batch_norm_trains_nothing_is_folded_and_the_trial_moves_nothing() -> None:
    backbone = mobile()
    apply(plan_from(backbone, 0, lr=1e-3, head_lr=1e-3, bn="train"), backbone)
    before = backbone.fingerprint()
    forward = trainable_forward(backbone, 0, photos())
    assert backbone.fingerprint() == before
    forward(photos())
    assert backbone.fingerprint() != before


class Twice(Inverted):
    """Uses a BatchNorm a second time, so that folding it would be wrong."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        again: Tensor = self.bn3(out)
        return out + again


def test_a_block_that_folding_would_change_is_left_as_it_is() -> None:
    backbone = mobile(Twice)
    x = learn(backbone, 0)
    torch.testing.assert_close(trainable_forward(backbone, 0, x)(x), backbone.run(x, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit, mobile])
def test_in_bf16_weights_and_gradients_stay_float32(make: Callable[[], Backbone]) -> None:
    backbone = make()
    x = learn(backbone, 1)
    exact = trainable_forward(backbone, 1, x)
    low = trainable_forward(replace(backbone, precision=torch.bfloat16), 1, x)
    expected, found = exact(x), low(x)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert nn.functional.cosine_similarity(found, expected).min() > 0.999
    right = gradients(expected, backbone)
    low_gradients = gradients(found, backbone)
    assert {gradient.dtype for gradient in low_gradients.values()} == {torch.float32}
    flat = [torch.cat([each[name].flatten() for name in right]) for each in (low_gradients, right)]
    assert nn.functional.cosine_similarity(flat[0], flat[1], dim=0) > 0.98


def test_dropout_is_drawn_anew_in_every_step() -> None:
    backbone = tiny_cnn(dropout=0.5)
    x = learn(backbone, 1)
    forward = trainable_forward(backbone, 1, x)
    assert not torch.equal(forward(x), forward(x))
