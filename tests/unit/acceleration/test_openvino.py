from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from tests.support.backbones import CPU, shake, tiny_cnn, tiny_vit
from tests.support.photos import PREPROCESSING
from torch import Tensor, nn

from unfreeze.acceleration.frozen import backend_version, frozen_forward
from unfreeze.acceleration.openvino import convert_stages, openvino_version
from unfreeze.acceleration.parts import Pipeline
from unfreeze.acceleration.precision import choose_precision
from unfreeze.acceleration.probe import probe_images
from unfreeze.models.backbone import Architecture, Backbone, Network, assemble
from unfreeze.models.networks import build
from unfreeze.runtime import suppress_warnings

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(openvino_version() is None, reason="openvino is not installed"),
]


def from_openvino(forward: Callable[[Tensor], Tensor]) -> bool:
    return isinstance(forward, Pipeline) and all(
        type(part.compute).__module__ == convert_stages.__module__ for part in forward.parts
    )


HAS_BF16 = choose_precision("auto", CPU) == torch.bfloat16
RANGES = [(0, 1), (0, 5), (1, 4), (2, 3), (3, 5)]
BOTH = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
IMAGES = torch.randn(5, 3, *PREPROCESSING.size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@BOTH
@pytest.mark.parametrize(("start", "stop"), RANGES)
def test_every_range_of_stages_computes_the_same(
    make: Callable[[], Backbone], precision: torch.dtype, start: int, stop: int
) -> None:
    backbone = replace(make(), precision=precision)
    before = backbone.fingerprint()
    crossing = backbone.run(IMAGES, 0, start)
    forward = frozen_forward(backbone, start, stop)
    found, expected = forward(crossing), backbone.run(crossing, start, stop)
    assert from_openvino(forward)
    assert found.dtype == torch.float32
    if precision == torch.float32:
        torch.testing.assert_close(found, expected)
    else:
        assert (nn.functional.cosine_similarity(found.flatten(1), expected.flatten(1)) > 0.999).all()
        rounded = (start, stop) != (0, 1) and HAS_BF16
        assert not (rounded and torch.allclose(found, expected, rtol=1e-5, atol=1e-6))
    assert backbone.fingerprint() == before


@torch.no_grad()
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@BOTH
def test_a_photos_bits_depend_on_nothing_else(make: Callable[[], Backbone], precision: torch.dtype) -> None:
    """Not on its neighbours, its place in the batch, the batch's length, or the call."""
    backbone = replace(make(), precision=precision)
    forward = frozen_forward(backbone, 0, 5)
    one_after_another = torch.cat([forward(image[None]) for image in IMAGES])
    assert torch.equal(forward(IMAGES), one_after_another)
    assert torch.equal(forward(IMAGES.flip(0)), one_after_another.flip(0))
    assert torch.equal(forward(IMAGES.repeat(4, 1, 1, 1)), one_after_another.repeat(4, 1))
    assert torch.equal(frozen_forward(backbone, 0, 5)(IMAGES), one_after_another)
    channels_last = IMAGES.contiguous(memory_format=torch.channels_last)
    assert torch.equal(forward(channels_last), one_after_another)


@torch.no_grad()
def test_the_number_of_threads_does_not_change_the_bits() -> None:
    stages = nn.Sequential(*(stage.module for stage in tiny_cnn().stages))
    one = convert_stages(stages, IMAGES)(torch.bfloat16)(IMAGES)
    torch.set_num_threads(2)
    try:
        two = convert_stages(stages, IMAGES)(torch.bfloat16)(IMAGES)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, two)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["torchvision/resnet18", "timm/tf_efficientnet_lite0", "timm/test_vit", "timm/test_convnext"]
)
def test_real_architectures_compute_the_same(name: str) -> None:
    torch.manual_seed(0)
    library, short = name.split("/")
    architecture = Architecture(library, short)  # type: ignore[arg-type]
    network = build(architecture)
    shake(network.module)
    backbone = assemble(name, architecture, network, CPU)
    images = torch.randn(2, 3, *backbone.network.preprocessing.size)
    forward = frozen_forward(backbone, 0, backbone.head_boundary)
    assert from_openvino(forward)
    torch.testing.assert_close(forward(images), backbone.run(images), rtol=1e-3, atol=1e-3)


