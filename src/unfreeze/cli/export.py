"""The command that exports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Flag = Annotated[bool, Parameter(negative=())]


def export(
    run: Path,
    /,
    *,
    onnx: Flag = False,
    torchscript: Flag = False,
    safetensors: Flag = False,
    int8: Flag = False,
    photos: Path | None = None,
    out: Path | None = None,
) -> None:
    """Write the model of a finished run for other runtimes; each file must say of real photos what the run says.

    Args:
        run: The run's folder.
        onnx: One ONNX file; what is written where no format is named.
        torchscript: One TorchScript file, for torch without unfreeze.
        safetensors: A folder that timm and model hubs understand: config.json, model.safetensors, README.md.
        int8: The ONNX file also with 8-bit integers, a third of the size, and what they cost in accuracy.
        photos: Where the run's photos are now, or others like them, to compare answers on; left out, where they were.
        out: The folder to write to; left out, export in the run's folder.
    """
    from unfreeze.export import export as export_run
    from unfreeze.export.exporting import Format
    from unfreeze.runs.run import load

    asked: dict[Format, bool] = {"onnx": onnx, "torchscript": torchscript, "safetensors": safetensors, "int8": int8}
    formats = [name for name, wanted in asked.items() if wanted] or ["onnx"]
    for exported in export_run(load(run), formats, photos=photos, out=out):
        print(*exported.lines(), sep="\n")
