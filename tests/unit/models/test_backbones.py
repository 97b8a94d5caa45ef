from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unfreeze.errors import ModelError
from unfreeze.models.backbone import Architecture, Backbone
from unfreeze.models.backbones import list_models, load_backbone, stage_names
from unfreeze.models.networks import build
from unfreeze.models.weights import load_strict
from unfreeze.torchvision_shim import ensure_torchvision

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = "timm/test_efficientnet"


@pytest.fixture(autouse=True)
def none_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds are saved where it doesn't matter which architectures are like a file; see ``test_nearest.py``."""
    monkeypatch.setattr("unfreeze.models.own_weights.nearest", lambda *_: [])


@pytest.fixture(scope="module")
def packaged() -> Backbone:
    return load_backbone("efficientnet_lite0")


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """Untrained weights of the small network."""
    torch.manual_seed(0)
    return dict(network_of(SMALL).state_dict())


def network_of(name: str) -> nn.Module:
    library, _, name = name.partition("/")
    return build(Architecture(library, name)).module.eval()  # type: ignore[arg-type]


def photos_for(backbone: Backbone) -> Tensor:
    size = backbone.network.preprocessing.size
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


# The packaged weights


def test_the_packaged_weights_are_the_same_every_time(packaged: Backbone) -> None:
    again = load_backbone("efficientnet_lite0")
    assert again.fingerprint() == packaged.fingerprint()
    assert again.fingerprint() == "b3a462283345ef4c62d66513dff827c078616ae04a31ac70c54e0e9722e2af2c"


def test_the_packaged_network_is_timms_own(packaged: Backbone) -> None:
    ensure_torchvision()
    import timm

    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    theirs.load_state_dict(packaged.network.module.state_dict(), strict=True)
    images = photos_for(packaged)
    with torch.inference_mode():
        logits = theirs(images)
        torch.testing.assert_close(packaged.original_logits(images), logits, rtol=1e-5, atol=1e-5)
    assert logits.shape == (2, 1000)
    assert logits.std() > 0.1


def test_the_packaged_network_knows_its_task(packaged: Backbone) -> None:
    assert packaged.name == "efficientnet_lite0"
    assert packaged.architecture == Architecture("timm", "tf_efficientnet_lite0")
    assert packaged.network.num_classes == len(packaged.network.labels) == 1000
    assert packaged.network.labels[0][:2] == ("n01440764", "tench")
    preprocessing = packaged.network.preprocessing
    assert (preprocessing.size, preprocessing.interpolation) == ((224, 224), "bicubic")
    assert preprocessing.mean == preprocessing.std == (0.5, 0.5, 0.5)
    assert packaged.depths()[-2:] == ("conv_head", "head")
    assert packaged.depths() == stage_names("efficientnet_lite0")
    assert packaged.feature_dim == 1280


def test_flat_colours_look_different_to_pretrained_weights(packaged: Backbone) -> None:
    flat = torch.stack([torch.full((3, 224, 224), value) for value in (-1.0, 0.0, 1.0)])
    with torch.inference_mode():
        features = packaged.run(flat)
    assert features.shape == (3, 1280)
    assert (features[0] - features[2]).abs().max() > 0.1


# Checkpoints on disk


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_checkpoint_gives_the_networks_own_logits(tmp_path: Path, weights: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    if suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    backbone = load_backbone(str(path), arch=SMALL)
    theirs = network_of(SMALL)
    theirs.load_state_dict(weights)
    with torch.inference_mode():
        expected = theirs(photos_for(backbone))
        torch.testing.assert_close(backbone.original_logits(photos_for(backbone)), expected, rtol=1e-5, atol=1e-6)
    assert backbone.architecture == Architecture("timm", "test_efficientnet")


def test_a_torchvision_checkpoint(tmp_path: Path) -> None:
    network = network_of("torchvision/squeezenet1_1")
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    backbone = load_backbone(str(tmp_path / "mine.pth"), arch="torchvision/squeezenet1_1")
    with torch.inference_mode():
        expected = network(photos_for(backbone))
        torch.testing.assert_close(backbone.original_logits(photos_for(backbone)), expected, rtol=1e-5, atol=1e-5)


def folder_of(root: Path, weights: dict[str, Tensor], config: str = '{"architecture": "test_efficientnet"}') -> Path:
    root.mkdir(exist_ok=True)
    save_file(weights, root / "model.safetensors")
    (root / "config.json").write_text(config, "utf-8")
    return root


def test_a_folder_in_timms_hub_format(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    config = (
        '{"architecture": "test_efficientnet", "label_names": ["a", "b"], '
        '"pretrained_cfg": {"input_size": [3, 96, 96], "crop_pct": 0.5, "mean": [0.1, 0.2, 0.3]}}'
    )
    backbone = load_backbone(str(folder_of(tmp_path / "hub", weights, config)))
    assert backbone.network.preprocessing.size == (96, 96)
    assert backbone.network.preprocessing.resize == 192
    assert backbone.network.preprocessing.mean == (0.1, 0.2, 0.3)
    assert backbone.network.labels == (("a",), ("b",))
    assert torch.equal(backbone.weights()["conv_stem.weight"], weights["conv_stem.weight"])


# What is refused


@pytest.mark.parametrize(
    "name", ["resnet18", "keras/resnet18", "timm/", "torchvision/", "nope.pth", "efficientnet_lite0/more"]
)
def test_unknown_names_and_families(name: str) -> None:
    with pytest.raises(ModelError, match="--model"):
        load_backbone(name)


@pytest.mark.parametrize("name", ["timm/resnet_18", "torchvision/resnet19"])
def test_an_unknown_architecture_gets_near_names(name: str) -> None:
    with pytest.raises(ModelError, match=r"Near names: .*resnet"):
        load_backbone(name)


def test_unknown_torchvision_weights_are_answered_with_those_that_there_are() -> None:
    with pytest.raises(ModelError, match="IMAGENET1K_V1"):
        load_backbone("torchvision/resnet18:NOPE")


@pytest.mark.parametrize("arch", [None, "resnet18", "keras/resnet18", "timm/", "timm/nothing_like_it", "torchvision/x"])
def test_a_checkpoint_needs_a_known_architecture(tmp_path: Path, weights: dict[str, Tensor], arch: str | None) -> None:
    save_file(weights, tmp_path / "mine.safetensors")
    with pytest.raises(ModelError, match=r"--arch|has no (classification )?model"):
        load_backbone(str(tmp_path / "mine.safetensors"), arch=arch)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "arch"])
