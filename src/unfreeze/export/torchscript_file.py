"""TorchScript: one file that runs with torch alone, with labels and preprocessing as extra files in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfreeze.errors import ModelError, reason
from unfreeze.export.deployed import ExportModule, example
from unfreeze.export.parity import PredictFn
from unfreeze.models.saved import Classifier
from unfreeze.runtime import suppress_warnings


def write(model: Classifier, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the model as a TorchScript file; for arguments see ``onnx_file.write``.

    Raises:
        ModelError: The network can't be traced.
    """
    try:
        with _quiet(), torch.no_grad():
            module = ExportModule(model)
            traced = torch.jit.trace(module, example(model), check_trace=False)  # type: ignore[no-untyped-call]
            frozen = torch.jit.freeze(traced)
    except Exception as error:  # it runs foreign code on recorded tensors: it may fail in any way
        raise ModelError(
            f"This network can't be traced: {reason(error)}",
            where=model.backbone.name,
            mend="Export it with --onnx or --safetensors.",
        ) from error
    with _quiet():
        torch.jit.save(frozen, str(path), _extra_files={f"{name}.json": text for name, text in metadata.items()})


def load_predict_fn(path: Path) -> PredictFn:
    """Return a function that runs the file in torch, without our code."""
    with _quiet():
        loaded = torch.jit.load(str(path), "cpu")  # type: ignore[no-untyped-call]

    def predict(views: Tensor) -> Any:
        with torch.inference_mode():
            return loaded(views.contiguous()).numpy()

    return predict


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings that TorchScript is deprecated, and that a trace records one path: outputs are compared."""
    deprecated = suppress_warnings(message="`torch.jit", category=DeprecationWarning)
    with deprecated, suppress_warnings(category=torch.jit._trace.TracerWarning):
        yield
