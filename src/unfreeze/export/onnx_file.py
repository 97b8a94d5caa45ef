"""ONNX: one file with labels and preprocessing in its metadata, for any number of photos at a time."""

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
from unfreeze.export.parity import Answers
from unfreeze.models.saved import Classifier
from unfreeze.runtime import suppress_warnings

LARGEST = 2**31 - 1  # bytes: a protocol buffer holds no more


def require() -> None:
    """Refuse to begin where an optional package is missing.

    Raises:
        MissingExtraError: It is.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(package, "export", "Writing and checking an ONNX file") from error


def write(model: Classifier, place: Path, told: Mapping[str, str]) -> None:
    """Write the model as one ONNX file.

    Args:
        model: On the CPU.
        place: The file.
        told: Goes into the file's metadata.

    Raises:
        ModelError: The network can't be exported, or is too large for one file.
    """
    import onnx

    deployed = ExportModule(model)
    if sum(value.nbytes for value in deployed.state_dict().values()) > LARGEST:
        raise ModelError(
            "An ONNX file holds at most 2 GiB, and this model is larger.",
            where=model.backbone.name,
            mend="Export it with --torchscript or --safetensors.",
        )
    try:
        with unheard():
            program = torch.onnx.export(
                deployed,
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
    except Exception as error:  # it runs the network on stand-ins for tensors: it may fail in any way
        raise ModelError(
            f"This network can't be exported to ONNX: {reason(error)}",
            where=model.backbone.name,
            mend="Export it with --torchscript or --safetensors.",
        ) from error
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        part.ClearField("metadata_props")  # the exporter's notes, with the paths of this machine's source files
    onnx.helper.set_model_props(proto, dict(told))
    onnx.save(proto, place)
    onnx.checker.check_model(place, full_check=True)


def set_metadata(place: Path, told: Mapping[str, str]) -> None:
    """Put metadata into a finished file."""
    import onnx

    proto = onnx.load(place)
    onnx.helper.set_model_props(proto, dict(told))
    onnx.save(proto, place)


def answers(place: Path) -> Answers:
    """Return what ONNX Runtime computes from the file, on the CPU and on torch's number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # its warnings are about the graph, which the comparison of answers is about
    session = onnxruntime.InferenceSession(place, options, providers=["CPUExecutionProvider"])

    def ask(views: Tensor) -> Any:
        return np.asarray(session.run([OUTPUT], {INPUT: views.contiguous().numpy()})[0])

    return ask


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Keep what torch and ONNX's packages say to their own developers off the terminal; errors still come up."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        # The second is torch's, by way of copyreg.
        with (
            suppress_warnings(module=r"(torch|onnx)"),
            suppress_warnings(message=r".*treespec", category=FutureWarning),
        ):
            yield
    finally:
        exporter.setLevel(level)
