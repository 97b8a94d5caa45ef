"""Reading of weight files as data only, and strict loading."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfreeze.errors import ModelError
from unfreeze.models.backbone import Tensors

_FORMER_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def read_weights(path: Path) -> Tensors:
    """Read a checkpoint as data only: safetensors, or a pickle of tensors with ``weights_only=True``.

    Raises:
        ModelError: The file is unreadable, or has more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"The checkpoint can't be read as weights: {(str(error).splitlines() or ['no reason given'])[0]}",
            where=path,
            mend="Save a plain state_dict (torch.save(model.state_dict(), ...)) or, better, safetensors. "
            "Checkpoints that need Python code to be read are refused: they can run anything.",
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ModelError("The checkpoint holds no table of tensors.", where=path, mend="Save model.state_dict().")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def load_state_dict_compat(network: nn.Module, weights: Tensors, *, strict: bool) -> tuple[list[str], list[str]]:
    """Load weights as ``load_state_dict`` does, and return the missing and the unexpected names.

    Compatible with old files: DenseNet's former names are mapped, and MNASNet's missing version is filled in.

    Raises:
        RuntimeError: The weights don't fit.
    """
    state: OrderedDict[str, Tensor] = OrderedDict(
        (_FORMER_DENSENET.sub(r"\1\2", name), value) for name, value in weights.items()
    )
    state._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    missing, unexpected = network.load_state_dict(state, strict=strict)
    return missing, unexpected


def load_strict(network: nn.Module, weights: Tensors, source: str) -> None:
    """Load weights strictly: a missing or unexpected name means another network.

    Raises:
        ModelError: The weights don't fit.
    """
    try:
        load_state_dict_compat(network, weights, strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"The weights don't fit {type(network).__name__}: {' '.join(str(error).split())[:300]}",
            where=source,
            mend="Name the architecture that they were saved from (--arch).",
        ) from error
