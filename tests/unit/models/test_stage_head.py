"""Saved heads that read several stages: the same logits by unfreeze, and by modeling.py where unfreeze isn't there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.backbones import CPU, shake
from torch import Tensor, nn

from unfreeze import torchvision_shim
from unfreeze.errors import ModelError
from unfreeze.models.backbone import Architecture, Backbone, assemble
from unfreeze.models.backbones import load_backbone
from unfreeze.models.head import Head
from unfreeze.models.networks import build
from unfreeze.models.saved import CODE, CONFIG, WEIGHTS, Classifier, load_model, save_model
from unfreeze.models.stage_head import NAME, describe_head, is_readable
from unfreeze.torchvision_shim import ensure_torchvision

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("cat", "dog", "Übergröße = ja")
SMALL_VIT = {"img_size": 96, "embed_dim": 32, "depth": 4, "num_heads": 2}
WITHOUT_UNFREEZE = """
import sys
sys.modules["unfreeze"] = None
SHIM = {}
exec(open(sys.argv[1], encoding="utf-8").read(), SHIM)  # where torchvision isn't built for the installed torch
SHIM["ensure_torchvision"]()
import importlib.util, torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
for folder in sys.argv[2:]:
    spec = importlib.util.spec_from_file_location("modeling", folder + "/modeling.py")
    modeling = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(modeling)
    model, labels = modeling.load_classifier(folder)
    assert labels == ["cat", "dog", "Übergröße = ja"]
    with torch.inference_mode():
        images = load_file(folder + "/images")["images"]
        save_file({"logits": model(images), "first": model(images[:1])}, folder + "/logits")
