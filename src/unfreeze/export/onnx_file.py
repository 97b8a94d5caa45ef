"""ONNX: one file with labels and preprocessing in its metadata, for any batch size."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfreeze.errors import MissingExtraError, ModelError, reason
from unfreeze.export.deployed import INPUT, OUTPUT, ExportModule, example
from unfreeze.export.parity import PredictFn
from unfreeze.models.saved import Classifier
from unfreeze.runtime import suppress_warnings

MAX_BYTES = 2**31 - 1  # the limit of a protocol buffer


def require() -> None:
    """Check that the optional packages are installed.

    Raises:
        MissingExtraError: One is missing.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(package, "export", "Writing and checking an ONNX file") from error


def write(model: Classifier, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the model as one ONNX file.

    Args:
        model: The model, on the CPU.
        path: The new file.
        metadata: The file's metadata.

    Raises:
        ModelError: The network can't be exported, or is too large for one file.
    """
    import onnx

    module = ExportModule(model)
    if sum(value.nbytes for value in module.state_dict().values()) > MAX_BYTES:
        raise ModelError(
            "An ONNX file holds at most 2 GiB, and this model is larger.",
            where=model.backbone.name,
            mend="Export it with --torchscript or --safetensors.",
        )
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                module,
                (example(model),),
                dynamo=True,
                dynamic_shapes={INPUT: {0: torch.export.Dim.DYNAMIC}},
                input_names=[INPUT],
                output_names=[OUTPUT],
                external_data=False,
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
    except Exception as error:  # the exporter runs the network on fake tensors: it may fail in any way
        raise ModelError(
            f"This network can't be exported to ONNX: {reason(error)}",
            where=model.backbone.name,
            mend="Export it with --torchscript or --safetensors.",
        ) from error
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        part.ClearField("metadata_props")  # the exporter's notes, which have paths of this machine
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.save(proto, path)
    onnx.checker.check_model(path, full_check=True)


def set_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace the metadata of a file."""
    import onnx

    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.save(proto, path)


def load_predict_fn(path: Path) -> PredictFn:
    """Return a function that runs the file in ONNX Runtime, on the CPU and with torch's number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # no warnings about the graph: outputs are compared
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def predict(views: Tensor) -> Any:
        return np.asarray(session.run([OUTPUT], {INPUT: views.contiguous().numpy()})[0])

    return predict


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Suppress the developer warnings of torch and of ONNX's packages; errors are still raised."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        # The second one comes from torch by way of copyreg.
        with (
            suppress_warnings(module=r"(torch|onnx)"),
            suppress_warnings(message=r".*treespec", category=FutureWarning),
        ):
            yield
    finally:
        exporter.setLevel(level)
