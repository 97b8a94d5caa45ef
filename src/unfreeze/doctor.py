"""Examine this machine: versions, cores, graphics cards, optional packages, and known problems."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from unfreeze.errors import ModelError
from unfreeze.scratch import prepare_folders
from unfreeze.torchvision_shim import ensure_torchvision
from unfreeze.version import __version__

EXTRAS = {"pydicom": "dicom", "tifffile": "tiff", "imagecodecs": "tiff", "pyarrow": "parquet", "openvino": "openvino"}
USES_OF_EXTRAS = {
    "dicom": "DICOM scans need",
    "tiff": "scientific TIFF needs",
    "parquet": "Parquet tables need",
    "openvino": "frozen layers on a CPU are faster with",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the result."""

    name: str
    text: str


def examine() -> Iterator[Finding]:
    """Yield the findings, the most basic first."""
    yield Finding("unfreeze", __version__)
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    prepare_folders()
    shim = ensure_torchvision()
    import torch

    yield Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} of {os.cpu_count()} cores")
    if shim:
        yield Finding(
            "torchvision",
            f"{version('torchvision')}: its compiled operators don't match this build of torch, and `import "
            "torchvision` fails. unfreeze works: it declares the missing operators",
        )
    else:
        yield Finding("torchvision", version("torchvision"))
    yield Finding("timm", version("timm"))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield Finding(f"cuda:{index}", torch.cuda.get_device_name(index))
    elif torch.backends.mps.is_available():
        yield Finding("mps", "Apple's graphics processor")
    else:
        yield Finding("graphics card", "none: runs use the CPU")
    for package, extra in EXTRAS.items():
        try:
            text = version(package)
        except PackageNotFoundError:
            text = f'not installed; {USES_OF_EXTRAS[extra]} it: pip install "unfreeze[{extra}]"'
        yield Finding(package, text)
    yield from _frozen_stages()


def _frozen_stages() -> Iterator[Finding]:
    """Yield the engine of the packaged backbone's frozen stages, and why faster ones are rejected; takes seconds."""
    import torch

    from unfreeze.acceleration.frozen import choose_engine
    from unfreeze.acceleration.precision import choose_precision
    from unfreeze.models.backbones import PACKAGED, load_backbone
    from unfreeze.runtime import choose_device

    device = choose_device("auto")
    precision = choose_precision("auto", device)
    try:
        report = choose_engine(load_backbone(PACKAGED, device=device, precision=precision))
    except ModelError as error:
        yield Finding("frozen layers", f"{PACKAGED} can't be loaded: {error}")
        return
    yield Finding("frozen layers", f"{PACKAGED}: {report.computed_by}, in {report.precision}")
    for way, reason in report.rejected:
        yield Finding("not taken", f"{way}: {reason}")
    if precision == torch.float32:
        yield Finding("not taken", f"bfloat16: this machine's {device.type} has no units for it")
