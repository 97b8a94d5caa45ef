"""A folder in the format of timm and of model hubs: config.json, model.safetensors and the model card.

For a head that reads several stages, which timm's networks don't, also ``modeling.py``.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfreeze.data.rendering.transforms import normalize
from unfreeze.errors import reason
from unfreeze.export.parity import Outputs, PredictFn
from unfreeze.models.saved import Classifier, load_model
from unfreeze.predict import predict_logits
from unfreeze.runs.folder import RunFolder
from unfreeze.torchvision_shim import ensure_torchvision


def write(folder: RunFolder, path: Path) -> None:
    """Copy the run's model into the new folder ``path``."""
    path.mkdir()
    for file in (folder.model_config, folder.weights, folder.model_code, folder.model_card):
        if file.exists():
            shutil.copyfile(file, path / file.name)


def load_predict_fn(model: Classifier, path: Path) -> tuple[PredictFn, str | None]:
    """Load an exported folder, with timm or by its ``modeling.py`` where possible.

    timm can't open torchvision's networks, nor those with several classifiers; then unfreeze loads the folder.

    Returns:
        A function from plain views to logits, and a note for the user where timm can't open the folder.
    """
    preprocessing = model.backbone.network.preprocessing
    code, note = path / "modeling.py", None
    try:
        if code.exists():
            network = _load_by_code(path, code)
            note = f"{code.name} beside the weights computes these answers: the head reads several stages"
        else:
            network = _load_with_timm(model, path)
    except (RuntimeError, ValueError) as error:
        loaded = load_model(path, torch.device("cpu"))
        note = (
            f"timm can't open {path.name}/ ({reason(error)}). unfreeze can, for example with "
            "unfreeze.train(photos, model=FOLDER)"
        )
        return lambda views: predict_logits(loaded.backbone, loaded.head, [views]), note

    def predict(views: Tensor) -> Outputs:
        with torch.inference_mode():
            logits: Outputs = network(normalize(views, preprocessing)).numpy()
        return logits

    return predict, note


def _load_by_code(path: Path, code: Path) -> torch.nn.Module:
    ensure_torchvision()
    spec = importlib.util.spec_from_file_location("exported_modeling", code)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: torch.nn.Module = module.load_classifier(path)[0]
    return network


def _load_with_timm(model: Classifier, path: Path) -> torch.nn.Module:
    if model.backbone.architecture.library != "timm":
        raise ValueError("it has no network of torchvision's")
    if model.backbone.head_stages:
        raise ValueError("the head reads several stages")
    ensure_torchvision()
    import timm

    network: torch.nn.Module = timm.create_model(f"local-dir:{path}", pretrained=True)
    return network.eval()
