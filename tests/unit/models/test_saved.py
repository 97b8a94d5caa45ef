from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.backbones import CPU
from torch import Tensor

from unfreeze.errors import ModelError
from unfreeze.models.backbone import Architecture, Backbone, assemble
from unfreeze.models.backbones import load_backbone
from unfreeze.models.head import Head
from unfreeze.models.networks import build
from unfreeze.models.saved import Classifier, load_model, save_model
from unfreeze.orientations import Orientation
from unfreeze.predict import Prediction, predictions
from unfreeze.preprocessing import Fit
from unfreeze.runs.folder import RunFolder
from unfreeze.torchvision_shim import ensure_torchvision
from unfreeze.views import CROP, PLAIN, PLAIN_ONLY, SQUEEZE, EvaluationView, Views, tiles

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("cat", "dog", "Übergröße = ja")


def backbone_of(name: str) -> Backbone:
    torch.manual_seed(0)
    library, _, short = name.partition("/")
    architecture = Architecture(library, short)  # type: ignore[arg-type]
    return assemble(name, architecture, build(architecture), CPU)


def head_for(backbone: Backbone) -> Head:
    torch.manual_seed(1)
    return Head(backbone.feature_dim, len(CLASSES))


def photos_for(backbone: Backbone) -> Tensor:
    return torch.randn(2, 3, *backbone.network.preprocessing.size, generator=torch.Generator().manual_seed(0))


def logits(backbone: Backbone, head: Head, images: Tensor) -> Tensor:
    with torch.inference_mode():
        answers: Tensor = head(backbone.run(images))
    return answers


@pytest.fixture
def saved(tmp_path: Path) -> RunFolder:
    """The small network of timm, saved."""
    folder = RunFolder(tmp_path / "run")
    backbone = backbone_of("timm/test_efficientnet")
    save_model(folder.model, Classifier(backbone, head_for(backbone), CLASSES))
    return folder


@pytest.mark.parametrize(
    "name", ["timm/test_efficientnet", "timm/test_vit3", "torchvision/squeezenet1_1", "torchvision/shufflenet_v2_x0_5"]
)
def test_a_model_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    folder, backbone = RunFolder(tmp_path), backbone_of(name)
    head, images = head_for(backbone), photos_for(backbone)
    save_model(folder.model, Classifier(backbone, head, CLASSES))
    saved_model = load_model(folder.model, CPU)
    again, head_again, classes = saved_model.backbone, saved_model.head, saved_model.classes
    assert classes == CLASSES
    assert torch.equal(logits(again, head_again, images), logits(backbone, head, images))
    assert again.fingerprint() == backbone.fingerprint()
    assert again.network.preprocessing == backbone.network.preprocessing
    assert (again.name, again.architecture, again.depths()) == (name, backbone.architecture, backbone.depths())
    assert not any(value.requires_grad for value in head_again.parameters())


@pytest.mark.parametrize(
    "views",
    [
        PLAIN_ONLY,
        (PLAIN, EvaluationView.of(SQUEEZE, Orientation.FLIPPED), EvaluationView.of(CROP, Orientation.ROT180)),
        tuple(map(EvaluationView.of, tiles((1, 3)))),
    ],
)
def test_a_model_comes_back_with_its_views(saved: RunFolder, photos: tuple[Path, ...], views: Views) -> None:
    model = load_model(saved.model, CPU)
    model = Classifier(model.backbone, model.head, model.classes, views)
    save_model(saved.model, model)
    again = load_model(saved.model, CPU)
    assert again.views == views
    ours, theirs = (
        [answer.probabilities for answer in predictions(each, photos[:5]) if isinstance(answer, Prediction)]
        for each in (model, again)
    )
    assert ours == theirs
    assert len(ours) == 5