def test_weights_must_fit_strictly(tmp_path: Path, weights: dict[str, Tensor], change: str) -> None:
    if change == "missing":
        del weights["bn1.weight"]
    elif change == "extra":
        weights["bn99.weight"] = torch.ones(3)
    elif change == "shape":
        weights["bn1.weight"] = torch.ones(3)
    save_file(weights, tmp_path / "mine.safetensors")
    with pytest.raises(ModelError, match=r"don't fit(?s:.*)mine.safetensors(?s:.*)--arch"):
        load_backbone(str(tmp_path / "mine.safetensors"), arch="timm/test_resnet" if change == "arch" else SMALL)


class Malice:
    """A pickle that writes a file where it is read with Python's usual trust."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["evil.pth", "evil.pt", "evil.bin", "evil.safetensors"])
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_does_nothing(tmp_path: Path, name: str, writer: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / name
    evil = {"conv.weight": torch.ones(2), "extra": Malice(trace)}
    if writer == "torch":
        torch.save(evil, path)
    else:
        path.write_bytes(pickle.dumps(evil, protocol=2))
    with pytest.raises(ModelError, match="can't be read as weights"):
        load_backbone(str(path), arch=SMALL)
    assert not trace.exists()
    if name == "evil.pth" and writer == "pickle":
        pickle.loads(path.read_bytes())
        assert trace.exists()  # the trap does work


def test_a_malicious_pickle_in_a_folder_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "test_efficientnet"}', "utf-8")
    torch.save(Malice(tmp_path / "trace"), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="can't be read as weights"):
        load_backbone(str(tmp_path))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half a zip", b"\x80\x02}q\x00."], ids=range(4))
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_hold_no_weights(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"mine{suffix}"):
        load_backbone(str(path), arch=SMALL)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}, torch.ones(3)], ids=["list", "numbers", "empty", "tensor"])
def test_data_that_is_no_table_of_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "mine.pth")
    with pytest.raises(ModelError):
        load_backbone(str(tmp_path / "mine.pth"), arch=SMALL)


@pytest.mark.parametrize(
    "config",
    [
        "{", "[]", "{}", '{"architecture": "nothing_like_it"}', '{"architecture": 5}',
        '{"architecture": "test_efficientnet", "model_args": {"no_such_argument": 1}}',
    ],
)  # fmt: skip
def test_a_folder_with_a_damaged_config(tmp_path: Path, weights: dict[str, Tensor], config: str) -> None:
    with pytest.raises(ModelError):
        load_backbone(str(folder_of(tmp_path / "hub", weights, config)))


def test_a_folder_that_is_no_model(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        load_backbone(str(tmp_path))
    (folder_of(tmp_path, weights) / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model.safetensors"):
        load_backbone(str(tmp_path))


# Weights that can't be had


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, and an empty cache."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("Temporary failure in name resolution")

    ensure_torchvision()
    import timm.models._builder

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", refuse)
    return tmp_path / "checkpoints"


def test_torchvision_weights_that_cant_be_downloaded(offline: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_backbone("torchvision/squeezenet1_1")
    said = str(caught.value)
    assert "torchvision/squeezenet1_1" in said
    assert "name resolution" in said
    assert "squeezenet1_1-b8a52dc0.pth, from https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth" in said
    assert f"Put it at {offline / 'squeezenet1_1-b8a52dc0.pth'}" in said


def test_torchvision_weights_that_were_put_there_are_taken(offline: Path) -> None:
    network = network_of("torchvision/squeezenet1_1")
    offline.mkdir()
    torch.save(network.state_dict(), offline / "squeezenet1_1-b8a52dc0.pth")
    backbone = load_backbone("torchvision/squeezenet1_1")
    assert torch.equal(backbone.weights()["features.0.weight"], network.state_dict()["features.0.weight"])


def test_a_damaged_file_in_torchvisions_cache_is_named(offline: Path) -> None:
    offline.mkdir()
    (offline / "squeezenet1_1-b8a52dc0.pth").write_text("<html>Access denied</html>")
    with pytest.raises(ModelError, match=r"squeezenet1_1-b8a52dc0\.pth"):
        load_backbone("torchvision/squeezenet1_1")


def test_timm_weights_that_cant_be_downloaded(offline: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_backbone("timm/test_efficientnet.r160_in1k")
    said = str(caught.value)
    assert "timm/test_efficientnet.r160_in1k" in said
    assert "model.safetensors, from the Hugging Face Hub repository timm/test_efficientnet.r160_in1k" in said
    assert "--model PATH --arch timm/test_efficientnet.r160_in1k" in said
    assert not offline.exists()


def test_timm_models_without_weights_say_so(offline: Path) -> None:
    ensure_torchvision()
    import timm

    bare = sorted(set(timm.list_models("*_050")) - {name.partition(".")[0] for name in timm.list_pretrained()})[0]
    with pytest.raises(ModelError, match="no pretrained weights"):
        load_backbone(f"timm/{bare}")
    assert not offline.exists()


# The lists


def test_models_are_listed_by_family() -> None:
    models = list_models()
    assert set(models) == {"packaged", "torchvision", "timm"}
    assert models["packaged"] == ("efficientnet_lite0",)
    assert "torchvision/resnet18" in models["torchvision"]
    assert "timm/tf_efficientnet_lite0" in models["timm"]
    assert not [name for name in models["torchvision"] if "rcnn" in name or "deeplab" in name]
    assert list_models("resnet50")["torchvision"] == tuple(n for n in models["torchvision"] if "resnet50" in n)


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "shufflenet_v2_x2_0", "mnasnet1_3", "regnet_x_400mf"])
def test_torchvisions_networks_come_with_preprocessing_and_labels(name: str) -> None:
    from torchvision import models

    network = build(Architecture("torchvision", name))
    preset = models.get_model_weights(name)["DEFAULT"].transforms()
    own = network.preprocessing
    assert [own.size] == [(preset.crop_size[0], preset.crop_size[0])]
    assert [own.resize] == preset.resize_size
    assert (list(own.mean), list(own.std)) == (preset.mean, preset.std)
    assert own.interpolation == preset.interpolation.value
    assert network.num_classes == len(network.labels) == 1000
    layer = network.module.get_submodule(network.classifier)
    assert isinstance(layer, nn.Linear)
    assert layer.out_features == 1000


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "vit_tiny_patch16_224", "resnetv2_50x1_bit", "test_convnext"]
)
def test_timms_networks_come_with_its_own_preprocessing(name: str) -> None:
    ensure_torchvision()
    from timm.data import resolve_model_data_config

    network = build(Architecture("timm", name))
    theirs = resolve_model_data_config(network.module)
    assert network.preprocessing.size == theirs["input_size"][1:]
    assert (network.preprocessing.mean, network.preprocessing.std) == (theirs["mean"], theirs["std"])
    assert network.preprocessing.interpolation == theirs["interpolation"]


def test_a_network_without_a_classifier_gets_a_place_for_one() -> None:
    network = build(Architecture("timm", "test_vit3", {"num_classes": 0}))
    assert (network.num_classes, network.labels) == (0, ())
    assert isinstance(network.module.get_submodule(network.classifier), nn.Linear)


@pytest.mark.parametrize("name", ["nope", "keras/x", "timm/nope", "torchvision/nope"])
def test_stage_names_of_unknown_models(name: str) -> None:
    with pytest.raises(ModelError):
        stage_names(name)


def test_networks_ported_from_tensorflow_keep_its_normalisation() -> None:
    assert bool(build(Architecture("torchvision", "googlenet")).module.transform_input)


def test_densenet_loads_its_published_names() -> None:
    module = build(Architecture("torchvision", "densenet121")).module
    former = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", name): v for name, v in module.state_dict().items()
    }
    assert set(former) != set(module.state_dict())
    load_strict(module, former, "file")


def test_a_vision_transformer_is_as_large_as_its_weights(offline: Path) -> None:
    with pytest.raises(ModelError, match="swag"):
        load_backbone("torchvision/vit_b_16:IMAGENET1K_SWAG_E2E_V1")


@pytest.mark.parametrize("model", ["efficientnet_lite0", "timm/resnet50", "torchvision/resnet18"])
def test_an_architecture_without_a_checkpoint_is_refused(model: str) -> None:
    with pytest.raises(ModelError, match=r"no checkpoint(?s:.*)--arch(?s:.*)--model timm/resnet18"):
        load_backbone(model, arch="timm/resnet18")
