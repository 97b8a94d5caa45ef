"""The export command."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from unfreeze.cli.parameters import UserPath
from unfreeze.screen import tell

Flag = Annotated[bool, Parameter(negative=())]


def export(
    run: UserPath,
    /,
    *,
    onnx: Flag = False,
    torchscript: Flag = False,
    safetensors: Flag = False,
    int8: Flag = False,
    photos: UserPath | None = None,
    out: UserPath | None = None,
) -> None:
    """Export the model of a finished run; each file must give the same answers on real photos as the run.

    Args:
        run: The run's folder.
        onnx: One ONNX file; the default format.
        torchscript: One TorchScript file, for torch without unfreeze.
        safetensors: A folder that timm and model hubs understand: config.json, model.safetensors, README.md.
        int8: Also the ONNX file in 8-bit integers: a third of the size; prints the change in accuracy.
        photos: Where the run's photos are now, or similar ones, to compare answers on. Default: where they were.
        out: The folder to write to. Default: export in the run's folder.
    """
    from unfreeze.export import export as export_run
    from unfreeze.export.exporting import Format
    from unfreeze.runs.run import load

    flags: dict[Format, bool] = {"onnx": onnx, "torchscript": torchscript, "safetensors": safetensors, "int8": int8}
    formats = [name for name, is_set in flags.items() if is_set] or ["onnx"]
    for exported in export_run(load(run), formats, photos=photos, out=out):
        tell(*exported.lines())