@pytest.mark.parametrize(
    ("described", "expected"),
    [({"orientations": ["identity", "rot90"]}, (0, -2)), ({"poses": ["plain", "mirrored"]}, (0, -1)), ({}, (0,))],
)
def test_models_of_earlier_versions_are_read(
    saved: RunFolder, described: dict[str, list[str]], expected: tuple[int, ...]
) -> None:
    config = json.loads(saved.model_config.read_text("utf-8"))
    config["unfreeze"].pop("views")
    config["unfreeze"].update(described)
    saved.model_config.write_text(json.dumps(config), "utf-8")
    assert load_model(saved.model, CPU).views == expected


def test_the_packaged_backbone_comes_back_and_opens_in_timm(tmp_path: Path) -> None:
    ensure_torchvision()
    import timm
    from timm.data import create_transform, resolve_model_data_config

    folder, backbone = RunFolder(tmp_path), load_backbone("efficientnet_lite0")
    head, images = head_for(backbone), photos_for(backbone)
    save_model(folder.model, Classifier(backbone, head, CLASSES))
    expected = logits(backbone, head, images)
    theirs = timm.create_model(f"local-dir:{folder.model}", pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), expected, rtol=1e-5, atol=1e-5)
    saved_model = load_model(folder.model, CPU)
    again, head_again = saved_model.backbone, saved_model.head
    torch.testing.assert_close(logits(again, head_again, images), expected, rtol=0, atol=0)
    assert theirs.pretrained_cfg["label_names"] == list(CLASSES)
    resize, crop = create_transform(**resolve_model_data_config(theirs), is_training=False).transforms[:2]
    assert (resize.size, tuple(crop.size)) == (
        backbone.network.preprocessing.resize,
        backbone.network.preprocessing.size,
    )


@pytest.mark.parametrize("name", ["timm/test_vit3", "timm/test_convnext", "timm/test_efficientnet"])
def test_timms_networks_open_in_timm(tmp_path: Path, name: str) -> None:
    ensure_torchvision()
    import timm

    folder, backbone = RunFolder(tmp_path), backbone_of(name)
    head, images = head_for(backbone), photos_for(backbone)
    save_model(folder.model, Classifier(backbone, head, CLASSES))
    theirs = timm.create_model(f"local-dir:{folder.model}", pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), logits(backbone, head, images), rtol=1e-5, atol=1e-5)


def test_a_saved_model_is_a_backbone_for_the_next_run(saved: RunFolder) -> None:
    saved_model = load_model(saved.model, CPU)
    backbone, head = saved_model.backbone, saved_model.head
    images = photos_for(backbone)
    reused = load_backbone(str(saved.model))
    assert reused.network.labels == tuple((name,) for name in CLASSES)
    assert reused.network.preprocessing == backbone.network.preprocessing
    torch.testing.assert_close(reused.original_logits(images), logits(backbone, head, images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (160, 212), (384, 462)])
def test_timm_resizes_photos_as_the_run_did(tmp_path: Path, size: int, resize: int) -> None:
    ensure_torchvision()
    from timm.data import create_transform, resolve_data_config

    folder, backbone = RunFolder(tmp_path), backbone_of("timm/test_efficientnet")
    preprocessing = replace(backbone.network.preprocessing, size=(size, size), resize=resize)
    backbone = replace(backbone, network=replace(backbone.network, preprocessing=preprocessing))
    save_model(folder.model, Classifier(backbone, head_for(backbone), CLASSES))
    cfg = json.loads(folder.model_config.read_text("utf-8"))["pretrained_cfg"]
    theirs = create_transform(**resolve_data_config(pretrained_cfg=cfg), is_training=False).transforms
    assert (theirs[0].size, tuple(theirs[1].size)) == (resize, (size, size))
    assert load_backbone(str(folder.model)).network.preprocessing == preprocessing


