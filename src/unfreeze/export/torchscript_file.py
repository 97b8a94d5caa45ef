"""TorchScript: one file that torch alone runs, with labels and preprocessing as extra files in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfreeze.errors import ModelError, reason
from unfreeze.export.deployed import ExportModule, example
from unfreeze.export.parity import Answers
from unfreeze.models.saved import Classifier
from unfreeze.runtime import suppress_warnings


def write(model: Classifier, place: Path, told: Mapping[str, str]) -> None:
    """Write the model as a TorchScript file; for arguments see ``onnx_file.write``.

    Raises:
        ModelError: The network can't be traced.
    """
    try:
        with _quiet(), torch.no_grad():
            traced = torch.jit.trace(ExportModule(model), example(model), check_trace=False)  # type: ignore[no-untyped-call]
            frozen = torch.jit.freeze(traced)
    except Exception as error:  # it runs foreign code on recorded tensors: it may fail in any way
        raise ModelError(
            f"This network can't be traced: {reason(error)}",
            where=model.backbone.name,
            mend="Export it with --onnx or --safetensors.",
        ) from error
    with _quiet():
        torch.jit.save(frozen, str(place), _extra_files={f"{name}.json": text for name, text in told.items()})


def answers(place: Path) -> Answers:
    """Return what torch computes from the file, without our code."""
    with _quiet():
        loaded = torch.jit.load(str(place), "cpu")  # type: ignore[no-untyped-call]

    def ask(views: Tensor) -> Any:
        with torch.inference_mode():
            return loaded(views.contiguous()).numpy()

    return ask


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence that TorchScript is deprecated, and that a trace holds for one path through the network: that is checked."""
    deprecated = suppress_warnings(message="`torch.jit", category=DeprecationWarning)
    with deprecated, suppress_warnings(category=torch.jit._trace.TracerWarning):
        yield
