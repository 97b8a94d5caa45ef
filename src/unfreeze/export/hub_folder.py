"""The model as a folder in the format of timm and of model hubs: config.json, model.safetensors and the model card."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from unfreeze.data.rendering.transforms import normalize
from unfreeze.errors import reason
from unfreeze.export.parity import Answers, Rows
from unfreeze.models.saved import Classifier, load_model
from unfreeze.predict import predict_logits
from unfreeze.runs.folder import RunFolder
from unfreeze.torchvision_shim import ensure_torchvision


def write(folder: RunFolder, place: Path) -> None:
    """Copy the run's model into the new folder ``place``."""
    place.mkdir()
    for file in (folder.model_config, folder.weights, folder.model_card):
        if file.exists():
            shutil.copyfile(file, place / file.name)


def answers(model: Classifier, place: Path) -> tuple[Answers, str | None]:
    """Return the logits for plain views of what is in the folder ``model``, and why it isn't timm that says them.

    A network of torchvision's, or one with several classifiers, is for unfreeze alone to open.
    """
    preprocessing = model.backbone.network.preprocessing
    try:
        network = _by_timm(model, place)
    except (RuntimeError, ValueError) as error:
        own = load_model(place, torch.device("cpu"))
        note = f"timm can't open {place.name}/ ({reason(error)}); unfreeze can, for one: "
        return (
            lambda views: predict_logits(own.backbone, own.head, [views]),
            f"{note}unfreeze.train(photos, model=FOLDER)",
        )

    def ask(views: Tensor) -> Rows:
        with torch.inference_mode():
            found: Rows = network(normalize(views, preprocessing)).numpy()
        return found

    return ask, None


def _by_timm(model: Classifier, place: Path) -> torch.nn.Module:
    if model.backbone.architecture.library != "timm":
        raise ValueError("it has no network of torchvision's")
    ensure_torchvision()
    import timm

    network: torch.nn.Module = timm.create_model(f"local-dir:{place}", pretrained=True)
    return network.eval()