@pytest.mark.parametrize(("fit", "crop_mode"), [("crop", "center"), ("squash", "squash"), ("pad", "border")])
def test_the_fit_is_saved_and_told_to_timm(tmp_path: Path, fit: Fit, crop_mode: str) -> None:
    folder, backbone = RunFolder(tmp_path), backbone_of("timm/test_efficientnet")
    preprocessing = backbone.network.preprocessing.fitted(fit)
    backbone = replace(backbone, network=replace(backbone.network, preprocessing=preprocessing))
    save_model(folder.model, Classifier(backbone, head_for(backbone), CLASSES))
    cfg = json.loads(folder.model_config.read_text("utf-8"))["pretrained_cfg"]
    assert cfg["crop_mode"] == crop_mode
    if fit != "crop":
        assert cfg["crop_pct"] == 1
    assert load_model(folder.model, CPU).backbone.network.preprocessing == preprocessing
    assert load_backbone(str(folder.model)).network.preprocessing == preprocessing


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[RunFolder], None]:
    def damage(folder: RunFolder) -> None:
        config = json.loads(folder.model_config.read_text("utf-8"))
        change(config)
        folder.model_config.write_text(json.dumps(config), "utf-8")

    return damage


def reweighted(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[RunFolder], None]:
    def damage(folder: RunFolder) -> None:
        tensors = load_file(folder.weights)
        change(tensors)
        save_file(tensors, folder.weights)

    return damage


DAMAGES: dict[str, Callable[[RunFolder], Any]] = {
    "no config": lambda folder: folder.model_config.unlink(),
    "no json": lambda folder: folder.model_config.write_text("{"),
    "no object": lambda folder: folder.model_config.write_text("[]"),
    "not ours": edited(lambda config: config.pop("unfreeze")),
    "no classes": edited(lambda config: config.pop("label_names")),
    "too few classes": edited(lambda config: config["label_names"].pop()),
    "unknown network": edited(lambda config: config["unfreeze"].update(name="nothing_like_it")),
    "another network": edited(lambda config: config["unfreeze"].update(name="test_resnet")),
    "no preprocessing": edited(lambda config: config["unfreeze"].update(preprocessing={})),
    "no view": edited(lambda config: config["unfreeze"].update(views=[])),
    "an unknown view": edited(lambda config: config["unfreeze"].update(views=[{"framing": "round"}])),
    "arguments of no network": edited(lambda config: config["unfreeze"].update(arguments={"bogus": 1})),
    "arguments that are none": edited(lambda config: config["unfreeze"].update(arguments=3)),
    "no name": edited(lambda config: config["unfreeze"].pop("model")),
    "no weights": lambda folder: folder.weights.unlink(),
    "half the weights": lambda folder: folder.weights.write_bytes(folder.weights.read_bytes()[:5000]),
    "a weight is missing": reweighted(lambda tensors: tensors.pop("conv_stem.weight")),
    "a weight too many": reweighted(lambda tensors: tensors.update(stranger=torch.ones(1))),
    "a weight of another shape": reweighted(lambda tensors: tensors.update({"conv_stem.weight": torch.ones(2)})),
    "no head": reweighted(lambda tensors: tensors.pop("classifier.weight")),
    "a head of another shape": reweighted(lambda tensors: tensors.update({"classifier.weight": torch.ones(3, 2)})),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_model_is_refused(saved: RunFolder, damage: Callable[[RunFolder], Any]) -> None:
    damage(saved)
    with pytest.raises(ModelError):
        load_model(saved.model, CPU)


@pytest.mark.parametrize("name", ["mnasnet0_5", "mobilenet_v3_small"])
def test_a_torchvision_run_is_loaded_again_and_serves_as_a_backbone(name: str, tmp_path: Path) -> None:
    architecture = Architecture("torchvision", name)
    backbone = assemble(f"torchvision/{name}", architecture, build(architecture), torch.device("cpu"))
    head = Head(backbone.feature_dim, 3)
    folder = RunFolder(tmp_path)
    save_model(folder.model, Classifier(backbone, head, ("a", "b", "c")))
    saved_model = load_model(folder.model, torch.device("cpu"))
    loaded, loaded_head, classes = saved_model.backbone, saved_model.head, saved_model.classes
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = head(backbone.run(images))
        assert torch.equal(loaded_head(loaded.run(images)), expected)
        again = load_backbone(str(folder.model))
        assert torch.allclose(again.original_logits(images), expected, atol=1e-5)
    assert classes == ("a", "b", "c")
    assert again.network.labels == (("a",), ("b",), ("c",))
