from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.support import CPU, PREPROCESSING, shake, tiny_cnn, tiny_vit
from torch import Tensor, nn

from unfreeze.models.backbone import Architecture, Backbone, BatchNorm, Network, assemble
from unfreeze.models.folding import _folded, frozen_forward
from unfreeze.models.networks import build
from unfreeze.torchvision_shim import ensure_torchvision

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def real(name: str) -> Backbone:
    library, short = name.split("/")
    torch.manual_seed(0)
    built = build(Architecture(library, short))  # type: ignore[arg-type]
    shake(built.module)
    return assemble(name, Architecture(library, short), built, CPU)  # type: ignore[arg-type]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("torchvision/resnet18", 0),
        ("torchvision/mobilenet_v2", 0),
        ("torchvision/densenet121", 62),  # a BatchNorm that follows no convolution has none to go into
        ("torchvision/efficientnet_b0", 0),
        ("timm/tf_efficientnet_lite0", 0),
        ("timm/test_resnet", 1),
        ("timm/test_byobnet", 0),
    ],
)
def test_real_architectures_compute_the_same(name: str, left: int) -> None:
    backbone = real(name)
    before = backbone.fingerprint()
    forward = frozen_forward(backbone, 0, backbone.head_boundary, IMAGES)
    assert forward.__name__ == "folded"
    torch.testing.assert_close(forward(IMAGES * 0.7), backbone.run(IMAGES * 0.7), rtol=1e-3, atol=1e-3)
    copies = [_folded(stage.module)[0] for stage in backbone.stages]
    assert sum(isinstance(layer, BatchNorm) for copied in copies for layer in copied.modules()) == left
    assert backbone.fingerprint() == before


@torch.no_grad()
@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
def test_every_range_of_stages_computes_the_same(make: Callable[[], Backbone]) -> None:
    backbone = make()
    x = torch.randn(3, 3, *PREPROCESSING.size)
    for start in range(5):
        for stop in range(start + 1, 6):
            crossing = backbone.run(x, 0, start)
            torch.testing.assert_close(
                frozen_forward(backbone, start, stop, crossing)(crossing), backbone.run(crossing, start, stop)
            )


class Swapped(nn.Module):
    """Names its layers in another order than it runs them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.pooling, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.flatten(self.pooling(self.second(self.first(self.norm(x))))))
        return logits


class Block(nn.Module):
    """Asks its BatchNorm for something."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(self.convolution(x))
        return normalised * self.norm.weight[:, None, None]


class Curious(Swapped):
    """Has such a block."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.flatten(self.pooling(self.block(x))))
        return logits


@torch.no_grad()
@pytest.mark.parametrize("make", [Swapped, Curious])
def test_where_folding_would_change_the_answer_nothing_is_folded(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = make()
    shake(module)
    backbone = assemble("odd", Architecture("timm", "odd"), Network(module, "fc", 2, (), PREPROCESSING), CPU)
    forward = frozen_forward(backbone, 0, backbone.head_boundary, IMAGES)
    assert forward.__name__ == "plain"
    assert torch.equal(forward(IMAGES), backbone.run(IMAGES))


@torch.no_grad()
def test_the_activation_of_a_fused_norm_stays() -> None:
    ensure_torchvision()
    from timm.layers import BatchNormAct2d

    norm = BatchNormAct2d(4)
    shake(norm)
    block = nn.Sequential(nn.Conv2d(3, 4, 3), norm).eval()
    copied, changed = _folded(block)
    assert changed
    torch.testing.assert_close(copied(IMAGES), block(IMAGES), rtol=1e-4, atol=1e-4)
    assert float(copied(IMAGES).min()) == 0


def test_a_network_without_batch_norm_is_not_copied(photos: tuple[Path, ...]) -> None:
    assert frozen_forward(tiny_vit(), 0, 3, torch.randn(1, 3, *PREPROCESSING.size)).__name__ == "plain"
