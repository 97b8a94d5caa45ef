"""The architectures of timm and torchvision whose tensors are most like a checkpoint's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from unfreeze.errors import ModelError
from unfreeze.models.backbone import Architecture, Network, Tensors
from unfreeze.models.checkpoint import fit_by_name
from unfreeze.models.networks import build
from unfreeze.torchvision_shim import ensure_torchvision

MAX_COMPARED = 20  # architectures of a library; each takes a tenth of a second to build, without memory for weights
# A small member of each family, and what the family's names have in common.
# fmt: off
FAMILIES = {
    "timm/resnet18": "resne", "timm/resnetv2_50": "resnetv2", "timm/regnetx_002": "regnet",
    "timm/efficientnet_b0": "efficientnet", "timm/mobilenetv2_100": "mobilenetv2",
    "timm/mobilenetv3_small_050": "mobilenetv3",
    "timm/vit_tiny_patch16_224": "vit_", "timm/deit_tiny_patch16_224": "deit", "timm/beit_base_patch16_224": "beit",
    "timm/swin_tiny_patch4_window7_224": "swin_", "timm/convnext_atto": "convnext", "timm/densenet121": "densenet",
    "timm/vgg11_bn": "vgg", "timm/test_efficientnet": "test_",
    "torchvision/mobilenet_v2": "mobilenet", "torchvision/mobilenet_v3_small": "mobilenet",
    "torchvision/efficientnet_b0": "efficientnet", "torchvision/regnet_y_400mf": "regnet", "torchvision/vit_b_16": "vit_",
    "torchvision/swin_t": "swin", "torchvision/convnext_tiny": "convnext", "torchvision/squeezenet1_1": "squeezenet",
    "torchvision/shufflenet_v2_x0_5": "shufflenet", "torchvision/mnasnet0_5": "mnasnet", "torchvision/alexnet": "alexnet",
    "torchvision/googlenet": "googlenet", "torchvision/inception_v3": "inception",
}
# fmt: on


@dataclass(frozen=True)
class Candidate:
    """An architecture, and the share of all tensors, its own and the checkpoint's, that both have alike."""

    name: str
    share: float

    def __str__(self) -> str:
        return f"{self.name} (fits)" if self.share == 1 else f"{self.name} ({int(100 * self.share)} % alike)"


def nearest(tensors: Tensors, hint: str, count: int = 3) -> list[Candidate]:
    """Return the architectures whose names and shapes of tensors are most like a checkpoint's, the best first.

    Args:
        tensors: All tensors of the checkpoint.
        hint: The architecture that was named, or the file's name: of a large family, similar names are compared.
        count: How many to return.
    """
    ensure_torchvision()
    import timm
    from torchvision import models

    alike = {name: _names_alike(tensors, network) for name in FAMILIES if (network := _on_paper(name))}
    best = max(alike, key=lambda name: alike[name])
    if not alike[best]:
        return []
    family = FAMILIES[best]
    names = [f"torchvision/{name}" for name in models.list_models(module=models) if family in name]
    similar = [f"timm/{name}" for name in timm.list_models() if family in name]
    similar.sort(
        key=lambda name: (name[5:] not in hint.lower(), -max(_similarity(name, hint), _similarity(name, best)))
    )
    compared = dict.fromkeys((best, *names, *similar[:MAX_COMPARED]))
    candidates = [
        Candidate(name, fit_by_name(network, tensors).share) for name in compared if (network := _on_paper(name))
    ]
    return sorted((each for each in candidates if each.share), key=lambda each: -each.share)[:count]


def _similarity(name: str, other: str) -> float:
    return SequenceMatcher(None, name.lower(), other.lower()).ratio()


class _WithoutValues(TorchFunctionMode):
    """Tensors have shapes alone, and no random numbers are drawn for them: half of a network's building."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _on_paper(name: str) -> Network | None:
    """Return an architecture's network without values; None if it can't be built so."""
    library, _, short = name.partition("/")
    try:
        with torch.device("meta"), _WithoutValues():
            return build(Architecture(library, short))  # type: ignore[arg-type]
    except (ModelError, RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError):
        return None


def _without_numbers(names: Iterable[str]) -> set[str]:
    return {re.sub(r"\d+", "#", name) for name in names}


def _names_alike(tensors: Tensors, network: Network) -> float:
    """Return how many names are alike, numbers aside, of all names below the best prefix and of the architecture's."""
    own, given = _without_numbers(network.module.state_dict()), _without_numbers(tensors)
    counts: Counter[str] = Counter()
    for name in given:
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
            counts[name[:start]] += name[start:] in own
    prefix, count = max(counts.items(), key=lambda pair: pair[1])
    return count / (len(own) + sum(name.startswith(prefix) for name in given) - count)
