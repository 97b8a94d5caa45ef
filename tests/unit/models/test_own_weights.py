"""Files and folders that people have: where the weights are in them, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from unfreeze.errors import ModelError
from unfreeze.models.backbone import Architecture, Backbone, Tensors
from unfreeze.models.backbones import load_backbone
from unfreeze.models.nearest import Candidate
from unfreeze.models.networks import build
from unfreeze.runs.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")

ARCH = "timm/test_efficientnet"
LOST = "what is forgotten of its own task can't be measured"


@pytest.fixture(autouse=True)
def is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Candidate("timm/test_vit", 1.0), Candidate("timm/test_vit2", 0.756)]
    monkeypatch.setattr("unfreeze.models.own_weights.nearest", lambda *_: found)


def weights(num_classes: int = 1000) -> Tensors:
    torch.manual_seed(0)
    network = build(Architecture("timm", "test_efficientnet", {"num_classes": num_classes}))
    state = network.module.state_dict()
    return {name: value for name, value in state.items() if num_classes or not name.startswith(network.classifier)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """The small network as it is with its weights in a plain file."""
    path = tmp_path_factory.mktemp("plain") / "plain.pth"
    torch.save(weights(), path)
    return load_backbone(str(path), arch=ARCH)


def test_a_plain_file_has_nothing_to_be_said_of(plain: Backbone) -> None:
    assert plain.notes == ()
    assert (plain.network.num_classes, len(plain.network.labels)) == (1000, 1000)


@pytest.mark.parametrize(
    ("wrapped", "suffix"),
    [("model.", "pth"), ("backbone.", "ckpt"), ("_orig_mod.", "pt"), ("encoder.", "safetensors"), ("module.", "PTH")],
)
def test_prefixes_change_nothing(tmp_path: Path, plain: Backbone, wrapped: str, suffix: str) -> None:
    path = tmp_path / f"mine.{suffix}"
    named = {wrapped + name: value for name, value in weights().items()}
    save_file(named, path) if suffix == "safetensors" else torch.save({"state_dict": named}, path)
    backbone = load_backbone(str(path), arch=ARCH)
    assert backbone.fingerprint() == plain.fingerprint()
    assert (backbone.notes, backbone.network.num_classes) == ((), 1000)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (7, f"its head has 7 outputs, and the architecture's has 1000: it is left out; {LOST}"),
        (0, f"it has no head that fits; {LOST}"),
    ],
)
def test_a_head_that_is_left_out_is_told_in_one_line(tmp_path: Path, classes: int, said: str) -> None:
    torch.save(weights(num_classes=classes), tmp_path / "mine.pth")
    backbone = load_backbone(str(tmp_path / "mine.pth"), arch=ARCH)
    assert backbone.notes == (f"mine.pth: {said}",)
    assert (backbone.network.num_classes, backbone.network.labels) == (0, ())


def hub_folder(root: Path, tensors: Tensors, name: str = "model.safetensors", **config: Any) -> Path:
    root.mkdir(parents=True)
    save_file(tensors, root / name) if name.endswith("safetensors") else torch.save(tensors, root / name)
    (root / "config.json").write_text(json.dumps({"architecture": "test_efficientnet", **config}), "utf-8")
    return root


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model_best.pth", "open_clip.safetensors"])
@pytest.mark.parametrize("given", ["folder", "file", "run", "cache"])
def test_a_folder_in_the_hubs_format_or_its_file(tmp_path: Path, plain: Backbone, name: str, given: str) -> None:
    inner = {"run": "model", "cache": "snapshots/0123abc"}.get(given, "")
    folder = hub_folder(tmp_path / "hub" / inner, weights(), name)
    backbone = load_backbone(str({"file": folder / name}.get(given, tmp_path / "hub")))
    assert backbone.fingerprint() == plain.fingerprint()
    assert backbone.notes == ()


@pytest.mark.parametrize(
    ("config", "has_head", "notes"),
    [
        ({"num_classes": 7}, True, 0),
        ({"num_classes": 3}, False, 1),
        ({}, False, 1),
        ({"num_classes": 0}, False, 0),  # as DINO's: there it has none, so that nothing is missed
    ],
)
def test_a_folder_whose_head_is_of_other_classes(
    tmp_path: Path, config: dict[str, Any], has_head: bool, notes: int
) -> None:
    tensors = weights(num_classes=7 if config.get("num_classes") != 0 else 0)
    backbone = load_backbone(str(hub_folder(tmp_path / "hub", tensors, **config)))
    assert (backbone.network.num_classes, len(backbone.notes)) == (7 if has_head else 0, notes)


def test_an_architecture_that_is_named_is_that_of_a_folder_too(tmp_path: Path, plain: Backbone) -> None:
    folder = hub_folder(tmp_path / "hub", weights())
    (folder / "config.json").write_text('{"architectures": ["EfficientNetForImageClassification"]}', "utf-8")
    assert load_backbone(str(folder), arch=ARCH).fingerprint() == plain.fingerprint()
    with pytest.raises(ModelError, match=r"config\.json(?s:.*)--arch"):
        load_backbone(str(folder))


@pytest.mark.parametrize("inner", ["", "model", "model/model.safetensors"])
def test_a_run_and_its_model_serve_as_backbones(run: Run, inner: str) -> None:
    backbone = load_backbone(str(run.folder.root / inner))
    own = run._model.backbone
    assert backbone.fingerprint() == own.fingerprint()
    assert backbone.network.preprocessing == own.network.preprocessing
    assert backbone.notes == (f"model.safetensors: its head on several stages is left out; {LOST}",)


@pytest.mark.parametrize("arch", ["resnet18", "keras/resnet18", "timm/", "efficientnet_lite0"])
def test_an_architecture_without_its_library_is_told_how_to_write_it(tmp_path: Path, arch: str) -> None:
    torch.save(weights(), tmp_path / "mine.pth")
    with pytest.raises(ModelError, match=r"doesn't say whose(?s:.*)--arch timm/"):
        load_backbone(str(tmp_path / "mine.pth"), arch=arch)


def test_a_file_without_an_architecture_gets_the_nearest(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "mine.pth")
    with pytest.raises(
        ModelError, match=r"--arch(?s:.*)Nearest: timm/test_vit \(fits\), timm/test_vit2 \(75 % alike\)"
    ):
        load_backbone(str(tmp_path / "mine.pth"))


def test_what_does_not_fit_is_told_by_its_first_tensors_and_the_nearest(tmp_path: Path) -> None:
    torch.save({**weights(), "bn1.weight": torch.ones(3)}, tmp_path / "mine.pth")
    with pytest.raises(
        ModelError, match=r"bn1.weight is 3 in the file and \d+ in the network(?s:.*)Nearest: timm/test_vit"
    ):
        load_backbone(str(tmp_path / "mine.pth"), arch=ARCH)


def test_weights_of_a_failed_training_are_refused(tmp_path: Path) -> None:
    torch.save({**weights(), "bn1.weight": weights()["bn1.weight"] * torch.nan}, tmp_path / "mine.pth")
    with pytest.raises(ModelError, match=r"not finite(?s:.*)earlier checkpoint"):
        load_backbone(str(tmp_path / "mine.pth"), arch=ARCH)


CONTENTS = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0": "git lfs pull",
    b"<!DOCTYPE html><html>": "web page",
    b"": "damaged",
    b"hello": "damaged",
    b"PK\x03\x04 half a zip": "damaged",
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", ["mine.pth", "mine.safetensors"])
def test_files_that_hold_no_weights_are_told_what_they_are(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"can't be read as weights(?s:.*){CONTENTS[content]}"):
        load_backbone(str(tmp_path / name), arch=ARCH)


def test_a_whole_network_is_refused_by_what_it_needs(tmp_path: Path) -> None:
    torch.save(build(Architecture("timm", "test_efficientnet")).module, tmp_path / "mine.pth")
    with pytest.raises(ModelError, match=r"needs Python code \((?s:.*)state_dict"):
        load_backbone(str(tmp_path / "mine.pth"), arch=ARCH)
