"""Networks from timm and torchvision, with their preprocessing and class names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from unfreeze.errors import ModelError
from unfreeze.models.backbone import Architecture, Labels, Network
from unfreeze.models.stages import input_channels
from unfreeze.preprocessing import Preprocessing
from unfreeze.torchvision_shim import ensure_torchvision


def build(architecture: Architecture) -> Network:
    """Return an architecture's network, untrained.

    Raises:
        ModelError: The library has no such architecture.
    """
    ensure_torchvision()
    return (build_timm if architecture.library == "timm" else _build_torchvision)(architecture)


def build_timm(architecture: Architecture, pretrained: bool = False) -> Network:
    """Return timm's network; with ``pretrained``, timm downloads the weights and may raise any of its errors."""
    import timm

    refuse_unknown(architecture.name)
    module = timm.create_model(architecture.name, pretrained=pretrained, **architecture.arguments)
    named = module.pretrained_cfg.get("classifier") or ""
    outputs = module.num_classes
    if outputs == 0:  # no original classifier, as in DINO: add one with a single output
        module.reset_classifier(1)
    classifier = (named if isinstance(named, str) else named[0]) or _last_linear(module, outputs or 1)
    labels = _imagenet_labels() if outputs == 1000 else ()
    preprocessing = with_channels(timm_preprocessing(module.pretrained_cfg), input_channels(module))
    return Network(module, classifier, outputs, labels, preprocessing)


def with_channels(preprocessing: Preprocessing, count: int) -> Preprocessing:
    """Return the preprocessing of a network whose images have so many channels, the statistics of three repeated."""
    if preprocessing.n_channels == count:
        return preprocessing
    mean, std = preprocessing.mean, preprocessing.std
    places = [i % len(mean) for i in range(count)]
    return replace(preprocessing, mean=tuple(mean[i] for i in places), std=tuple(std[i] for i in places))


def refuse_unknown(name: str) -> None:
    """Raise a ``ModelError`` that lists similar names if timm has no model of this name."""
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0].split('.')[0]}*")[:6]
        raise ModelError(
            f"timm has no model {name!r}.",
            where="--model",
            mend="Near names: " + ", ".join(near) if near else "`unfreeze models timm` lists them.",
        )


def _imagenet_labels() -> Labels:
    """Return the WordNet id and the names of ImageNet's 1000 classes, in the classifiers' usual order."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return tuple(
        (info.index_to_label_name(index), *(name.strip() for name in info.index_to_description(index).split(",")))
        for index in range(info.num_classes())
    )


def timm_preprocessing(cfg: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing of a timm configuration."""
    from timm.data import resolve_data_config

    data = resolve_data_config(pretrained_cfg=cfg)
    height, width = data["input_size"][1:]
    scaled = int(height / data["crop_pct"]), int(width / data["crop_pct"])
    resize = scaled if data["crop_mode"] == "squash" or height != width else scaled[0]
    return Preprocessing((height, width), resize, tuple(data["mean"]), tuple(data["std"]), data["interpolation"])


def refuse_unknown_torchvision(name: str) -> None:
    """Raise a ``ModelError`` that lists similar names if torchvision has no classification model of this name."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = [other for other in known if other[:4] == name[:4]]
        raise ModelError(
            f"torchvision has no classification model {name!r}.",
            where="--model",
            mend="Near names: " + ", ".join(near) if near else "`unfreeze models torchvision` lists them.",
        )


def library_arguments(architecture: Architecture) -> dict[str, Any]:
    """Return the arguments with which the library builds the network."""
    if architecture.library == "torchvision" and architecture.name in ("googlenet", "inception_v3"):
        # torchvision sets transform_input for these weights, which were ported from TensorFlow with its normalisation.
        # Initialising the weights would take half a minute, and they are overwritten.
        return {"transform_input": True, "init_weights": False, **architecture.arguments}
    return dict(architecture.arguments)


def _build_torchvision(architecture: Architecture) -> Network:
    from torchvision import models

    refuse_unknown_torchvision(architecture.name)
    arguments = library_arguments(architecture)
    module = models.get_model(architecture.name, weights=None, **arguments)
    weights = models.get_model_weights(architecture.name)["DEFAULT"]
    outputs = int(arguments.get("num_classes", 1000))
    labels = _imagenet_labels() if outputs == 1000 else ()
    return Network(module, _last_linear(module, outputs), outputs, labels, torchvision_preprocessing(weights))


def torchvision_preprocessing(weights: Any) -> Preprocessing:
    """Return the preprocessing of torchvision's weights."""
    transforms = weights.transforms()
    (size,) = transforms.crop_size
    (resize,) = transforms.resize_size
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    return Preprocessing((size, size), resize, mean, std, transforms.interpolation.value)


def _last_linear(network: nn.Module, outputs: int) -> str:
    """Return the path of the last layer with this many outputs: linear, or a convolution as in SqueezeNet."""
    for path, module in reversed(list(network.named_modules())):
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.shape[0] == outputs:
            return str(path)
    raise ModelError(f"{type(network).__name__} has no classifier with {outputs} outputs.")
