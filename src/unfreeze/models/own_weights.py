"""Backbones from the user's own files: a checkpoint, a folder in timm's hub format, or a run's model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from unfreeze.errors import ModelError
from unfreeze.models.backbone import Architecture, Backbone, Network, Tensors, assemble
from unfreeze.models.checkpoint import Fit, fit
from unfreeze.models.nearest import nearest
from unfreeze.models.networks import build, timm_preprocessing, with_channels
from unfreeze.models.stage_head import NAME
from unfreeze.models.weights import load_state_dict_compat, read_weights
from unfreeze.preprocessing import Preprocessing
from unfreeze.reading import FIRST_FRAME

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")


def load_from_disk(path: Path, arch: str | None, device: torch.device) -> Backbone:
    """Build a backbone from a file or a folder.

    Args:
        path: A checkpoint; or a folder with ``config.json`` and weights, or with such a folder as ``model``.
        arch: The architecture; None: as ``config.json`` says.
        device: The device.

    Raises:
        ModelError: The weights can't be read, their architecture is unknown, or they don't fit it.
    """
    file, config = _locate(path)
    if arch is not None:
        architecture = _architecture(arch, file)
        network = build(architecture)
        tensors = read_weights(file)
    elif config is not None:
        tensors = read_weights(file)
        architecture, network = _read_hub_config(config)
    else:
        tensors = read_weights(file)
        raise ModelError(
            "A checkpoint file doesn't say which network it fits.",
            where=file,
            mend=f"Name the architecture: --arch timm/NAME or --arch torchvision/NAME. {_nearest(tensors, file.stem)}",
        )
    of_stages = any(name.startswith(f"{NAME}.") for name in tensors)  # a run's head, no classifier of the network's
    tensors = {name: value for name, value in tensors.items() if not name.startswith(f"{NAME}.")}
    found = fit(network, tensors)
    if found.differences:
        raise _misfit(architecture, found, tensors, file)
    if any(not bool(torch.isfinite(value).all()) for value in found.weights.values()):
        raise ModelError(
            "Some weights are not finite numbers: the training that saved them had failed.",
            where=file,
            mend="Take an earlier checkpoint.",
        )
    load_state_dict_compat(network.module, found.weights, strict=False)
    notes = found.notes
    if not found.has_head:
        notes = (*_head_notes(network, found, of_stages), *notes)
        network = replace(network, num_classes=0, labels=())
    backbone = assemble(str(path), architecture, network, device)
    return replace(backbone, notes=tuple(f"{file.name}: {note}" for note in notes))


def _head_notes(network: Network, found: Fit, of_stages: bool) -> tuple[str, ...]:
    """Return what is said of a head that isn't taken, in one line; nothing where none is expected."""
    lost = "what is forgotten of its own task can't be measured"
    if of_stages:
        return (f"its head on several stages is left out; {lost}",)
    if found.head_classes is not None:
        expected = f", and the architecture's has {network.num_classes}" if network.num_classes else ""
        return (f"its head has {found.head_classes} outputs{expected}: it is left out; {lost}",)
    return (f"it has no head that fits; {lost}",) if network.num_classes else ()


def _locate(path: Path) -> tuple[Path, Path | None]:
    """Return the file with the weights, and ``config.json`` beside it if there is one."""
    if path.is_file():
        config = path.parent / CONFIG
        return path, config if config.is_file() else None
    for folder in (path, path / "model", *sorted(path.glob("snapshots/*"))):  # a run, and the hub's cache
        files = [folder / name for name in WEIGHTS if (folder / name).is_file()]
        files = files or sorted(each for each in folder.glob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
        config = folder / CONFIG
        if files and (config.is_file() or len(files) == 1):
            return files[0], config if config.is_file() else None
    raise ModelError(
        "The folder is no model: it needs config.json and model.safetensors (timm's hub format).",
        where=path,
        mend="Name the file with the weights, and its architecture: --model FILE --arch timm/NAME",
    )


def _architecture(arch: str, file: Path) -> Architecture:
    library, _, name = arch.partition("/")
    if library not in ("timm", "torchvision") or not name:
        short = arch.rpartition("/")[2] or "NAME"
        raise ModelError(
            f"The architecture {arch!r} doesn't say whose it is.",
            where=file,
            mend=f"Write --arch timm/{short} or --arch torchvision/{short}",
        )
    return Architecture(library, name)  # type: ignore[arg-type]


def _misfit(architecture: Architecture, found: Fit, tensors: Tensors, file: Path) -> ModelError:
    shown = "; ".join(found.differences[:3])
    return ModelError(
        f"The weights don't fit {architecture}: {found.n_equal} of its {found.n_needed} tensors are in the file. {shown}.",
        where=file,
        mend=f"Name the architecture that they were saved from (--arch). {_nearest(tensors, str(architecture))}",
    )


def _nearest(tensors: Tensors, hint: str) -> str:
    candidates = nearest(tensors, hint)
    return f"Nearest: {', '.join(map(str, candidates))}." if candidates else "No architecture is like it."


def _read_hub_config(config: Path) -> tuple[Architecture, Network]:
    """Read timm's ``config.json``: the architecture, and an untrained network with the file's preprocessing."""
    try:
        content = json.loads(config.read_text("utf-8"))
        outputs = {"num_classes": int(content["num_classes"])} if "num_classes" in content else {}
        pretrained_cfg = dict(content.get("pretrained_cfg") or {})
        labels = tuple((str(name),) for name in content.get("label_names") or ())
        if saved := content.get("unfreeze"):  # written by ``save_model``; the backbone may be torchvision's
            architecture = Architecture(saved["library"], saved["name"], {**saved["arguments"], **outputs})
            network = build(architecture)
            saved_preprocessing = Preprocessing.from_dict(saved["preprocessing"])
            n_channels = network.preprocessing.n_channels  # of one group, if it was trained on several
            mean, std = saved_preprocessing.mean[:n_channels], saved_preprocessing.std[:n_channels]
            preprocessing = replace(saved_preprocessing, mean=mean, std=std, reading=FIRST_FRAME)
            return architecture, replace(network, preprocessing=preprocessing, labels=labels)
        architecture = Architecture(
            "timm", str(content["architecture"]), {**outputs, **(content.get("model_args") or {})}
        )
        network = build(architecture)
        cfg = {**network.module.pretrained_cfg, **pretrained_cfg}  # type: ignore[dict-item]
        preprocessing = with_channels(timm_preprocessing(cfg), network.preprocessing.n_channels)
        return architecture, replace(network, preprocessing=preprocessing, labels=labels or network.labels)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"The model's config.json can't be used: {error!r}",
            where=config,
            mend="It must be in timm's hub format, or name the architecture of the weights beside it: --arch timm/NAME",
        ) from error
