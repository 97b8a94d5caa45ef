"""Networks as timm and torchvision build them, and what the two libraries know of each."""

from __future__ import annotations

from typing import Any

from torch import nn

from unfreeze.errors import ModelError
from unfreeze.models.backbone import Architecture, Labels, Network
from unfreeze.preprocessing import Preprocessing
from unfreeze.torchvision_shim import ensure_torchvision


def build(architecture: Architecture) -> Network:
    """Return an architecture's untrained network and what is known of it.

    Raises:
        ModelError: The library has no such architecture.
    """
    ensure_torchvision()
    return (build_timm if architecture.library == "timm" else _build_torchvision)(architecture)


def build_timm(architecture: Architecture, pretrained: bool = False) -> Network:
    """Return timm's network; with ``pretrained``, timm gets its weights, and any of its download errors may come up."""
    import timm

    refuse_unknown(architecture.name)
    module = timm.create_model(architecture.name, pretrained=pretrained, **architecture.arguments)
    named = module.pretrained_cfg.get("classifier") or ""
    outputs = module.num_classes
    if outputs == 0:  # features only, such as DINO's: there is no original classifier, but a place for one
        module.reset_classifier(1)
    classifier = (named if isinstance(named, str) else named[0]) or _last_linear(module, outputs or 1)
    labels = _imagenet_labels() if outputs == 1000 else ()
    return Network(module, classifier, outputs, labels, timm_preprocessing(module.pretrained_cfg))


def refuse_unknown(name: str) -> None:
    """Raise a ``ModelError`` with near names where timm has no model of this name."""
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


def timm_preprocessing(cfg: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing that a timm configuration states."""
    from timm.data import resolve_data_config

    data = resolve_data_config(pretrained_cfg=cfg)
    height, width = data["input_size"][1:]
    scaled = int(height / data["crop_pct"]), int(width / data["crop_pct"])
    resize = scaled if data["crop_mode"] == "squash" or height != width else scaled[0]
    return Preprocessing((height, width), resize, tuple(data["mean"]), tuple(data["std"]), data["interpolation"])


def refuse_unknown_torchvision(name: str) -> None:
    """Raise a ``ModelError`` with near names where torchvision has no classification model of this name."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = [other for other in known if other[:4] == name[:4]]
        raise ModelError(
            f"torchvision has no classification model {name!r}.",
            where="--model",
            mend="Near names: " + ", ".join(near) if near else "`unfreeze models torchvision` lists them.",
        )


def _build_torchvision(architecture: Architecture) -> Network:
    from torchvision import models

    refuse_unknown_torchvision(architecture.name)
    arguments = dict(architecture.arguments)
    if architecture.name in ("googlenet", "inception_v3"):
        # As torchvision does wherever these have weights, which were ported from TensorFlow with its normalisation.
        # Drawing first weights would take half a minute, for nothing.
        arguments = {"transform_input": True, "init_weights": False, **arguments}
    module = models.get_model(architecture.name, weights=None, **arguments)
    weights = models.get_model_weights(architecture.name)["DEFAULT"]
    outputs = int(arguments.get("num_classes", 1000))
    labels = _imagenet_labels() if outputs == 1000 else ()
    return Network(module, _last_linear(module, outputs), outputs, labels, torchvision_preprocessing(weights))


def torchvision_preprocessing(weights: Any) -> Preprocessing:
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
