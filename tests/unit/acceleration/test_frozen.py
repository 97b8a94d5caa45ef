from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.support.backbones import CPU, shake, tiny_cnn, tiny_vit
from tests.support.photos import PREPROCESSING
from torch import Tensor, nn

from unfreeze.acceleration.folding import fuse_batchnorm
from unfreeze.acceleration.frozen import backend_version, choose_engine, frozen_forward, uses_reduced_precision
from unfreeze.acceleration.parts import Forward, Pipeline
from unfreeze.models.backbone import Architecture, Backbone, BatchNorm, Network, assemble
from unfreeze.models.networks import build
from unfreeze.torchvision_shim import ensure_torchvision

pytestmark = pytest.mark.usefixtures("one_thread", "compiled_anew")


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO, where it is installed, would compute everything; test_openvino.py has it."""
    monkeypatch.setattr("unfreeze.acceleration.frozen.openvino_version", lambda: None)


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
    forward = frozen_forward(backbone, 0, backbone.head_boundary)
    assert choose_engine(backbone).way == "fused"
    torch.testing.assert_close(forward(IMAGES * 0.7), backbone.run(IMAGES * 0.7), rtol=1e-3, atol=1e-3)
    copies = [fuse_batchnorm(stage.module) for stage in backbone.stages]
    assert sum(isinstance(layer, BatchNorm) for copied in copies for layer in copied.modules()) == left
    assert backbone.fingerprint() == before


@torch.no_grad()
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
def test_every_range_of_stages_computes_the_same(make: Callable[[], Backbone], precision: torch.dtype) -> None:
    backbone = replace(make(), precision=precision)
    x = torch.randn(3, 3, *PREPROCESSING.size)
    for start in range(5):
        for stop in range(start + 1, 6):
            crossing = backbone.run(x, 0, start)
            found = frozen_forward(backbone, start, stop)(crossing)
            expected = backbone.run(crossing, start, stop)
            assert found.dtype == torch.float32
            if precision == torch.float32:
                torch.testing.assert_close(found, expected)
            else:
                assert not torch.equal(found, expected)
                torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def lowered(forward: Forward) -> list[bool]:
    """Whether each part is computed in less than float32."""
    assert isinstance(forward, Pipeline)
    return [part.precision != torch.float32 for part in forward.parts]


def odd(module: nn.Module) -> Backbone:
    return assemble("odd", Architecture("timm", "odd"), Network(module, "fc", 2, (), PREPROCESSING), CPU)


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
    backbone = odd(module)
    forward = frozen_forward(backbone, 0, backbone.head_boundary)
    assert torch.equal(forward(IMAGES), backbone.run(IMAGES))


@torch.no_grad()
def test_the_activation_of_a_fused_norm_stays() -> None:
    ensure_torchvision()
    from timm.layers import BatchNormAct2d

    norm = BatchNormAct2d(4)
    shake(norm)
    block = nn.Sequential(nn.Conv2d(3, 4, 3), norm).eval()
    copied = fuse_batchnorm(block)
    assert copied is not block
    torch.testing.assert_close(copied(IMAGES), block(IMAGES), rtol=1e-4, atol=1e-4)
    assert float(copied(IMAGES).min()) == 0


def test_a_network_without_batch_norm_is_not_copied() -> None:
    assert all(fuse_batchnorm(stage.module) is stage.module for stage in tiny_vit().stages)


class Delicate(Swapped):
    """Subtracts nearly the same again, so that bf16 is left with noise."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.flatten(self.pooling((self.second(self.first(x)) + 1000) - 1000)))
        return logits


class DelicateBelow(Swapped):
    """Does so in the first of its two stages."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.flatten(self.pooling(self.second((self.first(x) + 1000) - 1000))))
        return logits


@torch.no_grad()
def test_where_bf16_would_lose_the_photo_float32_is_used() -> None:
    torch.manual_seed(0)
    module = Delicate().eval()
    backbone = odd(module)
    backbone = replace(backbone, precision=torch.bfloat16)
    forward = frozen_forward(backbone, 0, backbone.head_boundary)
    assert lowered(forward) == [False, False]
    torch.testing.assert_close(forward(IMAGES), backbone.run(IMAGES))
    exactly = replace(backbone, precision=torch.float32)
    assert frozen_forward(exactly, 0, backbone.head_boundary) == forward  # nothing is compiled twice
    other = odd(module)
    first = frozen_forward(other, 0, other.head_boundary)
    assert frozen_forward(replace(other, precision=torch.bfloat16), 0, other.head_boundary) == first


@torch.no_grad()
def test_where_bf16_would_lose_the_photo_below_it_is_used_above() -> None:
    torch.manual_seed(0)
    module = DelicateBelow().eval()
    backbone = odd(module)
    low = replace(backbone, precision=torch.bfloat16)
    forward = frozen_forward(low, 0, backbone.head_boundary)
    assert lowered(forward) == [False, True]
    assert not torch.equal(forward(IMAGES), backbone.run(IMAGES))
    torch.testing.assert_close(forward(IMAGES), backbone.run(IMAGES), rtol=0.05, atol=0.05)
    assert uses_reduced_precision(low)
    assert lowered(frozen_forward(low, 0, 1)) == [False]
    assert lowered(frozen_forward(low, 1, 2)) == [True]


@torch.no_grad()
def test_bf16_survives_where_folding_does_not() -> None:
    torch.manual_seed(0)
    module = Swapped()
    shake(module)
    backbone = odd(module)
    backbone = replace(backbone, precision=torch.bfloat16)
    forward = frozen_forward(backbone, 0, backbone.head_boundary)
    assert lowered(forward) == [True] * 2
    torch.testing.assert_close(forward(IMAGES), backbone.run(IMAGES), rtol=0.05, atol=0.05)


def test_without_openvino_torch_computes() -> None:
    assert backend_version(CPU) == f"torch {torch.__version__}"


@torch.no_grad()
def test_what_was_compiled_for_these_weights_is_taken_again() -> None:
    backbone = tiny_cnn()
    x = torch.randn(5, 3, *PREPROCESSING.size)
    first = frozen_forward(backbone, 0, 3)
    assert frozen_forward(replace(backbone), 0, 3) == first
    assert frozen_forward(backbone, 0, 2) != first
    assert frozen_forward(replace(backbone, precision=torch.bfloat16), 0, 3) != first
    next(backbone.stages[2].module.parameters()).mul_(1.5)
    again = frozen_forward(backbone, 0, 3)
    assert again != first
    torch.testing.assert_close(again(x), backbone.run(x, 0, 3), rtol=1e-4, atol=1e-4)