class Odd(nn.Module):
    """Has one block between two convolutions: two stages, the block in the first."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.first, self.block, self.second = nn.Conv2d(3, 3, 1), block, nn.Conv2d(3, 3, 1)
        self.pooling, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.flatten(self.pooling(self.second(self.block(self.first(x))))))
        return logits


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.special.bessel_j0(x)
        return found


class Branch(nn.Module):
    """Computes by the photo: a trace holds one branch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([-image[None] if image.sum() > 0 else 2 * image[None] for image in x])


@torch.no_grad()
@pytest.mark.parametrize("block", [Bessel, Branch])
def test_what_openvino_cannot_compute_torch_does(block: type[nn.Module], capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    module = Odd(block())
    assert module.first.bias is not None
    module.first.bias.sub_(module.first(probe_images(PREPROCESSING, CPU)).mean((0, 2, 3)))  # either branch is taken
    network = Network(module, "fc", 2, (), PREPROCESSING)
    backbone = assemble("odd", Architecture("timm", "odd"), network, CPU)
    images = torch.cat([IMAGES + 1, IMAGES - 1])[[0, 5, 1, 6]]
    forward = frozen_forward(backbone, 0, backbone.head_boundary)
    assert not from_openvino(forward)
    assert torch.equal(forward(images), backbone.run(images))
    assert capfd.readouterr() == ("", "")


@torch.no_grad()
def test_where_bf16_would_lose_the_photo_openvino_computes_in_float32() -> None:
    torch.manual_seed(0)
    module = Odd(nn.Identity())
    module.first.weight.sub_(module.first.weight.mean(1, keepdim=True))  # it sees only how the colours differ
    red, green, blue = (mean - 1000 * std for mean, std in zip(PREPROCESSING.mean, PREPROCESSING.std, strict=True))
    bright_ones = replace(PREPROCESSING, mean=(red, green, blue))
    backbone = assemble("odd", Architecture("timm", "odd"), Network(module, "fc", 2, (), bright_ones), CPU)
    backbone = replace(backbone, precision=torch.bfloat16)
    bright = IMAGES + 1000
    forward = frozen_forward(backbone, 0, backbone.head_boundary)
    assert from_openvino(forward)
    torch.testing.assert_close(forward(bright), backbone.run(bright), rtol=1e-3, atol=1e-3)
    if not HAS_BF16:  # OpenVINO then computes in float32, whatever it is asked for
        return
    bf16 = convert_stages(nn.Sequential(*(stage.module for stage in backbone.stages)), bright)(torch.bfloat16)
    assert not torch.allclose(bf16(bright), backbone.run(bright), rtol=0.05, atol=0.05)


def test_the_engine_names_itself_on_a_cpu_only() -> None:
    assert backend_version(CPU) == f"openvino {openvino_version()}, torch {torch.__version__}"
    assert backend_version(torch.device("cuda")) == f"torch {torch.__version__}"


COMPUTE = """
import sys
import torch
import unfreeze.pipeline
from torch import nn
from unfreeze.acceleration.probe import probe_images
from unfreeze.acceleration.openvino import convert_stages
assert "openvino" not in sys.modules
images = torch.randn(2, 3, 8, 8)
forward = convert_stages(nn.Conv2d(3, 4, 3).eval().requires_grad_(False), images)(torch.float32)
print(tuple(forward(images).shape))
assert "openvino" in sys.modules
assert sys.modules["openvino_telemetry"] is None
"""


def test_openvino_is_imported_late_and_says_nothing_to_anyone() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", COMPUTE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(2, 4, 6, 6)\n", "")


def test_photos_that_are_decoded_meanwhile_do_not_change_what_computes() -> None:
    """Threads that decode silence warnings too; when they are done, what torch warns of stays unheard nonetheless."""
    decoding = ExitStack()
    decoding.enter_context(suppress_warnings(module="PIL"))

    class Stage(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            decoding.close()
            return 2 * x

    convert_stages(nn.Sequential(Stage()), IMAGES)
