"""What crosses a boundary has the same bits on every path, in every process, whatever was computed before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.support.backbones import CPU, TinyCnn, shake, tiny_cnn, tiny_vit
from tests.support.photos import PREPROCESSING
from torch import Tensor, nn

from unfreeze.acceleration.engine_report import EngineReport
from unfreeze.acceleration.frozen import (
    choose_engine,
    engine_used,
    frozen_forward,
    known_engine,
    remember_engine,
    uses_reduced_precision,
)
from unfreeze.acceleration.openvino import openvino_version
from unfreeze.acceleration.probe import probe_images
from unfreeze.models.backbone import Architecture, Backbone, Network, assemble, in_float32

pytestmark = pytest.mark.usefixtures("one_thread", "compiled_anew")

IMAGES = torch.randn(16, 3, *PREPROCESSING.size, generator=torch.Generator().manual_seed(0))


def wide_cnn() -> Backbone:
    """Return a CNN of which more crosses the first boundary than an image has: it isn't cut there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = TinyCnn(7, 0.0)
        module.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
    shake(module)
    return assemble("wide", Architecture("timm", "wide"), Network(module, "fc", 7, (), PREPROCESSING), CPU)


class Delicate(TinyCnn):
    """Loses in bf16 what its first layers compute."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1((self.stem(images) + 1000) - 1000))))
        logits: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return logits


def mixed_cnn() -> Backbone:
    """Return a CNN whose lower half must be computed in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = Delicate(7, 0.0)
    shake(module)
    return assemble("mixed", Architecture("timm", "mixed"), Network(module, "fc", 7, (), PREPROCESSING), CPU)


BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit, wide_cnn, mixed_cnn])
PRECISIONS = pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])


