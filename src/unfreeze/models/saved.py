"""A trained model on disk, in timm's hub format: ``config.json`` and ``model.safetensors``.

If the backbone is timm's and has a single classifier, ``timm.create_model("local-dir:FOLDER", pretrained=True)``
computes the same logits for an image's plain view; timm doesn't average over
views.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfreeze.errors import ModelError
from unfreeze.files import write_bytes, write_text
from unfreeze.models.backbone import Architecture, Backbone, Head, assemble
from unfreeze.models.networks import build
from unfreeze.models.weights import load_state_dict_compat, read_weights
from unfreeze.preprocessing import Preprocessing
from unfreeze.views import PLAIN_ONLY, Views, views_from

CONFIG, WEIGHTS = "config.json", "model.safetensors"


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

    backbone, head = model.backbone, model.head
    path = backbone.network.classifier
    old = backbone.network.module.get_submodule(path).weight
    assert isinstance(old, Tensor)
    weight = head.weight.view(*head.weight.shape, *[1] * (old.dim() - 2))  # some classifiers are 1x1 convolutions
    tensors = {**backbone.weights(), f"{path}.weight": weight, f"{path}.bias": head.bias}
    write_bytes(folder / WEIGHTS, save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}))
    write_text(folder / CONFIG, json.dumps(_config(model), indent=2, ensure_ascii=False) + "\n")


def load_model(folder: Path, device: torch.device) -> Classifier:
    """Read a model that ``save_model`` wrote.

    Raises:
        ModelError: A file is missing or damaged, or the installed library builds another network under this name.
    """
    damaged = ModelError("The run's model is missing or damaged.", where=folder, mend="Train again.")
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        saved = config["unfreeze"]
        classes = tuple(str(name) for name in config["label_names"])
        architecture = Architecture(saved["library"], saved["name"], saved["arguments"])
        name = str(saved["model"])
        preprocessing = Preprocessing.from_dict(saved["preprocessing"])
        views = views_from(saved)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged from error
    tensors = read_weights(folder / WEIGHTS)
    try:
        network = replace(build(architecture), preprocessing=preprocessing, num_classes=0, labels=())
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:  # arguments that no network takes
        raise damaged from error
    weight = tensors.pop(f"{network.classifier}.weight", None)
    bias = tensors.pop(f"{network.classifier}.bias", None)
    try:
        missing, unexpected = load_state_dict_compat(network.module, tensors, strict=False)
    except RuntimeError as error:
        raise damaged from error
    lacking = [name for name in missing if not name.startswith(f"{network.classifier}.")]
    if weight is None or bias is None or lacking or unexpected or len(bias) != len(classes):
        raise damaged
    backbone = assemble(name, architecture, network, device)
    head = Head(backbone.feature_dim, len(classes)).to(device)
    try:
        head.load_state_dict({"weight": weight.flatten(1), "bias": bias})
    except RuntimeError as error:
        raise damaged from error
    return Classifier(backbone, head.eval().requires_grad_(False), classes, views)


def _config(model: Classifier) -> dict[str, Any]:
    backbone, classes = model.backbone, model.classes
    preprocessing = backbone.network.preprocessing
    height, width = preprocessing.size
    resize = preprocessing.resize if isinstance(preprocessing.resize, int) else preprocessing.resize[0]
    crop_pct = height / resize
    if int(height / crop_pct) != resize:  # timm divides by crop_pct and rounds down
        crop_pct = math.nextafter(crop_pct, 0)
    source = getattr(backbone.network.module, "pretrained_cfg", {})
    arguments = backbone.architecture.arguments
    return {
        "architecture": backbone.architecture.name,
        "num_classes": len(classes),
        "num_features": backbone.feature_dim,
        "label_names": list(classes),
        "model_args": {name: value for name, value in arguments.items() if name != "num_classes"},
        "pretrained_cfg": {
            "input_size": [3, height, width],
            "interpolation": preprocessing.interpolation,
            "crop_pct": crop_pct,
            "crop_mode": "center" if isinstance(preprocessing.resize, int) else "squash",
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