"""


def backbone_of(name: str, stages: tuple[int, ...], size: int = 96, **arguments: Any) -> Backbone:
    library, _, short = name.partition("/")
    architecture = Architecture(library, short, arguments)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(architecture)
    shake(network.module)
    preprocessing = replace(network.preprocessing, size=(size, size))
    return replace(assemble(name, architecture, replace(network, preprocessing=preprocessing), CPU), head_stages=stages)


def standardised_head(backbone: Backbone) -> Head:
    """Return a head on standardised features that is of use for random images."""
    head = Head(backbone.feature_dim, len(CLASSES), standardised=True)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        features = backbone.features(images_for(backbone, 16, seed=1))
        assert head.center is not None
        assert head.scale is not None
        head.center.copy_(features.mean(0))
        head.scale.copy_(1 / (features.std(0) + 0.05 * head.center.abs() + 1e-3))
        nn.init.normal_(head.weight, std=0.1, generator=random)
        nn.init.normal_(head.bias, generator=random)
    return head.requires_grad_(False)


def images_for(backbone: Backbone, count: int = 3, seed: int = 0) -> Tensor:
    size = backbone.network.preprocessing.size
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def logits(backbone: Backbone, head: Head, images: Tensor) -> Tensor:
    with torch.inference_mode():
        answers: Tensor = head(backbone.features(images))
    return answers


def small(stages: tuple[int, ...] = (2, 4)) -> Backbone:
    return backbone_of("timm/test_efficientnet", stages)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    backbone = small()
    save_model(tmp_path, Classifier(backbone, standardised_head(backbone), CLASSES))
    return tmp_path


MODELS: dict[str, Callable[[], Backbone]] = {
    "packaged": lambda: replace(load_backbone("efficientnet_lite0"), head_stages=(2, 3, 5, 7)),
    "vit": lambda: backbone_of("timm/vit_tiny_patch16_224", (2, 3), **SMALL_VIT),
    "channels last": lambda: backbone_of("timm/swin_tiny_patch4_window7_224", (2, 3), 64, img_size=64, depths=(1,) * 4),
    "mnasnet of torchvision": lambda: backbone_of("torchvision/mnasnet0_5", (3, 5), 64),
    "resnet18 of torchvision": lambda: backbone_of("torchvision/resnet18", (1, 2, 3), 64),
}


def test_both_unfreeze_and_a_process_without_it_compute_the_logits(tmp_path: Path) -> None:
    expected, images = {}, {}
    for name, make in MODELS.items():
        backbone, folder = make(), tmp_path / name
        head, images[name] = standardised_head(backbone), images_for(backbone)
        save_model(folder, Classifier(backbone, head, CLASSES))
        save_file({"images": images[name]}, folder / "images")
        expected[name] = logits(backbone, head, images[name])
        again = load_model(folder, CPU)
        assert again.backbone.head_stages == backbone.head_stages
        assert again.head.scale is None
        assert set(again.head.state_dict()) == {"weight", "bias"}
        torch.testing.assert_close(
            logits(again.backbone, again.head, images[name]), expected[name], rtol=1e-4, atol=1e-4
        )
    shim = torchvision_shim.__file__
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONUTF8": "1"}
    folders = [str(tmp_path / name) for name in MODELS]
    subprocess.run([sys.executable, "-c", WITHOUT_UNFREEZE, shim, *folders], check=True, env=environment, cwd=tmp_path)
    for name in MODELS:
        found = load_file(tmp_path / name / "logits")
        torch.testing.assert_close(found["logits"], expected[name], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found["first"], expected[name][:1], rtol=1e-4, atol=1e-4)
        assert expected[name].std(0).max() > 0.05


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("timm/test_efficientnet", {}),
        ("timm/test_convnext", {}),
        ("timm/resnet18", {}),
        ("timm/test_vit3", {"img_size": 96}),
        ("torchvision/mobilenet_v3_small", {}),
        ("torchvision/densenet121", {}),
        ("torchvision/squeezenet1_1", {}),
        ("torchvision/googlenet", {}),
    ],
)
def test_hooks_see_every_stage_of_the_usual_networks(name: str, arguments: dict[str, Any]) -> None:
    backbone = backbone_of(name, (), **arguments)
    stages = tuple(stage for stage in range(backbone.head_boundary - 1) if backbone.stage_dims[stage])
    assert len(stages) > 3
    assert is_readable(describe_head(replace(backbone, head_stages=stages)))
    assert not any(module._forward_pre_hooks for module in backbone.network.module.modules())


def test_a_network_whose_last_features_no_hook_sees_is_for_unfreeze_alone(tmp_path: Path) -> None:
    size = {name: value for name, value in SMALL_VIT.items() if name != "img_size"}
    backbone = backbone_of("timm/deit_tiny_distilled_patch16_224", (1, 2), 64, img_size=64, **size)
    head = standardised_head(backbone)
    save_model(tmp_path, Classifier(backbone, head, CLASSES))
    assert not (tmp_path / CODE).exists()
    again, images = load_model(tmp_path, CPU), images_for(backbone)
    torch.testing.assert_close(
        logits(again.backbone, again.head, images), logits(backbone, head, images), rtol=1e-4, atol=1e-4
    )


def test_folding_is_exact_to_float32_for_features_far_from_zero(tmp_path: Path) -> None:
    backbone = small()
    head = standardised_head(backbone)
    assert head.center is not None
    assert head.scale is not None
    features = torch.randn(5, backbone.feature_dim, generator=torch.Generator().manual_seed(0)).double()
    features = features / head.scale.double() + head.center.double()
    with torch.no_grad():
        head.center += 300 * head.scale.reciprocal()
    standard = (features - head.center.double()) * head.scale.double()
    expected = standard @ head.weight.double().T + head.bias.double()
    save_model(tmp_path, Classifier(backbone, head, CLASSES))
    tensors = load_file(tmp_path / WEIGHTS)
    found = features @ tensors[f"{NAME}.weight"].double().T + tensors[f"{NAME}.bias"].double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_timm_refuses_the_folder_and_loads_its_backbone_alone(saved: Path) -> None:
    ensure_torchvision()
    import timm

    with pytest.raises(RuntimeError, match=f"{NAME}.weight"):
        timm.create_model(f"local-dir:{saved}", pretrained=True)
    theirs = timm.create_model(f"local-dir:{saved}", pretrained=True, num_classes=0).eval()
    backbone = small()
    images = images_for(backbone)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), backbone.run(images), rtol=1e-4, atol=1e-4)


def test_the_folder_is_a_backbone_without_a_classifier(saved: Path) -> None:
    again, before = load_backbone(str(saved)), small()
    assert (again.network.num_classes, again.network.labels, again.head_stages) == (0, (), ())
    assert again.fingerprint() == before.fingerprint()


def test_stages_that_have_no_weight_are_not_read(tmp_path: Path) -> None:
    backbone, images = small((2, 3, 4)), images_for(small())
    first, second, third, _ = (backbone.stage_dims[stage] for stage in backbone.all_head_stages)
    head = standardised_head(backbone)
    head.weight[:, first : first + second] = 0
    save_model(tmp_path, Classifier(backbone, head, CLASSES))
    again = load_model(tmp_path, CPU)
    assert again.backbone.head_stages == (2, 4)
    torch.testing.assert_close(
        logits(again.backbone, again.head, images), logits(backbone, head, images), rtol=1e-4, atol=1e-4
    )
    head.weight[:, : first + second + third] = 0
    save_model(tmp_path / "last", Classifier(backbone, head, CLASSES))
    assert {file.name for file in (tmp_path / "last").iterdir()} == {CONFIG, WEIGHTS}
    ensure_torchvision()
    import timm

    theirs = timm.create_model(f"local-dir:{tmp_path / 'last'}", pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), logits(backbone, head, images), rtol=1e-4, atol=1e-4)


def test_with_the_last_stage_alone_the_folder_is_timms(tmp_path: Path) -> None:
    backbone = small(())
    head = Head(backbone.feature_dim, len(CLASSES))
    save_model(tmp_path, Classifier(backbone, head, CLASSES))
    expected = {**backbone.weights(), "classifier.weight": head.weight, "classifier.bias": head.bias}
    tensors = load_file(tmp_path / WEIGHTS)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in tensors.items())
    config = json.loads((tmp_path / CONFIG).read_text("utf-8"))
    assert "head" not in config["unfreeze"]
    assert config["num_features"] == backbone.feature_dim


def described(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        change(config["unfreeze"])
        (folder / CONFIG).write_text(json.dumps(config), "utf-8")

    return damage


def reweighted(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return damage


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "no description": described(lambda saved: saved.pop("head")),
    "no object": described(lambda saved: saved.update(head=3)),
    "no stages": described(lambda saved: saved["head"].pop("stages")),
    "an unknown stage": described(lambda saved: saved["head"]["stages"][0].update(name="blocks.99")),
    "no name": described(lambda saved: saved["head"]["stages"][0].pop("name")),
    "another order": described(lambda saved: saved["head"]["stages"].reverse()),
    "a stage twice": described(lambda saved: saved["head"]["stages"].insert(0, saved["head"]["stages"][0])),
    "the last stage is missing": described(lambda saved: saved["head"]["stages"].pop()),
    "another length": described(lambda saved: saved["head"]["stages"][0].update(dim=7)),
    "a stage is missing": described(lambda saved: saved["head"]["stages"].pop(0)),
    "a center of another shape": reweighted(lambda tensors: tensors.update({f"{NAME}.center": torch.ones(3)})),
    "no head": reweighted(lambda tensors: tensors.pop(f"{NAME}.weight")),
    "a head of another shape": reweighted(lambda tensors: tensors.update({f"{NAME}.weight": torch.ones(3, 2)})),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_model_is_refused(saved: Path, damage: Callable[[Path], Any]) -> None:
    damage(saved)
    with pytest.raises(ModelError, match=r"missing or damaged"):
        load_model(saved, CPU)
