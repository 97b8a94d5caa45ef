"""A trained model on disk, in timm's hub format: ``config.json`` and ``model.safetensors``.

If the backbone is timm's and has a single classifier, ``timm.create_model("local-dir:FOLDER", pretrained=True)``
computes the same logits for an image's plain view; timm doesn't average over
views.

A head that reads several stages is no layer of timm's networks.  Its tensors have a name of their own: timm refuses the
folder, or loads the backbone without a classifier (``num_classes=0``).  ``config.json`` describes what the head reads,
and ``modeling.py`` beside it computes the logits with timm (or torchvision) and torch alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfreeze.errors import ModelError
from unfreeze.files import write_bytes, write_text
from unfreeze.models.backbone import Architecture, Backbone, assemble
from unfreeze.models.groups import in_groups
from unfreeze.models.head import Head
from unfreeze.models.networks import build
from unfreeze.models.stage_head import (
    NAME,
    describe_head,
    fold_standardisation,
    is_readable,
    saved_stages,
    without_unread_stages,
)
from unfreeze.models.stages import input_channels
from unfreeze.models.weights import load_state_dict_compat, read_weights
from unfreeze.preprocessing import Preprocessing
from unfreeze.views import PLAIN_ONLY, Views, views_from

CONFIG, WEIGHTS, CODE = "config.json", "model.safetensors", "modeling.py"


@dataclass(frozen=True)
class Classifier:
    """A trained image classifier.

    Attributes:
        backbone: Maps images to features.
        head: Maps features to logits.
        classes: Class names, in the order of the logits.
        views: Views of the image over which the logits are averaged.
    """

    backbone: Backbone
    head: Head
    classes: tuple[str, ...]
    views: Views = PLAIN_ONLY


def save_model(folder: Path, model: Classifier) -> None:
    """Write a model with its current weights into ``folder``."""
    from safetensors.torch import save

    stages, head = without_unread_stages(model.backbone, fold_standardisation(model.head))
    backbone = replace(model.backbone, head_stages=stages)
    config = _config(replace(model, backbone=backbone))
    if stages or backbone.n_groups > 1:
        config["unfreeze"]["head"] = describe_head(backbone)
        own = {f"{NAME}.{name}": value for name, value in head.items()}
    else:
        path = backbone.network.classifier
        old = backbone.network.module.get_submodule(path).weight
        assert isinstance(old, Tensor)
        weight = head["weight"].view(*head["weight"].shape, *[1] * (old.dim() - 2))  # some are 1x1 convolutions
        own = {f"{path}.weight": weight, f"{path}.bias": head["bias"]}
    tensors = {**backbone.weights(), **own}
    write_bytes(folder / WEIGHTS, save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}))
    write_text(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    if "head" in config["unfreeze"] and is_readable(config["unfreeze"]["head"]):
        write_text(folder / CODE, files("unfreeze.models").joinpath("modeling.py").read_text("utf-8"))


def load_model(folder: Path, device: torch.device, expected: Sequence[str] | None = None) -> Classifier:
    """Read a model that ``save_model`` wrote.

    Args:
        folder: The model's folder.
        device: The device.
        expected: The classes by which its logits will be named; None: those of its own ``config.json``.

    Raises:
        ModelError: A file is missing or damaged, its classes are others than ``expected``, or the installed library
            builds another network under this name.
    """
    damaged = ModelError("The run's model is missing or damaged.", where=folder, mend="Train again.")
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        saved = config["unfreeze"]
        classes = tuple(str(name) for name in config["label_names"])
        architecture = Architecture(saved["library"], saved["name"], saved["arguments"])
        name = str(saved["model"])
        preprocessing = Preprocessing.from_dict(saved["preprocessing"])
        description = saved.get("head")
        views = views_from(saved)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged from error
    if expected is not None and classes != tuple(expected):
        raise ModelError(
            f"The model's classes ({_some(classes)}) are not those of its verdict.json ({_some(expected)}).",
            where=folder,
            mend="One of them is of another run, or was changed: copy the whole folder of the run anew, or train again.",
        )
    tensors = read_weights(folder / WEIGHTS)
    try:
        network = replace(build(architecture), preprocessing=preprocessing, num_classes=0, labels=())
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:  # arguments that no network takes
        raise damaged from error
    own = network.classifier if description is None else NAME
    weight, bias = tensors.pop(f"{own}.weight", None), tensors.pop(f"{own}.bias", None)
    center = tensors.pop(f"{NAME}.center", None)
    try:
        missing, unexpected = load_state_dict_compat(network.module, tensors, strict=False)
    except RuntimeError as error:
        raise damaged from error
    lacking = [name for name in missing if not name.startswith(f"{network.classifier}.")]
    if weight is None or bias is None or lacking or unexpected or len(bias) != len(classes):
        raise damaged
    backbone = assemble(name, architecture, network, device)
    try:
        backbone = in_groups(backbone, preprocessing.n_channels // input_channels(network.module))
    except (ValueError, RuntimeError) as error:
        raise damaged from error
    if description is not None:
        try:
            backbone = replace(backbone, head_stages=saved_stages(backbone, description))
        except (ValueError, KeyError, TypeError) as error:
            raise damaged from error
    head = Head(backbone.feature_dim, len(classes)).to(device)
    try:
        head.load_state_dict({"weight": weight.flatten(1), "bias": bias})
    except RuntimeError as error:
        raise damaged from error
    if center is not None:
        if center.shape != (backbone.feature_dim,):
            raise damaged
        head.register_buffer("center", center.to(device), persistent=False)
    return Classifier(backbone, head.eval().requires_grad_(False), classes, views)


def _some(classes: Sequence[str]) -> str:
    return f"{len(classes)}: {', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}"


def _config(model: Classifier) -> dict[str, Any]:
    backbone, classes = model.backbone, model.classes
    preprocessing = backbone.network.preprocessing
    height, width = preprocessing.size
    resize = preprocessing.resize if isinstance(preprocessing.resize, int) else preprocessing.resize[0]
    if preprocessing.fit == "pad":
        resize = height
    crop_pct = height / resize
    if int(height / crop_pct) != resize:  # timm divides by crop_pct and rounds down
        crop_pct = math.nextafter(crop_pct, 0)
    source = getattr(backbone.network.module, "pretrained_cfg", {})
    arguments = backbone.architecture.arguments
    return {
        "architecture": backbone.architecture.name,
        "num_classes": len(classes),
        "num_features": backbone.stage_dims[-1],
        "label_names": list(classes),
        "model_args": {name: value for name, value in arguments.items() if name != "num_classes"},
        "pretrained_cfg": {
            "input_size": [preprocessing.n_channels, height, width],
            "interpolation": preprocessing.interpolation,
            "crop_pct": crop_pct,
            "crop_mode": _timm_crop_mode(preprocessing),
            "fixed_input_size": bool(source.get("fixed_input_size", False)),
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "num_classes": len(classes),
            "classifier": backbone.network.classifier,
        },
        "unfreeze": {
            "model": backbone.name,
            "library": backbone.architecture.library,
            "name": backbone.architecture.name,
            "arguments": arguments,
            "preprocessing": asdict(preprocessing),
            "views": [view.to_dict() for view in model.views],
        },
    }


def _timm_crop_mode(preprocessing: Preprocessing) -> str:
    if preprocessing.fit == "pad":
        return "border"
    return "center" if isinstance(preprocessing.resize, int) else "squash"
