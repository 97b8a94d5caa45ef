"""Reading of weight files as data only, and strict loading."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfreeze.errors import ModelError
from unfreeze.models.backbone import Tensors

_FORMER_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_TO_DO = (
    "Save a plain state_dict (torch.save(model.state_dict(), ...)) or, better, safetensors. "
    "Checkpoints that need Python code to be read are refused: they can run anything."
)


def read_weights(path: Path) -> Tensors:
    """Read all tensors of a checkpoint as data only: safetensors, or a pickle of tensors with ``weights_only=True``.

    Tensors in dictionaries within others are named by the path to them: ``state_dict.model.conv1.weight``.

    Raises:
        ModelError: The file is unreadable, or has more than tensors and plain values.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with path.open("rb") as file:
            head = file.read(40)
        if head[8:9] == b"{":  # after the header's length; the content decides, not the suffix
            return load_file(path)
        with torch.serialization.safe_globals(_plain_values()):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason, mend = _unreadable(path, error)
        raise ModelError(f"The checkpoint can't be read as weights: {reason}", where=path, mend=mend) from error
    tensors = dict(_named_tensors(content))
    if not tensors or "" in tensors:
        raise ModelError("The checkpoint holds no table of tensors.", where=path, mend="Save model.state_dict().")
    return tensors


def _plain_values() -> list[Any]:
    """Return what checkpoints hold beside tensors, and what runs nothing: settings, NumPy's numbers, paths."""
    import numpy as np
    from numpy._core import multiarray

    kinds = [type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")]
    scalar = [multiarray.scalar, (multiarray.scalar, "numpy.core.multiarray.scalar")]
    return [argparse.Namespace, pathlib.PosixPath, np.dtype, *kinds, *scalar]


def _named_tensors(content: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping | list | tuple):
        pairs = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in pairs:
            yield from _named_tensors(value, f"{name}.{key}" if name else str(key))


def _unreadable(path: Path, error: Exception) -> tuple[str, str]:
    """Return why a file can't be read, in our words, and what to do."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower(), "Check the path and its permissions."
    with path.open("rb") as file:
        head = file.read(40)
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, and the weights were not downloaded", "Run git lfs pull in that folder."
    if head.lstrip()[:1] == b"<":
        return "it is a web page", "Download the file itself."
    if "TorchScript" in str(error):
        return "it is a TorchScript program", _TO_DO
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # no archive of torch's, or an old or damaged one: any class
        foreign = re.findall(r"GLOBAL (\S+) was not", str(error))
    if foreign:
        return f"it needs Python code ({', '.join(sorted(foreign)[:3])})", _TO_DO
    return "it is damaged, cut short, or no file of torch's or safetensors", f"Copy it anew. {_TO_DO}"


def load_state_dict_compat(network: nn.Module, weights: Tensors, *, strict: bool) -> tuple[list[str], list[str]]:
    """Load weights as ``load_state_dict`` does, and return the missing and the unexpected names.

    Compatible with old files: DenseNet's former names are mapped, and MNASNet's missing version is filled in.

    Raises:
        RuntimeError: The weights don't fit.
    """
    state = OrderedDict(with_current_names(weights))
    state._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    missing, unexpected = network.load_state_dict(state, strict=strict)
    return missing, unexpected


def with_current_names(weights: Tensors) -> Tensors:
    """Return weights with DenseNet's former names mapped to today's."""
    return {_FORMER_DENSENET.sub(r"\1\2", name): value for name, value in weights.items()}


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
            mend="Delete the file, so that it is downloaded anew, or take another version of the library.",
        ) from error