@pytest.fixture(params=["openvino", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name = str(request.param)
    if name == "torch":
        monkeypatch.setattr("unfreeze.acceleration.frozen.openvino_version", lambda: None)
    assert name == "torch" or openvino_version() is not None, "the tests need OpenVINO"
    return name


@torch.no_grad()
@BACKBONES
@PRECISIONS
def test_a_kept_tensor_leads_to_the_same_bits(
    make: Callable[[], Backbone], precision: torch.dtype, engine: str
) -> None:
    backbone = replace(make(), precision=precision)
    report = choose_engine(backbone)
    assert (report.way == "openvino") == (engine == "openvino")
    another = replace(make(), precision=precision)
    for stop in range(1, 6):
        direct = frozen_forward(backbone, 0, stop)(IMAGES)
        for start in report.sources(stop)[1:]:
            kept = frozen_forward(backbone, 0, start)(IMAGES).to(report.cached_dtype(start)).contiguous()
            assert torch.equal(frozen_forward(backbone, start, stop)(kept.float()), direct)
            assert torch.equal(frozen_forward(another, start, stop)(kept), direct)


@torch.no_grad()
@PRECISIONS
def test_a_boundary_that_is_no_cut_is_no_source(precision: torch.dtype, engine: str) -> None:
    backbone = replace(wide_cnn(), precision=precision)
    report = choose_engine(backbone)
    assert report.cuts == (0, 2, 3, 4, 5)
    assert [report.sources(boundary) for boundary in (1, 2, 4)] == [(0,), (0,), (0, 2, 3)]
    assert torch.equal(frozen_forward(backbone, 0, 1)(IMAGES), backbone.run(IMAGES, 0, 1))
    assert report.cached_dtype(1) == torch.float32


@torch.no_grad()
@PRECISIONS
def test_precisions_are_those_that_the_drawn_images_bear(
    precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unfreeze.acceleration.frozen.openvino_version", lambda: None)  # it adds in float32
    report = choose_engine(replace(mixed_cnn(), precision=precision))
    low = [each != torch.float32 for each in report.precisions]
    assert low == [False, False, *[precision == torch.bfloat16] * 3]
    assert [report.cached_dtype(boundary) == torch.bfloat16 for boundary in range(6)] == [*low, False]
    fell_back = [reason for way, reason in report.rejected if "bfloat16" in way]
    assert len(fell_back) == (precision == torch.bfloat16)
    assert all("cosine" in reason for reason in fell_back)


@torch.no_grad()
@BACKBONES
@PRECISIONS
def test_what_was_computed_first_does_not_matter(
    make: Callable[[], Backbone], precision: torch.dtype, engine: str
) -> None:
    forwards, reports = [], []
    for order in ([(0, 5), (0, 2)], [(0, 2), (2, 5), (0, 5)], [(3, 4), (0, 5)]):
        backbone = replace(make(), precision=precision)
        for start, stop in order:
            frozen_forward(backbone, start, stop)
        forwards.append(frozen_forward(backbone, 0, 5)(IMAGES))
        reports.append(choose_engine(backbone))
    assert reports[0] == reports[1] == reports[2]
    assert torch.equal(forwards[0], forwards[1])
    assert torch.equal(forwards[0], forwards[2])


@torch.no_grad()
@PRECISIONS
def test_a_choice_that_was_made_before_gives_the_same_bits(precision: torch.dtype, engine: str) -> None:
    first, second = (replace(mixed_cnn(), precision=precision) for _ in range(2))
    expected = frozen_forward(first, 0, 5)(IMAGES)
    assert known_engine(second) is None
    remember_engine(second, second.fingerprint(), choose_engine(first))
    assert torch.equal(frozen_forward(second, 0, 5)(IMAGES), expected)
    assert choose_engine(second) == choose_engine(first)


@torch.no_grad()
def test_what_trains_above_does_not_hide_what_computed_below() -> None:
    backbone = replace(tiny_cnn(), precision=torch.bfloat16)
    assert engine_used(backbone) is None
    assert not uses_reduced_precision(backbone)
    report = choose_engine(backbone)
    next(backbone.stages[4].module.parameters()).mul_(1.5)
    assert known_engine(backbone) is None
    assert engine_used(backbone) == report
    assert uses_reduced_precision(backbone)
    assert engine_used(in_float32(backbone)) is None


@torch.no_grad()
def test_a_choice_that_can_no_longer_be_compiled_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no longer")

    backbone = tiny_cnn()
    remembered = replace(choose_engine(tiny_cnn()), way="openvino")
    remember_engine(backbone, backbone.fingerprint(), remembered)
    monkeypatch.setattr("unfreeze.acceleration.frozen.convert_stages", fail)
    found = frozen_forward(backbone, 0, 5)(IMAGES)
    torch.testing.assert_close(found, backbone.run(IMAGES), rtol=1e-4, atol=1e-4)
    report = choose_engine(backbone)
    assert report.way == "fused"
    assert any(reason == "RuntimeError: no longer" for _, reason in report.rejected)


def test_the_report_says_what_computes_and_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unfreeze.acceleration.frozen.openvino_version", lambda: None)
    report = choose_engine(tiny_cnn())
    assert (report.backend, report.way, report.precision) == (f"torch {torch.__version__}", "fused", "float32")
    assert report.rejected == (("openvino", "it is not installed"),)
    mixed = EngineReport("torch", "fused", (0, 1, 2), (torch.float32, torch.bfloat16))
    assert mixed.precision == "float32 below stage 1, bfloat16 from it on"


def test_drawn_images_are_the_same_in_every_process() -> None:
    images = probe_images(PREPROCESSING, CPU)
    assert images.shape == (4, 3, *PREPROCESSING.size)
    mean, std = (torch.tensor(values)[:, None, None] for values in (PREPROCESSING.mean, PREPROCESSING.std))
    levels = (images * std + mean) * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)  # as photos have them
    assert levels.min() >= -1e-3
    assert levels.max() <= 255.001
    code = (
        "import torch; from tests.support.backbones import CPU; from tests.support.photos import PREPROCESSING;"
        "from unfreeze.acceleration.probe import probe_images;"
        "torch.manual_seed(5); print(probe_images(PREPROCESSING, CPU).double().sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == images.double().sum().item()


def test_drawing_leaves_the_random_numbers_of_a_run_alone() -> None:
    before = torch.get_rng_state()
    probe_images(PREPROCESSING, CPU)
    choose_engine(tiny_cnn())
    assert torch.equal(torch.get_rng_state(), before)
