"""A saved head that reads several stages: its folded weights, and where a network without unfreeze can be read.

A stage's output is the input of the next stage's first block, after which that stage is named, and the last stage's is
the input of the classifier: a forward hook before these modules sees what the head reads.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unfreeze.models.backbone import Backbone, Tensors
from unfreeze.models.head import Head
from unfreeze.models.networks import library_arguments
from unfreeze.models.pooling import channels_last
from unfreeze.models.stages import InGroups

NAME = "head_on_stages"
"""Prefix of the head's tensors: no network has such a layer, so that timm refuses the file, or loads its backbone."""


def fold_standardisation(head: Head) -> Tensors:
    """Return the weight and bias of a head on the features as they are, and their ``center`` if it is known."""
    center = {} if head.center is None else {"center": head.center}
    if head.center is None or head.scale is None:
        return {"weight": head.weight.detach(), "bias": head.bias.detach(), **center}
    weight = head.weight.detach().double() * head.scale.double()
    bias = head.bias.detach().double() - weight @ head.center.double()
    return {"weight": weight.float(), "bias": bias.float(), **center}


def without_unread_stages(backbone: Backbone, weights: Tensors) -> tuple[tuple[int, ...], Tensors]:
    """Return the lower stages that a head reads, and its tensors on them: a stage whose weights are all 0 isn't read."""
    blocks = backbone.stage_columns
    kept = [bool(weights["weight"][:, block].any()) for block in blocks[:-1]] + [True]
    columns = [block for block, is_kept in zip(blocks, kept, strict=True) if is_kept]
    stages = tuple(stage for stage, is_kept in zip(backbone.head_stages, kept[:-1], strict=True) if is_kept)
    features = {
        name: torch.cat([value[..., block] for block in columns], -1)
        for name, value in weights.items()
        if name != "bias"
    }
    return stages, {**features, "bias": weights["bias"]}


def describe_head(backbone: Backbone) -> dict[str, Any]:
    """Return what ``config.json`` says of the stages that the head reads, the last one at the end.

    Each has its name, the length of its features, how they are pooled and, if a forward hook sees the stage's output,
    the module whose input it is (``input_of``).
    """
    indices = backbone.all_head_stages
    stages = [
        {"name": backbone.stages[index].name, "dim": backbone.stage_dims[index], **description}
        for index, description in zip(indices, _observe(backbone, indices), strict=True)
    ]
    groups = {"groups": backbone.n_groups} if backbone.n_groups > 1 else {}
    return {"stages": stages, "arguments": library_arguments(backbone.architecture), **groups}


def is_readable(description: dict[str, Any]) -> bool:
    """Return whether forward hooks see all features: whether ``modeling.py`` computes the logits."""
    return all("input_of" in stage for stage in description["stages"])


def saved_stages(backbone: Backbone, description: Any) -> tuple[int, ...]:
    """Return the lower stages that a saved head reads.

    Raises:
        ValueError: They aren't this backbone's.
        KeyError, TypeError: The description is damaged.
    """
    names = [stage.name for stage in backbone.stages]
    saved = [(names.index(stage["name"]), stage["dim"]) for stage in description["stages"]]
    indices = [index for index, _ in saved]
    if (
        len(indices) < (2 if backbone.n_groups == 1 else 1)
        or indices != sorted(set(indices))
        or indices[-1] != len(names) - 1
    ):
        raise ValueError(f"no head reads the stages {indices} of {len(names)}")
    if any(backbone.stage_dims[index] != dim or not dim for index, dim in saved):
        raise ValueError("the stages have other features")
    return tuple(indices[:-1])


def _observe(backbone: Backbone, indices: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return the pooling of each stage and, if a hook on the whole network sees the stage's output, the hooked module."""
    network, preprocessing = backbone.network.module, backbone.network.preprocessing
    shape = 1, preprocessing.n_channels, *preprocessing.size
    probe = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(backbone.device)
    modules = [*(stage.name for stage in backbone.stages[1:]), backbone.network.classifier]
    inputs: dict[int, list[Tensor]] = {index: [] for index in indices}

    def record(index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stage, values = backbone.stages[index].module, (*args, *kwargs.values())
        joined = stage.join if isinstance(stage, InGroups) else Tensor.clone
        inputs[index] += [joined(value).clone() for value in values if isinstance(value, Tensor)][:1]

    hooks = [
        network.get_submodule(modules[index]).register_forward_pre_hook(partial(record, index), with_kwargs=True)
        for index in indices
    ]
    try:
        with torch.inference_mode():
            first = backbone.stages[0].module
            network(first.divide(probe) if isinstance(first, InGroups) else probe)
    finally:
        for hook in hooks:
            hook.remove()
    described, x = [], probe
    with torch.inference_mode():
        for index, stage in enumerate(backbone.stages):
            x = stage.module(x)
            if index not in indices:
                continue
            is_last = index == indices[-1]
            description = _pooling(x, is_last, backbone)
            if len(inputs[index]) == 1 and _is_close(inputs[index][0], x):
                description["input_of"] = modules[index]
            described.append(description)
    return described


def _is_close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def _pooling(x: Tensor, is_last: bool, backbone: Backbone) -> dict[str, Any]:
    """Return how ``modeling.py`` pools a stage's output: as ``backbone.pool`` the last one, others as ``StagePooling``."""
    size = backbone.network.preprocessing.size
    if x.dim() == 4 and is_last:
        return {"pooling": "maps"}
    if x.dim() == 4:
        last = channels_last((x.shape[1], x.shape[2], x.shape[3]), size)
        return {"pooling": f"mean and maximum of maps{', channels last' if last else ''}"}
    if x.dim() == 3 and backbone.n_class_tokens and not is_last:
        return {"pooling": "class token and patches", "n_class_tokens": backbone.n_class_tokens}
    return {"pooling": "tokens" if x.dim() == 3 else "none"}
